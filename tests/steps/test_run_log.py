"""The log of a run: every event a line of the public contract, every step exactly once, whatever killed the run."""

from __future__ import annotations

import importlib.util
import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forked, call

from opentrans_cli.bundle.schema import check_document, load_schema
from opentrans_cli.errors import BundleError, DataError, OptionError, RunStopped
from opentrans_cli.steps import run_log
from opentrans_cli.steps.run_log import EVENTS, RunLog, check_log, log_path
from opentrans_cli.training.loop import StepFigures

COST = {
    **{"unit": "MACs", "forward": 10, "input_gradient": 9, "weight_gradient": 5, "total": 24, "dense_total": 29},
    **{"frozen_layers": ["backbone.conv1"], "images": 8, "resolution": [64, 64]},
}


CHOSEN: dict[str, Any] = {"layers": ("backbone.conv1",), "by": "options", "origin": "measured"}
ROUND: dict[str, Any] = {"number": 1, "sparsity": 0.1, "kept": 9}


class Talk:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def figures(step: int, **changes: Any) -> StepFigures:
    given = {"loss": 1.5, "terms": {"mask": 1.0, "dice": 0.5}, "lr": 0.1, "grad_norm": 2.0, "seconds": 0.5}
    return StepFigures(**{"step": step, **given, **changes})


