"""Every command opens a tensor file of a bundle once, hashes it once, and loads its base once."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip import source as clip_source
from opentrans_cli.errors import BundleError
from opentrans_cli.files.tensorfile import OpenTensors
from opentrans_cli.steps.prune.prune import prune

SHORT = ("--steps", "1", "--batch-size", "2", "--crop", "64", "--limit", "2")
WORDS = ("--distill", "text-guided", "--framework", "maskclip", "--images", "shapes", "--image-limit", "4")
DISTIL = ("--batch-size", "2", "--steps-per-round", "1", "--final-steps", "1")

LINES = {
    "prune": "prune half -s 0.6",
    "prune by words": " ".join(("prune tiny -s 0.1", *WORDS, *DISTIL)),
    "prune --like": "prune tiny -s 0.5 --random --like half",
    "analyze": "analyze half --frontier --against base",
    "analyze of masks": "analyze masks --against base",
    "transfer": "transfer half --to deeplabv3",
    "transfer of masks": "transfer masks --to open-clip",
    "finetune": " ".join(("finetune segmentor --kd-weight 1 --eval-every 1 --eval-limit 1", *SHORT)),
    "finetune of masks": " ".join(("finetune masks --kd-weight 1", *SHORT)),
    "finetune --estimate": "finetune segmentor --estimate",
    "eval": "eval segmentor --limit 1",
    "eval of masks": "eval masks --limit 1",
    "eval of a CLIP": "eval tiny --limit 1",
    "eval --at-sparsity": "eval rounds --limit 1 --at-sparsity 0.5",
    "eval --curve": "eval rounds --limit 1 --curve",
    "eval --curve of a base": "eval bare --limit 1 --curve",
    "segment": "segment segmentor photo -w grass,sky",
    "segment with a CLIP": "segment tiny photo -w grass,sky",
    "diff": "diff half rounds",
    "verify": "verify rounds",
    "inspect": "inspect rounds",
}
"""Commands, with the names of bundles in place of their paths; what is written goes to --out."""

NOWHERE = ("finetune --estimate", "diff", "verify", "inspect")
UNREAD = ("prune by words", "prune --like", "eval of a CLIP", "segment with a CLIP")
"""Commands that write nothing, and those that read no tensor of a bundle."""


@pytest.fixture(scope="module")
def paths(
    tiny_bundle: Path,
    tiny_segmentor: Path,
    nested_bundle: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Copies, since some commands add their report."""
    desk = tmp_path_factory.mktemp("reads")
    prune("tiny", sparsity=0.5, mask_only=True, out=desk / "masks", device="cpu")
    found = {"half": tiny_bundle, "segmentor": tiny_segmentor}
    found |= {"rounds": nested_bundle("trained"), "bare": nested_bundle("bare")}
    for name, path in found.items():
        shutil.copytree(path, desk / name)
    photo = Path(__file__).parents[2] / "docs" / "scene.png"
    return {name: str(desk / name) for name in (*found, "masks")} | {"photo": str(photo)}


@pytest.fixture(scope="module")
def opened() -> Counter[str]:
    """Tensor files that were opened; a hook of the interpreter stays for ever, so there is one for all tests."""
    found: Counter[str] = Counter()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(".safetensors"):
            found[arguments[0]] += 1

    sys.addaudithook(hook)
    return found


@pytest.mark.parametrize("name", LINES)
def test_a_command_opens_and_hashes_a_file_once_and_loads_its_base_once(
    name: str,
    paths: dict[str, str],
    opened: Counter[str],
    run_cli: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed, loaded = Counter[str](), Counter[str]()
    sha256, load_clip = OpenTensors.sha256, clip_source.load_clip

    def counted_hash(self: OpenTensors) -> str:
        hashed[str(self.path)] += 1
        return sha256(self)

    def counted_load(source: str) -> Any:
        loaded[source] += 1
        return load_clip(source)

    monkeypatch.setattr(OpenTensors, "sha256", counted_hash)
    for module in [*sys.modules.values()]:
        if module.__dict__.get("load_clip") is load_clip:
            monkeypatch.setattr(module, "load_clip", counted_load)
    out = () if name in NOWHERE else ("--out", tmp_path / ("out.json" if name.startswith("eval") else "out"))
    line = [paths.get(word, word) for word in LINES[name].split()]
    opened.clear()
    result = run_cli(*line, *out)
    assert result.exit_code == 0, result.stderr
    inside = {path: count for path, count in opened.items() if str(Path(path).parent) in paths.values()}
    assert bool(inside) is (name not in UNREAD) and set(inside.values()) <= {1}
    assert set(hashed.values()) <= {1} and set(loaded.values()) <= {1}


def test_a_file_that_somebody_writes_into_is_hashed_again(paths: dict[str, str]) -> None:
    bundle = open_bundle(paths["half"])
    bundle.tower()
    path = bundle.path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="does not match its hash"):
        bundle.tower()
