"""eval and segment in two processes, as torchrun starts them: they write what one process writes, also after an
interruption, and an error in one of them ends both.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import in_two

from opentrans_cli.errors import PictureError, RunStopped, TrainingError
from opentrans_cli.reporter import SILENT, Silent
from opentrans_cli.steps.eval.curve import curve
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.eval.state import EvalState
from opentrans_cli.steps.run_files import kept_states, share_path, state_path
from opentrans_cli.steps.segment.segment import segment
from opentrans_cli.steps.segmentors.tally import FirstPicture, Tally


class Signalled(Silent):
    """A reporter under which SIGTERM comes while picture `at` (from 1) of this process is scored."""

    def __init__(self, at: int) -> None:
        self.left = at

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        def advance(status: str) -> None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

        yield advance


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("seconds_per_image", "environment")}


def given(folder: str) -> dict[str, Any]:
    data = {name: Path(folder, place) for name, place in (("images", "photos"), ("labels", "label-maps"))}
    return {**data, "classes": Path(folder, "classes.txt"), "skip_bad": True, "device": "cpu"}


def segmented(folder: str, out: str) -> list[str]:
    """Label the photos; returns those that were left out."""
    words, target = ["grass", "red square", "sky"], Path(folder, out)
    return list(segment("tiny", images=Path(folder, "photos"), words=words, out=target, device="cpu").skipped)


def rank_of_two(folder: str, bundle: str) -> dict[str, Any]:
    """What each of two processes does; the last of it ends badly in one of them."""
    rank, found = int(os.environ["RANK"]), dict[str, Any]()
    out = Path(folder, "report.json")
    found["whole"] = evaluate("tiny", out=out, **given(folder)).report
    found["curve"] = untimed(curve(bundle, out=Path(folder, "curve.json"), limit=3, device="cpu").report)
    found["segment"] = segmented(folder, "labelled")
    for name, at in (("again.json", 2), ("by-one.json", 1 + rank)):
        try:
            evaluate("tiny", out=Path(folder, name), reporter=Signalled(at), **given(folder))
        except RunStopped as stopped:
            found[name] = stopped.after
    while len(kept_states(Path(folder, "again.json"))) < 2:  # the other one keeps its state at its own time
        time.sleep(0.01)
    found["again"] = untimed(evaluate("tiny", out=Path(folder, "again.json"), resume=True, **given(folder)).report)
    try:
        evaluate("tiny", out=Path(folder, "never.json"), **{**given(folder), "skip_bad": False})
    except (PictureError, TrainingError) as error:
        found["error"] = [type(error).__name__, str(error), getattr(error, "reported", False)]
    return found


def test_two_processes_do_together_what_one_does(
    labelled_folder: Any,
    tmp_path: Path,
    nested_bundle: Callable[[str], Path],
    content: Callable[[Path], dict[str, bytes]],
) -> None:
    # Cut off in the middle, which is only seen when all of it is read.
    photo = labelled_folder.images / "3.png"
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2] + b"\0\0\0\0IEND\xaeB`\x82")
    bundle = nested_bundle("trained")
    first, second = in_two(rank_of_two, str(tmp_path), str(bundle))
    alone = evaluate("tiny", **given(str(tmp_path))).report
    assert len(alone["skipped"]) == 1 and alone["images"] == 5
    assert untimed(first["whole"]) == untimed(second["whole"]) == untimed(alone)
    assert untimed(json.loads((tmp_path / "report.json").read_text())) == untimed(alone)
    assert first["curve"] == second["curve"] == untimed(curve(bundle, limit=3, device="cpu", out=tmp_path / "c").report)

    assert first["segment"] == second["segment"] == segmented(str(tmp_path), "labelled-by-one") and first["segment"]
    assert content(tmp_path / "labelled") == content(tmp_path / "labelled-by-one")

    assert first["again.json"] == "2 of 6 pictures in process 1 of 2"
    assert first["again"] == second["again"] == untimed(alone)
    assert [path.name for path in kept_states(tmp_path / "by-one.json")] == [
        ".by-one.json.resume.safetensors",
        ".by-one.json.resume.process-0001.safetensors",
    ]
    assert untimed(evaluate("tiny", out=tmp_path / "by-one.json", resume=True, **given(str(tmp_path))).report) == (
        untimed(alone)
    )
    # Picture 3 is in the share of the second process.
    assert second["error"][0] == "PictureError" and "3.png" in second["error"][1] and not second["error"][2]
    assert first["error"][0] == "TrainingError" and first["error"][2]
    # The first process had done its own share, and keeps it.
    written = {"report.json", "curve.json", "curve.png", "c", "c.png", "again.json", "by-one.json", "classes.txt"}
    there = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert there == written | {".never.json.resume.safetensors"}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        *("photos", "label-maps", "labelled", "labelled-by-one")
    }


class Found:
    """Scoring, as far as a state knows it: row r counts 10 ** r."""

    def __init__(self) -> None:
        self.found = Tally()

    def start_from(self, tally: Tally) -> None:
        self.found = tally

    def tally(self) -> Tally:
        return self.found

    def score(self, row: int) -> None:
        if row == 3:
            assert self.found.add(Tally(skipped={row: "bad"}))
        else:
            counts = {"pixels": np.array([10**row], np.int64)}
            assert self.found.add(Tally(counts, {row: 0.5 + row}, {}, FirstPicture(row, (row, row), {"conv": row})))


class World:
    """One of several processes, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.is_main = rank, size, rank == 0


@pytest.mark.parametrize("seed", range(12))
def test_no_picture_is_lost_or_counted_twice_whoever_goes_on(seed: int, tmp_path: Path) -> None:
    """Runs of one to four processes that are killed anywhere, also between the steps of putting files together."""
    draw, out, total = random.Random(seed), tmp_path / "report.json", 12
    for resume in itertools.count():
        size, left_behind = draw.randint(1, 4), {path: path.read_bytes() for path in kept_states(out)}
        done = frozenset[int]()
        for rank in range(size):
            world: Any = World(rank, size)
            state = EvalState(out, written=True, resume=bool(resume), reporter=SILENT, world=world)
            if rank == 0 and draw.random() < 0.5:  # killed before the files that it has put together are removed
                for path, content in left_behind.items():
                    if path != state_path(out):
                        path.write_bytes(content)
                state = EvalState(out, written=True, resume=bool(resume), reporter=SILENT, world=world)
            scoring: Any = Found()
            with state.keeping(scoring, "", "the same", images=total):
                done = scoring.found.rows if rank == 0 else done
                mine = [row for row in range(total) if row not in done][rank::size]
                for row in mine[: draw.randint(0, len(mine))] if resume < 5 else mine:
                    scoring.score(row)
            if draw.random() < 0.2 and resume < 5:  # this process is killed before it keeps anything
                (state_path(out) if rank == 0 else share_path(out, rank)).unlink(missing_ok=True)
        if resume == 5:
            break
    end: Any = Found()
    last = EvalState(out, written=True, resume=True, reporter=SILENT)
    with last.keeping(end, "", "the same", images=total):
        tally = end.found
    assert tally.rows == set(range(total))
    assert tally.counts["pixels"].tolist() == [sum(10**row for row in range(total) if row != 3)]
    assert tally.seconds == {row: 0.5 + row for row in range(total) if row != 3}
    assert tally.skipped == {3: "bad"} and tally.first == (0, (0, 0), {"conv": 0})
    last.discard()
    assert not list(tmp_path.iterdir())
