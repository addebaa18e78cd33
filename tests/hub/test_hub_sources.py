"""hf:// wherever a source or a bundle is taken, and nothing of the Hub where none is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from opentrans_cli.bundle.hub.source import hub_ref, local_bundle, local_source
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import HubError, OptionError, SourceError
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.look.inspect import inspect
from opentrans_cli.steps.transfer.open_clip import export_open_clip

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits", "cache")
REPO = "org/name"
ADDRESS = f"hf://{REPO}@v1"


@pytest.fixture
def published(hub: Hub, tiny_segmentor: Path) -> Path:
    hub.publish(tiny_segmentor)
    return tiny_segmentor


SHORT = ("--limit", 1)
TRAIN = ("--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2)
COMMANDS: dict[str, tuple[object, ...]] = {
    "prune": ("-s", 0.7, "-o", "{out}"),
    "analyze": (),
    "transfer": ("-o", "{out}"),
    "finetune": (*TRAIN, "-o", "{out}"),
    "eval": SHORT,
    "segment": ("{images}", "--words", "sky, grass", "-o", "{out}"),
    "inspect": (),
    "verify": (),
    "provenance": (),
    "diff": (ADDRESS,),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_bundle_of_the_hub(
    command: str, hub: Hub, published: Path, run_cli: Any, tmp_path: Path, labelled_folder: Any
) -> None:
    places = {"{out}": tmp_path / "out", "{images}": labelled_folder.images / "0.png"}
    line = [places.get(part, part) if isinstance(part, str) else part for part in COMMANDS[command]]
    result = run_cli(command, ADDRESS, *line)
    assert result.exit_code == 0, result.output
    kept = list((tmp_path / "cache").rglob("manifest.json"))
    assert len(kept) == (command != "inspect")
    assert not kept or hub.content(kept[0].parent) == hub.content(published), (
        "a bundle of the Hub stays as it was published"
    )
    if "{out}" in COMMANDS[command]:
        assert (tmp_path / "out").is_dir()


def test_curves_are_drawn_of_bundles_of_the_hub_into_files(
    hub: Hub, nested_bundle: Any, run_cli: Any, tmp_path: Path
) -> None:
    hub.publish(nested_bundle("untrained"))
    result = run_cli("eval", ADDRESS, "--curve", *SHORT)
    assert result.exit_code == 2 and "add --out" in result.stderr
    assert run_cli("eval", ADDRESS, "--curve", *SHORT, "-o", tmp_path / "curve.json").exit_code == 0
    assert (tmp_path / "curve.png").is_file()


def test_a_clip_of_the_hub_is_a_source_and_only_its_two_files_are_fetched(
    hub: Hub, tiny_bundle: Path, tmp_path: Path, run_cli: Any
) -> None:
    export_open_clip(tiny_bundle, out=tmp_path / "clip")
    (tmp_path / "clip" / "model.pkl").write_bytes(b"cos\nsystem\n")
    hub.publish(tmp_path / "clip")
    assert local_source(ADDRESS, SILENT) == ADDRESS
    clip = load_clip(ADDRESS)
    assert clip.source == ADDRESS
    names = {request.path.rpartition("/")[2] for request in hub.server.requests("GET .*/resolve/")}
    assert names == {"manifest.json", "open_clip_config.json", "open_clip_model.safetensors"}
    assert run_cli("prune", ADDRESS, "-s", 0.7, "-o", tmp_path / "b").exit_code == 0
    assert open_bundle(tmp_path / "b").manifest.base.source == ADDRESS


def test_a_repo_that_is_neither_is_told_in_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.publish({"config.json": b"{}"})
    with pytest.raises(SourceError, match=f"neither a bundle nor an open_clip folder: {ADDRESS}"):
        load_clip(ADDRESS)
    with pytest.raises(HubError, match="no bundle in the repo"):
        inspect(ADDRESS)


def test_inspect_reads_manifest_and_headers_and_no_tensor(hub: Hub, tiny_segmentor: Path, tmp_path: Path) -> None:
    hub.publish(tiny_segmentor)
    local, remote = inspect(tiny_segmentor), inspect(ADDRESS)
    assert {**vars(remote), "path": ""} == {**vars(local), "path": ""}
    reads = [request.range for request in hub.server.requests("GET .*safetensors$")]
    assert len(reads) == sum(name.endswith(".safetensors") for name in local.files)
    served = sum(int(asked.rpartition("-")[2]) + 1 for asked in reads if asked)
    assert None not in reads and served < local.size_bytes / 2
    assert not (tmp_path / "cache").exists()


def test_headers_of_a_remote_bundle_are_compared_with_its_manifest(hub: Hub, tiny_segmentor: Path) -> None:
    hub.publish(tiny_segmentor)
    repo = hub.server.repos[REPO]
    commit = repo.commits[repo.tags["v1"]]
    document = json.loads(commit.files["manifest.json"].data)
    first, second = document["layers"][:2]
    first["kept"], second["kept"] = first["kept"] - 1, second["kept"] + 1
    hub.publish(repo.files("v1") | {"manifest.json": json.dumps(document).encode()})
    with pytest.raises(Exception, match="disagrees with the manifest"):
        inspect(ADDRESS)


def test_rounds_of_a_remote_bundle_are_listed_from_headers_and_counted_when_pulled(
    hub: Hub, nested_bundle: Any
) -> None:
    hub.publish(nested_bundle("trained"))
    local, remote = inspect(nested_bundle("trained")), inspect(ADDRESS)
    assert remote.rounds == local.rounds and len(remote.rounds) == 3
    shown = inspect(ADDRESS, at_sparsity=remote.rounds[0].sparsity)
    assert shown.layers == inspect(nested_bundle("trained"), at_sparsity=remote.rounds[0].sparsity).layers


def test_an_address_survives_being_a_path_and_one_that_cannot_be_is_wrong_usage() -> None:
    for address in (ADDRESS, f"hf:/{REPO}@v1", Path(ADDRESS)):
        assert str(hub_ref(address)) == ADDRESS
    for wrong in ("hf://name", "hf://../x", "hf://a/b/c", "hf://a/b@", "hf://a/b@../c"):
        with pytest.raises(OptionError, match="not a re"):
            local_bundle(wrong, SILENT)


def test_a_local_source_asks_nobody_and_loads_no_client(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom opentrans_cli.cli.app import app\n"
        "app(['inspect', sys.argv[1]], standalone_mode=False)\n"
        "app(['verify', sys.argv[1]], standalone_mode=False)\n"
        "print('loaded', [name for name in ('huggingface_hub', 'torch') if name in sys.modules])\n"
        "app(['transfer', sys.argv[1], '-o', sys.argv[2]], standalone_mode=False)\n"
    )
    line = [sys.executable, "-c", code, str(tiny_bundle), str(tmp_path / "out")]
    done = subprocess.run(line, env=hub.env, capture_output=True, text=True)
    assert done.returncode == 0 and "\nloaded []\n" in done.stdout, done.stderr
    assert (tmp_path / "out").is_dir() and hub.server.log == []
    for source in (str(tiny_bundle), "tiny", str(tmp_path)):
        assert local_source(source, SILENT) == source and local_bundle(source, SILENT) == Path(source)
