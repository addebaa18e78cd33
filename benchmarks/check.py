"""`opentrans check` on labelled photos and on broken copies of them: which planted faults it names, and how fast.

    python benchmarks/check.py DATA > benchmarks/results/DATE-check.md

DATA is a folder with data sets in it, each with `images/`, `annotations/` and `classes.txt`: CamVid (701 photos of
320 x 240, 11 = void) and MSRC v2 (591 photos, 255 = void). Six copies of each are broken in files that a fixed seed
draws. `check` runs as a command of its own, and what it says is compared with what was planted: a fault counts as
found if the findings of its kind name the planted files and no others. Seconds are of the whole command, with the
start of Python; CPU seconds are user and system, and what an idle core would need. The last column is measured inside
one process, without that start.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import torch
from PIL import Image

from opentrans_cli.datasets.pairs import pair_pictures
from opentrans_cli.datasets.scan import scan
from opentrans_cli.steps.step_record import environment

SETS = {"camvid": "11", "msrc_v2": "255"}
"""Name -> the id that means "not labelled"."""
RUNS = 2


@dataclass
class Copy:
    """A copy of a data set, and the faults planted in it by kind of finding: the names of files or classes."""

    folder: Path
    draw: random.Random
    planted: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = sorted(path.relative_to(self.maps).as_posix() for path in self.maps.rglob("*.png"))
        self.draw.shuffle(self.names)
        self.classes = (self.folder / "classes.txt").read_text().split("\n")

    @property
    def maps(self) -> Path:
        return self.folder / "annotations"

    def take(self, kind: str, *, photo: bool = False) -> Path:
        """A file that nothing was planted in yet; it is noted down under `kind`."""
        name = self.names.pop()
        if photo:
            path = next((self.folder / "images").glob(str(Path(name).with_suffix(".*"))))
            self.planted.setdefault(kind, set()).add(path.relative_to(self.folder / "images").as_posix())
            return path
        self.planted.setdefault(kind, set()).add(name)
        return self.maps / name

    def photo_of(self, label_map: Path) -> Path:
        return next((self.folder / "images").glob(str(label_map.relative_to(self.maps).with_suffix(".*"))))


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def save(path: Path, label_map: np.ndarray) -> None:
    Image.fromarray(label_map.astype(np.uint8)).save(path)


def wrong_ids(copy: Copy) -> None:
    """One corner of id 60, one whole label map of id 200."""
    label_map = ids(path := copy.take("id-without-class"))
    label_map[:20, :20] = 60
    save(path, label_map)
    path = copy.take("id-without-class")
    save(path, np.full_like(ids(path), 200))


def wrong_sizes(copy: Copy) -> None:
    """A label map of half the size, one a column short, and a photo that EXIF turns, with a label map as stored."""
    label_map = ids(path := copy.take("size"))
    save(path, label_map[::2, ::2])
    label_map = ids(path := copy.take("size"))
    save(path, label_map[:, 1:])
    _turn(copy.take("turned", photo=True))


def _turn(photo: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo) as image:
        image.load()
        image.save(photo, exif=exif, quality=90)


def lost_files(copy: Copy) -> None:
    """A photo without label map, a label map without photo, both of two names each, and photos that were not copied
    to their end: cut in the middle, empty, and no picture at all.
    """
    for _ in range(2):
        label_map = copy.maps / copy.names.pop()
        copy.planted.setdefault("photo-alone", set()).add(
            copy.photo_of(label_map).relative_to(copy.folder / "images").as_posix()
        )
        label_map.unlink()
        copy.photo_of(copy.take("label-map-alone")).unlink()
    photo = copy.take("unreadable", photo=True)
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    copy.take("unreadable", photo=True).write_bytes(b"")
    label_map = copy.take("unreadable")
    label_map.write_bytes(label_map.read_bytes()[: label_map.stat().st_size // 2])
    copy.take("unreadable").write_text("<html>not found</html>")


def colours_and_blur(copy: Copy) -> None:
    """A label map as RGB colours, one that was a JPEG before, one that was resized smoothly."""
    label_map = ids(path := copy.take("unreadable"))
    Image.fromarray(np.stack([label_map * 7, label_map * 13, label_map * 29], axis=-1)).save(path)
    label_map = ids(path := copy.take("many-ids"))
    buffer = io.BytesIO()
    Image.fromarray(label_map.astype(np.uint8) * 10).save(buffer, "JPEG", quality=60)
    with Image.open(buffer) as blurred:
        save(path, np.array(blurred))
    label_map = ids(path := copy.take("many-ids"))
    image = Image.fromarray((label_map * 10).astype(np.uint8))
    image.resize((100, 70)).resize(image.size, Image.Resampling.BICUBIC).save(path)


def from_one(copy: Copy) -> None:
    """All ids are one higher, void apart."""
    void = int(SETS[copy.folder.name])
    for path in copy.maps.rglob("*.png"):
        label_map = ids(path)
        save(path, np.where(label_map == void, 255, label_map + 1))
    last = len([line for line in copy.classes if line.strip()])
    copy.planted["ids-from-1"] = {name for name in copy.names if (ids(copy.maps / name) == last).any()}


def lost_classes(copy: Copy) -> None:
    """Two classes became void, and one label map has nothing but void."""
    void = int(SETS[copy.folder.name])
    for path in copy.maps.rglob("*.png"):
        label_map = ids(path)
        save(path, np.where(np.isin(label_map, (2, 5)), void, label_map))
    copy.planted["class-without-pixels"] = {copy.classes[2], copy.classes[5]}
    path = copy.take("unlabelled")
    save(path, np.full_like(ids(path), void))
    copy.planted["unlabelled"] = {
        path.relative_to(copy.maps).as_posix() for path in copy.maps.rglob("*.png") if (ids(path) == void).all()
    }


BREAKS: dict[str, Callable[[Copy], None] | None] = {
    "as published": None,
    "wrong ids": wrong_ids,
    "wrong sizes, turned": wrong_sizes,
    "lost and broken files": lost_files,
    "colours and blur": colours_and_blur,
    "ids from 1": from_one,
    "two classes void": lost_classes,
}


def checked(folder: Path, ignore: str) -> tuple[dict[str, set[str]], int, list[tuple[float, float]], dict[str, Any]]:
    """Names by kind of finding, exit code, (wall, CPU) seconds of every run, and the report."""
    line = [sys.executable, "-m", "opentrans_cli", "check", folder / "images", folder / "annotations"]
    line += [folder / "classes.txt", "--ignore", ignore, "--json", "--quiet"]
    times = []
    for _ in range(RUNS):
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = run(list(map(str, line)), capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((time.perf_counter() - wall, cpu))
    report = json.loads(done.stdout)
    found: dict[str, set[str]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["kind"], set()).update(finding["names"])
    return found, done.returncode, times, report


def sizes_and_ids(folder: Path) -> float:
    """CPU seconds of what is quick: pairs, sizes of photos, sizes and ids of label maps."""
    begun = time.process_time()
    scan(pair_pictures(folder / "images", folder / "annotations").pairs, "ids")
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    print(f"# `opentrans check` on whole and broken data, {time.strftime('%Y-%m-%d')}\n")
    print(f"{environment(torch.device('cpu'))}, {os.cpu_count()} cores\n")
    print(f"Each line: lowest of {RUNS} runs of the whole command; everything is read, photos to their last byte.\n")
    print(
        "| data | photos | planted | found by name | others told | exit | s | CPU s | CPU s per 500 photos | "
        "the same, sizes and ids alone |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, ignore in SETS.items():
            for title, break_it in BREAKS.items():
                folder = Path(scratch) / name
                for part in ("images", "annotations"):
                    shutil.copytree(data / name / part, folder / part)
                shutil.copy(data / name / "classes.txt", folder)
                copy = Copy(folder, random.Random(f"{name} {title}"))
                if break_it is not None:
                    break_it(copy)
                given = "255" if break_it is from_one else ignore
                found, code, times, report = checked(folder, given)
                quick = min(sizes_and_ids(folder) for _ in range(RUNS))
                shutil.rmtree(folder)
                hits = [kind for kind, names in copy.planted.items() if found.get(kind) == names]
                missed += len(copy.planted) - len(hits)
                others = ", ".join(sorted(found.keys() - copy.planted.keys())) or "-"
                planted = ", ".join(f"{kind} ({len(names)})" for kind, names in copy.planted.items()) or "-"
                wall, cpu, photos = min(times)[0], min(cpu for _, cpu in times), report["pairs"]
                seconds = [f"{value:.2f}" for value in (wall, cpu, cpu * 500 / photos, quick * 500 / photos)]
                print(
                    f"| {name}, {title} | {photos} | {planted} | {len(hits)} of {len(copy.planted)} | "
                    f"{others} | {code} | {' | '.join(seconds)} |"
                )
    raise SystemExit(f"{missed} not found" if missed else 0)


if __name__ == "__main__":
    main()
