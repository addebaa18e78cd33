"""eval --predictions: scores of files against pixel by pixel counts, and every input that cannot be scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.errors import DataError, OpentransError, OptionError, PictureError
from opentrans_cli.steps.eval.predictions import score_predictions

NAMES = ("road", "sky", "tree", "lake")


def save(path: Path, ids: NDArray[Any], mode: str) -> None:
    """Ids as a file: "L" or "P" with 8 bits, "16" with 16 bits, "32" as some programs write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype({"16": np.uint16, "32": np.int32}.get(mode, np.uint8)))
    if mode == "P":
        image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    image.save(path)


@pytest.fixture
def maps(tmp_path: Path) -> SimpleNamespace:
    """Predictions and label maps of four classes, of which "lake" is never labelled, and pixels of the id 255."""
    rng = np.random.default_rng(0)
    found = SimpleNamespace(
        predictions=tmp_path / "theirs", labels=tmp_path / "maps", classes=tmp_path / "classes.txt", pairs={}
    )
    found.classes.write_text("\n".join(NAMES))
    for name, mode in (("a", "L"), ("b/c", "P"), ("b/d", "16")):
        label, prediction = rng.integers(0, 3, (9, 14)), rng.integers(0, 4, (9, 14))
        label[rng.random(label.shape) < 0.2] = 255
        found.pairs[name] = (prediction, label)
        save(found.predictions / f"{name}.png", prediction, mode)
        save(found.labels / f"{name}.tif", label, "16" if mode == "L" else "L")
    return found


def scored(maps: SimpleNamespace, **options: Any) -> dict[str, Any]:
    given = {"labels": maps.labels, "classes": maps.classes, **options}
    return score_predictions(maps.predictions, **given).report


def expected(pairs: dict[str, Any], absent: str = "exclude") -> dict[str, Any]:
    """The report in percent, counted on all pixels of all pairs that are not 255."""
    prediction, label = (np.concatenate([pair[place].ravel() for pair in pairs.values()]) for place in (0, 1))
    prediction, label = prediction[label != 255], label[label != 255]
    ious, accuracies, weighted = [], [], 0.0
    for index in range(len(NAMES)):
        both = int(((prediction == index) & (label == index)).sum())
        either = int(((prediction == index) | (label == index)).sum())
        there = int((label == index).sum())
        ious.append(both / either if there or (either and absent == "zero") else None)
        accuracies += [both / there] if there else []
        weighted += both / either * there / label.size if there else 0
    present = [iou for iou in ious if iou is not None]
    return {
        "miou": 100 * sum(present) / len(present),
        "fwiou": 100 * weighted,
        "macc": 100 * sum(accuracies) / len(accuracies),
        "pacc": 100 * float((prediction == label).mean()),
        "per_class": {n: None if iou is None else 100 * iou for n, iou in zip(NAMES, ious, strict=True)},
    }


