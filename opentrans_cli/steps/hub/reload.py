"""Read what is about to be published as a stranger would: every byte from the disk, in an interpreter of its own.

    python -m opentrans_cli.steps.hub.reload FOLDER [OPEN_CLIP_FOLDER]

prints the facts as one JSON document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle

if TYPE_CHECKING:
    from torch import nn

_SEED = 0  # of the one picture on which towers are compared


def embedding(visual: nn.Module, size: int | list[int]) -> list[float]:
    """What an image tower makes of one fixed random picture, normal, float32 (1, 3, H, W): its embedding, flat.

    size: pixels, one number or [H, W], as preprocessing has them.
    """
    import torch

    sides = (size, size) if isinstance(size, int) else tuple(size)
    picture = torch.randn((1, 3, *sides), generator=torch.Generator().manual_seed(_SEED))
    with torch.inference_mode():
        found: torch.Tensor = visual.eval()(picture)
    return [float(value) for value in found.float().flatten()]


def tower_embedding(bundle: Bundle) -> list[float] | None:
    """The embedding by a bundle's own tower; None for masks alone, whose values are those of the base."""
    if not bundle.has(WEIGHTS):
        return None
    from opentrans_cli.steps.sources import bundle_tower

    return embedding(bundle_tower(bundle).visual, bundle.manifest.base.preprocess["size"])


def reload(folder: Path, dense: Path | None = None) -> dict[str, Any]:
    """Facts about the bundle in `folder`, and about the folder `dense` that open_clip loads: failed laws, digest,
    embeddings (None where there is no tower).
    """
    bundle = open_bundle(folder)
    facts: dict[str, Any] = {
        "failed": [f"{check.name}: {check.detail}" for check in verify_bundle(folder) if not check.ok],
        "digest": bundle.digest,
        "embedding": tower_embedding(bundle),
        "dense": None,
    }
    if dense is not None:
        from opentrans_cli.clip.source import load_clip

        facts["dense"] = embedding(load_clip(str(dense)).model.visual, bundle.manifest.base.preprocess["size"])
    return facts


def reload_afresh(folder: Path, dense: Path | None = None) -> dict[str, Any]:
    """`reload` in a fresh interpreter, which has no module, cache or variable of this one.

    Raises RuntimeError with the last line that the interpreter wrote if it ends with an error.
    """
    place = Path(__file__).parents[3]  # where the package lies
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    line = [sys.executable, "-m", __name__, str(folder), *([] if dense is None else [str(dense)])]
    done = subprocess.run(
        line,
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.strip()] or [f"exit code {done.returncode}"]
        raise RuntimeError(said[-1].strip())
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


if __name__ == "__main__":
    print(json.dumps(reload(*map(Path, sys.argv[1:]))))
