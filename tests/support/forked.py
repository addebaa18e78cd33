"""Processes for tests that are about processes, forked from one in which torch is loaded already.

Loading torch and open_clip takes seconds of each processor that a new interpreter would spend again. What a test sees
is that of a new process: its own id, environment, folder, files for what it prints, signals and exit code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LOADED = ["torch", "torch.distributed.fsdp", "torch._dynamo", "open_clip", "opentrans_cli.steps.finetune.finetune"]
CONTEXT: Any = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(LOADED)


class Forked:
    """A process with the methods of `subprocess.Popen` that tests use; `communicate` gives what it printed."""

    def __init__(
        self,
        target: Any,
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        session: bool = False,
    ) -> None:
        place = Path(tempfile.mkdtemp(prefix="forked-"))
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        self._files = place / "stdout", place / "stderr"
        for file in self._files:
            file.touch()
        self._process = CONTEXT.Process(
            target=_child,
            args=(dict(os.environ if env is None else env), str(cwd or Path.cwd()), session, place, target, arguments),
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, -N after signal N, None while it runs."""
        return self._process.exitcode  # type: ignore[no-any-return]

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Stdout and stderr, once it has ended."""
        self.wait(timeout)
        out, err = (file.read_text() for file in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _child(env: dict[str, str], cwd: str, session: bool, place: Path, target: Any, arguments: tuple[Any, ...]) -> None:
    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(place / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        target(*arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def command_line(*arguments: object, before: str = "") -> None:
    """The command line with these arguments, after some lines of Python."""
    from opentrans_cli.cli.app import main

    exec(before)
    sys.argv = ["opentrans", *map(str, arguments)]
    main()


def call(file: str, name: str, result: Path, *arguments: Any) -> None:
    """A function of a test file; what it returns goes to a file, through JSON."""
    spec = importlib.util.spec_from_file_location("law", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["law"] = module
    spec.loader.exec_module(module)
    import torch

    torch.set_num_threads(1)
    result.write_text(json.dumps(getattr(module, name)(*arguments)))


def two_ranks() -> Iterator[dict[str, str]]:
    """The environments of two processes that torch can join."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Otherwise gloo asks for the address of this machine's name, which need not have one.
    shared |= {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", "OMP_NUM_THREADS": "1"}
    for rank in ("0", "1"):
        yield {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}


def in_two(function: Any, *arguments: Any) -> list[Any]:
    """A function of a test file called in two processes that torch can join: its results by rank, through JSON."""
    with tempfile.TemporaryDirectory(prefix="forked-") as folder:
        results = [Path(folder) / rank for rank in ("0", "1")]
        law = function.__code__.co_filename, function.__name__
        children = [
            Forked(call, *law, result, *arguments, env=env) for result, env in zip(results, two_ranks(), strict=True)
        ]
        try:
            codes = [child.wait(600) for child in children]
        finally:
            for child in children:
                child.kill()
        assert codes == [0, 0], "\n".join(child.communicate(60)[1] for child in children)
        return [json.loads(result.read_text()) for result in results]
