"""Pages of `report` and `segment --gallery`: bytes, CPU seconds and peak memory, a process each.

    python benchmarks/pages.py PHOTOS [PATH ...]

PHOTOS: a folder of photos, repeated until there are 1,000, with drawn label maps. PATH: bundles or folders of runs.
The report is printed as Markdown.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from opentrans_cli.datasets.listing import list_images
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.report.gallery import GALLERY, write_gallery
from opentrans_cli.steps.report.report import report
from opentrans_cli.steps.step_record import environment

COUNTS = (10, 100, 1000)
CLASSES = 12
RUNS = 3


def make_folder(folder: Path, photos: list[Path], count: int) -> dict[str, object]:
    """The files of a segmentation of `count` photos, without overlays; returns its report."""
    rng = np.random.default_rng(0)
    names = [f"class {number}" for number in range(CLASSES)]
    images = []
    for number in range(count):
        photo = photos[number % len(photos)]
        with Image.open(photo) as picture:
            size = picture.size
        blocks = Image.fromarray(rng.integers(0, CLASSES, (5, 6), dtype=np.uint8))
        label_map = blocks.resize(size, Image.Resampling.NEAREST)
        label_map.save(folder / f"{number}.png")
        shares = np.bincount(np.asarray(label_map).ravel(), minlength=CLASSES) / (size[0] * size[1])
        classes = {name: float(share) for name, share in zip(names, shares, strict=True) if share}
        where = Path(os.path.relpath(photo, folder)).as_posix()
        images.append({"name": str(number), "label_map": f"{number}.png", "photo": where, "classes": classes})
    return {"images": images, "vocabulary": names}


def measured(work: object) -> tuple[float, float]:
    """CPU seconds and peak MiB of a call in a process of its own."""
    child = os.fork()
    if not child:
        work()  # type: ignore[operator]
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit("a page could not be written")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def row(name: str, page: Path, work: object) -> None:
    """One line of the table: the median of the runs."""
    runs = [measured(work) for _ in range(RUNS)]
    seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"| {name} | {page.stat().st_size / 1e6:.2f} | {seconds:.2f} | {memory:.0f} |", flush=True)


def main() -> None:
    """Print the report."""
    photos = list_images(Path(sys.argv[1]))
    print(f"{environment(torch.device('cpu'))}\n\nMedians of {RUNS} runs.\n")
    print("| page | MB | CPU s | peak MiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "page.html"
        for given in sys.argv[2:]:
            row(
                f"report {Path(given).name}",
                out,
                lambda given=given: report(given, out=out, force=True, reporter=SILENT),
            )
        for count in COUNTS:
            folder = Path(place) / str(count)
            folder.mkdir()
            document = json.loads(json.dumps(make_folder(folder, photos, count)))
            row(
                f"gallery of {count:,} pictures",
                folder / GALLERY,
                lambda folder=folder, document=document: write_gallery(folder, document, home=folder, reporter=SILENT),
            )


if __name__ == "__main__":
    main()
