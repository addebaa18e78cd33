"""Lines that survive: of a file cut anywhere only whole ones stay, and a full disk loses none that fits later."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.training.line_file import LineFile


def opened(path: Path, told: list[OSError] | None = None, keep: Any = lambda entry: True) -> LineFile:
    return LineFile(path, keep=keep, failed=(told if told is not None else []).append)


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_is_there_when_append_returns_and_needs_no_close(tmp_path: Path) -> None:
    lines = opened(tmp_path / "new" / "log")
    for number in range(3):
        lines.append({"number": number})
        assert read(tmp_path / "new" / "log") == [{"number": index} for index in range(number + 1)]
    lines.close()


def test_values_that_json_lacks_become_null_and_text(tmp_path: Path) -> None:
    lines = opened(tmp_path / "log")
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (-float("inf"), np.float64(0.5))}}
    lines.append({**values, "e": Path("x/y"), "f": None, "g": True})
    lines.close()
    assert read(tmp_path / "log") == [
        {"a": None, "b": [None, 1.5], "c": {"d": [None, 0.5]}, "e": "x/y", "f": None, "g": True}
    ]


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


def test_only_wanted_lines_stay_and_foreign_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"n": 1}\n[2]\n\xff\xfe\n\n7\n{"n": 3}\n{"n": 4}\n')
    lines = opened(path, keep=lambda entry: entry["n"] != 3)
    lines.append({"n": 5})
    lines.close()
    assert read(path) == [{"n": 1}, {"n": 4}, {"n": 5}]
    assert [file.name for file in tmp_path.iterdir()] == ["log"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / "log").symlink_to("real")
    lines = opened(tmp_path / "log", keep=lambda entry: entry["n"] == 1)
    lines.append({"n": 3})
    lines.close()
    assert (tmp_path / "log").is_symlink() and read(tmp_path / "real") == [{"n": 1}, {"n": 3}]


def test_when_the_disk_is_full_no_half_line_stays_and_the_lines_follow_later(tmp_path: Path) -> None:
    path, told = tmp_path / "log", list[OSError]()
    lines = opened(path, told)
    lines.append({"n": 0})
    with room(20):
        for number in range(1, 4):
            lines.append({"n": number})
            assert path.read_text() == '{"n": 0}\n{"n": 1}\n'[: 9 * min(number + 1, 2)]
        assert lines.waiting == 2 and len(told) == 1
    lines.append({"n": 4})
    assert lines.waiting == 0 and read(path) == [{"n": number} for number in range(5)]
    with room(20):
        lines.append({"n": 5})
    lines.close()
    assert read(path) == [{"n": number} for number in range(6)] and len(told) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_device_that_takes_nothing_is_told_once() -> None:
    told = list[OSError]()
    lines = opened(Path("/dev/full"), told)
    lines.append({"n": 1})
    lines.append({"n": 2})
    lines.close()
    assert lines.waiting == 2 and [error.strerror for error in told] == ["No space left on device"]
