"""How several processes end together: an error is told once, whoever met it, and nobody waits for those who have gone.

The processes leave word in the key-value store that torchrun keeps for them, which works when the connections
between them no longer do.
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
    """What the processes of one world failed with. All of them make theirs in the same order."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._prefix = f"opentrans/{next(_worlds)}"

    def settle(self, error: Exception) -> None:
        """Tell the others of `error`, which ends this process's part of the run.

        If rank 0 tells the same, `error` gets an attribute `reported`, True: nobody needs to read it again. A
        connection that broke becomes a TrainingError, reported if another process has said why.
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
            return  # without the store every process tells its own

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
    while not store.check(["0"]):  # wait() would do, but writes a warning of its own when the time is up
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return store.get("0").decode()


def _is_lost_connection(error: Exception) -> bool:
    # gloo raises plain RuntimeErrors, also out of DDP's backward pass.
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
