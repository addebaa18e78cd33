"""Live progress bars on a terminal. rich takes a while to load, so this module is imported when a bar is shown."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_BAR = 24  # columns
_TIME = len("10:00:00")
_GAPS = 4
_REFRESHES = 4  # per second; each one holds up the main thread for a few milliseconds
_SPEED_OF = 3600.0  # seconds used to estimate the remaining time; must contain two steps, which may take minutes


class Bars(Progress):
    """Bars below each other, each with its status beside it, or below it if the terminal is too narrow."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_BAR),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            _Beside(console),
            console=console,
            refresh_per_second=_REFRESHES,
            speed_estimate_period=_SPEED_OF,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Each bar, and below it the status if there is no room beside it."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if not _fits(task, self.console):
                yield Padding(Text(str(task.fields["status"])), (0, 0, 0, 2))


class _Beside(ProgressColumn):
    """The status beside a bar, if there is room for it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        super().__init__()

    def render(self, task: Task) -> Text:
        """The status, or an empty text."""
        return Text(str(task.fields["status"]) if _fits(task, self._console) else "", no_wrap=True)


def _fits(task: Task, console: Console) -> bool:
    bar = len(task.description) + _BAR + 2 * len(f"{task.total or 0:.0f}") + 1 + _TIME + _GAPS
    return bar + len(str(task.fields["status"])) <= console.width
