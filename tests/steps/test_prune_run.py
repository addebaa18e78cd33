"""An interrupted pruning run goes on at its round and ends in the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.errors import TrainingError
from opentrans_cli.steps.options import PruneOptions
from opentrans_cli.steps.prune import prune
from opentrans_cli.steps.resume import state_path

Options = Callable[..., PruneOptions]
Content = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, distilled: Options) -> Path:
    """The run nobody interrupts."""
    return prune(distilled(keep_rounds="masks"), out=tmp_path_factory.mktemp("whole") / "b", device="cpu").path


@pytest.fixture
def interrupted(tmp_path: Path, distilled: Options, interruption: Any) -> Path:
    """The target of a run that was interrupted in the second step of its third round."""
    # The first bar renders the scenes.
    with pytest.raises(KeyboardInterrupt):
        prune(distilled(keep_rounds="masks"), out=tmp_path / "b", device="cpu", reporter=interruption(bar=4, at=2))
    return tmp_path / "b"


def test_an_interruption_leaves_the_state_of_the_last_round_and_no_bundle(interrupted: Path) -> None:
    assert list(interrupted.parent.iterdir()) == [state_path(interrupted)]


def test_resuming_ends_in_the_bytes_of_an_uninterrupted_run_and_removes_the_state(
    interrupted: Path, whole: Path, distilled: Options, content: Content
) -> None:
    result = prune(distilled(keep_rounds="masks"), out=interrupted, device="cpu", resume=True)
    assert content(result.path) == content(whole)
    assert list(interrupted.parent.iterdir()) == [interrupted]


def test_without_resume_the_run_starts_over(
    interrupted: Path, whole: Path, distilled: Options, content: Content
) -> None:
    assert content(prune(distilled(keep_rounds="masks"), out=interrupted, device="cpu").path) == content(whole)


def test_an_interruption_of_the_first_round_leaves_nothing_and_resume_starts_over(
    tmp_path: Path, whole: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prune(distilled(keep_rounds="masks"), out=tmp_path / "b", device="cpu", reporter=interruption(bar=2, at=1))
    assert list(tmp_path.iterdir()) == []
    result = prune(distilled(keep_rounds="masks"), out=tmp_path / "b", device="cpu", resume=True)
    assert content(result.path) == content(whole)


@pytest.mark.parametrize("change", [{"seed": 1}, {"criterion": "magnitude"}, {"sparsity": 0.4}, {"image_limit": 9}])
def test_the_state_of_a_run_with_other_options_is_refused_and_kept(
    change: dict[str, Any], interrupted: Path, distilled: Options
) -> None:
    with pytest.raises(TrainingError, match="state of another run"):
        prune(distilled(keep_rounds="masks", **change), out=interrupted, device="cpu", resume=True)
    assert list(interrupted.parent.iterdir()) == [state_path(interrupted)]


def test_a_random_twin_resumes_too(tmp_path: Path, distilled: Options, content: Content, interruption: Any) -> None:
    options = distilled(random=True, keep_rounds="masks")
    with pytest.raises(KeyboardInterrupt):
        prune(options, out=tmp_path / "b", device="cpu", reporter=interruption(bar=5, at=1))
    resumed = prune(options, out=tmp_path / "b", device="cpu", resume=True)
    assert content(resumed.path) == content(prune(options, out=tmp_path / "whole", device="cpu").path)


def test_a_damaged_state_is_told_in_one_line(interrupted: Path, distilled: Options) -> None:
    state = state_path(interrupted)
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(TrainingError, match="cannot resume"):
        prune(distilled(keep_rounds="masks"), out=interrupted, device="cpu", resume=True)
