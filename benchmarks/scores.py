"""How fast label maps are counted and scored, beside other tools, on one core.

    python benchmarks/scores.py DATA > benchmarks/results/DATE-scores.md

DATA is a data set with `annotations/` and `classes.txt`: CamVid, 701 label maps of 320 x 240 with 12 classes. Counting
is measured in one process and one thread on maps of 2048 x 1536 pixels. "Regions" are made of real label maps side by
side, each with classes drawn anew; the prediction is the same, moved by three pixels, and wrong in a tenth of the maps.
"Noise" has a class drawn for every pixel, so that no two neighbours are equal: no real map is as hard. A tenth of the
labels is ignored. Peers count the same maps in the same run, and their counts are compared with ours.

The command is measured as a whole, with the start of Python, on predictions made of the label maps in the same way.
Megapixels and seconds are of CPU time, because other programs may run on the machine; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.datasets.images import read_label_map
from opentrans_cli.metrics.boundary import BoundaryMatrix
from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.steps.step_record import environment

HEIGHT, WIDTH = 1536, 2048
RUNS = 9
CLASSES = (19, 150, 847)
MAPS = (50, 500)

IDS = NDArray[np.integer]
Pair = tuple[IDS, IDS]


def regions(tiles: Sequence[IDS], classes: int, ignore: int, rng: np.random.Generator) -> Pair:
    """Prediction and label map of real regions."""
    height, width = tiles[0].shape
    label = np.empty((HEIGHT, WIDTH), np.int64)
    prediction = np.empty_like(label)
    for top in range(0, HEIGHT, height):
        for left in range(0, WIDTH, width):
            tile = tiles[int(rng.integers(len(tiles)))]
            names, others = rng.integers(0, classes, (2, 256))
            place = np.s_[top : top + height, left : left + width]
            part = label[place].shape
            label[place] = names[tile][: part[0], : part[1]]
            found = names if rng.random() < 0.9 else others
            prediction[place] = np.roll(found[tile], 3, (0, 1))[: part[0], : part[1]]
    label[: HEIGHT // 10] = ignore
    return prediction, label


def noise(classes: int, ignore: int, rng: np.random.Generator) -> Pair:
    """Prediction and label map with a class drawn for every pixel."""
    prediction, label = rng.integers(0, classes, (2, HEIGHT, WIDTH))
    label[rng.random(label.shape) < 0.1] = ignore
    return prediction, label


def detectron2_counts(prediction: IDS, label: IDS, classes: int, ignore: int) -> NDArray[np.int64]:
    """The formula of detectron2's SemSegEvaluator, (num_classes + 1) * prediction + label, written anew."""
    truth = np.where(label == ignore, classes, label)
    side = classes + 1
    return np.bincount(side * prediction.reshape(-1) + truth.reshape(-1), minlength=side * side).reshape(side, side)


def rate(work: Callable[[], object]) -> tuple[float, float]:
    """Megapixels a second of CPU time: median and best of the runs."""
    seconds = []
    for _ in range(RUNS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return HEIGHT * WIDTH / statistics.median(seconds) / 1e6, HEIGHT * WIDTH / min(seconds) / 1e6


def counting(tiles: Sequence[IDS]) -> Iterator[str]:
    """A line for each number of classes and kind of map."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    yield "| classes | maps | ours, narrow ids | ours, 64-bit ids | detectron2's formula | torchmetrics | boundary |"
    yield "|---|---|---|---|---|---|---|"
    for classes in CLASSES:
        ignore, narrow = (255, np.uint8) if classes <= 255 else (65535, np.uint16)
        rng = np.random.default_rng(0)
        for kind, pair in (("regions", regions(tiles, classes, ignore, rng)), ("noise", noise(classes, ignore, rng))):
            prediction, label = pair
            few: IDS = prediction.astype(narrow)
            small: IDS = label.astype(narrow)
            ours, boundary = ConfusionMatrix(classes, ignore), BoundaryMatrix(classes, ignore)
            ours.update(few, small)
            theirs = detectron2_counts(prediction, label, classes, ignore)
            assert np.array_equal(ours.counts[:-1, :-1], theirs.T[:-1, :-1]), "the counts differ"
            tensors = torch.from_numpy(prediction), torch.from_numpy(label)
            options: dict[str, Any] = {"num_classes": classes, "ignore_index": ignore, "validate_args": False}
            peer = multiclass_confusion_matrix(*tensors, **options)
            assert np.array_equal(ours.counts[:-1, :-1], peer.numpy()), "the counts differ"
            works: list[Callable[[], object]] = [
                lambda: ours.update(few, small),  # noqa: B023
                lambda: ours.update(prediction, label),  # noqa: B023
                lambda: detectron2_counts(prediction, label, classes, ignore),  # noqa: B023
                lambda: multiclass_confusion_matrix(*tensors, **options),  # noqa: B023
                lambda: boundary.update(few, small),  # noqa: B023
            ]
            cells = [f"{median:.0f} ({best:.0f})" for median, best in map(rate, works)]
            yield f"| {classes} | {kind} | {' | '.join(cells)} |"


def command(data: Path, folder: Path) -> Iterator[str]:
    """A line for each number of label maps: the whole command."""
    yield "| label maps | options | s | CPU s | peak MB |"
    yield "|---|---|---|---|---|"
    names = sorted((data / "annotations").rglob("*.png"))
    (folder / "theirs").mkdir()
    for path in names:
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.roll(ids, 3, (0, 1))).save(folder / "theirs" / path.name)
    for count in MAPS:
        listed = folder / f"{count}.txt"
        listed.write_text("\n".join(path.relative_to(data / "annotations").as_posix() for path in names[:count]))
        for more in ([], ["--boundary"]):
            line = [sys.executable, "-m", "opentrans_cli", "eval", "--predictions", str(folder / "theirs")]
            line += ["--labels", str(data / "annotations"), "--classes", str(data / "classes.txt"), "--ignore", "11"]
            line += ["--split-list", str(listed), "--json", "--quiet", *more]
            found = min(measured(line) for _ in range(3))
            wall, cpu, peak = found
            yield f"| {count} | {' '.join(more) or '-'} | {wall:.2f} | {cpu:.2f} | {peak:.0f} |"


def measured(line: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak megabytes of a command, measured by a process around it alone."""
    code = (
        "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    started = time.perf_counter()
    done = run([sys.executable, "-c", code, *line], check=True, capture_output=True, text=True)
    cpu, peak = map(float, done.stdout.split())
    return time.perf_counter() - started, cpu, peak / 1000


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description="how fast label maps are counted and scored")
    parser.add_argument("data", type=Path, help="data set with annotations/ and classes.txt")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    tiles = [read_label_map(path) for path in sorted((data / "annotations").rglob("*.png"))[::20]]
    print("# Counting and scoring label maps\n")
    print(f"{environment(torch.device('cpu'))}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print(
        f"Megapixels a CPU second on one core: median (best) of {RUNS} runs on {WIDTH} x {HEIGHT}; counts are equal.\n"
    )
    print("\n".join(counting(tiles)), "\n")
    print("`opentrans eval --predictions` on CamVid's label maps of 320 x 240, the fastest of 3 runs:\n")
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(command(data, Path(folder))))
    print(f"\nThis process used {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB.")


if __name__ == "__main__":
    main()
