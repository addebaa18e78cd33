"""What an interrupted evaluation goes on from: the counts of the pictures it has scored."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.errors import RunStopped, TrainingError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.reporter import Reporter
from opentrans_cli.signals import held_back
from opentrans_cli.steps.run_files import discard_state, state_path, state_to_resume
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.picture_size import Sides
from opentrans_cli.steps.segmentors.scoring import Scoring
from opentrans_cli.training import state_file
from opentrans_cli.training.freezing import state_hash

SAVE_EVERY = 60.0
"""Seconds between two states on the disk, for the case that the process is killed."""


class EvalState:
    """The state of the evaluation whose report goes to `out`, in the file that belongs to this target.

    An evaluation has one part, or a part for each round of a curve. Of a part that is finished everything is kept, so
    that none of it is computed again.
    """

    def __init__(self, out: Path, *, written: bool, resume: bool, reporter: Reporter) -> None:
        """written: the report goes to the disk, which may turn out to be full: then everything is kept before that.

        Raises TrainingError for a file that is no state.
        """
        self._out, self._path = out, state_path(out)
        # Beside a bundle in a folder of somebody else nothing can be kept, which is no reason not to score it.
        self._keeps = os.access(self._path.parent, os.W_OK)
        self._written = written and self._keeps
        self._tensors: dict[str, torch.Tensor] = {}
        self._parts: dict[str, dict[str, Any]] = {}
        found = state_to_resume(out, resume=resume, reporter=reporter)
        if found is not None:
            self._tensors, meta = state_file.read_run_state(found)
            self._parts = meta["parts"]
            reporter.say(f"resuming after {meta['after']}")

    @contextmanager
    def keeping(self, scoring: Scoring, part: str, identity: str, *, images: int) -> Iterator[Callable[[], None]]:
        """Call what this gives after each picture of `part`, of which `scoring` gets what was kept.

        identity: hash of everything that the figures depend on. Raises TrainingError for the state of another
        evaluation, and RunStopped, with the state saved, after a signal.
        """
        if part in self._parts:
            kept = self._parts[part]
            if kept["identity"] != identity:
                raise TrainingError(
                    f"state of another evaluation: {self._path} (other weights, words, pictures or device); repeat the "
                    "options of the interrupted one, or start anew with --force and without --resume"
                )
            scoring.restore(
                kept["taken"],
                self._tensors[f"{part}.counts"].numpy(),
                skipped=kept["skipped"],
                seconds=self._tensors[f"{part}.seconds"].tolist(),
                resolution=kept["resolution"],
                macs=kept["macs"],
            )
        after = ""
        due = time.monotonic() + SAVE_EVERY

        def keep() -> None:
            nonlocal after
            after = " ".join(filter(None, (f"{scoring.taken} of {images} pictures", part)))
            self._keep(scoring, part, identity)

        def save() -> None:
            nonlocal due
            keep()
            state_file.save_state(self._path, tensors=self._tensors, meta={"after": after, "parts": self._parts})
            due = time.monotonic() + SAVE_EVERY

        with held_back() as told:

            def between() -> None:
                if told():
                    if not self._keeps:
                        raise RunStopped
                    save()
                    raise RunStopped(after=after, state=self._path)
                if self._keeps and time.monotonic() > due:
                    save()

            yield between
            save() if self._written else keep()

    def _keep(self, scoring: Scoring, part: str, identity: str) -> None:
        found = scoring.scored()
        self._tensors[f"{part}.counts"] = torch.from_numpy(found.confusion.counts)
        self._tensors[f"{part}.seconds"] = torch.tensor(found.seconds, dtype=torch.float64)
        facts = {"identity": identity, "taken": scoring.taken, "skipped": list(found.skipped)}
        self._parts[part] = {**facts, "resolution": list(found.resolution), "macs": dict(found.macs)}

    def discard(self) -> None:
        """Remove the file, when the report is where it belongs."""
        discard_state(self._out)


def eval_identity(
    built: BuiltSegmentor, samples: SegDataset, text: ClassText, device: torch.device, sides: Sides | None
) -> str:
    """Hash of everything that label maps depend on: weights, words, pictures, and the kind of device."""
    facts = {
        "weights": state_hash(built.module, [""]),
        "embeddings": hashlib.sha256(text.embeddings.cpu().contiguous().numpy().tobytes()).hexdigest(),
        "classes": [list(text.class_indices), list(text.seen)],
        "data": samples.fingerprint,
        "device": device.type,
        "sides": None if sides is None else astuple(sides),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def eval_target(out: Path | None, into: Path | None, name: str, asked: object) -> Path:
    """The target whose state is kept: the file `out`; the report `name` of the bundle `into`; else, where nothing is
    written, a name in the working directory that is made of everything that was asked for.
    """
    if out is not None:
        return out
    if into is not None:
        folder = Path(os.path.realpath(into))
        return folder.with_name(f"{folder.name}.{name}")
    return Path(f"opentrans-{name}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}")
