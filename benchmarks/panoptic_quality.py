"""Panoptic quality of pictures of 640 x 480 with about 20 segments: images a second and memory, beside panopticapi.

    pip install --no-deps --target build/peers panopticapi-lite==0.2.0 hotcoco==1.3.0
    PYTHONPATH=build/peers python benchmarks/panoptic_quality.py > benchmarks/results/DATE-panoptic.md

`panopticapi-lite` is panopticapi as a package. Truth and predictions are drawn by a fixed seed: regions around random
points, a fifth of the pixels void, and the same regions moved, joined and renamed. All programs read the same files in
this process, on one core, in turns; each line is the median of RUNS turns, and the figures of all must be equal. Peak
memory is that of a process of its own for each number of images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.datasets.coco_panoptic import PanopticFile
from opentrans_cli.metrics.panoptic import PanopticCounts
from opentrans_cli.steps.eval.coco_files import score_coco_files
from opentrans_cli.steps.step_record import environment

HEIGHT, WIDTH, SEGMENTS, CLASSES = 480, 640, 20, 133
IMAGES, RUNS = 50, 5
SIZES = (10, 100, 1000)

Ids = NDArray[np.int64]


def drawn(rng: np.random.Generator) -> tuple[Ids, dict[int, int], Ids, dict[int, int]]:
    """True and predicted ids (H, W), and the class of each id."""
    points = rng.random((SEGMENTS + 4, 2)) * (HEIGHT, WIDTH)
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    # Wavy borders, since those of objects are not straight.
    rows, columns = rows + 6 * np.sin(columns / 9), columns + 6 * np.sin(rows / 7)
    distance = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in points]
    numbers = rng.choice(1 << 24, SEGMENTS + 4, replace=False)
    numbers[SEGMENTS:] = 0  # void
    truth = numbers[np.argmin(distance, 0)].astype(np.int64)
    classes = {int(number): int(rng.integers(CLASSES)) for number in numbers[:SEGMENTS]}
    predicted = np.roll(truth, tuple(rng.integers(-12, 13, 2)), (0, 1))
    guesses = dict(classes)
    for number in list(classes):
        draw = rng.random()
        if draw < 0.15:
            predicted[predicted == number] = rng.choice(list(classes))
        elif draw < 0.25:
            guesses[number] = int(rng.integers(CLASSES))
    there = {*np.unique(predicted).tolist()} - {0}
    here = {*np.unique(truth).tolist()} - {0}
    return truth, {n: classes[n] for n in here}, predicted, {n: guesses[n] for n in there}


def write(folder: Path, images: int) -> tuple[Path, Path]:
    """JSONs of truth and predictions with so many images, and the PNGs of at most IMAGES, which then come again."""
    rng = np.random.default_rng(0)
    paths = (folder / "true.json", folder / "found.json")
    parts: list[list[Any]] = [[], []]
    for path in paths:
        path.with_suffix("").mkdir(parents=True)
    for number in range(min(images, IMAGES)):
        truth, classes, predicted, guesses = drawn(rng)
        for path, listed, ids, of in zip(paths, parts, (truth, predicted), (classes, guesses), strict=True):
            colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
            Image.fromarray(colours).save(path.with_suffix("") / f"{number:06d}.png")
            areas = {each: int((ids == each).sum()) for each in of}
            listed.append([{"id": n, "category_id": of[n], "area": areas[n], "iscrowd": 0} for n in of])
    categories = [{"id": number, "name": str(number), "isthing": number % 2} for number in range(CLASSES)]
    files = [f"{number % IMAGES:06d}.png" for number in range(images)]
    pictures = [
        {"id": number, "file_name": f"{number:06d}.jpg", "height": HEIGHT, "width": WIDTH} for number in range(images)
    ]
    for path, listed in zip(paths, parts, strict=True):
        annotations = [
            {"image_id": number, "file_name": file, "segments_info": listed[number % IMAGES]}
            for number, file in enumerate(files)
        ]
        path.write_text(json.dumps({"images": pictures, "annotations": annotations, "categories": categories}))
    return paths


def ours(truth: Path, found: Path) -> float:
    """PQ in percent."""
    value: float = score_coco_files(found, truth, "panoptic")["pq"]
    return value


def panopticapi(truth: Path, found: Path) -> float:
    """PQ in percent, by one process."""
    from panopticapi.evaluation import pq_compute_single_core  # type: ignore[import-not-found]

    true, guessed = (json.loads(path.read_text()) for path in (truth, found))
    categories = {each["id"]: each for each in true["categories"]}
    pairs = list(zip(true["annotations"], guessed["annotations"], strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        counts = pq_compute_single_core(0, pairs, str(truth.with_suffix("")), str(found.with_suffix("")), categories)
    return float(100 * counts.pq_average(categories, None)[0]["pq"])


def hotcoco(truth: Path, found: Path) -> float:
    """PQ in percent."""
    code = "import sys, hotcoco.panoptic as p; print(repr(p.pq_compute(sys.argv[1], sys.argv[2])['All']['pq']))"
    said = subprocess.run([sys.executable, "-c", code, truth, found], capture_output=True, text=True, check=True)
    return 100 * float(said.stdout.split()[-1])


def matching_alone(truth: Path, found: Path) -> tuple[float, float]:
    """Seconds of matching all pictures from memory: ours, and that of the definition as panopticapi writes it."""
    known, guessed = PanopticFile(truth), PanopticFile(found)
    class_of = {category.id: category.id for category in known.categories}
    pairs = [(known.read(image, class_of), guessed.read(image, class_of)) for image in known.image_ids]
    started = time.perf_counter()
    counts = PanopticCounts(CLASSES)
    for true, guess in pairs:
        counts.update(true.ids, true.segments, guess.ids, [part[:2] for part in guess.segments])
    own = time.perf_counter() - started
    started = time.perf_counter()
    for true, guess in pairs:
        np.unique(guess.ids, return_counts=True)
        np.unique(true.ids.astype(np.uint64) << 24 | guess.ids.astype(np.uint64), return_counts=True)
    return own, time.perf_counter() - started


def peak(images: int, folder: Path) -> float:
    """Peak memory in MB of a process that scores so many pictures."""
    paths = write(folder, images)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from opentrans_cli.steps.eval.coco_files import score_coco_files\n"
        "score_coco_files(Path(sys.argv[2]), Path(sys.argv[1]), 'panoptic')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    said = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    return float(said.stdout)


def main() -> None:
    """Measure, and print the report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, found = write(folder / "speed", IMAGES)
        programs: dict[str, Callable[[Path, Path], float]] = {"opentrans": ours}
        with contextlib.suppress(ImportError):
            programs[f"panopticapi (panopticapi-lite {metadata.version('panopticapi-lite')})"] = panopticapi
        figures: dict[str, float] = {}
        seconds: dict[str, list[float]] = {called: [] for called in programs}
        alone: list[tuple[float, float]] = []
        for _turn in range(RUNS):
            for called, program in programs.items():
                started = time.perf_counter()
                figures[called] = program(truth, found)
                seconds[called].append(time.perf_counter() - started)
            alone.append(matching_alone(truth, found))
        if max(figures.values()) - min(figures.values()) > 1e-9:
            raise SystemExit(f"the programs disagree: {figures}")
        with contextlib.suppress(ImportError):
            figures[f"hotcoco {metadata.version('hotcoco')}"] = hotcoco(truth, found)
        memory = {images: peak(images, folder / str(images)) for images in SIZES}
    print(f"# Panoptic quality, {IMAGES} pictures of {WIDTH} x {HEIGHT} with about {SEGMENTS} segments\n")
    print(f"{environment(torch.device('cpu'))}, {os.cpu_count()} cores, one used\n")
    print("| program | images/s, from files | seconds of the runs | PQ in percent |\n|---|---|---|---|")
    for called, figure in figures.items():
        turns = seconds.get(called, [])
        speed = f"{IMAGES / statistics.median(turns):.0f}" if turns else "not measured"
        print(f"| {called} | {speed} | {', '.join(f'{turn:.2f}' for turn in turns) or '-'} | {figure:.12f} |")
    own, definition = (statistics.median(part) for part in zip(*alone, strict=True))
    print("\n| matching alone, from memory | images/s |\n|---|---|")
    print(f"| opentrans | {IMAGES / own:.0f} |")
    print(f"| panopticapi's way, np.unique over all pixels, twice | {IMAGES / definition:.0f} |")
    print("\n| images | peak memory, MB |\n|---|---|")
    for images, megabytes in memory.items():
        print(f"| {images} | {megabytes:.0f} |")


if __name__ == "__main__":
    main()
