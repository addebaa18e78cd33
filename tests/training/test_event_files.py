"""Event files as TensorBoard reads them back."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.training.event_files import EventFiles

pytest.importorskip("tensorboard")


def written(folder: Path, first: int, scalars: dict[int, dict[str, float]]) -> None:
    events = EventFiles(folder, first_step=first, failed=lambda error: pytest.fail(str(error)))
    for step, values in scalars.items():
        events.add(step, values)
    events.close()


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_scalars_come_back_by_step_and_those_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    written(tmp_path / "a", 1, {1: {"loss": 2.0, "lr": 0.5}, 2: {"loss": float("nan"), "lr": 0.25}, 3: {"loss": 1.0}})
    assert read(tmp_path / "a") == {"loss": [(1, 2.0), (3, 1.0)], "lr": [(1, 0.5), (2, 0.25)]}


def test_a_resumed_run_replaces_the_steps_it_takes_again(tmp_path: Path) -> None:
    written(tmp_path, 1, {step: {"loss": float(step)} for step in range(1, 9)})
    written(tmp_path, 5, {step: {"loss": 10.0 * step} for step in (5, 6)})
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0)]}


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'opentrans-cli\[tensorboard\]'"):
        EventFiles(tmp_path, first_step=1, failed=print)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OptionError, match=r"not a folder: --tensorboard .*a; choose another"):
        EventFiles(tmp_path / "a", first_step=1, failed=print)
    with pytest.raises(OptionError, match=r"cannot write event files: --tensorboard .*b \(.+\)"):
        EventFiles(tmp_path / "a" / "b", first_step=1, failed=print)


def test_a_failure_is_told_once_and_ends_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    events = EventFiles(tmp_path, first_step=1, failed=told.append)
    writer, full = events._writer, OSError(28, "No space left on device")

    def fail(*_: Any) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(writer, "add_scalar", fail)
        events.add(1, {"loss": 1.0, "lr": 1.0})
        events.add(2, {"loss": 1.0})
    events.close()
    writer.close()
    assert told == [full]
