"""A demo: its two tables, the scenes with every tower's label maps, the layers of its subnet, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.pictures.page import BarCell, Page, PagePicture
from opentrans_cli.pictures.thumbnail import page_picture, small_photo
from opentrans_cli.spectral.report import bundle_report
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.layers import layers_section

SCENES = "scenes"
"""Folder of single scenes in a demo's folder, NUMBER-KIND.png: `KINDS` and the names of the towers."""

KINDS = {"image": "scene", "truth": "ground truth"}

_SUBNET = "subnet"
_SIDE = 640  # pixels; scenes are smaller
_NEXT = """\
opentrans inspect {folder}/subnet
opentrans report {folder}/subnet {folder}/random_distilled --out subnets.html
opentrans diff {folder}/subnet {folder}/random_distilled
opentrans segment {folder}/{trained} PHOTO.png --words "orange ring, yellow crescent, water" --out pictures
opentrans demo --full --out opentrans-demo-full
"""


def demo_section(page: Page, exhibit: Exhibit) -> None:
    """The whole demo; what was taken out of its folder is left out."""
    folder, document = exhibit.folder, exhibit.document
    rows = document["rows"]
    removed = max(row["sparsity"] for row in rows)
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
                BarCell(percent(row["miou"]), row["miou"]),
                *(percent(row[name]) for name in ("miou_seen", "miou_unseen")),
                human_count(row["params_kept"]),
                human_count(row["macs"]),
                human_bytes(row["bundle_bytes"]),
            ]
            for row in rows
        ],
    )
    page.text(
        "Unseen classes had no label in training: only CLIP's knowledge of their words finds them. MACs are counted at "
        "96 x 96 without the pruned weights, which dense kernels multiply all the same."
    )
    if scenes := list(_scenes(page, folder, [row["name"] for row in rows])):
        page.heading("What the towers see")
        for pictures in scenes:
            page.pictures(pictures)
    page.heading("What freezing saves")
    page.text("The subnet, trained with a part of its layers frozen.")
    page.table(
        ["frozen", "mIoU, %", "seen classes", "unseen", "MACs of the training", "of dense, full training"],
        [
            [
                row["title"],
                BarCell(percent(row["miou"]), row["miou"]),
                *(percent(row.get(name)) for name in ("miou_seen", "miou_unseen")),
                human_count(row["training_macs"]),
                f"{row['training_macs'] / row['full_training_macs']:.0%}",
            ]
            for row in document["finetune_rows"]
        ],
    )
    if (folder / _SUBNET / MANIFEST).is_file():
        page.heading("Which weights are left, and how well each layer was trained")
        subnet = open_bundle(folder / _SUBNET)
        layers_section(page, subnet.manifest.layers, bundle_report(subnet))
    page.heading("What is in the folder")
    page.links([(page.address(folder / name), what) for name, what in _places(folder)])
    page.heading("Go on with")
    trained = next((path.name for path in sorted(folder.glob("subnet-finetuned-*")) if path.is_dir()), _SUBNET)
    page.lines(_NEXT.format(folder=Path(folder).resolve().name, trained=trained))


def _scenes(page: Page, folder: Path, towers: list[str]) -> Iterator[list[PagePicture]]:
    """By scene the photo, the ground truth and what each tower makes of it."""
    kinds = KINDS | {tower: tower.replace("_", ", ") for tower in towers}
    for number in range(len(list((folder / SCENES).glob("*-image.png")))):
        paths = {kind: folder / SCENES / f"{number}-{kind}.png" for kind in kinds}
        yield [
            page_picture(
                small_photo(path, _SIDE), kinds[kind], alt=f"scene {number + 1}: {kinds[kind]}", link=page.address(path)
            )
            for kind, path in paths.items()
            if path.is_file()
        ]


def _places(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        tower, _, made = path.name.partition("-")
        if made.startswith("finetuned"):
            yield path.name, f"{tower} as the trunk of a segmentor, trained"
        elif made == "transferred":
            yield path.name, f"{tower} as the trunk of a segmentor with a fresh head"
        elif (path / MANIFEST).is_file():
            yield path.name, "bundle of the tower"
    if (folder / SCENES).is_dir():
        yield SCENES, "the pictures above, one file each"
    for name, what in (
        ("overview.png", "all scenes in one picture"),
        ("density.png", "weights kept in each layer, beside those of the random twin"),
        ("alpha.png", "alpha of each layer"),
        ("esd.png", "three spectra, with their axes"),
        ("report.json", "every figure of this page"),
    ):
        if (folder / name).is_file():
            yield name, what
