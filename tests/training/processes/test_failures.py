"""A process that fails leaves word; who finds none says so."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.training.processes import failures
from opentrans_cli.training.processes.failures import Failures

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")


@pytest.fixture
def store(monkeypatch):
    """The store of all worlds of a test, in memory."""
    memory = dist.HashStore()
    monkeypatch.setattr(Failures, "_store", lambda self: memory)
    monkeypatch.setattr(failures, "PATIENCE", 0.1)
    return memory


def settle(error, *, rank):
    """What the process `rank` of three ends with after `error`."""
    try:
        Failures(rank, 3).settle(error)
    except TrainingError as other:
        return other
    return error


def test_a_lost_connection_is_told_where_nobody_left_word(store):
    ended = settle(LOST, rank=0)
    assert not ended.reported
    assert str(ended).startswith("another process of this run has ended: it left no reason; read torchrun's report")


def test_a_lost_connection_is_not_told_where_another_process_said_why(store):
    settle(OptionError("no such file: a"), rank=2)
    assert settle(LOST, rank=0).reported
    assert settle(LOST, rank=1).reported


def test_a_process_that_lost_its_connection_leaves_no_word(store):
    settle(LOST, rank=0)
    assert not settle(LOST, rank=1).reported


def test_rank_0_tells_its_error_and_the_others_tell_only_what_differs(store):
    first, same, other = (OptionError(text) for text in ("no such file: a", "no such file: a", "no such file: b"))
    settle(first, rank=0)
    assert not getattr(first, "reported", False)
    assert settle(same, rank=1).reported
    assert not settle(other, rank=2).reported


def test_without_word_from_rank_0_the_others_tell_their_own(store):
    assert not settle(OptionError("no such file: a"), rank=1).reported


def test_an_error_of_another_kind_is_no_lost_connection(store):
    bug = RuntimeError("shape mismatch")
    assert settle(bug, rank=0) is bug


def test_without_a_store_every_process_tells_its_own(monkeypatch):
    def gone(self):
        raise dist.DistNetworkError("connection refused")

    monkeypatch.setattr(Failures, "_store", gone)
    error = OptionError("no such file: a")
    assert settle(error, rank=1) is error
    assert not getattr(error, "told", False)
    assert not settle(LOST, rank=1).reported
