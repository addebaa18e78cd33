"""How several processes end together: an error in any process is reported once, and no process waits for ended ones.

The processes write to the key-value store that torchrun keeps for them. It works even when the connections between
them are broken.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from itertools import count

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from opentrans_cli.errors import TrainingError

PATIENCE = 5.0
"""Seconds a process that failed waits to hear whether rank 0 failed too: they reach an error at different moments."""

_GONE = "another process of this run has ended: it left no reason; read torchrun's report, then go on with --resume"

_worlds = count()


class Failures:
    """The errors of the processes of one world. All processes must create these objects in the same order."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._prefix = f"opentrans/{next(_worlds)}"

    def settle(self, error: Exception) -> None:
        """Announce `error`, which ends this process's part of the run, to the other processes.

        If rank 0 reports the same error, `error` gets an attribute `reported`, True, so that it is not printed again. A
        broken connection becomes a TrainingError, marked as reported if another process has given the cause.
        """
        if _is_lost_connection(error):
            lost = TrainingError(_GONE)
            lost.reported = self._somebody_reported()
            raise lost from error
        try:
            store = self._store()
            store.set(str(self.rank), str(error))
            if self.rank != 0:
                error.reported = _word_of_main(store) == str(error)  # type: ignore[attr-defined]
        except DistError:
            return  # without the store every process reports its own error

    def _store(self) -> Store:
        patience = timedelta(seconds=PATIENCE)
        server = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=patience)
        return PrefixStore(self._prefix, server)

    def _somebody_reported(self) -> bool:
        try:
            store = self._store()
            return any(store.check([str(rank)]) for rank in range(self.size) if rank != self.rank)
        except DistError:
            return False


def _word_of_main(store: Store) -> str | None:
    deadline = time.monotonic() + PATIENCE
    while not store.check(["0"]):  # wait() would work too, but prints its own warning when the time is up
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return store.get("0").decode()


def _is_lost_connection(error: Exception) -> bool:
    # gloo raises plain RuntimeErrors, also from DDP's backward pass.
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
