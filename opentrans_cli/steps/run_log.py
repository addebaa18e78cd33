"""The log of a run of `prune` or `finetune`: always one JSON line per event, and event files for TensorBoard if they
are asked for.

The lines are `run_log_line` of `artifacts.schema.json`. Every line has `event` and `step`, the steps taken so far. They
are written without `logging`, whose handlers lose lines when the disk is full and cannot cut a file back to the step
from which a run goes on; event files are written by torch's own writer.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from opentrans_cli.errors import OptionError, RunStopped
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.targets import check_makeable
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.run_files import log_beside
from opentrans_cli.training.loop import StepFigures

EVENTS = ("start", "round", "freeze", "step", "evaluation", "stop", "error", "end")
"""What lines say, in the order in which they first come.

start       a process began, at the beginning or from a state: options, data, environment
round       prune removed weights: the number of the round from 1, sparsity, and how many weights are kept
freeze      finetune chose layers: which, by whom (analyze, options, defaults, framework), and why
step        an optimizer step: loss and its weighted terms, learning rate, gradient norm before clipping, seconds
evaluation  the segmentor was scored on images it does not train on: fractions
stop        the run was told to stop and can go on
error       the run ended with an error
end         all steps are taken: the cost receipt of finetune, and measured seconds
"""

# Events before the first step, and those that a run without a step has.
_FIRST, _LAST = ("start", "round", "freeze"), ("stop", "error")
_SAID_ONCE = ("round", "freeze")  # a run that goes on from a later state does not log them twice
_BEGINNING = b'{"event": "start"'
_STEPS = 20  # the speed is measured over this number of last steps
_FLUSH_SECONDS = 10  # between two writes of event files


def log_path(out: Path, named: Path | None) -> Path:
    """The path of the log: `--log`, or else next to the bundle."""
    return named or log_beside(out)


def check_log(out: Path, named: Path | None, *, tensorboard: Path | None = None) -> None:
    """Raises OptionError if another file is in the place of the log, or event files cannot be written."""
    path = log_path(out, named)
    if path.is_dir():
        raise OptionError(f"a folder is where the log goes: --log {path}; name a file")
    if tensorboard is not None:
        _check_event_files(tensorboard)
    try:
        if not path.is_file():
            check_makeable(path.parent)
            return
        with path.open("rb") as file:
            found = file.read(len(_BEGINNING))
    except OSError as error:
        raise _unwritable(path, error) from error
    if found and not _BEGINNING.startswith(found):  # a killed run may have written only half of it
        raise OptionError(f"another file is where the log goes: --log {path}; choose another, or move it away")


class RunLog:
    """Writes the log of one run; use it in a `with` statement, so that it contains the reason of an early end.

    Nothing is written before the first step or score: a refused run leaves no files, and the log of the run that
    it should continue stays. The log of another run at the same path is replaced. If the log cannot be written because
    the disk is full, a message says so and training goes on; the lines are written once there is space.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resumed_at: int | None = None,
        tensorboard: Path | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        """path: None writes nothing, as in all processes but the first. resumed_at: the step of the state where the
        run goes on; the lines of later steps are removed from the log, as these steps are repeated.
        """
        self.path, self._reporter = path, reporter
        self._resumed_at, self._step = resumed_at, resumed_at or 0
        self._seconds: deque[float] = deque(maxlen=_STEPS)
        self._last: StepFigures | None = None
        self._miou: float | None = None
        self._said: dict[str, dict[str, Any]] = {}  # by event the last line, for events that are logged once
        self._tensorboard = tensorboard
        self._early: list[dict[str, Any]] = []  # lines that wait for the first step
        self._lines: _LineFile | None = None
        self._events: _EventFiles | None = None

    @classmethod
    def beside(
        cls,
        out: Path,
        named: Path | None,
        *,
        tensorboard: Path | None = None,
        resumed_at: int | None,
        writes: bool,
        reporter: Reporter = SILENT,
    ) -> RunLog:
        """The log of the run that makes `out`. writes: false in all processes but the first.

        Raises what `check_log` raises.
        """
        if not writes:
            return cls(None, resumed_at=resumed_at)
        check_log(out, named, tensorboard=tensorboard)
        return cls(log_path(out, named), resumed_at=resumed_at, tensorboard=tensorboard, reporter=reporter)

    def start(self, *, options: Mapping[str, Any], data: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Log that a process begins; the values are JSON, or paths."""
        self._write("start", time=_now(), options=options, data=data, environment=environment)

    def round(self, *, step: int, number: int, sparsity: float, kept: int) -> None:
        """Log that round `number`, from 1, removed weights after `step` steps; `sparsity`, `kept`: after the round."""
        self._write("round", step=step, number=number, sparsity=sparsity, kept=kept)

    def freeze(self, *, step: int, layers: tuple[str, ...], by: str, origin: str) -> None:
        """Log that `layers` were chosen after `step` steps, by what ("analyze", "options", ...), and why in words."""
        self._write("freeze", step=step, layers=list(layers), by=by, origin=origin)

    def step(self, figures: StepFigures, *, details: Mapping[str, float] | None = None) -> None:
        """Log a step. details: figures of the loss in addition to its terms."""
        self._step, self._last = figures.step, figures
        self._seconds.append(figures.seconds)
        entry = {**asdict(figures), "details": details} if details else asdict(figures)
        self._write("step", **entry)
        if self._events is not None:
            terms = {f"terms/{name}": value for name, value in figures.terms.items()} if len(figures.terms) > 1 else {}
            rate = {"steps_per_second": 1 / figures.seconds} if figures.seconds else {}
            scalars = {"loss": figures.loss, **terms, "lr": figures.lr, "grad_norm": figures.grad_norm, **rate}
            self._events.add(figures.step, scalars)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the scores of the segmentor after `step` steps; figures: fractions by name, with "miou"."""
        self._miou = figures.get("miou", self._miou)
        self._write("evaluation", step=step, **figures)
        if self._events is not None:
            self._events.add(step, {f"evaluation/{name}": value for name, value in figures.items()})

    def end(
        self,
        *,
        cost: Mapping[str, Any] | None = None,
        seconds_per_step: float,
        timing: Mapping[str, Any] | None = None,
    ) -> None:
        """Log the end. cost: the receipt. seconds_per_step: measured, median. timing: against full training."""
        self._write("end", time=_now(), cost=cost, seconds_per_step=seconds_per_step, timing=timing)

    @property
    def steps_per_second(self) -> float:
        """Speed by the median of the last 20 steps; 0 before the first step."""
        seconds = median(self._seconds) if self._seconds else 0.0
        return 1 / seconds if seconds else 0.0

    def status(self) -> str:
        """Text for a progress bar, such as "loss 1.23 (classes 0.61, mask 0.32, dice 0.30), mIoU 34.5, 3.21 steps/s";
        empty before the first step.
        """
        if self._last is None:
            return ""
        terms = ", ".join(f"{name} {value:.3g}" for name, value in self._last.terms.items())
        apart = f" ({terms})" if len(self._last.terms) > 1 else ""
        scored = [] if self._miou is None else [f"mIoU {100 * self._miou:.1f}"]
        return ", ".join([f"loss {self._last.loss:.4g}{apart}", *scored, f"{self.steps_per_second:.3g} steps/s"])

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                stopped = isinstance(error, (RunStopped, KeyboardInterrupt))
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
                self._reporter.say(f"lines of the log were lost: {len(self._lines.waiting)} in {self.path}")
        self._events = self._lines = None

    def _write(self, event: str, *, step: int | None = None, **fields: Any) -> None:
        entry = {"event": event, "step": self._step if step is None else step, **fields}
        if self.path is None:
            return
        if self._lines is None and event in _FIRST:
            self._early.append(entry)
        elif self._lines is not None or event not in _LAST:
            self._append(self._lines or self._open(self.path), entry)

    def _open(self, path: Path) -> _LineFile:
        """Raises OptionError if the log or the event files cannot be written."""
        try:
            self._lines = _LineFile(path, keep=self._keep, failed=self._failed("log", path))
        except OSError as error:
            raise _unwritable(path, error) from error
        if self._tensorboard is not None:
            failed, first = self._failed("event files", self._tensorboard), (self._resumed_at or 0) + 1
            self._events = _EventFiles(self._tensorboard, first_step=first, failed=failed)
        for entry in self._early:
            self._append(self._lines, entry)
        return self._lines

    def _append(self, lines: _LineFile, entry: dict[str, Any]) -> None:
        if self._said.get(entry["event"]) != entry:
            self._remember(entry)
            lines.append(entry)

    def _remember(self, entry: dict[str, Any]) -> None:
        if entry.get("event") in _SAID_ONCE:
            self._said[entry["event"]] = entry

    def _keep(self, line: dict[str, Any]) -> bool:
        step = line.get("step")
        if self._resumed_at is None or not isinstance(step, int) or step > self._resumed_at:
            return False
        self._remember(line)
        return True

    def _failed(self, what: str, where: Path) -> Callable[[OSError], None]:
        return lambda error: self._reporter.say(
            f"cannot write the {what}: {where} ({error.strerror or error}); training goes on"
        )


class _LineFile:
    """JSON lines at `path`. Each is passed to the system before `append` returns, so a killed process loses none.

    A line that cannot be written (a full disk) waits for the next one, and `failed` is called once; the file never
    keeps half a line.
    """

    def __init__(
        self, path: Path, *, keep: Callable[[dict[str, Any]], bool], failed: Callable[[OSError], None]
    ) -> None:
        """In the file at `path` only whole lines for which `keep` is true stay. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target = Path(os.path.realpath(path))  # a link stays a link
            write_file(target, _lines_kept(target, keep))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._failed: Callable[[OSError], None] | None = failed
        self.waiting: list[bytes] = []

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line; infinity and NaN become null, and paths become text."""
        self._write([json.dumps(_plain(entry), allow_nan=False).encode() + b"\n"])

    def close(self) -> None:
        """Try once more to write the waiting lines, and close the file."""
        self._write([])
        os.close(self._descriptor)

    def _write(self, lines: list[bytes]) -> None:
        # The list is emptied first, so that an interruption after writing does not write the lines again.
        lines, self.waiting = self.waiting + lines, []
        before = os.fstat(self._descriptor).st_size
        try:
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            with suppress(OSError):  # a pipe has no length
                os.ftruncate(self._descriptor, before)
            self.waiting = lines
            if self._failed is not None:
                self._failed(error)
            self._failed = None


def _lines_kept(path: Path, keep: Callable[[dict[str, Any]], bool]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut off when a process was killed
            if isinstance(entry, dict) and keep(entry):
                yield line.rstrip(b"\n") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


class _EventFiles:
    """Scalars by step in the folder `folder`. After the first failed write `failed` is called and writing stops."""

    def __init__(self, folder: Path, *, first_step: int, failed: Callable[[OSError], None]) -> None:
        """first_step: TensorBoard drops the values of this step and later ones in older files of the folder.

        Raises OptionError if the package is missing or the folder cannot be written to.
        """
        _check_event_files(folder)
        from torch.utils.tensorboard import SummaryWriter

        self._failed = failed
        try:
            self._writer: Any = SummaryWriter(str(folder), purge_step=first_step, flush_secs=_FLUSH_SECONDS)
        except OSError as error:
            raise _no_event_files(folder, error) from error

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the finite values of `scalars` for `step`."""
        for name, value in scalars.items():
            if math.isfinite(value):
                self._try("add_scalar", name, value, step)

    def close(self) -> None:
        """Write the values that are still waiting."""
        self._try("close")
        self._writer = None

    def _try(self, method: str, *arguments: Any) -> None:
        try:
            if self._writer is not None:
                getattr(self._writer, method)(*arguments)
        except OSError as error:
            self._writer = None
            self._failed(error)


def _check_event_files(folder: Path) -> None:
    """Raises OptionError if event files cannot be written: a file is in the way, or `tensorboard` is missing."""
    from importlib.util import find_spec

    if folder.exists() and not folder.is_dir():
        raise OptionError(f"not a folder: --tensorboard {folder}; choose another")
    try:
        check_makeable(folder)
    except OSError as error:
        raise _no_event_files(folder, error) from error
    if find_spec("tensorboard") is None:
        raise OptionError(
            f"event files need the package tensorboard: --tensorboard {folder}; "
            "install it with `pip install 'opentrans-cli[tensorboard]'`"
        )


def _no_event_files(folder: Path, error: OSError) -> OptionError:
    return OptionError(
        f"cannot write event files: --tensorboard {folder} ({error.strerror or error}); choose another folder"
    )


def _unwritable(path: Path, error: OSError) -> OptionError:
    return OptionError(f"cannot write the log: {path} ({error.strerror or error}); choose another --log")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
