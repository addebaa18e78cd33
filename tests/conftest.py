"""Shared fixtures: one thread, no network, the command line in-process, alone and under a shell, a tiny bundle, a
folder of six labelled photos, reference figures, and the optional real data.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from typer.testing import Result

# Read by torch and OpenMP at import, so this must come before any test imports them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Python looks through all objects for cycles after some thousands of new ones. Over the million objects of torch and
# transformers that was a fifth of the time of the suite.
gc.set_threshold(50_000, 20, 100)

# A shell ignores Ctrl-C in what it runs in the background, and nohup the end of the terminal; so would every process
# that tests interrupt.
if threading.current_thread() is threading.main_thread():
    for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, _name), _usual)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with figures of other programs and of published checkpoints to compare with."""
    return Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real data that is not part of the package."""
    root = Path(os.environ.get("OPENTRANS_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "reference").is_dir():
        pytest.skip(f"reference data not found at {root}; set OPENTRANS_SHARED to run this test")
    return root


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any connection that leaves this machine fails at once, by name."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "localhost", "::1"):
            raise ConnectionRefusedError(f"tests make no network calls, this one wanted {address}")
        return connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


RunCli = Callable[..., "Result"]


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """`run_cli("prune", "tiny", "-o", path)` -> result with exit_code, stdout and stderr; neither is a terminal.

    Anything but a clean end or a told error is raised, so that no traceback passes for an error message.
    """
    from typer.testing import CliRunner

    from opentrans_cli.cli.app import app

    runner = CliRunner()

    def run(*arguments: object) -> Result:
        result = runner.invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


SHIM = """#!{python} -SE
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
line.sendall(json.dumps([os.getcwd(), sys.argv[1:]]).encode())
line.shutdown(socket.SHUT_WR)
answer = json.loads(line.makefile().read())
sys.stdout.write(answer["stdout"])
sys.stderr.write(answer["stderr"])
sys.exit(answer["exit_code"])
"""


@dataclass
class Shell:
    """Runs scripts; `opentrans` in them is the real command line, in this process, where torch is loaded."""

    run_cli: RunCli
    folder: Path
    calls: list[list[str]] = field(default_factory=list)

    def run(self, script: str | Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A finished script, text for sh or a file for bash; its working folder, `work` in the test's, is new."""
        interpreter = "bash"
        if isinstance(script, str):
            interpreter, path = "sh", self.folder / "script.sh"
            path.write_text(script)
            script = path
        (self.folder / "work").mkdir()
        with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory(prefix="ot-") as place:
            server.bind(f"{place}/s")  # such an address has at most about a hundred characters
            server.listen()
            server.settimeout(0.02)
            shim = Path(place) / "opentrans"
            shim.write_text(SHIM.format(python=sys.executable, address=f"{place}/s"))
            shim.chmod(0o755)
            with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
                process = subprocess.Popen(
                    [interpreter, script, *map(str, arguments)],
                    cwd=self.folder / "work",
                    env={"PATH": f"{place}:/usr/bin:/bin", **environment},
                    stdout=out,
                    stderr=err,
                )
                while process.poll() is None:
                    self._answer(server)
        texts = ((self.folder / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(interpreter, process.returncode, *texts)

    def _answer(self, server: socket.socket) -> None:
        try:
            line, _ = server.accept()
        except TimeoutError:
            return
        with line, pytest.MonkeyPatch.context() as patch:
            line.settimeout(None)
            folder, arguments = json.loads(line.makefile().read())
            self.calls.append(arguments)
            patch.chdir(folder)
            result = self.run_cli(*arguments)
            answer = {name: getattr(result, name) for name in ("stdout", "stderr", "exit_code")}
            line.sendall(json.dumps(answer).encode())


@pytest.fixture
def shell(run_cli: RunCli, tmp_path: Path) -> Shell:
    return Shell(run_cli, tmp_path)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded CLIP, half pruned in one shot; read only (copy it to change it)."""
    from opentrans_cli.steps.prune.prune import prune

    out = tmp_path_factory.mktemp("tiny") / "bundle"
    return prune("tiny", sparsity=0.5, out=out, device="cpu").path


@pytest.fixture(scope="session")
def tiny_segmentor(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The tiny bundle after two steps of fine-tuning on four scenes; read only."""
    from opentrans_cli.steps.finetune.finetune import finetune
    from opentrans_cli.steps.finetune.options import FinetuneOptions

    out = tmp_path_factory.mktemp("tiny") / "segmentor"
    options = FinetuneOptions(steps=2, batch_size=2, crop=64)
    return finetune(tiny_bundle, out=out, **vars(options), limit=4, device="cpu").path


@pytest.fixture(scope="session")
def nested_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The embedded CLIP after three rounds (0.2, 0.5, 0.8), read only, of one of these kinds:

    "trained": every round changed the tower, and all three towers are there; "masks": the same, with the last tower
    alone; "untrained": kept weights are the base's; "bare": the same without any weights.
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = _write_nested(tmp_path_factory.mktemp("nested") / kind, kind)
        return made[kind]

    return make


def _write_nested(path: Path, kind: str) -> Path:
    from opentrans_cli.bundle.contents import BundleContents
    from opentrans_cli.bundle.nested import masks_after
    from opentrans_cli.bundle.rounds import KEPT_BY_ROUND
    from opentrans_cli.bundle.store import write_bundle
    from opentrans_cli.clip.layers import arrays, prunable_layers
    from opentrans_cli.clip.source import load_clip
    from opentrans_cli.steps.sources import base_record
    from opentrans_cli.steps.step_record import step_record

    clip = load_clip("tiny")
    dense, layers = arrays(clip.model.visual.state_dict()), prunable_layers(clip.model.visual)
    scores = {layer: np.abs(dense[f"{layer}.weight"]) for layer in layers}
    edges = np.quantile(np.concatenate([score.reshape(-1) for score in scores.values()]), (0.2, 0.5, 0.8))
    order = np.uint8([1, 2, 3, 0])
    rounds = {layer: order[np.searchsorted(edges, score)] for layer, score in scores.items()}
    trained = kind in ("trained", "masks")

    def tower(number: int) -> dict[str, np.ndarray]:
        """What training left after a round: all weights and the running means moved."""
        moved = {
            name: array * np.float32(1 + 0.02 * number * trained)
            if name.endswith(("weight", "running_mean"))
            else array
            for name, array in dense.items()
        }
        for layer, mask in masks_after(rounds, number).items():
            moved[f"{layer}.weight"] = np.where(mask, moved[f"{layer}.weight"], np.float32(0))
        return moved

    counts = {
        layer: [int(masks_after({layer: numbers}, number)[layer].sum()) for number in (1, 2, 3)]
        for layer, numbers in rounds.items()
    }
    options = {"images": "shapes" if trained else None}
    contents = BundleContents(
        base=base_record(clip),
        pattern="unstructured",
        target_sparsity=0.8,
        masks=masks_after(rounds, 3),
        tower={} if kind == "bare" else tower(3),
        steps=(step_record("prune", options, seed=0, metrics={KEPT_BY_ROUND: counts}),),
        rounds=rounds,
        round_weights={1: tower(1), 2: tower(2)} if kind == "trained" else {},
    )
    return write_bundle(path, contents).path


@dataclass(frozen=True)
class LabelledFolder:
    """A data set on disk: photos, label maps of the same stems, and a class file."""

    images: Path
    labels: Path
    classes: Path

    @property
    def options(self) -> tuple[str, ...]:
        """It as options of `eval` and `finetune`."""
        given = {"--images": self.images, "--labels": self.labels, "--classes": self.classes}
        return ("--dataset", "folder", *(str(part) for pair in given.items() for part in pair))


@pytest.fixture
def labelled_folder(tmp_path: Path) -> LabelledFolder:
    """Six photos of 64 x 64 pixels: a coloured square (class 1 or 2) on a ground (class 0), its frame unlabelled."""
    from PIL import Image

    folder = LabelledFolder(tmp_path / "photos", tmp_path / "label-maps", tmp_path / "classes.txt")
    folder.images.mkdir()
    folder.labels.mkdir()
    folder.classes.write_text("grass\nred square,red box\nblue square\n")
    rng = np.random.default_rng(0)
    for number in range(6):
        top, left = rng.integers(8, 24, 2)
        label_map = np.zeros((64, 64), np.uint8)
        label_map[top : top + 32, left : left + 32] = 1 + number % 2
        photo = np.array([(40, 160, 60), (220, 40, 40), (40, 60, 220)], np.uint8)[label_map]
        photo ^= rng.integers(0, 16, photo.shape, dtype=np.uint8)
        label_map[[0, -1]] = 255
        Image.fromarray(photo).save(folder.images / f"{number}.png")
        Image.fromarray(label_map).save(folder.labels / f"{number}.png")
    return folder
