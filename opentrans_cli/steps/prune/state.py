"""What a pruning run leaves beside its target between rounds: the state to go on from, and towers of earlier rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from opentrans_cli.bundle.layout import Tensors
from opentrans_cli.clip.arrays import arrays
from opentrans_cli.clip.layers import split_packed
from opentrans_cli.distill.loop import StepLog
from opentrans_cli.errors import TrainingError
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.prune.distillation import Distillation
from opentrans_cli.steps.run_files import discard_state, state_path
from opentrans_cli.training import state_file

_MAY_CHANGE = ("lr",)  # so that a run whose loss became infinite can go on more gently


@dataclass(frozen=True)
class Restored:
    """What a state says beside the tower and the optimizer, which are put back in place."""

    round_of: dict[str, Tensor]
    logs: list[StepLog]
    done: int


class RunState:
    """The state file of one run, written whole after each round."""

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        self.out, self._options = out, dict(options)

    def _identity(self, distillation: Distillation) -> dict[str, Any]:
        identity = {"verb": "prune", "options": self._options, "images": distillation.objective.fingerprint}
        return json.loads(json.dumps(identity))  # type: ignore[no-any-return]

    def save(
        self,
        visual: nn.Module,
        distillation: Distillation,
        *,
        round_of: Mapping[str, Tensor],
        logs: list[StepLog],
        done: int,
    ) -> None:
        """Write it. Which images come next follows from the number of steps; nothing else is random."""
        slots = state_file.optimizer_tensors(distillation.optimizer, distillation.trained())
        tensors = {
            **state_file.with_prefix("tower", visual.state_dict()),
            **state_file.with_prefix("objective", distillation.objective.state_dict()),
            **state_file.with_prefix("round_of", round_of),
            **state_file.with_prefix("optimizer", slots),
            **state_file.with_prefix("log", _log_tensors(logs)),
        }
        meta = {**self._identity(distillation), "done": done}
        state_file.save_state(state_path(self.out), tensors=tensors, meta=meta)

    def load(self, path: Path, visual: nn.Module, distillation: Distillation, *, reporter: Reporter) -> Restored:
        """Put tower, objective and optimizer back. Raises TrainingError for the state of another run."""
        tensors, meta = state_file.load_state(path)
        self._require_same(path, meta, distillation, reporter)
        state_file.restore_module(visual, state_file.under_prefix("tower", tensors), origin=str(path))
        distillation.objective.load_state_dict(state_file.under_prefix("objective", tensors))
        state_file.restore_optimizer(
            distillation.optimizer,
            distillation.trained(),
            tensors=state_file.under_prefix("optimizer", tensors),
        )
        logs = _read_logs(state_file.under_prefix("log", tensors))
        return Restored(state_file.under_prefix("round_of", tensors), logs, int(meta["done"]))

    def _require_same(
        self, path: Path, found: Mapping[str, Any], distillation: Distillation, reporter: Reporter
    ) -> None:
        now = self._identity(distillation)
        for key in ("verb", "images"):
            if found.get(key) != now[key]:
                raise TrainingError(
                    f"state of another run ({key} differ): {path}; repeat its options, or leave --resume out"
                )
        before: Mapping[str, Any] = found.get("options", {})
        for name in sorted(before.keys() | now["options"].keys()):
            was, wanted = before.get(name), now["options"].get(name)
            if was == wanted:
                continue
            if name not in _MAY_CHANGE:
                raise TrainingError(
                    f"state of another run (options differ: {name} was {was}, now {wanted}): {path}; "
                    "repeat its options, or leave --resume out"
                )
            reporter.say(f"going on with another {name}: {wanted}, until here {was}")

    def discard(self) -> None:
        """Remove the file."""
        discard_state(self.out)


_TERM = "terms."


def _log_tensors(logs: list[StepLog]) -> dict[str, Tensor]:
    """Columns; a term that a step did not have is NaN, which no finite loss is made of."""
    names = sorted({name for log in logs for name in log.terms})
    columns = {
        "step": [float(log.step) for log in logs],
        "loss": [log.loss for log in logs],
        "lr": [log.lr for log in logs],
        **{f"{_TERM}{name}": [log.terms.get(name, math.nan) for log in logs] for name in names},
    }
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


def _read_logs(tensors: Mapping[str, Tensor]) -> list[StepLog]:
    columns = {name: values.tolist() for name, values in tensors.items()}
    names = [name for name in columns if name.startswith(_TERM)]
    logs = []
    for row, step in enumerate(columns["step"]):
        terms = {name.removeprefix(_TERM): columns[name][row] for name in names}
        there = {name: value for name, value in terms.items() if not math.isnan(value)}
        logs.append(StepLog(int(step), columns["loss"][row], columns["lr"][row], there))
    return logs


class Snapshots(Mapping[int, Tensors]):
    """Towers after rounds, by number from 1, one file each beside the target; read when asked for.

    They are not kept in memory, because a run of a full-size tower has gigabytes of them.
    """

    def __init__(self, out: Path) -> None:
        self._pattern = state_path(out)

    def _path(self, number: int) -> Path:
        return self._pattern.with_name(f"{self._pattern.stem}.round-{number:03d}.safetensors")

    def _paths(self) -> dict[int, Path]:
        found = self._pattern.parent.glob(f"{self._pattern.stem}.round-*.safetensors")
        return {int(path.stem.rpartition("-")[2]): path for path in found}

    def save(self, number: int, visual: nn.Module) -> None:
        """Write the tower as it is after round `number`."""
        state_file.save_state(self._path(number), tensors=split_packed(visual.state_dict()), meta={"round": number})

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:
        tensors, _ = state_file.load_state(self._path(number))
        return arrays(tensors)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._paths()))

    def __len__(self) -> int:
        return len(self._paths())

    def discard(self) -> None:
        """Remove the files."""
        for path in self._paths().values():
            path.unlink()
