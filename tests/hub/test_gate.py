"""The gate before push: a stranger gets what is here, and the card tells nothing that was not measured."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from opentrans_cli.bundle.layout import EVAL_RESULTS, SPARSE_PATCH
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle, add_file, open_bundle
from opentrans_cli.checkpoints.sparse_patch import apply_sparse_patch, differing
from opentrans_cli.errors import GateError, OptionError
from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.hub import reload
from opentrans_cli.steps.hub.push import PushResult
from opentrans_cli.steps.hub.push import push as publish
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.step_record import step_record

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "charts_drawn_once")
REPO = "org/name"
push = partial(publish, license="mit")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned bundle that nothing trained, with an evaluation of its own."""
    path = prune("tiny", sparsity=0.5, out=tmp_path_factory.mktemp("gate") / "b", device="cpu").path
    evaluate(path, split="val", limit=1, device="cpu")
    return path


@pytest.fixture
def bundle(measured: Path, tmp_path: Path) -> Bundle:
    """A copy of it, to be changed."""
    return open_bundle(shutil.copytree(measured, tmp_path / "bundle"))


def with_report(bundle: Bundle, name: str = "shapes", **changes: Any) -> Bundle:
    """The bundle with another evaluation, of which its history tells nothing."""
    report = {**json.loads(bundle.read("reports/eval-shapes.json")), **changes}
    step = step_record("analyze", {}, seed=0)
    return add_file(bundle, f"reports/eval-{name}.json", json_bytes(report), step=step)


def verdicts(result: PushResult) -> dict[str, bool]:
    return {point.name: point.ok for point in result.gate}


def failing(error: GateError) -> list[str]:
    return [line.partition(":")[0] for line in error.lines]


def test_a_fresh_interpreter_reads_what_is_sent_and_finds_the_same_tower(hub: Hub, measured: Path) -> None:
    """Everything but this process is real here: the copy, another Python, open_clip's own loader."""
    result = push(measured, REPO, dense=True, dry_run=True)
    assert verdicts(result) == dict.fromkeys(("reload", "hash", "parity", "license", "figures", "times"), True)
    parity = next(point for point in result.gate if point.name == "parity")
    assert parity.detail.startswith("embedding and dense within") and hub.server.log == []
    check_document(result.to_json(), "push_report")


def test_every_failing_point_is_told_at_once_and_nothing_is_sent(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, run_cli: Any
) -> None:
    with_report(bundle, "folder", dataset="folder", miou=0.9, seconds_per_image=0.0)
    facts = reload.reload(bundle.path)
    wrong = {**facts, "digest": "sha256:" + "0" * 64, "embedding": [2 * value for value in facts["embedding"]]}
    monkeypatch.setattr(reload, "reload_afresh", lambda folder, dense: {**wrong, "failed": ["hashes: a is not b"]})
    with pytest.raises(GateError) as caught:
        publish(bundle.path, REPO)
    points = ["reload", "hash", "parity", "license", "figures", "times"]
    assert failing(caught.value) == [f"gate, {name}" for name in points] and hub.server.log == []
    assert not any("\n" in line for line in (*caught.value.lines, str(caught.value)))
    for options in ((), ("--dry-run",)):
        result = run_cli("push", bundle.path, REPO, "--quiet", *options)
        lines = result.stderr.splitlines()
        told = [f"failed {point}: " in result.stdout for point in points]
        assert told == [bool(options)] * len(points), "a dry run lists every point, so its error does not"
        listed = () if options else caught.value.lines
        assert result.exit_code == 1 and lines[:-1] == [f"opentrans: {line}" for line in listed]
        assert lines[-1] == f"opentrans: error: {caught.value}" and hub.server.log == []


