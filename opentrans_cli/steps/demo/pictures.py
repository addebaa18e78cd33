"""The pictures of the demo for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.pictures.charts import alpha_chart, density_chart
from opentrans_cli.pictures.esd import esd_chart
from opentrans_cli.pictures.overlay import labelled, paint
from opentrans_cli.pictures.overview import overview
from opentrans_cli.pictures.palette import class_colours
from opentrans_cli.reporter import SILENT
from opentrans_cli.spectral.report import LayerAlpha, bundle_report
from opentrans_cli.steps.report.sections.demo import SCENES
from opentrans_cli.steps.segmentors.built import bundle_segmentor
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.sources import bundle_tower, load_text_clip

PICTURES = ("overview.png", "density.png", "alpha.png", "esd.png")

_COLUMNS = {"dense": "dense", "subnet": "subnet", "random": "random", "random_distilled": "random, distilled"}
_FACTOR = 4  # scenes have 96 pixels, too few for words
_LETTERS = 22


def draw_pictures(out: Path, *, scenes: int, bundles: dict[str, Path]) -> None:
    """Write `PICTURES` and the folder of scenes into the demo's folder. bundles: by tower its trained segmentor."""
    dataset = ShapesDataset("val", count=scenes)
    names = dataset.vocabulary.names
    colours = class_colours(names)
    opened = {tower: open_bundle(path) for tower, path in bundles.items()}
    clip = load_text_clip(next(iter(opened.values())).manifest.base, None, SILENT)
    text = embed_vocabulary(clip, dataset.vocabulary)
    predictions = {tower: _predictions(bundle, dataset, text) for tower, bundle in opened.items()}
    rows = []
    (out / SCENES).mkdir(exist_ok=True)
    for index in range(scenes):
        sample = dataset[index]
        assert sample.label_map is not None
        large = Image.fromarray(sample.image).resize((96 * _FACTOR, 96 * _FACTOR), Image.Resampling.NEAREST)
        maps = {"truth": sample.label_map, **{tower: predictions[tower][index] for tower in bundles}}
        row = {"image": large}
        for kind, label_map in maps.items():
            painted = paint(sample.image, label_map, colours=colours, alpha=0.85, factor=_FACTOR)
            row[kind] = labelled(painted, label_map, names, size=_LETTERS)
        for kind, picture in row.items():
            picture.save(out / SCENES / f"{index}-{kind}.png")
        rows.append({_COLUMNS.get(kind, kind): picture for kind, picture in row.items()})
    overview(rows, list(rows[0]), cell=96 * _FACTOR // 2).save(out / "overview.png")
    subnet = open_bundle(out / "subnet")
    density_chart(
        out / "density.png",
        _layers(subnet),
        title=f"Weights kept in each layer at {subnet.manifest.achieved_sparsity:.0%} sparsity",
        control=_layers(open_bundle(out / "random")),
    )
    analysis = bundle_report(subnet)
    assert analysis is not None
    alpha_chart(out / "alpha.png", analysis.layers, analysis.median, title="Alpha of each layer of the subnet")
    esd_chart(
        out / "esd.png", _telling(analysis.layers), title="Spectra: the heaviest tail, one in the middle, the lightest"
    )


def _telling(layers: Sequence[LayerAlpha]) -> list[LayerAlpha]:
    """The layers with the smallest, a middle and the largest alpha; the first ones if no spectrum could be fitted."""
    ranked = sorted((layer for layer in layers if math.isfinite(layer.alpha)), key=lambda layer: layer.alpha)
    ranked = ranked or list(layers)
    return [ranked[place] for place in sorted({0, len(ranked) // 2, len(ranked) - 1})]


def _layers(bundle: Bundle) -> list[tuple[str, int, int]]:
    return [(layer.name, layer.kept, layer.total) for layer in bundle.manifest.layers]


def _predictions(bundle: Bundle, dataset: ShapesDataset, text: ClassText) -> list[np.ndarray]:
    built = bundle_segmentor(bundle_tower(bundle))
    assert built is not None
    predictor = Predictor(built, text, device=torch.device("cpu"))
    return [predictor.label_map(dataset[index].image) for index in range(len(dataset))]
