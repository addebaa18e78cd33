"""The page of a demo: its two tables, the scenes with every tower's label maps, charts, and what to do next."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.pictures.page import Page, PagePicture

SCENES = "scenes"
"""Folder of single scenes in a demo's folder, NUMBER-KIND.png: `KINDS` and the names of the towers."""

KINDS = {"image": "scene", "truth": "ground truth"}

_CHARTS = {
    "density.png": "Weights kept in each layer; the dots are those of the random twin",
    "alpha.png": "Alpha of each layer: a small one means a heavy tail, that is well trained",
    "esd.png": "Eigenvalues of three layers, with the fitted tail whose slope is alpha",
}
_NEXT = """\
opentrans inspect {folder}/subnet
opentrans diff {folder}/subnet {folder}/random_distilled
opentrans segment {folder}/{trained} PHOTO.png --words "orange ring, yellow crescent, water" --out pictures
opentrans demo --full --out opentrans-demo-full
"""


def demo_page(folder: Path, document: Mapping[str, Any], *, beside: Path) -> Page:
    """The page about the demo in `folder`, whose report.json is `document`, to be put into the folder `beside`.

    Pictures that are missing are left out.
    """
    rows = document["rows"]
    removed = max(row["sparsity"] for row in rows)
    page = Page("opentrans demo")
    page.text(
        f"A tiny CLIP image encoder with {removed:.0%} of its convolution weights removed, beside the "
        "dense one and two random controls of the same sparsity. Each became the trunk of a segmentor, trained on "
        "drawn scenes with three quarters of the classes labelled and scored on new ones. Everything here was measured "
        f"in one run of {document['seconds']:.0f} s."
    )
    page.heading("What pruning costs")
    page.table(
        ["tower", "mIoU, %", "seen classes", "unseen", "weights kept", "MACs", "bundle"],
        [
            [
                f"{row['name'].replace('_', ', ')}: {row['title']}",
                *(percent(row[name]) for name in ("miou", "miou_seen", "miou_unseen")),
                human_count(row["params_kept"]),
                human_count(row["macs"]),
                human_bytes(row["bundle_bytes"]),
            ]
            for row in rows
        ],
        shares=[row["miou"] for row in rows],
    )
    page.text(
        "Unseen classes had no label in training: only CLIP's knowledge of their words finds them. MACs are counted at "
        "96 x 96 without the pruned weights, which dense kernels multiply all the same."
    )
    page.heading("What the towers see")
    for pictures in _scenes(folder, [row["name"] for row in rows]):
        page.pictures(pictures)
    page.heading("What freezing saves")
    page.text("The subnet, trained with a part of its layers frozen.")
    ways = document["finetune_rows"]
    page.table(
        ["frozen", "mIoU, %", "seen classes", "unseen", "MACs of the training", "of dense, full training"],
        [
            [
                row["title"],
                *(percent(row[name]) for name in ("miou", "miou_seen", "miou_unseen")),
                human_count(row["training_macs"]),
                f"{row['training_macs'] / row['full_training_macs']:.0%}",
            ]
            for row in ways
        ],
        shares=[row["miou"] for row in ways],
    )
    page.heading("Which weights are left, and how well each layer was trained")
    charts = [
        PagePicture((folder / name).read_bytes(), text) for name, text in _CHARTS.items() if (folder / name).is_file()
    ]
    page.pictures(charts, least=420)
    page.heading("What is in the folder")
    inside = Path(os.path.relpath(folder, beside))
    page.links([((inside / name).as_posix(), what) for name, what in _places(folder)])
    page.heading("Go on with")
    trained = next((path.name for path in sorted(folder.glob("subnet-finetuned-*")) if path.is_dir()), "subnet")
    page.lines(_NEXT.format(folder=folder.name, trained=trained))
    return page


def _scenes(folder: Path, towers: list[str]) -> Iterator[list[PagePicture]]:
    """By scene the photo, the ground truth and what each tower makes of it."""
    kinds = KINDS | {tower: tower.replace("_", ", ") for tower in towers}
    for number in range(len(list((folder / SCENES).glob("*-image.png")))):
        paths = {kind: folder / SCENES / f"{number}-{kind}.png" for kind in kinds}
        yield [PagePicture(path.read_bytes(), kinds[kind]) for kind, path in paths.items() if path.is_file()]


def _places(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        tower, _, made = path.name.partition("-")
        if made.startswith("finetuned"):
            yield path.name, f"{tower} as the trunk of a segmentor, trained"
        elif made == "transferred":
            yield path.name, f"{tower} as the trunk of a segmentor with a fresh head"
        elif (path / "manifest.json").is_file():
            yield path.name, "bundle of the tower"
    if (folder / SCENES).is_dir():
        yield SCENES, "the pictures above, one file each"
    for name, what in (("overview.png", "all scenes in one picture"), ("report.json", "every figure of this page")):
        if (folder / name).is_file():
            yield name, what