@pytest.mark.usefixtures("reads_here")
def test_a_reason_lets_it_through_and_stands_on_the_card(hub: Hub, bundle: Bundle) -> None:
    for reason in ("", "  ", "x" * 301):
        with pytest.raises(OptionError, match="no reason for the card: --no-gate"):
            publish(bundle.path, REPO, no_gate=reason)
    result = publish(bundle.path, REPO, no_gate="licence [is](http://evil.org) being cleared")
    page = hub.server.repos[REPO].files()["README.md"].decode()
    assert "It failed: license. The reason given: `licence [is](http://evil.org) being cleared`" in page
    assert result.no_gate and not verdicts(result)["license"] and result.committed
    assert "Published without" not in _card(hub, push(bundle.path, "org/other"))


def _card(hub: Hub, result: PushResult) -> str:
    return hub.server.repos[result.repo].files()["README.md"].decode()


def test_a_tower_that_cannot_be_read_again_is_told_by_its_last_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no torch on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(GateError) as caught:
        push(bundle.path, REPO)
    assert caught.value.lines == (
        "gate, reload: a fresh interpreter cannot read it, SystemExit: no torch on this machine; report this as a bug",
    )


@pytest.mark.usefixtures("reads_here")
def test_figures_are_of_the_values_that_are_published(
    hub: Hub, bundle: Bundle, tiny_segmentor: Path, tmp_path: Path
) -> None:
    """Masks alone keep the figures of a subnet that nothing trained, and not those of trained weights."""
    assert verdicts(push(bundle.path, REPO, mask_only=True, dry_run=True))["figures"]
    trained = Path(shutil.copytree(tiny_segmentor, tmp_path / "trained"))
    evaluate(trained, split="val", limit=1, device="cpu")
    assert verdicts(push(trained, REPO, dry_run=True))["figures"]
    assert not verdicts(push(trained, REPO, mask_only=True, dry_run=True))["figures"]
    receipt = json.loads(open_bundle(trained).read("reports/finetune.json"))
    data, step = json_bytes({**receipt, "total": receipt["total"] // 2}), step_record("analyze", {}, seed=0)
    add_file(open_bundle(trained), "reports/finetune.json", data, step=step)
    assert not verdicts(push(trained, REPO, dry_run=True))["figures"]


# Licences.


@pytest.mark.usefixtures("reads_here")
def test_a_licence_is_known_by_the_hub_or_by_spdx_or_has_a_name_and_a_link(hub: Hub, bundle: Bundle) -> None:
    link = "https://example.org/LICENSE"
    for given, known, written in (
        ({"license": "MIT"}, True, {"license": "mit"}),
        ({"license": "openrail++"}, True, {"license": "openrail++"}),
        (
            {"license": "lgpl-2.1-only"},
            True,
            {
                "license": "other",
                "license_name": "LGPL-2.1-only",
                "license_link": "https://spdx.org/licenses/LGPL-2.1-only.html",
            },
        ),
        (
            {"license": "other", "license_name": "DINOv3 License", "license_link": link},
            True,
            {"license": "other", "license_name": "DINOv3 License", "license_link": link},
        ),
        ({"license": "other", "license_name": "mine"}, False, {"license": "other", "license_name": "mine"}),
        ({"license": "LicenseRef-mine"}, False, {"license": "other", "license_name": "LicenseRef-mine"}),
        ({"license": "unknown"}, False, {"license": "other"}),
    ):
        result = publish(bundle.path, REPO, no_gate="test", **given)  # type: ignore[arg-type]
        assert verdicts(result)["license"] is known, given
        header = ModelCard(_card(hub, result)).data.to_dict()
        assert {name: header[name] for name in header if name.startswith("license")} == written
        hub.server.repos.clear()
    for given in ({"license_name": "a\nb"}, {"license_link": "http://x"}, {"license_link": "https://a b"}):
        with pytest.raises(OptionError, match=r"not a (name of|link to) a license"):
            publish(bundle.path, REPO, **given)  # type: ignore[arg-type]


# Leaderboards.

AT = "org/benchmark:val@" + "0" * 40


@pytest.fixture
def photos(labelled_folder: Any) -> dict[str, Any]:
    """Options of the user's own labelled photos."""
    return {name: getattr(labelled_folder, name) for name in ("images", "labels", "classes")}


@pytest.fixture
def scored(bundle: Bundle, photos: dict[str, Any]) -> Path:
    """The bundle with an evaluation on them."""
    evaluate(bundle.path, device="cpu", **photos)
    return bundle.path


@pytest.mark.usefixtures("reads_here")
def test_figures_of_a_named_benchmark_are_written_for_its_leaderboard(hub: Hub, scored: Path) -> None:
    push(scored, REPO)
    assert EVAL_RESULTS not in hub.server.repos[REPO].files()
    result = push(scored, REPO, benchmark={"folder": AT})
    assert result.committed and EVAL_RESULTS in result.files
    report = json.loads(open_bundle(scored).read("reports/eval-folder.json"))
    document = yaml.safe_load(hub.server.repos[REPO].files()[EVAL_RESULTS])
    assert set(document[0]) == {"dataset", "value", "source", "notes"}
    (entry,) = parse_eval_result_entries(document)
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("org/benchmark", "val", "0" * 40)
    assert entry.value == round(100 * report["miou"], 4)
    assert entry.source_url == "https://huggingface.co/org/name/blob/main/reports/eval-folder.json"
    assert push(scored, REPO).deleted == (EVAL_RESULTS,)


@pytest.mark.usefixtures("reads_here")
def test_no_figure_goes_to_a_leaderboard_that_is_not_certainly_its_own(
    hub: Hub, scored: Path, photos: dict[str, Any]
) -> None:
    for named, said in (
        ({"folder": "benchmark"}, "not a benchmark of the Hub"),
        ({"folder": "org/benchmark"}, "not a benchmark of the Hub"),
        ({"folder": "org/benchmark:val@main"}, "not a benchmark of the Hub"),
        ({"shapes": AT}, "the embedded data set is no benchmark"),
        ({"ade": AT}, "no report of this data set: --benchmark ade=...; the bundle has those of folder, shapes"),
    ):
        with pytest.raises(OptionError, match=said):
            push(scored, REPO, benchmark=named)
    evaluate(scored, device="cpu", limit=1, **photos)
    with pytest.raises(GateError) as caught:
        push(scored, REPO, benchmark={"folder": AT})
    assert "measured on a part of the benchmark: reports/eval-folder.json; run" in caught.value.lines[0]
    min(Path(photos["images"]).iterdir()).write_bytes(b"no picture")
    evaluate(scored, device="cpu", skip_bad=True, **photos)
    with pytest.raises(GateError) as caught:
        push(scored, REPO, benchmark={"folder": AT})
    assert "measured on a part of the benchmark: reports/eval-folder.json; run" in caught.value.lines[0]
    assert ", 1 left out | " in _card(hub, push(scored, REPO))


# The sparse patch.


@pytest.mark.usefixtures("reads_here")
def test_the_patch_on_the_hub_makes_the_subnet_of_the_base(hub: Hub, bundle: Bundle, tmp_path: Path) -> None:
    from opentrans_cli.clip.layers import arrays
    from opentrans_cli.clip.source import load_clip

    result = push(bundle.path, REPO, patch=True)
    files = hub.server.repos[REPO].files()
    assert result.patch and SPARSE_PATCH in files and SPARSE_PATCH in files["README.md"].decode()
    (tmp_path / SPARSE_PATCH).write_bytes(files[SPARSE_PATCH])
    base = {f"visual.{name}": value for name, value in arrays(load_clip("tiny").model.visual.state_dict()).items()}
    tower = {f"visual.{name}": value for name, value in bundle.tower().items()}
    assert not list(differing(apply_sparse_patch(base, tmp_path / SPARSE_PATCH), tower))
    assert push(bundle.path, REPO).deleted == (SPARSE_PATCH,)
