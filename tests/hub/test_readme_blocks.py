"""The blocks of the README from top to bottom, in one folder and one shell, as a newcomer runs them.

Long work is made short by options at the end of a line, which win; the Hub is the one on loopback, and what `pip`, `hf`
and `torchrun` are asked is looked at. The two set-up commands themselves are run by `.ci/run`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.datasets.images import read_image, read_label_map
from opentrans_cli.datasets.shapes import ShapesDataset

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "docs" / "example"
SHORT = {
    "prune": ("--image-limit", 8, "--batch-size", 4, "--steps-per-round", 1, "--final-steps", 1, "--rate", 0.9),
    "finetune": ("--steps", 2, "--batch-size", 2, "--limit", 4),
    "eval": ("--limit", 2),
}
SIZES = {"DISTILL_IMAGES": "8", "DISTILL_BATCH": "4", "STEPS_PER_ROUND": "1", "FINAL_STEPS": "1", "STEPS": "2"}
OTHERS = """#!/bin/sh
echo "$(basename "$0") $*" >> ../asked
if [ "$(basename "$0")" = torchrun ]; then shift 4; exec opentrans "$@"; fi
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
    pytest.mark.usefixtures("no_waits", "reads_here"),
]


def blocks() -> list[str]:
    """The shell blocks but the two that set up, whose environment the test has."""
    found = re.findall(r"^(<!-- \w+ -->\n)?```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([marked for marked, _ in found if marked]) == 2
    return [text for marked, text in found if not marked]


def test_every_block_runs_after_the_one_above_it(shell: Any, hub: Hub, cache: Path, tmp_path: Path) -> None:
    run_cli = shell.run_cli

    def shortened(verb: str, *rest: str) -> Any:
        dry = {"--estimate", "--dry-run"} & set(rest)
        return run_cli(verb, *rest, *(() if dry else SHORT.get(verb, ())))

    shell.run_cli = shortened
    others, script = tmp_path / "others", tmp_path / "readme.sh"
    others.mkdir()
    for name in ("pip", "hf", "torchrun"):
        (others / name).write_text(OTHERS)
        (others / name).chmod(0o755)
    lines = ["set -euo pipefail", f"PATH={shlex.quote(str(others))}:$PATH"]
    lines += [f"cp -r {shlex.quote(str(ROOT / 'docs'))} .", "mkdir -p .venv/bin", "touch .venv/bin/activate", *blocks()]
    script.write_text("\n".join(lines))

    done = shell.run(script, **SIZES)
    assert done.returncode == 0, done.stderr[-3000:]
    work = tmp_path / "work"
    made = [path.parent for path in work.rglob("manifest.json")]
    assert {"subnet", "fresh", "trained", "two-of-four", "narrow", "trained-by-two"} <= {path.name for path in made}
    assert all(check.ok for path in made for check in verify_bundle(path))
    for path in ("pictures", "own/pictures", "rings.onnx", "pruned.safetensors", "untrained"):
        assert (work / path).exists(), path
    assert {"org/name", "org/name-mask"} == set(hub.server.repos)

    asked = (tmp_path / "asked").read_text().splitlines()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"pip install \.\[(\w+)\]", "\n".join(asked))
    assert {"onnx", "distributed"} == set(extras) and all(f"\n{extra} = [" in project for extra in extras)
    assert any(line.startswith("torchrun --nproc-per-node 2 -m opentrans_cli finetune ") for line in asked)


def test_the_example_is_twelve_drawn_scenes() -> None:
    scenes = ShapesDataset("train", size=96)
    names = (EXAMPLE / "classes.txt").read_text().splitlines()
    photos = sorted((EXAMPLE / "photos").iterdir())
    assert len(photos) == 12 == len([*(EXAMPLE / "label-maps").iterdir()])
    for number, photo in enumerate(photos):
        image, label_map = read_image(photo), read_label_map(EXAMPLE / "label-maps" / f"{photo.stem}.png")
        scene = scenes[number]
        assert np.abs(image.astype(int) - scene.image).mean() < 12  # JPEG; other scenes are 40 and more away
        for value in np.unique(label_map):
            there = scene.label_map[label_map == value]
            assert {scenes.vocabulary.names[found] for found in np.unique(there)} == {names[value]}
    lists = [(EXAMPLE / f"{name}.txt").read_text().split() for name in ("train", "val")]
    assert sorted(lists[0] + lists[1]) == [photo.name for photo in photos]
