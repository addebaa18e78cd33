"""An interrupted pruning run goes on at any step and ends in the same bytes; its log is that of every run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import OptionError, OutputError, RunStopped, TrainingError
from opentrans_cli.reporter import Silent
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions
from opentrans_cli.steps.prune.prune import REPORT, prune
from opentrans_cli.steps.prune.run import PruneRun, Timetable
from opentrans_cli.steps.run_files import log_beside, state_path
from opentrans_cli.training.state_file import load_meta

Options = Callable[..., PruneOptions]
Content = Callable[[Path], dict[str, bytes]]

EVERY_STEP = PruneControls(save_every=1)


def run(options: PruneOptions, out: Path, **more: Any) -> Any:
    controls = more.pop("controls", EVERY_STEP)
    return prune(**vars(options), **vars(controls), out=out, device="cpu", **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, distilled: Options) -> Path:
    """The run nobody interrupts: four rounds of two steps."""
    return Path(run(distilled(keep_rounds="masks"), tmp_path_factory.mktemp("whole") / "b").path)


@pytest.fixture
def interrupted(tmp_path: Path, distilled: Options, interruption: Any) -> Path:
    """The target of a run that was interrupted in its sixth step, the second of its third round."""
    # The first bar renders the scenes.
    with pytest.raises(KeyboardInterrupt):
        run(distilled(keep_rounds="masks"), tmp_path / "b", reporter=interruption(bar=2, at=6))
    return tmp_path / "b"


def test_an_interruption_leaves_state_and_log_and_no_bundle(interrupted: Path) -> None:
    assert names(interrupted.parent) == [state_path(interrupted).name, "b.log.jsonl"]
    assert load_meta(state_path(interrupted))["step"] == 5


@pytest.mark.parametrize("step", [1, 3, 8])
def test_from_any_step_on_the_bytes_are_those_of_an_uninterrupted_run(
    step: int, tmp_path: Path, whole: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    """In the first step, which leaves no state; after a round, where the next cut is still to come; in the last."""
    options, out = distilled(keep_rounds="masks"), tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        run(options, out, reporter=interruption(bar=2, at=step))
    assert state_path(out).exists() == (step > 1)
    assert content(run(options, out, resume=True).path) == content(whole)
    assert names(tmp_path) == ["b", "b.log.jsonl"]
    lines = [json.loads(line) for line in log_beside(out).read_text().splitlines()]
    for line in lines:
        check_document(line, "run_log_line")
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 9))
    assert [(line["number"], line["step"]) for line in lines if line["event"] == "round"] == [
        *((1, 0), (2, 2), (3, 4), (4, 6))
    ]
    assert lines[-1]["event"] == "end" and lines[-1]["cost"] is None


def test_only_force_starts_anew_where_a_state_is(
    interrupted: Path, whole: Path, distilled: Options, content: Content
) -> None:
    options = distilled(keep_rounds="masks")
    with pytest.raises(OutputError, match=r"a state of step 5 of 8 lies at .*; go on with --resume, or .* --force"):
        run(options, interrupted)
    assert state_path(interrupted).exists()
    assert content(run(options, interrupted, force=True).path) == content(whole)


def test_out_of_time_it_ends_with_a_state_and_goes_on_step_by_step(
    tmp_path: Path, whole: Path, distilled: Options, content: Content
) -> None:
    options, out, stopped = distilled(keep_rounds="masks"), tmp_path / "b", 0
    short = PruneControls(max_minutes=1e-6)
    while not out.exists():
        try:
            run(options, out, controls=short, resume=True)
        except RunStopped as error:
            stopped += 1
            assert (error.reason, error.after) == ("the time is up", f"step {stopped} of 8")
            assert error.state == state_path(out)
            assert error.exit_code == 75
    assert stopped == 7 and content(out) == content(whole)


@pytest.mark.parametrize("change", [{"seed": 1}, {"criterion": "magnitude"}, {"sparsity": 0.4}, {"image_limit": 9}])
def test_the_state_of_a_run_with_other_options_is_refused_and_kept(
    change: dict[str, Any], interrupted: Path, distilled: Options
) -> None:
    before = state_path(interrupted).read_bytes()
    with pytest.raises(TrainingError, match="state of another run"):
        run(distilled(keep_rounds="masks", **change), interrupted, resume=True)
    assert state_path(interrupted).read_bytes() == before and not interrupted.exists()


@pytest.mark.parametrize(
    "change",
    [{"random": True}, {"distill": "text-guided"}, {"keep_rounds": "weights"}, {"pattern": "channel", "sparsity": 0.6}],
    ids=["random control", "text-guided", "snapshots", "channels"],
)
def test_every_kind_of_run_resumes_to_the_same_bytes(
    change: dict[str, Any], tmp_path: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    options = distilled(**change)
    for at in (2, 2):  # twice: the state of a resumed run is as good
        with pytest.raises(KeyboardInterrupt):
            run(options, tmp_path / "b", reporter=interruption(bar=2, at=at), resume=True)
    resumed = run(options, tmp_path / "b", resume=True)
    assert names(tmp_path) == ["b", "b.log.jsonl"]
    assert content(resumed.path) == content(run(options, tmp_path / "whole").path)


def test_rounds_without_distillation_are_not_scored_again(
    tmp_path: Path, distilled: Options, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, out, cut, seen = (
        distilled(distill="none", keep_rounds="weights"),
        tmp_path / "b",
        PruneRun.cut,
        list[int](),
    )

    def interrupted(self: PruneRun, number: int) -> None:
        seen.append(number)
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt
        cut(self, number)

    monkeypatch.setattr(PruneRun, "cut", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted after round 2 of 4; go on with: --resume"):
        run(options, out)
    with pytest.raises(TrainingError, match="seed was 0, now 1"):
        run(replace(options, seed=1), out, resume=True)
    run(options, out, resume=True)
    assert seen == [0, 1, 2, 2, 3]
    assert content(out) == content(run(options, tmp_path / "whole").path) and names(tmp_path) == ["b", "whole"]


def test_snapshots_of_a_run_that_is_not_resumed_are_forgotten(
    tmp_path: Path, distilled: Options, content: Content, interruption: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(distilled(keep_rounds="weights", seed=1), tmp_path / "b", reporter=interruption(bar=2, at=7))
    assert list(tmp_path.glob(".b.resume.round-*"))
    options = distilled(keep_rounds="weights", schedule="linear", rounds=2)
    run(options, tmp_path / "b", force=True)
    assert content(tmp_path / "b") == content(run(options, tmp_path / "clean").path)
    assert names(tmp_path) == ["b", "b.log.jsonl", "clean", "clean.log.jsonl"]


def test_another_learning_rate_may_go_on_and_is_said(interrupted: Path, distilled: Options) -> None:
    said: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    result = run(distilled(keep_rounds="masks", lr=1e-4), interrupted, resume=True, reporter=Listener())
    assert said == [
        "going on with another lr: 0.0001, until here 0.001",
        "resuming after step 5 of 8",
    ]
    steps = json.loads(open_bundle(result.path).read(REPORT))["steps"]
    assert [step["step"] for step in steps] == list(range(8)) and steps[5]["lr"] < steps[4]["lr"]


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_state(
    interrupted: Path, distilled: Options
) -> None:
    before, rare = state_path(interrupted).read_bytes(), replace(EVERY_STEP, save_every=100)
    told = r"is (not finite: step|NaN: .*, after step) [678] of 8; lower the learning rate \(now 1e\+09\): "
    with pytest.raises(TrainingError, match=f"{told}--resume with it goes on from step 5$"):
        run(distilled(keep_rounds="masks", lr=1e9), interrupted, resume=True, controls=rare)
    assert state_path(interrupted).read_bytes() == before and not interrupted.exists()
    assert run(distilled(keep_rounds="masks"), interrupted, resume=True).kept > 0


def test_a_damaged_state_is_told_in_one_line(interrupted: Path, distilled: Options) -> None:
    state = state_path(interrupted)
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(TrainingError, match="cannot resume"):
        run(distilled(keep_rounds="masks"), interrupted, resume=True)


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"save_every": 0}, "out of range: --save-every 0"),
        ({"max_minutes": 0.0}, "out of range: --max-minutes 0"),
        ({"max_minutes": float("nan")}, "out of range: --max-minutes nan"),
        ({"log": Path("b/in")}, "the bundle and its state are to lie there: --log"),
        ({"log": Path(".")}, "a folder is where the log goes"),
    ],
)
def test_controls_that_make_no_sense_are_refused_before_anything_is_written(
    controls: dict[str, Any], said: str, tmp_path: Path, distilled: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=said):
        prune(**vars(distilled()), out="b", device="cpu", **controls)
    assert names(tmp_path) == []


def test_the_learning_rate_rises_stays_and_falls_in_the_last_round() -> None:
    rounds = Timetable(count=3, steps=50, final_steps=100)
    rates = [rounds.learning_rate(step, lr=2.0) for step in range(rounds.total)]
    assert rounds.total == 200 and [rounds.round_of(step) for step in (0, 49, 50, 100, 199)] == [0, 0, 1, 2, 2]
    assert rates[:20] == pytest.approx([0.1 * number for number in range(1, 21)])
    assert set(rates[20:101]) == {2.0}
    assert rates[150] == pytest.approx(1.0) and rates[100:] == sorted(rates[100:], reverse=True)
