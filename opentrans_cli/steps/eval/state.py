"""What an interrupted evaluation goes on from: the counts of the pictures it has scored."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
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
from opentrans_cli.steps.run_files import discard_state, share_path, state_path, states_to_resume
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.picture_size import Sides
from opentrans_cli.steps.segmentors.scoring import Scoring
from opentrans_cli.steps.segmentors.tally import Tally
from opentrans_cli.steps.segmentors.windows import Windows
from opentrans_cli.training import state_file
from opentrans_cli.training.freezing import state_hash
from opentrans_cli.training.processes.distributed import World

SAVE_EVERY = 60.0
"""Seconds between two states on the disk, for the case that the process is killed."""


class EvalState:
    """The state of the evaluation whose report goes to `out`, in the file that belongs to this target.

    An evaluation has one part, or a part for each round of a curve. Of a part that is finished everything is kept, so
    that none of it is computed again. Of several processes each keeps what it has done itself in a file of its own. The
    first goes on from all of these files, so that there may be more or fewer processes when the run is resumed.
    """

    def __init__(
        self, out: Path, *, written: bool, resume: bool, reporter: Reporter, world: World | None = None
    ) -> None:
        """written: the report goes to the disk, which may turn out to be full: then everything is kept before that.

        Raises TrainingError for a file that is no state.
        """
        self._out, self._world = out, world or World(torch.device("cpu"))
        self._path = state_path(out) if self._world.is_main else share_path(out, self._world.rank)
        # Beside a bundle in a folder of somebody else nothing can be kept, which is no reason not to score it.
        self._keeps = os.access(self._path.parent, os.W_OK)
        self._written = (written or self._world.size > 1) and self._keeps
        self._parts: dict[str, Tally] = {}
        self._identities: dict[str, str] = {}
        if self._world.is_main:
            self._take_up(states_to_resume(out, resume=resume, reporter=reporter), reporter)

    def _take_up(self, files: Sequence[Path], reporter: Reporter) -> None:
        """Go on from what all processes of the interrupted run have kept."""
        after = ""
        for path in files:
            tensors, meta = state_file.read_run_state(path)
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            for part, facts in meta["parts"].items():
                own = {
                    name.removeprefix(f"{part}."): array
                    for name, array in arrays.items()
                    if name.startswith(f"{part}.")
                }
                if self._identities.setdefault(part, facts["identity"]) == facts["identity"]:
                    # A file whose rows the first has already was left by a run that ended while it was put together.
                    self._parts.setdefault(part, Tally()).add(Tally.unpacked(own, facts))
            after = after or str(meta["after"])
            reporter.say(f"resuming after {meta['after']}")
        if files and files != [self._path]:
            self._save(after)
            for path in files:
                if path != self._path:
                    path.unlink()

    @contextmanager
    def keeping(self, scoring: Scoring, part: str, identity: str, *, images: int) -> Iterator[Callable[[], None]]:
        """Call what this gives after each picture of `part`; in the first process `scoring` gets what was kept.

        identity: hash of everything that the figures depend on. Raises TrainingError for the state of another
        evaluation, and RunStopped, with the state saved, after a signal.
        """
        if self._identities.setdefault(part, identity) != identity:
            raise TrainingError(
                f"state of another evaluation: {self._path} (other weights, words, pictures or device); repeat the "
                "options of the interrupted one, or start anew with --force and without --resume"
            )
        if part in self._parts:
            scoring.start_from(self._parts[part])
        after = ""
        due = time.monotonic() + SAVE_EVERY
        place = "" if self._world.size == 1 else f"in process {self._world.rank + 1} of {self._world.size}"

        def keep() -> None:
            nonlocal after
            self._parts[part] = scoring.tally()
            after = " ".join(filter(None, (f"{len(self._parts[part].rows)} of {images} pictures", part, place)))

        def save() -> None:
            nonlocal due
            keep()
            self._save(after)
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

    def _save(self, after: str) -> None:
        tensors, parts = dict[str, torch.Tensor](), dict[str, dict[str, Any]]()
        for part, tally in self._parts.items():
            arrays, facts = tally.packed()
            tensors |= {f"{part}.{name}": torch.from_numpy(array) for name, array in arrays.items()}
            parts[part] = {"identity": self._identities[part], **facts}
        state_file.save_state(self._path, tensors=tensors, meta={"after": after, "parts": parts})

    def put(self, part: str, tally: Tally) -> None:
        """Keep from now on what all processes have found together on `part`, which is finished."""
        if self._world.is_main:
            self._parts[part] = tally

    def discard(self) -> None:
        """Remove the files, when the report is where it belongs."""
        discard_state(self._out)


def eval_identity(
    built: BuiltSegmentor,
    samples: SegDataset,
    text: ClassText,
    device: torch.device,
    sides: Sides | None,
    *,
    windows: Windows | None = None,
    boundary: bool = False,
    task: str = "semantic",
) -> str:
    """Hash of everything that counts depend on: weights, words, pictures, the kind of device, and what is counted."""
    facts = {
        "version": 3,  # of what is kept
        "task": task,
        "weights": state_hash(built.module, [""]),
        "embeddings": hashlib.sha256(text.embeddings.cpu().contiguous().numpy().tobytes()).hexdigest(),
        "classes": [list(text.class_indices), list(text.seen)],
        "data": samples.fingerprint,
        "device": device.type,
        "sides": None if sides is None else astuple(sides),
        "windows": None if windows is None else astuple(windows),
        "boundary": boundary,
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
