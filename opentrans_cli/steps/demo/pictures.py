"""The pictures of the demo for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.datasets.scenes import CLASSES, natural_colours
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.pictures.charts import alpha_chart, density_chart
from opentrans_cli.pictures.legend import LegendItem
from opentrans_cli.pictures.overlay import paint
from opentrans_cli.pictures.overview import overview
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.segmentors.built import bundle_segmentor
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.sources import bundle_tower, load_text_clip

_COLUMNS = {"dense": "dense", "subnet": "subnet", "random": "random", "random_distilled": "random, distilled"}


def draw_pictures(out: Path, *, analysis: AnalyzeResult, scenes: int, names: tuple[str, ...]) -> None:
    """Write overview.png, density.png and alpha.png into the demo's folder."""
    dataset = ShapesDataset("val", count=scenes)
    colours = natural_colours()
    rows = []
    shown: set[int] = set()
    bundles = {name: open_bundle(out / f"{name}-finetuned-none") for name in names}
    clip = load_text_clip(bundles[names[0]].manifest.base, None, SILENT)
    text = embed_vocabulary(clip, dataset.vocabulary)
    predictions = {name: _predictions(bundle, dataset, text) for name, bundle in bundles.items()}
    for index in range(scenes):
        sample = dataset[index]
        assert sample.label_map is not None
        truth = sample.label_map
        row = {
            "image": sample.image,
            "ground truth": paint(sample.image, truth, colours=colours, alpha=0.85, factor=2),
        }
        for name in names:
            row[_COLUMNS[name]] = paint(sample.image, predictions[name][index], colours=colours, alpha=0.85, factor=2)
        rows.append(row)
        shown |= set(np.unique(truth).tolist())
    legend = [LegendItem(CLASSES[index], tuple(map(int, colours[index]))) for index in sorted(shown)]  # type: ignore[arg-type]
    columns = ["image", "ground truth", *(_COLUMNS[name] for name in names)]
    overview(rows, columns, legend=legend).save(out / "overview.png")
    subnet = open_bundle(out / "subnet")
    density_chart(
        out / "density.png",
        _layers(subnet),
        title=f"Weights kept in each layer at {subnet.manifest.achieved_sparsity:.0%} sparsity",
        control=_layers(open_bundle(out / "random")),
    )
    alpha_chart(out / "alpha.png", analysis.layers, analysis.median_alpha, title="Alpha of each layer of the subnet")


def _layers(bundle: Bundle) -> list[tuple[str, int, int]]:
    return [(layer.name, layer.kept, layer.total) for layer in bundle.manifest.layers]


def _predictions(bundle: Bundle, dataset: ShapesDataset, text: ClassText) -> list[np.ndarray]:
    built = bundle_segmentor(bundle_tower(bundle))
    assert built is not None
    predictor = Predictor(built, text, device=torch.device("cpu"))
    return [predictor.label_map(dataset[index].image).numpy() for index in range(len(dataset))]
