"""provenance: a bundle's own script makes it again, digest for digest; a stranger's record can do no harm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.mask_only import write_mask_only
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.cli.config import Offered, read_config
from opentrans_cli.steps.provenance.command_line import FIXED, FLAGS, RUN
from opentrans_cli.steps.provenance.provenance import provenance, provenance_config

QUICK = ("--images", "shapes", "--image-limit", 8, "--score-images", 4, "--batch-size", 4)
QUICK += ("--steps-per-round", 1, "--final-steps", 1, "--device", "cpu")


@pytest.fixture
def make(run_cli: Any, tmp_path: Path) -> Callable[..., Path]:
    """`make("prune", "tiny", "-o", "a")`: the bundle `a` in the test's folder; paths of other bundles likewise."""

    def run(*line: object) -> Path:
        named = [tmp_path / str(word) if word in ("a", "b", "c") else word for word in line]
        result = run_cli(*named, "--quiet")
        assert result.exit_code == 0, result.stderr
        return Path(result.stdout.strip())

    return run


@pytest.fixture
def again(shell: Any, tmp_path: Path) -> Callable[[Path], Path]:
    """The bundle that the script of a bundle makes."""

    def run(bundle: Path) -> Path:
        made = provenance(bundle)
        assert made.reproducible and all(step.problem is None for step in made.steps)
        check_document(made.to_json(), "provenance_report")
        for step in made.steps:
            assert step.options.keys() <= {*FLAGS.get(step.verb, ("mask_only",)), *RUN, *FIXED}
        done = shell.run(made.script, tmp_path / "new")
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    return run


Make = Callable[..., Path]
Again = Callable[[Path], Path]


def test_the_whole_pipeline_comes_out_with_the_same_digest(make: Make, again: Again) -> None:
    make("prune", "tiny", "-s", 0.3, *QUICK, "--keep-rounds", "weights", "-o", "a")
    make("eval", "a", "--limit", 1, "--at-sparsity", 0.19)
    make("transfer", "a", "--to", "deeplabv3", "--option", "width=16", "--at-sparsity", 0.271, "--seed", 3, "-o", "b")
    make("analyze", "b")
    made = make(
        "finetune", "b", "--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2, "--device", "cpu", "-o", "c"
    )
    new = open_bundle(again(made))
    assert new.digest == open_bundle(made).digest
    assert [step.verb for step in new.manifest.steps] == ["prune", "eval", "transfer", "analyze", "finetune"]
    assert new.manifest.steps == open_bundle(made).manifest.steps


