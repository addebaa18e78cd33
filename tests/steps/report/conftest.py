"""A folder as several runs leave it, with every kind of thing that a page shows."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_documents import smallest_document

from opentrans_cli.bundle.store import add_file, open_bundle
from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.step_record import step_record

FOREIGN = '<img src="http://x.example/a.png" onerror="alert(1)">'
"""A name as nobody should choose it."""

CLASSES = ("grass", FOREIGN, "sky", "cat")


def evaluation(**changed: Any) -> dict[str, Any]:
    """A report of eval on four classes, of which one is in no picture."""
    ious = (0.8125, 0.25, 0.5, None)
    rows = [{"name": name, "iou": iou, "seen": name != "sky"} for name, iou in zip(CLASSES, ious, strict=True)]
    figures = {"miou": 0.5208, "miou_seen": 0.53125, "miou_unseen": 0.5, "pixel_accuracy": 0.9137}
    sizes = {"images": 20, "classes": 4, "params_dense": 1_858_801, "params_kept": 1_458_059, "macs": 10**9}
    return {**smallest_document("eval_report"), "dataset": "photos", **figures, **sizes, "per_class": rows, **changed}


def curve(**changed: Any) -> dict[str, Any]:
    """A report of eval --curve with three points."""
    scores = [(0.0, 0.51, None), (0.5, 0.49, None), (0.9, 0.313, 0.2)]
    points = [
        {
            "round": n,
            "sparsity": at,
            "kept": 9 - n,
            "bytes": 5 * 10**6,
            "miou": all,
            "miou_seen": all,
            "miou_unseen": un,
        }
        for n, (at, all, un) in enumerate(scores)
    ]
    return {**smallest_document("curve_report"), "dataset": "photos", "points": points, **changed}


def log_lines(steps: int) -> str:
    """The log of a run that was scored at its end, with a last line that is half written."""
    lines: list[dict[str, Any]] = [{"event": "start", "step": 0, "time": "2026-01-01T00:00:00+00:00", "options": {}}]
    for step in range(1, steps + 1):
        terms = {"pixels": 1 / step, "regions": 1.0}
        lines.append({"event": "step", "step": step, "loss": 1 + 1 / step, "terms": terms, "lr": 0.01 / step})
    lines.append({"event": "evaluation", "step": steps, "miou": 0.25, "miou_seen": 0.25, "miou_unseen": None})
    return "\n".join(map(json.dumps, lines)) + '\n{"event": "st'


def write_segmented(folder: Path, *, count: int = 3, photos: Path | None = None) -> dict[str, Any]:
    """A folder as `segment` leaves it; with `photos` the photos too. Returns its report."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        name = f"picture {number}"
        ids = rng.integers(0, 3, (6, 8)).repeat(20, axis=0).repeat(20, axis=1)
        photo = Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8))
        if photos is not None:
            photos.mkdir(exist_ok=True)
            photo.save(photos / f"{name}.jpg")
        label_map = Image.fromarray(ids.astype(np.uint8), "P")
        label_map.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        label_map.save(folder / f"{name}.png")
        photo.save(folder / f"{name}-overlay.png")
        shares = {CLASSES[index]: float((ids == index).mean()) for index in range(3)}
        images.append({"name": name, "label_map": f"{name}.png", "overlay": f"{name}-overlay.png", "classes": shares})
    document = {"images": images, "vocabulary": list(CLASSES), "ids": [0, 1, 2, 3], "framework": "maskclip"}
    (folder / "segment.json").write_bytes(json_bytes(document))
    return document


@pytest.fixture(scope="session")
def subnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded CLIP, half pruned, analyzed, and with two reports inside."""
    place = tmp_path_factory.mktemp("report") / "subnet"
    prune("tiny", sparsity=0.5, out=place)
    analyze(place)
    for kind, document in (("eval", evaluation()), ("curve", curve())):
        step = step_record("eval", {"dataset": "photos"}, seed=None, metrics={"miou": 0.5208})
        add_file(open_bundle(place), f"reports/{kind}-photos.json", json_bytes(document), step=step)
    return place


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, subnet: Path) -> Path:
    """A folder with two bundles, reports, logs, labelled and loose pictures, foreign and broken files."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    (folder / "deeper").mkdir(parents=True)
    for name in ("subnet", "deeper/twin"):
        copytree(subnet, folder / name)
    (folder / "subnet.log.jsonl").write_text(log_lines(40))
    (folder / "alone.log.jsonl").write_text(log_lines(2))
    documents = {
        "eval.json": evaluation(miou=0.4321),
        "curve.json": curve(),
        "receipt.json": smallest_document("cost_receipt"),
        "transferred.json": smallest_document("transfer_receipt"),
        "foreign.json": {"annotations": []},
        "wrong.json": evaluation(miou="much"),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "half.json").write_text('{"framework": ')
    for name in ("labelled", "labelled-too"):
        write_segmented(folder / name)
    for name in ("0-photo.png", "0-truth.png", "0-subnet.png"):
        Image.new("RGB", (64, 48), "teal").save(folder / name)
    broken = folder / "broken"
    copytree(subnet, broken)
    (broken / "weights.safetensors").write_bytes(b"short")
    return folder
