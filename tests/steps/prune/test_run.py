"""An interrupted pruning run goes on at its round and ends in the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import TrainingError
from opentrans_cli.reporter import Silent
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import REPORT, prune
from opentrans_cli.steps.run_files import state_path

Options = Callable[..., PruneOptions]
Content = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, distilled: Options) -> Path:
    """The run nobody interrupts."""
    return prune(**vars(distilled(keep_rounds="masks")), out=tmp_path_factory.mktemp("whole") / "b", device="cpu").path


@pytest.fixture
def interrupted(tmp_path: Path, distilled: Options, interruption: Any) -> Path:
    """The target of a run that was interrupted in the second step of its third round."""
    # The first bar renders the scenes.
    with pytest.raises(KeyboardInterrupt):
        prune(
            **vars(distilled(keep_rounds="masks")), out=tmp_path / "b", device="cpu", reporter=interruption(bar=4, at=2)
        )
    return tmp_path / "b"


def test_an_interruption_leaves_the_state_of_the_last_round_and_no_bundle(interrupted: Path) -> None:
    assert list(interrupted.parent.iterdir()) == [state_path(interrupted)]


def test_resuming_ends_in_the_bytes_of_an_uninterrupted_run_and_removes_the_state(
    interrupted: Path, whole: Path, distilled: Options, content: Content
) -> None:
    result = prune(**vars(distilled(keep_rounds="masks")), out=interrupted, device="cpu", resume=True)
    assert content(result.path) == content(whole)
    assert list(interrupted.parent.iterdir()) == [interrupted]


def test_without_resume_the_run_starts_over(
    interrupted: Path, whole: Path, distilled: Options, content: Content
) -> None:
    assert content(prune(**vars(distilled(keep_rounds="masks")), out=interrupted, device="cpu").path) == content(whole)


def test_an_interruption_of_the_first_round_leaves_nothing_and_resume_starts_over(
    tmp_path: Path, whole: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prune(
            **vars(distilled(keep_rounds="masks")), out=tmp_path / "b", device="cpu", reporter=interruption(bar=2, at=1)
        )
    assert list(tmp_path.iterdir()) == []
    result = prune(**vars(distilled(keep_rounds="masks")), out=tmp_path / "b", device="cpu", resume=True)
    assert content(result.path) == content(whole)


@pytest.mark.parametrize("change", [{"seed": 1}, {"criterion": "magnitude"}, {"sparsity": 0.4}, {"image_limit": 9}])
def test_the_state_of_a_run_with_other_options_is_refused_and_kept(
    change: dict[str, Any], interrupted: Path, distilled: Options
) -> None:
    with pytest.raises(TrainingError, match="state of another run"):
        prune(**vars(distilled(keep_rounds="masks", **change)), out=interrupted, device="cpu", resume=True)
    assert list(interrupted.parent.iterdir()) == [state_path(interrupted)]


@pytest.mark.parametrize(
    "change",
    [{"random": True}, {"distill": "text-guided"}, {"keep_rounds": "weights"}, {"pattern": "channel", "sparsity": 0.6}],
    ids=["random twin", "text-guided", "snapshots", "channels"],
)
def test_every_kind_of_run_resumes_to_the_same_bytes(
    change: dict[str, Any], tmp_path: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    options = distilled(**change)
    with pytest.raises(KeyboardInterrupt):
        prune(**vars(options), out=tmp_path / "b", device="cpu", reporter=interruption(bar=4, at=1))
    resumed = prune(**vars(options), out=tmp_path / "b", device="cpu", resume=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]
    assert content(resumed.path) == content(prune(**vars(options), out=tmp_path / "whole", device="cpu").path)


def test_snapshots_of_a_run_that_is_not_resumed_are_forgotten(
    tmp_path: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prune(
            **vars(distilled(keep_rounds="weights", seed=1)),
            out=tmp_path / "b",
            device="cpu",
            reporter=interruption(bar=5, at=1),
        )
    assert list(tmp_path.glob(".b.resume.round-*"))
    options = distilled(keep_rounds="weights", schedule="linear", rounds=2)
    prune(**vars(options), out=tmp_path / "b", device="cpu")
    assert content(tmp_path / "b") == content(prune(**vars(options), out=tmp_path / "clean", device="cpu").path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "clean"]


def test_another_learning_rate_may_go_on_and_is_told(interrupted: Path, distilled: Options) -> None:
    said: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    options = distilled(keep_rounds="masks", lr=1e-4)
    result = prune(**vars(options), out=interrupted, device="cpu", resume=True, reporter=Listener())
    assert said == ["going on with another lr: 0.0001, until here 0.001", "resuming after round 2"]
    steps = json.loads(open_bundle(result.path).read(REPORT))["steps"]
    assert [step["step"] for step in steps] == list(range(8)) and steps[4]["lr"] < steps[3]["lr"]


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_round(
    interrupted: Path, distilled: Options, whole: Path
) -> None:
    options = distilled(keep_rounds="masks", lr=1e30)
    with pytest.raises(TrainingError, match=r"distillation loss is \w+: step \d, round [34]; lower --lr, round 2 of 4"):
        prune(**vars(options), out=interrupted, device="cpu", resume=True)
    assert list(interrupted.parent.iterdir()) == [state_path(interrupted)]
    assert prune(**vars(distilled(keep_rounds="masks")), out=interrupted, device="cpu", resume=True).kept > 0


def test_a_damaged_state_is_told_in_one_line(interrupted: Path, distilled: Options) -> None:
    state = state_path(interrupted)
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(TrainingError, match="cannot resume"):
        prune(**vars(distilled(keep_rounds="masks")), out=interrupted, device="cpu", resume=True)