def test_files_of_any_kind_are_scored_by_name(maps: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    for absent in ("exclude", "zero"):
        report = scored(maps, absent=absent, ignore=(255,), out=out, force=True)
        assert report == json.loads(out.read_bytes()) and list(report) == ["miou", "fwiou", "macc", "pacc", "per_class"]
        wanted = expected(maps.pairs, absent)
        assert report.pop("per_class") == pytest.approx(wanted.pop("per_class"), abs=1e-9)
        assert report == pytest.approx(wanted, abs=1e-9)
    assert scored(maps)["per_class"]["lake"] is None and scored(maps, absent="zero")["per_class"]["lake"] == 0


def test_the_ignored_id_as_a_prediction_is_a_miss(maps: SimpleNamespace) -> None:
    prediction = maps.pairs["a"][0]
    prediction[:3] = 255
    (maps.predictions / "a.png").unlink()
    save(maps.predictions / "a.tif", prediction, "32")
    report, wanted = scored(maps), expected(maps.pairs)
    assert [report[key] for key in ("miou", "macc", "pacc")] == pytest.approx(
        [wanted[key] for key in ("miou", "macc", "pacc")], abs=1e-9
    )


def test_maps_without_a_labelled_pixel_have_no_scores_which_is_said(
    maps: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    for path in maps.labels.rglob("*.tif"):
        save(path, np.full((9, 14), 255), "L")
    with caplog.at_level("INFO"):
        report = scored(maps)
    assert {*report.pop("per_class").values(), *report.values()} == {None}
    assert "no pixel of the label maps is labelled, so nothing is scored" in caplog.text


def test_contours_are_scored_if_asked(maps: SimpleNamespace) -> None:
    """At this size every pixel of maps without regions lies near a contour, so both IoUs are the same."""
    report = scored(maps, boundary=True)
    assert report["boundary"]["per_class"] == pytest.approx(report["per_class"])
    assert report["boundary"]["miou"] == report["boundary"]["min_miou"] == pytest.approx(report["miou"])
    assert "boundary" not in scored(maps)


def test_ids_of_the_class_file_and_ids_in_order(maps: SimpleNamespace) -> None:
    maps.classes.write_text("\n".join(f"{7 + 300 * index}:{name}" for index, name in enumerate(NAMES)))
    for name, (prediction, label) in maps.pairs.items():
        save(maps.labels / f"{name}.tif", np.where(label == 255, 65535, 7 + 300 * label), "16")
        save(maps.predictions / f"{name}.png", 7 + 300 * prediction, "16")
    wanted = pytest.approx(expected(maps.pairs)["miou"])
    assert scored(maps, ignore=(65535,))["miou"] == wanted
    for name, (prediction, _) in maps.pairs.items():
        save(maps.predictions / f"{name}.png", prediction, "L")
    assert scored(maps, ignore=(65535,), prediction_ids="order")["miou"] == wanted


def test_names_may_have_other_folders_and_ends_and_a_list_chooses(maps: SimpleNamespace, tmp_path: Path) -> None:
    other = tmp_path / "flat"
    for name, (prediction, _) in maps.pairs.items():
        save(other / f"{Path(name).name}_pred.png", prediction, "L")
    Image.new("RGB", (14, 9), "red").save(other / "c_overlay_pred.png")
    maps.predictions = other
    assert scored(maps, prediction_suffix="_pred.png")["miou"] == pytest.approx(expected(maps.pairs)["miou"])
    (tmp_path / "val.txt").write_text("b/d\na\n")
    chosen = {name: maps.pairs[name] for name in ("a", "b/d")}
    report = scored(maps, prediction_suffix="_pred.png", split_list=tmp_path / "val.txt")
    assert report["miou"] == pytest.approx(expected(chosen)["miou"])


def test_a_data_set_is_truth_as_well(labelled_folder: Any, tmp_path: Path) -> None:
    names = labelled_folder.classes.read_text().split("\n")
    for label_map in labelled_folder.labels.iterdir():
        save(tmp_path / "p" / label_map.name, np.minimum(np.asarray(Image.open(label_map)), 1), "L")
    given = {"images": labelled_folder.images, "labels": labelled_folder.labels, "classes": labelled_folder.classes}
    report = score_predictions(tmp_path / "p", **given).report
    per_class = list(report["per_class"].values())
    assert len(names) == 4 and per_class[0] == 100 and 0 < per_class[1] < 100 and per_class[2] == 0
    assert score_predictions(tmp_path / "p", **given, prediction_ids="labels").report == report


def wrong_size(maps: SimpleNamespace) -> None:
    save(maps.predictions / "a.png", np.zeros((9, 15)), "L")


def foreign(maps: SimpleNamespace) -> None:
    save(maps.predictions / "a.png", np.full((9, 14), 9), "L")


def foreign_truth(maps: SimpleNamespace) -> None:
    save(maps.labels / "a.tif", np.full((9, 14), -2), "32")


def cut_short(maps: SimpleNamespace) -> None:
    data = (maps.predictions / "a.png").read_bytes()
    (maps.predictions / "a.png").write_bytes(data[:60])


def coloured(maps: SimpleNamespace) -> None:
    Image.new("RGB", (14, 9), "red").save(maps.predictions / "a.png")


def floats(maps: SimpleNamespace) -> None:
    (maps.predictions / "a.png").unlink()
    Image.fromarray(np.zeros((9, 14), np.float32)).save(maps.predictions / "a.tif")


def narrow(maps: SimpleNamespace) -> None:
    maps.classes.write_text("\n".join(f"class {index}" for index in range(300)))
    save(maps.predictions / "b/d.png", maps.pairs["b/d"][0], "L")


def twice(maps: SimpleNamespace) -> None:
    save(maps.predictions / "a.tiff", maps.pairs["a"][0], "L")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: (m.predictions / "a.png").unlink(), DataError, r"no prediction for a label map: \S+theirs/a\.png;"),
        (lambda m: (m.labels / "a.tif").unlink(), DataError, r"no label map for a prediction: \S+theirs/a\.png;"),
        (wrong_size, PictureError, r"prediction is 15 x 9 but its label map 14 x 9: \S+a\.png \(\S+a\.tif\); resize"),
        (foreign, DataError, r"id 9 has no class \(100 %.*\): \S+theirs/a\.png; .* ids of the class file"),
        (foreign_truth, DataError, r"id -2 has no class .*: \S+maps/a\.tif; pass --ignore"),
        (cut_short, PictureError, r"prediction cannot be read: \S+a\.png; it is damaged"),
        (coloured, PictureError, r"prediction has colours, not ids: \S+a\.png"),
        (floats, PictureError, r"prediction has float pixels: \S+a\.tif; save"),
        (narrow, DataError, r"predictions have 8 bits, but classes have ids up to 299: \S+a\.png .*16 bits"),
        (twice, DataError, r"two predictions with one stem: \S+a\.png and \S+a\.tiff; keep one"),
        (
            lambda m: m.classes.write_text("road"),
            DataError,
            r"3 ids have no class, 1, 2, 3 \(76 %.*a\.png; .* class file lists all",
        ),
        (lambda m: {"classes": None}, OptionError, "what do the ids mean.*add --classes"),
        (lambda m: {"labels": None}, OptionError, "the truth is missing: add --labels"),
        (lambda m: {"skip_bad": True}, OptionError, "no use for: --skip-bad"),
        (lambda m: {"prediction_suffix": "_x"}, OptionError, "--prediction-suffix _x; write the suffix"),
        (lambda m: {"device": "cuda"}, OptionError, "on the processor"),
    ],
)
def test_what_cannot_be_scored_is_named_in_one_line_and_nothing_is_written(
    maps: SimpleNamespace,
    tmp_path: Path,
    change: Callable[[SimpleNamespace], Any],
    error: type[OpentransError],
    message: str,
) -> None:
    options = change(maps)
    with pytest.raises(error, match=message) as caught:
        scored(maps, out=tmp_path / "out.json", **(options if isinstance(options, dict) else {}))
    assert "\n" not in str(caught.value) and not (tmp_path / "out.json").exists()