def read(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        check_document(line, "run_log_line")
    return lines


def begin(log: RunLog) -> None:
    log.start(options={"steps": 4, "captions": Path("a")}, data={"dataset": "shapes"}, environment={"torch": "2"})


@pytest.fixture
def whole(tmp_path: Path) -> list[dict[str, Any]]:
    """The log of a run with every event."""
    with RunLog(tmp_path / "whole") as log:
        begin(log)
        log.round(step=0, **ROUND)
        log.step(figures(1), details={"scale": 1.0})
        log.freeze(step=1, **CHOSEN)
        log.step(figures(2, grad_norm=float("inf")))
        log.evaluation(2, {"miou": 0.25, "miou_seen": 0.5})
        log.end(cost=COST, seconds_per_step=0.5)
    with pytest.raises(RunStopped), RunLog(tmp_path / "stopped") as log:
        log.step(figures(1))
        raise RunStopped("the time\n is up", after="step 1 of 2", state=tmp_path)
    with pytest.raises(DataError), RunLog(tmp_path / "failed") as log:
        log.step(figures(1))
        raise DataError("image cannot be read: a.png; replace it")
    return [line for name in ("whole", "stopped", "failed") for line in read(tmp_path / name)]


def test_every_event_is_a_line_of_the_contract_with_exactly_its_fields(whole: list[dict[str, Any]]) -> None:
    rules = load_schema()["$defs"]["run_log_line"]
    assert rules["properties"]["event"]["enum"] == list(EVENTS)
    required = {rule["if"]["properties"]["event"]["const"]: rule["then"] for rule in rules["allOf"]}
    assert list(required) == list(EVENTS) and {line["event"] for line in whole} == set(EVENTS)
    for line in whole:
        rule = required[line["event"]]
        fields = line.keys() - {"event", "step"}
        assert set(rule["required"]) <= fields <= set(rule["properties"])
        for field in rule["required"]:
            with pytest.raises(BundleError, match=f"'{field}' is a required"):
                check_document({key: value for key, value in line.items() if key != field}, "run_log_line")


def test_the_lines_say_what_happened(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [(line["event"], line["step"]) for line in whole] == [
        *(("start", 0), ("round", 0), ("step", 1), ("freeze", 1), ("step", 2), ("evaluation", 2), ("end", 2)),
        *(("step", 1), ("stop", 1), ("step", 1), ("error", 1)),
    ]
    assert whole[0]["options"] == {"steps": 4, "captions": "a"}
    assert whole[2]["terms"] == {"mask": 1.0, "dice": 0.5} and whole[2]["grad_norm"] == 2.0
    assert whole[2]["details"] == {"scale": 1.0} and "details" not in whole[4]
    assert whole[4]["grad_norm"] is None
    assert whole[6]["cost"] == COST
    assert [line["reason"] for line in whole[8::2]] == [
        f"the time is up; interrupted after step 1 of 2; go on with: --resume (the state is in {tmp_path})",
        "image cannot be read: a.png; replace it",
    ]


def test_ctrl_c_is_a_stop(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path / "log") as log:
        log.step(figures(1))
        raise KeyboardInterrupt
    assert [(line["event"], line["reason"]) for line in read(tmp_path / "log")[1:]] == [("stop", "KeyboardInterrupt")]


@pytest.mark.parametrize("resumed_at", [None, 2])
def test_a_run_that_ends_before_its_first_step_leaves_the_log_that_was_there(
    resumed_at: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "there" / "log"

    def refused() -> None:
        events = tmp_path / "events"
        log = RunLog.beside(tmp_path / "out", path, tensorboard=events, resumed_at=resumed_at, writes=True)
        with pytest.raises(OptionError), log:
            begin(log)
            log.freeze(step=0, **CHOSEN)
            raise OptionError("learning rate is out of range: -1; give a number above 0")

    refused()
    assert not list(tmp_path.iterdir())
    with RunLog(path) as log:
        begin(log)
        for step in (1, 2, 3):
            log.step(figures(step))
    before = path.read_bytes()
    refused()
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path.parent]


def test_a_resumed_run_has_every_step_once_and_says_a_round_and_a_choice_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with RunLog(path) as log:
        begin(log)
        log.freeze(step=0, **CHOSEN)
        log.round(step=0, **ROUND)
        for step in range(1, 6):
            log.step(figures(step))
        log.evaluation(5, {"miou": 0.5})
    with RunLog(path, resumed_at=3) as log:
        begin(log)
        log.freeze(step=0, **CHOSEN)
        log.round(step=0, **ROUND)
        log.step(figures(4, loss=9.0))
        log.freeze(step=4, layers=("backbone.layer1",), by="options", origin="measured")
    assert [(line["event"], line["step"]) for line in read(path)] == [
        *(("start", 0), ("freeze", 0), ("round", 0), ("step", 1), ("step", 2), ("step", 3)),
        *(("start", 3), ("step", 4), ("freeze", 4)),
    ]


def test_a_run_from_the_beginning_replaces_the_log_of_another(tmp_path: Path) -> None:
    for steps in (3, 1):
        with RunLog(tmp_path / "log") as log:
            begin(log)
            for step in range(1, steps + 1):
                log.step(figures(step))
    assert [line["event"] for line in read(tmp_path / "log")] == ["start", "step"]


def write_steps(path: str, reached: int) -> None:
    """A run whose steps do not end."""
    log = RunLog(Path(path), resumed_at=reached or None)
    begin(log)
    for step in range(reached + 1, 10**9):
        log.step(figures(step))


def test_after_kills_every_step_is_there_exactly_once(tmp_path: Path) -> None:
    path, reached = tmp_path / "log", 0
    for _ in range(2):
        before = path.stat().st_size if path.exists() else 0
        process = Forked(call, __file__, "write_steps", tmp_path / "nothing", str(path), reached)
        while process.poll() is None and (not path.exists() or path.stat().st_size < before + 20_000):
            time.sleep(0.001)
        process.kill()
        assert process.wait(600) == -signal.SIGKILL, process.communicate()[1]
        reached = max(json.loads(line)["step"] for line in path.read_bytes().splitlines() if line.endswith(b"}")) - 7
    with RunLog(path, resumed_at=reached) as log:
        log.step(figures(reached + 1))
    steps = [line["step"] for line in read(path) if line["event"] == "step"]
    assert steps == list(range(1, reached + 2)) and reached > 200


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    events = tmp_path / "events"
    with RunLog.beside(tmp_path / "out", None, tensorboard=events, resumed_at=None, writes=False) as log:
        begin(log)
        log.step(figures(1))
        assert log.path is None and log.status() == "loss 1.5 (mask 1, dice 0.5), 2 steps/s"
    assert not list(tmp_path.iterdir())


def test_the_log_lies_beside_the_bundle_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert log_path(Path("."), None) == tmp_path.with_name(f"{tmp_path.name}.log.jsonl")
    with RunLog.beside(tmp_path / "out", None, resumed_at=None, writes=True) as log:
        log.step(figures(1))
        assert log.path == tmp_path / "out.log.jsonl"
    assert len(read(tmp_path / "out.log.jsonl")) == 1
    assert log_path(Path("out"), Path("mine")) == Path("mine")


def test_what_is_no_log_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work\n")
    for log, events, message in (
        (thesis, None, "another file is where the log goes: --log .*thesis.tex"),
        (tmp_path, None, "a folder is where the log goes"),
        (None, thesis, "not a folder: --tensorboard"),
        (None, thesis / "in", r"cannot write event files: --tensorboard .*in \(.+\)"),
    ):
        with pytest.raises(OptionError, match=message):
            check_log(tmp_path / "out", log, tensorboard=events)
        with pytest.raises(OptionError, match=message):
            RunLog.beside(tmp_path / "out", log, tensorboard=events, resumed_at=2, writes=True)
    assert thesis.read_text() == "years of work\n"
    (tmp_path / "out.log.jsonl").write_text('{"event": "st')
    check_log(tmp_path / "out", None)


def test_a_place_that_takes_no_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"cannot write the log: .* \(.+\); choose another --log"):
        RunLog.beside(tmp_path / "out", tmp_path / "file" / "a", resumed_at=None, writes=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_said_and_training_goes_on() -> None:
    talk: Any = Talk()
    with RunLog(Path("/dev/full"), reporter=talk) as log:
        begin(log)
        log.step(figures(1))
    assert talk.said == [
        "cannot write the log: /dev/full (No space left on device); training goes on",
        "lines of the log were lost: 2 in /dev/full",
    ]


def test_tensorboard_gets_the_figures_and_forgets_what_is_done_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resumed_at, steps in ((None, range(1, 6)), (2, range(3, 5))):
        with RunLog(tmp_path / "log", resumed_at=resumed_at, tensorboard=tmp_path / "events") as log:
            for step in steps:
                log.step(figures(step, loss=float(step) if resumed_at is None else 10.0 * step))
            log.evaluation(4, {"miou": 0.25})
    found = accumulator.EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    tags = ["loss", "terms/mask", "terms/dice", "lr", "grad_norm", "steps_per_second", "evaluation/miou"]
    assert sorted(found.Tags()["scalars"]) == sorted(tags)
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert [(event.step, event.value) for event in found.Scalars("evaluation/miou")] == [(4, 0.25)]
    assert found.Scalars("steps_per_second")[0].value == 2


def test_without_the_package_of_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'opentrans-cli\[tensorboard\]'"):
        check_log(tmp_path / "out", None, tensorboard=tmp_path)


def test_event_files_that_cannot_be_written_are_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, full, events = Talk(), OSError(28, "No space left on device"), tmp_path / "events"
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_: Any) -> None:
        raise full

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    with RunLog(tmp_path / "log", tensorboard=events, reporter=talk) as log:  # type: ignore[arg-type]
        log.step(figures(1))
        log.step(figures(2))
    assert talk.said == [f"cannot write the event files: {events} (No space left on device); training goes on"]
    assert [line["step"] for line in read(tmp_path / "log")] == [1, 2]


def test_the_status_says_speed_loss_terms_and_the_last_miou() -> None:
    log = RunLog(None)
    assert (log.status(), log.steps_per_second) == ("", 0)
    log.step(figures(1, loss=1.25, terms={"pixels": 1.25}))
    assert log.status() == "loss 1.25, 2 steps/s"
    log.step(figures(2))
    log.evaluation(2, {"miou": 0.3456, "pixel_accuracy": 0.9})
    assert log.status() == "loss 1.5 (mask 1, dice 0.5), mIoU 34.6, 2 steps/s"
    log.evaluation(2, {"pixel_accuracy": 0.9})
    assert "mIoU 34.6, " in log.status()


def test_the_speed_is_the_median_of_the_last_steps() -> None:
    log = RunLog(None)
    for seconds in (9.0, *[1.0] * 15, *[0.25] * 18):
        log.step(figures(1, seconds=seconds))
    assert log.steps_per_second == 4
    log.step(figures(1, seconds=60.0))
    assert log.steps_per_second == 4


# The file of lines.


def opened(path: Path, said: list[OSError] | None = None, keep: Any = lambda entry: True) -> run_log._LineFile:
    return run_log._LineFile(path, keep=keep, failed=(said if said is not None else []).append)


def numbers(path: Path) -> list[Any]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_is_there_when_append_returns_and_values_that_json_lacks_become_null_and_text(tmp_path: Path) -> None:
    lines = opened(tmp_path / "new" / "log")
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (-float("inf"), np.float64(0.5))}}
    lines.append({**values, "e": Path("x/y"), "f": None, "g": True})
    expected = {"a": None, "b": [None, 1.5], "c": {"d": [None, 0.5]}, "e": "x/y", "f": None, "g": True}
    assert json.loads((tmp_path / "new" / "log").read_text()) == expected
    lines.close()