def test_the_file_of_its_options_makes_every_step_again(
    make: Make, run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`provenance --toml` prints what `--config` reads: the same digests and the same records."""
    monkeypatch.chdir(tmp_path)
    make("prune", "tiny", "-s", 0.3, "--exclude", "layer4.*", "--dtype", "float16", "--seed", 7, "-o", "a")
    make("transfer", "a", "--to", "deeplabv3", "--option", "width=16", "--option", "clip_residual=false", "-o", "b")
    small = ("--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2, "--no-flip")
    made = open_bundle(make("finetune", "b", *small, "--scale", "0.5,1", "--device", "cpu", "-o", "c"))
    (tmp_path / "run.toml").write_text(run_cli("provenance", "c", "--toml").stdout)
    make("prune", "--config", "run.toml", "-o", tmp_path / "a2")
    make("transfer", "a2", "--config", "run.toml", "-o", tmp_path / "b2")
    again = open_bundle(make("finetune", "b2", "--config", "run.toml", "-o", tmp_path / "c2"))
    assert again.digest == made.digest and again.manifest.steps == made.manifest.steps


def test_a_file_has_one_section_a_command_and_a_step_can_be_chosen(make: Make, run_cli: Any, tmp_path: Path) -> None:
    for start, out, sparsity in (("tiny", "a", 0.5), ("a", "b", 0.8)):
        make("prune", start, "-s", sparsity, "-o", out)
    told = run_cli("provenance", tmp_path / "b", "--toml")
    assert told.exit_code == 2 and "prune is steps 1, 2; choose one with --step" in told.stderr
    second = run_cli("provenance", tmp_path / "b", "--toml", "--step", 2).stdout
    assert f"# bundle: the one with the digest {open_bundle(tmp_path / 'a').digest}\n" in second
    assert "sparsity = 0.8\n" in second and "source = " not in second
    for line, message in (
        (("--toml", "--step", 3), "no such step: --step 3; the bundle has 2"),
        (("--step", 1), "a script has all steps: --step 1; add --toml"),
        (("--toml", "--json"), "one form at a time"),
    ):
        told = run_cli("provenance", tmp_path / "b", *line)
        assert told.exit_code == 2 and message in told.stderr and told.stdout == ""


@pytest.mark.parametrize(
    "options",
    [
        ("-s", "0.5"),
        ("--pattern", "2:4", "--criterion", "folded", "--exclude", "layer4.*"),
        ("-s", "0.4", "--keep-rounds", "masks", "--schedule", "cubic", "--rounds", "3", "--dtype", "float16"),
        ("-s", "0.5", "--mask-only", "--pattern", "channel"),
        ("-s", "0.5", "--random", "--seed", "5"),
    ],
    ids=["one shot", "pattern", "rounds", "mask only", "twin"],
)
def test_a_bundle_without_images_comes_out_the_same_byte_for_byte(
    make: Make, again: Again, options: tuple[str, ...], content: Callable[[Path], dict[str, bytes]]
) -> None:
    made = make("prune", "tiny", *options, "-o", "a")
    assert content(again(made)) == content(made)


def test_a_bundle_pruned_from_a_bundle_starts_from_the_base_again(make: Make, again: Again, tmp_path: Path) -> None:
    make("prune", "tiny", "-s", 0.3, "-o", "a")
    made = make("prune", "a", "-s", 0.6, "-o", "b")
    shutil.rmtree(tmp_path / "a")
    assert open_bundle(again(made)).digest == open_bundle(made).digest


def test_a_twin_asks_for_the_bundle_it_is_like(make: Make, shell: Any, tmp_path: Path) -> None:
    like = make("prune", "tiny", "-s", 0.5, "-o", "a")
    made = provenance(make("prune", "tiny", "-s", 0.5, "--random", "--like", "a", "-o", "b"))
    assert f"LIKE='' # the bundle {open_bundle(like).digest}\n" in made.script
    done = shell.run(made.script.replace("LIKE=''", f"LIKE={like}"), tmp_path / "new")
    assert open_bundle(done.stdout.strip()).digest == made.digest
    (tmp_path / "work").rmdir()
    done = shell.run(made.script, tmp_path / "other")
    assert done.returncode == 1 and "say at the top of this script where it is: LIKE" in done.stderr
    assert not (tmp_path / "other").exists()


def test_data_of_the_user_is_named_at_the_top_and_may_have_moved(
    make: Make, shell: Any, tmp_path: Path, labelled_folder: Any
) -> None:
    make("prune", "tiny", "-s", 0.5, "-o", "a")
    options = ("--steps", 1, "--batch-size", 2, "--hold-out", "grass,blue square", "--device", "cpu")
    made = provenance(make("finetune", "a", *labelled_folder.options, *options, "-o", "b"))
    moved = labelled_folder.images.rename(tmp_path / "it's moved $(touch x)")
    (line,) = [line for line in made.script.splitlines() if line.startswith("IMAGES=")]
    assert line.endswith(f"# data of finetune: {made.steps[-1].data}") and str(labelled_folder.images) in line
    quoted = "'" + str(moved).replace("'", "'\\''") + "'"
    done = shell.run(made.script.replace(line, f"IMAGES={quoted}"), tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert open_bundle(done.stdout.strip()).digest == made.digest
    assert not [*(tmp_path / "work").iterdir()]


def test_published_masks_are_those_of_the_bundle_made_again(make: Make, shell: Any, tmp_path: Path) -> None:
    source = open_bundle(make("prune", "tiny", "-s", 0.3, *QUICK, "-o", "a"))
    (tmp_path / "m").mkdir()
    masks = write_mask_only(source, tmp_path / "m")
    made = provenance(masks.path)
    assert made.reproducible and made.steps[-1].digest == masks.digest != source.digest
    done = shell.run(made.script, tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert open_bundle(done.stdout.strip()).digest == source.digest
    other = masks.manifest.files[0].sha256
    (tmp_path / "work").rmdir()
    done = shell.run(made.script.replace(other, "0" * 64), tmp_path / "other")
    assert done.returncode == 1 and f"holds no file with sha256 {'0' * 64}" in done.stderr


def test_another_digest_ends_the_script_at_the_step_that_gave_it(make: Make, shell: Any, tmp_path: Path) -> None:
    make("prune", "tiny", "-s", 0.5, "-o", "a")
    made = provenance(make("transfer", "a", "--to", "maskclip", "-o", "b"))
    done = shell.run(made.script.replace("--sparsity=0.5", "--sparsity=0.51"), tmp_path / "new")
    assert done.returncode == 1 and done.stdout == ""
    first = made.steps[0].digest
    assert (
        f"another digest: {tmp_path}/new/1-prune has sha256:" in done.stderr and f"recorded is {first}" in done.stderr
    )
    assert [call[0] for call in shell.calls] == ["prune", "inspect"]


def test_an_existing_folder_is_left_alone(tiny_bundle: Path, shell: Any, tmp_path: Path) -> None:
    done = shell.run(provenance(tiny_bundle).script, tmp_path)
    assert done.returncode == 1 and "already exists" in done.stderr and shell.calls == []


# Strangers' records.

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def altered(tiny_bundle: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """The tiny bundle with another manifest; its tensors, and so its digest, stay."""

    def write(edit: Edit) -> Path:
        path = Path(shutil.copytree(tiny_bundle, tmp_path / "altered"))
        document = json.loads((path / "manifest.json").read_text())
        edit(document)
        (path / "manifest.json").write_text(json.dumps(document))
        return path

    return write


HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "' \"$(touch pwned)\" '",
    "\\'; touch pwned #",
    "--help",
    "-o/etc/x",
    "}; touch pwned; {",
    "* ~ ! $HOME \\",
)


@pytest.mark.parametrize("value", HOSTILE)
def test_whatever_a_record_says_arrives_as_one_argument(
    altered: Callable[[Edit], Path], shell: Any, tmp_path: Path, value: str
) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["base"]["source"] = value
        step = document["steps"][0]
        step["options"] |= {"criterion": value, "include": [value, "x"], "images": value}
        step["data"], step["versions"] = value, {value: value}

    made = provenance(altered(edit))
    assert made.reproducible
    done = shell.run(made.script, tmp_path / "new")
    assert done.returncode == 2 and f"unknown criterion: '{value}'" in done.stderr
    assert [*(tmp_path / "work").iterdir()] == []
    (line, *_) = shell.calls
    assert line[0] == "prune" and line[-2:] == ["--", value]
    assert f"--criterion={value}" in line and f"--include={value}" in line and f"--images={value}" in line


def test_whatever_a_record_says_is_one_value_of_the_file(
    altered: Callable[[Edit], Path], run_cli: Any, tmp_path: Path
) -> None:
    visible = [*HOSTILE, 'a"] force = true', '"""', "\\u0000", "ä 蛙"]

    def edit(document: dict[str, Any]) -> None:
        document["steps"][0]["options"] |= {"include": visible, "images": HOSTILE[2], "pattern": '2:4"'}
        document["steps"][0]["versions"] = {"x] force = true": "y"}

    path = altered(edit)
    (tmp_path / "run.toml").write_text(provenance_config(path), encoding="utf-8")
    options = {name: Offered(said, False, field.default == ()) for name, (field, said) in FLAGS["prune"].items()}
    read = read_config(tmp_path / "run.toml", "prune", FLAGS, options)
    assert (read["include"], read["images"], read["pattern"]) == (visible, HOSTILE[2], '2:4"') and "force" not in read
    document = json.loads((path / "manifest.json").read_text())
    document["steps"][0]["options"]["include"] = ["a\u200bb"]
    (path / "manifest.json").write_text(json.dumps(document))
    assert "characters that cannot be seen: 'include'" in run_cli("provenance", path, "--toml").stderr


@pytest.mark.parametrize("value", ["a\u200bb", "a\u00adb", "\ufeffa", "a\U000e0041"])
def test_a_value_that_cannot_be_seen_is_refused(altered: Callable[[Edit], Path], value: str) -> None:
    made = provenance(altered(lambda document: document["steps"][0]["options"].update({"criterion": value})))
    assert not made.reproducible and value not in made.script
    assert made.steps[0].problem == "value with characters that cannot be seen: 'criterion'; do not trust the record"


def later(document: dict[str, Any], **changes: Any) -> None:
    """Adds a step that starts from what the first one left."""
    step = {"verb": "quantize", "options": {}, "seed": 0, "versions": {}, "data": None, "metrics": {}}
    document["steps"].append({**step, "parent": "sha256:" + "1" * 64, **changes})


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda d: later(d), "step 2, quantize: this version of opentrans has no command 'quantize'"),
        (lambda d: later(d, verb="pull", options={"base": "x"}), "step 2, pull: it took masks from the Hub"),
        (lambda d: d["steps"][0]["options"].update(new=1), "no such option: 'new'"),
        (lambda d: d["steps"][0]["options"].update({"$(touch pwned)": 1}), "no such option: '$(touch pwned)'"),
        (lambda d: d["steps"][0]["options"].update(sparsity={"a": 1}), "neither text nor a number: 'sparsity'"),
        (lambda d: d["steps"][0]["options"].update(threads="2; touch pwned"), "not a number of threads"),
        (lambda d: d["steps"][0]["options"].update(images=7), "not the path of data: 'images'"),
        (lambda d: d["steps"][0].update(parent="sha256:" + "2" * 64), "whose own history is not recorded"),
        (lambda d: d["steps"][0].update(verb="transfer"), "whose own history is not recorded"),
        (lambda d: later(d, verb="analyze"), "the history is broken"),
        (lambda d: later(d, verb="transfer", options={"options": [1]}), "not an object: 'options'"),
        (lambda d: later(d, verb="finetune", options={"size": 96}), "no flag gives this option: 'size' = 96"),
        (lambda d: later(d, verb="finetune", options={"hold_out": ["a,b"]}), "without commas: 'hold_out'"),
        (lambda d: later(d, verb="push", options={"mask_only": False}), "is not known to this version"),
        (lambda d: d["steps"].clear(), "no step that makes it is recorded"),
    ],
)
def test_what_cannot_be_repeated_ends_the_script_before_it_does_anything(
    altered: Callable[[Edit], Path], shell: Any, tmp_path: Path, edit: Edit, told: str
) -> None:
    made = provenance(altered(edit))
    assert not made.reproducible
    done = shell.run(made.script, tmp_path / "new")
    assert done.returncode == 1 and done.stdout == "" and told in done.stderr
    assert any(line.startswith("# reproduce: ") and told in line for line in made.script.splitlines())
    assert shell.calls == [] and not (tmp_path / "new").exists() and [*(tmp_path / "work").iterdir()] == []


def test_a_measurement_that_cannot_be_repeated_is_left_out_and_said(
    altered: Callable[[Edit], Path], shell: Any, tmp_path: Path, tiny_bundle: Path
) -> None:
    digest = open_bundle(tiny_bundle).digest
    made = provenance(altered(lambda d: later(d, verb="eval", parent=digest, options={"images": 50})))
    assert made.reproducible and made.steps[-1].problem is not None
    done = shell.run(made.script, tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in shell.calls] == ["prune", "inspect"]
    assert "# left out, it changes no tensor: not the path of data: 'images'" in made.script


def test_processes_and_threads_are_those_of_the_record(altered: Callable[[Edit], Path]) -> None:
    made = provenance(altered(lambda d: d["steps"][0]["options"].update(threads=3, processes=2)))
    line = "OMP_NUM_THREADS=3 torchrun --nproc-per-node=2 -m opentrans_cli prune"
    assert made.steps[0].command is not None and made.steps[0].command.startswith(line)
