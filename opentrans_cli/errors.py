"""Every error a user can cause, in one tree.

    OpentransError            a known problem; the command prints one line and exits with `exit_code`
    ├── OptionError           options that contradict each other or are out of range (exit code 2)
    ├── SourceError           a model source cannot be found, read or understood
    ├── OutputError           something is where an output goes, or nothing can be written there
    ├── BundleError           a bundle is missing, damaged, or from another version
    │   └── GateError         a bundle did not pass the checks before it is published; `lines` has every one that failed
    ├── MaskError             masks and weights disagree (shape, count, a pruned weight that is not zero)
    ├── DataError             images, label maps, class files
    │   └── PictureError      one picture among others is damaged, too small, or does not fit its label map
    ├── SpectrumError         a layer's spectrum cannot be computed
    ├── TransferError         a key or shape has no place in the target framework
    ├── HubError              the Hugging Face Hub cannot be reached, refuses, or sends what was not asked for
    ├── TrainingError         a run that cannot go on (NaN loss, nothing to train, a foreign resume state)
    └── RunStopped            a run that ended early and kept what it had done (exit code 75; 1 when the disk is full)

A message is one line, "<what is wrong>: <which thing>; <next move>".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class OpentransError(Exception):
    """A known problem, described in one line; the base class of all errors that are shown to users."""

    exit_code = 1
    reported = False  # True: another process met the same error and has reported it
    lines: tuple[str, ...] = ()  # what the message sums up, shown before it


class OptionError(OpentransError):
    """Options that contradict each other or are out of range: wrong usage."""

    exit_code = 2


class SourceError(OpentransError):
    """A model source cannot be found, read or understood."""


class OutputError(OpentransError):
    """Something is where an output goes, or nothing can be written there."""


class BundleError(OpentransError):
    """A bundle is missing, damaged, or from another version."""


class GateError(BundleError):
    """A bundle did not pass the checks before it is published; `lines` has every one that failed."""

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)


class MaskError(OpentransError):
    """Masks and weights disagree."""


class DataError(OpentransError):
    """Images, label maps or class files are missing, unreadable or inconsistent."""


class PictureError(DataError):
    """One picture among others cannot be used; `--skip-bad` leaves it out."""


class SpectrumError(OpentransError):
    """A layer's spectrum cannot be computed."""


class TransferError(OpentransError):
    """A key or shape has no place in the target framework."""


class HubError(OpentransError):
    """The Hugging Face Hub cannot be reached, refuses, or sends something that was not requested."""


class TrainingError(OpentransError):
    """A training run that cannot go on."""


class RunStopped(OpentransError):
    """A run ended before its end: it was told to stop, its time is up, or the disk is full."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: batch systems may start the same line again

    def __init__(
        self,
        reason: str = "",
        *,
        after: str | None = None,
        state: Path | None = None,
        written: Path | None = None,
        full: bool = False,
    ) -> None:
        """after: what the file `state` keeps, such as "step 12 of 32"; None: nothing. written: the whole result is
        there. full: the disk is.
        """
        self.reason, self.after, self.state, self.written, self.full = reason, after, state, written, full
        if full:
            self.exit_code = OpentransError.exit_code
        super().__init__(self.told("the same options" if after is None else f"--resume (the state is in {state})"))

    def told(self, command: str) -> str:
        """What happened, and which command goes on with the run, or starts it again."""
        room = "free some space and " if self.full else ""
        if self.written is not None:
            ended = f"interrupted when everything was written: {self.written}"
        elif self.after is None:
            ended = f"interrupted before anything was kept; {room}start again with: {command}"
        else:
            ended = f"interrupted after {self.after}; {room}go on with: {command}"
        return f"{self.reason}; {ended}" if self.reason else ended


def without_move(error: Exception) -> str:
    """The message of an error without the next move, for a list of what was skipped."""
    return str(error).rpartition("; ")[0] or str(error)


def flag(option: str) -> str:
    """The option as a user types it, for messages: "weight_decay" -> "--weight-decay"."""
    return f"--{option.replace('_', '-')}"


def unknown(noun: str, value: object, known: Iterable[str]) -> str:
    """The message about a name that is not in `known`: it lists the known names and suggests the nearest one."""
    names = list(known)
    return f"unknown {noun}: '{value}'; choose one of {', '.join(names)}{did_you_mean(value, names)}"


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """The end of a message about a name that is not in `known`: "; did you mean NAME?", or "" if none is near."""
    near = nearest(value, known)
    return "" if near is None else f"; did you mean {near}?"


def nearest(value: object, known: Iterable[str]) -> str | None:
    """The nearest of the names `known`, None if none is near.

    Upper and lower case count as equal. A glob has no nearest name.
    """
    from difflib import get_close_matches

    names = {name.casefold(): name for name in known}
    near = [] if set("*?[") & set(str(value)) else get_close_matches(str(value).casefold(), names, n=1)
    return names[near[0]] if near else None