def test_of_a_file_cut_anywhere_the_whole_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = opened(path)
    for number in range(4):
        lines.append({"number": number, "text": "ä\n"})
    lines.close()
    content = path.read_bytes()
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        opened(path).close()
        whole = sum(end <= length for end in ends)  # a line that only lacks its end is mended
        assert path.read_bytes() == content[: ends[whole - 1] + 1 if whole else 0], length


def test_only_wanted_lines_stay_foreign_ones_go_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b'{"n": 1}\n[2]\n\xff\xfe\n\n7\n{"n": 3}\n{"n": 4}\n')
    (tmp_path / "log").symlink_to("real")
    lines = opened(tmp_path / "log", keep=lambda entry: entry["n"] != 3)
    lines.append({"n": 5})
    lines.close()
    assert (tmp_path / "log").is_symlink() and numbers(tmp_path / "real") == [1, 4, 5]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "real"]


def test_when_the_disk_is_full_no_half_line_stays_and_the_lines_follow_later(tmp_path: Path) -> None:
    path, said = tmp_path / "log", list[OSError]()
    lines = opened(path, said)
    lines.append({"n": 0})
    with room(20):
        for number in range(1, 4):
            lines.append({"n": number})
            assert path.read_text() == '{"n": 0}\n{"n": 1}\n'[: 9 * min(number + 1, 2)]
        assert len(lines.waiting) == 2 and len(said) == 1
    lines.append({"n": 4})
    assert not lines.waiting and numbers(path) == [0, 1, 2, 3, 4]
    with room(20):
        lines.append({"n": 5})
    lines.close()
    assert numbers(path) == [0, 1, 2, 3, 4, 5] and len(said) == 1
