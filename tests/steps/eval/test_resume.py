"""An interrupted evaluation goes on from the pictures it has scored, to the same figures."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import OutputError, RunStopped, TrainingError
from opentrans_cli.reporter import Silent
from opentrans_cli.steps.eval import state as eval_state
from opentrans_cli.steps.eval.curve import curve
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.run_files import state_path
from opentrans_cli.steps.segmentors import scoring

PICTURES = 4


class Signalled(Silent):
    """A reporter under which signal `number` comes while picture `at` (from 1, over all bars) is scored."""

    def __init__(self, at: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = at, number

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        def advance(status: str) -> None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(self.number)

        yield advance if title == "scoring" else lambda status: None


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("seconds_per_image", "environment")}


def scored(**more: Any) -> dict[str, Any]:
    return untimed(evaluate("tiny", limit=PICTURES, device="cpu", **more).report)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_finished_pictures_are_not_scored_again(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, taken = tmp_path / "r.json", list[int]()
    over = scoring.Scoring.over

    def counted(self: scoring.Scoring, rows: Sequence[int]) -> Generator[int, None, None]:
        for row in over(self, rows):
            taken.append(row)
            yield row

    monkeypatch.setattr(scoring.Scoring, "over", counted)
    with pytest.raises((RunStopped, KeyboardInterrupt)) as found:
        scored(out=out, reporter=Signalled(3, number))
    told = found.value if isinstance(found.value, RunStopped) else found.value.__cause__
    assert isinstance(told, RunStopped) and told.after == f"3 of {PICTURES} pictures"
    assert [path.name for path in tmp_path.iterdir()] == [state_path(out).name]
    with pytest.raises(OutputError, match=f"a state of 3 of {PICTURES} pictures lies at"):
        scored(out=out)
    with pytest.raises(TrainingError, match="state of another evaluation"):
        evaluate("tiny", limit=PICTURES + 1, device="cpu", out=out, resume=True)
    resumed = scored(out=out, resume=True)
    assert taken == [0, 1, 2, 3]
    assert resumed == scored(out=tmp_path / "whole.json") == untimed(json.loads(out.read_text()))
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "whole.json"}


def test_a_state_is_saved_now_and_then_for_a_process_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_state, "SAVE_EVERY", -1.0)

    class Killed(Exception):
        pass

    class Kill(Signalled):
        @contextmanager
        def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
            def advance(status: str) -> None:
                self.left -= 1
                if self.left == 0:
                    raise Killed

            yield advance

    with pytest.raises(Killed):
        scored(out=tmp_path / "r.json", reporter=Kill(3))
    assert scored(out=tmp_path / "r.json", resume=True) == scored(out=tmp_path / "whole.json")


def test_a_bundle_keeps_its_state_beside_it_and_a_source_in_the_working_directory(
    tiny_segmentor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(tiny_segmentor, tmp_path / "bundles" / "b")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for source, place in ((bundle, bundle.parent), (Path("tiny"), tmp_path / "here")):
        with pytest.raises(RunStopped) as found:
            evaluate(source, limit=2, device="cpu", reporter=Signalled(1))
        assert found.value.state is not None and found.value.state.resolve().parent == place.resolve()
        evaluate(source, limit=2, device="cpu", resume=True)
        assert not found.value.state.exists()
    assert open_bundle(bundle).has("reports/eval-shapes.json")


def test_a_curve_goes_on_inside_the_round_where_it_stopped(tmp_path: Path) -> None:
    bundle = prune("tiny", sparsity=0.3, out=tmp_path / "b", keep_rounds="weights").path
    with pytest.raises(RunStopped, match=r"1 of 2 pictures of round 2"):
        curve(bundle, limit=2, device="cpu", reporter=Signalled(3))
    resumed = curve(bundle, limit=2, device="cpu", resume=True)
    assert untimed(resumed.report) == untimed(curve(bundle, limit=2, device="cpu").report)
    assert {path.name for path in tmp_path.iterdir()} == {"b"}
