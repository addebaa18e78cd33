"""Live progress bars on a terminal. rich takes a while to load, so this module is imported when a bar is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from opentrans_cli.files.figures import in_words

_WIDE, _NARROW = 24, 6  # columns of a bar
_REFRESHES = 4  # per second; each one holds up the main thread for a few milliseconds
_SPEED_OF = 3600.0  # seconds used to estimate the remaining time; must contain two steps, which may take minutes
_DOT = " · "
_CTRL_C = len("^C") + 1


class Bars(Progress):
    """Bars below each other, each on one line: title, bar, count, time left, and what fits of the status."""

    def __init__(self, console: Console) -> None:
        self._bar = BarColumn(bar_width=_WIDE)
        super().__init__(
            _Title(),
            self._bar,
            _Beside(),
            console=console,
            refresh_per_second=_REFRESHES,
            speed_estimate_period=_SPEED_OF,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """One line for each bar, which is as long as the texts beside it leave room for."""
        for task in self.tasks:
            title = str(task.description)
            # A space on both sides of the bar, and room for the ^C that a terminal shows: a line that it breaks stays.
            room = self.console.width - len(title) - 2 - _CTRL_C
            text = next((text for text in _texts(task) if len(text) <= room - _NARROW), "")
            task.fields["beside"] = text
            self._bar.bar_width = max(1, min(_WIDE, room - len(text)))
            yield self.make_tasks_table([task])


class _Title(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The title, cut off where the terminal ends."""
        return Text(str(task.description), no_wrap=True, overflow="ellipsis")


class _Beside(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The text that `Bars` chose."""
        return Text(task.fields["beside"], no_wrap=True, overflow="ellipsis")


def _texts(task: Task) -> Iterator[str]:
    """What may stand beside a bar, from the longest to the shortest."""
    total = f"{task.total or 0:.0f}"
    count = f"{task.completed:.0f}".rjust(len(total)) + f"/{total}"
    left = _left(task)
    # A part in brackets says more of the part before it: "loss 1.2 (classes 1, mask 0.2), mIoU 34.5".
    status = str(task.fields["status"])
    parts = [part for part in re.split(r", (?![^(]*\))", status) if part]
    short = [re.sub(r" \(.*\)$", "", part) for part in parts]
    for shown in (parts, *(short[:kept] for kept in range(len(short), 0, -1))):
        yield _DOT.join(filter(None, (count, left, ", ".join(shown))))
    yield _DOT.join(filter(None, (count, left)))
    yield count


def _left(task: Task) -> str:
    if task.finished:
        return f"in {in_words(task.finished_time or 0)}"
    whole = task.fields["left"]
    seconds = task.time_remaining if whole is None else whole(task.completed)
    return "" if seconds is None else f"{in_words(seconds)} left"
