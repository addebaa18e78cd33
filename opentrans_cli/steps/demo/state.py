"""What an interrupted demo goes on from: the names of what is finished, with the figures."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opentrans_cli.files.atomic import left_in
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.run_files import discard_state, remove_halves, state_path, state_to_resume
from opentrans_cli.training import state_file
from opentrans_cli.training.run_state import require_identity


class DemoState:
    """The state of the demo in the folder `out`; the verbs that it runs keep their own states in that folder."""

    def __init__(self, out: Path, *, identity: Mapping[str, Any], parts: int, resume: bool, reporter: Reporter) -> None:
        """identity: JSON that decides what the demo makes. parts: so many `finish` it.

        Raises TrainingError for the state of another demo. Without a state the folder is made, and what verbs of
        another demo have not finished in it is removed.
        """
        self._out, self._identity, self._parts = out, identity, parts
        self._began, self._seconds = time.perf_counter(), 0.0
        self._values: dict[str, Any] = {}
        self.finished: list[str] = []
        found = state_to_resume(out, resume=resume, reporter=reporter)
        remove_halves(left_in(out))
        if found is None:
            for path in out.iterdir() if out.exists() else ():
                if path.is_dir() and path.name.endswith(FEATURES):
                    shutil.rmtree(path)
                elif path.name.startswith(".") and not path.is_dir():
                    path.unlink()
            self._save()
        else:
            require_identity(found, identity)
            meta = state_file.load_meta(found)
            self._values, self.finished, self._seconds = meta["values"], meta["finished"], meta["seconds"]
            reporter.say(f"resuming after {meta['after']}")
        out.mkdir(exist_ok=True)  # after the state, without which a folder is in the way

    @property
    def seconds(self) -> float:
        """How long the demo has run, in all its processes."""
        return self._seconds + time.perf_counter() - self._began

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, which is JSON; it is called only if no process has finished it."""
        if name not in self._values:
            self._values[name] = make()
            self._save()
        return self._values[name]

    def finish(self, part: str) -> None:
        """Count a part as finished."""
        self.finished.append(part)
        self._save()

    def discard(self) -> None:
        """Remove the file, when everything is there."""
        discard_state(self._out)

    def _save(self) -> None:
        meta = {
            "identity": self._identity,
            "after": f"{len(self.finished)} of {self._parts} parts",
            "values": self._values,
            "finished": self.finished,
            "seconds": self.seconds,
        }
        state_file.save_state(state_path(self._out), tensors={}, meta=meta)


FEATURES = "-features"
"""How the folders end in which features are kept while a tower is fine-tuned."""
