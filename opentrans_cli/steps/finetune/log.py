"""The log of a training run: one JSON line per event, always, and event files for TensorBoard where they are wanted.

The lines are `finetune_log_line` of `artifacts.schema.json`. Every line has `event` and `step`, the steps taken so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from opentrans_cli.errors import OptionError, TrainingStopped
from opentrans_cli.files.targets import check_makeable
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.finetune.options import FinetuneControls
from opentrans_cli.steps.run_files import log_beside
from opentrans_cli.training.event_files import EventFiles, check_event_files
from opentrans_cli.training.line_file import LineFile
from opentrans_cli.training.loop import StepFigures
from opentrans_cli.training.step_status import StepStatus

EVENTS = ("start", "freeze", "step", "evaluation", "stop", "error", "end")
"""What lines tell, in the order in which they first come.

start       a process began, at the beginning or from a state: options, data, environment
freeze      layers were chosen: which, and where their alphas are from
step        an optimizer step: loss and its weighted terms, learning rate, gradient norm before clipping, seconds
evaluation  the segmentor was scored on images it does not train on: fractions
stop        the run was told to stop and can go on
error       the run ended with an error
end         all steps are taken: the cost receipt, and measured seconds
"""

_FIRST, _LAST = ("start", "freeze"), ("stop", "error")  # before the first step, and all there is without one
_BEGINNING = b'{"event": "start"'


class Choice(Protocol):
    """Layers that were chosen to be frozen, and where their alphas are from."""

    @property
    def layers(self) -> tuple[str, ...]: ...

    @property
    def origin(self) -> str: ...


def log_path(out: Path, controls: FinetuneControls) -> Path:
    """Where the log goes: `--log`, else beside the bundle."""
    return controls.log or log_beside(out)


def check_log(out: Path, controls: FinetuneControls) -> None:
    """OptionError if something else is where the log goes, or event files cannot be had."""
    path = log_path(out, controls)
    if path.is_dir():
        raise OptionError(f"a folder is where the log goes: --log {path}; name a file")
    if controls.tensorboard is not None:
        check_event_files(controls.tensorboard)
    try:
        if not path.is_file():
            check_makeable(path.parent)
            return
        with path.open("rb") as file:
            found = file.read(len(_BEGINNING))
    except OSError as error:
        raise _unwritable(path, error) from error
    if found and not _BEGINNING.startswith(found):  # a kill may have left half of it
        raise OptionError(f"another file is where the log goes: --log {path}; choose another, or move it away")


class RunLog:
    """Writes the log of one run; use it in a `with` statement, so that the reason of an early end is in it.

    Nothing is on the disk before the first step or score: a run that is refused leaves nothing behind, and the log of
    the run it was to go on with stays. The log of another run at the same place is replaced. Once the log cannot be
    written, the disk being full, that is said and training goes on; the lines follow when there is room again.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resumed_at: int | None = None,
        tensorboard: Path | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        """path: None writes nothing: of several processes all but the first. resumed_at: the step of the state the run
        goes on from; what the log says of later ones is cut off, since they are taken again.
        """
        self._path, self._reporter = path, reporter
        self._status, self._step = StepStatus(), resumed_at or 0
        self._resumed_at = resumed_at
        self._frozen: tuple[Any, ...] | None = None  # the last choice in the log
        self._tensorboard = tensorboard
        self._early: list[dict[str, Any]] = []  # what there is to say before the first step
        self._lines: LineFile | None = None
        self._events: EventFiles | None = None

    @classmethod
    def beside(
        cls, out: Path, controls: FinetuneControls, *, resumed_at: int | None, writes: bool, reporter: Reporter = SILENT
    ) -> RunLog:
        """The log of the run that makes `out`. writes: false in all processes but the first.

        Raises what `check_log` raises.
        """
        if not writes:
            return cls(None, resumed_at=resumed_at)
        check_log(out, controls)
        path = log_path(out, controls)
        return cls(path, resumed_at=resumed_at, tensorboard=controls.tensorboard, reporter=reporter)

    @property
    def path(self) -> Path | None:
        """The file of JSON lines."""
        return self._path

    def start(self, *, options: Mapping[str, Any], data: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """A process begins; the values are JSON, or paths."""
        self._write("start", time=_now(), options=options, data=data, environment=environment)

    def freeze(self, *, step: int, choice: Choice) -> None:
        """Layers were chosen after `step` steps. A run that goes on from a later state need not say it twice."""
        self._write("freeze", step=step, layers=list(choice.layers), origin=choice.origin)

    def step(self, figures: StepFigures) -> None:
        """A step was taken."""
        self._step = figures.step
        self._status.step(figures)
        self._write("step", **asdict(figures))
        if self._events is not None:
            terms = {f"terms/{name}": value for name, value in figures.terms.items()} if len(figures.terms) > 1 else {}
            rate = {"steps_per_second": 1 / figures.seconds} if figures.seconds else {}
            scalars = {"loss": figures.loss, **terms, "lr": figures.lr, "grad_norm": figures.grad_norm, **rate}
            self._events.add(figures.step, scalars)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """The segmentor was scored after `step` steps; figures: fractions by name, "miou" among them."""
        self._status.evaluation(figures)
        self._write("evaluation", step=step, **figures)
        if self._events is not None:
            self._events.add(step, {f"evaluation/{name}": value for name, value in figures.items()})

    def end(self, *, cost: Mapping[str, Any], seconds_per_step: float, timing: Mapping[str, Any] | None = None) -> None:
        """All steps are taken. cost: the receipt. seconds_per_step: measured, median. timing: beside full training."""
        self._write("end", time=_now(), cost=cost, seconds_per_step=seconds_per_step, timing=timing)

    def status(self) -> str:
        """Speed, loss with its terms, and the last mIoU, for a progress bar."""
        return self._status.text()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                stopped = isinstance(error, (TrainingStopped, KeyboardInterrupt))
                reason = " ".join(str(error).split()) or type(error).__name__
                self._write("stop" if stopped else "error", time=_now(), reason=reason)
        finally:
            self._close()

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()
        if self._lines is not None:
            self._lines.close()
            if self._lines.waiting:
                self._reporter.say(f"lines of the log were lost: {self._lines.waiting} in {self._path}")
        self._events = self._lines = None

    def _write(self, event: str, *, step: int | None = None, **fields: Any) -> None:
        entry = {"event": event, "step": self._step if step is None else step, **fields}
        if self._path is None:
            return
        if self._lines is None and event in _FIRST:
            self._early.append(entry)
        elif self._lines is not None or event not in _LAST:
            lines = self._lines or self._open(self._path)
            self._append(lines, entry)

    def _open(self, path: Path) -> LineFile:
        """Raises OptionError if the log or the event files cannot be written."""
        try:
            self._lines = LineFile(path, keep=self._keep, failed=self._tell("log", path))
        except OSError as error:
            raise _unwritable(path, error) from error
        if self._tensorboard is not None:
            failed = self._tell("event files", self._tensorboard)
            first = (self._resumed_at or 0) + 1
            self._events = EventFiles(self._tensorboard, first_step=first, failed=failed)
        for entry in self._early:
            self._append(self._lines, entry)
        return self._lines

    def _append(self, lines: LineFile, entry: dict[str, Any]) -> None:
        if not (entry["event"] == "freeze" and _choice(entry) == self._frozen):
            self._remember(entry)
            lines.append(entry)

    def _remember(self, entry: Mapping[str, Any]) -> None:
        if entry.get("event") == "freeze":
            self._frozen = _choice(entry)

    def _keep(self, line: dict[str, Any]) -> bool:
        step = line.get("step")
        if self._resumed_at is None or not isinstance(step, int) or step > self._resumed_at:
            return False
        self._remember(line)
        return True

    def _tell(self, what: str, where: Path) -> Any:
        def failed(error: OSError) -> None:
            self._reporter.say(f"cannot write the {what}: {where} ({error.strerror or error}); training goes on")

        return failed


def _choice(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(field) for field in ("step", "layers", "origin"))


def _unwritable(path: Path, error: OSError) -> OptionError:
    return OptionError(f"cannot write the log: {path} ({error.strerror or error}); choose another --log")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
