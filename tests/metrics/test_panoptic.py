"""Panoptic quality against its definition, on random segments and on COCO's own sample, and its laws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from panoptic_quality import Image_, read_ids, slow_means, slow_quality

from opentrans_cli.errors import DataError
from opentrans_cli.metrics.panoptic import FN, FP, TP, PanopticCounts


def counted(images: list[Image_], classes: int) -> PanopticCounts:
    counts = PanopticCounts(classes)
    for image in images:
        counts.update(*image)
    return counts


def drawn(rng: np.random.Generator, *, size: tuple[int, int] = (24, 31), classes: int = 5) -> Image_:
    """Rectangles as truth, crowds and void among them; the prediction moves, joins, drops and renames some."""

    def rectangles(count: int) -> np.ndarray:
        ids = np.zeros(size, np.int32)
        for number in rng.integers(1, 1 << 24, count):
            top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
            ids[top : top + rng.integers(3, 14), left : left + rng.integers(3, 18)] = number
        return ids

    truth = rectangles(9)
    kept = [number for number in np.unique(truth).tolist() if number]
    segments = [(number, int(rng.integers(classes)), bool(rng.random() < 0.25)) for number in kept]
    prediction = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
    extra = rectangles(3)
    prediction = np.where(extra > 0, extra, prediction)
    for number in kept:
        if rng.random() < 0.3:
            prediction[prediction == number] = rng.choice([0, *kept])
    classes_of = {number: index for number, index, _ in segments}
    guesses = [
        (number, classes_of.get(number, 0) if rng.random() < 0.7 else int(rng.integers(classes)))
        for number in np.unique(prediction).tolist()
        if number
    ]
    return truth, segments, prediction, guesses


def assert_equal(counts: PanopticCounts, images: list[Image_], groups: list[list[int]]) -> None:
    slow = slow_quality(images)
    for index in range(len(counts.counts)):
        quality = counts.of_class(index)
        if not any(slow.get(index, (0, 0, 0))[:3]):
            assert (quality.pq, quality.classes) == (None, 0)
            continue
        tp, fp, fn, iou = slow[index]
        assert (quality.true_positives, quality.false_positives, quality.false_negatives) == (tp, fp, fn)
        assert quality.pq == pytest.approx(float(iou) / (tp + (fp + fn) / 2), rel=0, abs=1e-12)
    for group in groups:
        mean, expected = counts.mean(group), slow_means(slow, group)
        for name in ("pq", "sq", "rq"):
            wanted = expected[name]
            assert getattr(mean, name) == (None if wanted is None else pytest.approx(wanted, rel=0, abs=1e-12))


def test_random_segments_give_what_the_definition_gives() -> None:
    rng = np.random.default_rng(0)
    images = [drawn(rng) for _ in range(60)]
    counts = counted(images, 6)  # class 5 never occurs
    assert all(counts.counts[:5, column].min() > 0 for column in (TP, FP, FN))
    assert_equal(counts, images, [list(range(6)), [0, 1], [2, 3, 4], [5]])
    # Crowds and void decide something here: without them the figures differ.
    plain = [(truth, [(*part[:2], False) for part in parts], *rest) for truth, parts, *rest in images]
    assert counted(plain, 6).mean().pq != counts.mean().pq
    assert any((truth == 0).any() for truth, *_ in images)


def perturbed(
    rng: np.random.Generator, truth: np.ndarray, segments: list[tuple[int, int, bool]], classes: int
) -> Image_:
    """A prediction made of the truth: shifted, some segments merged, renamed or dropped, crowds among them."""
    prediction = np.roll(truth, tuple(rng.integers(-9, 10, 2)), (0, 1))
    names = {number: index for number, index, _ in segments}
    for number in list(names):
        draw = rng.random()
        if draw < 0.1:
            prediction[prediction == number] = 0
        elif draw < 0.2:
            prediction[prediction == number] = rng.choice(list(names))
        elif draw < 0.3:
            names[number] = int(rng.integers(classes))
    there = set(np.unique(prediction).tolist())
    return truth, segments, prediction, [(number, index) for number, index in names.items() if number in there]


def test_cocos_own_sample_gives_what_the_definition_gives_crowd_and_void_included(shared: Path) -> None:
    folder = shared / "data" / "coco_panopticapi_sample"
    document = json.loads((folder / "panoptic_examples.json").read_text())
    places = {category["id"]: place for place, category in enumerate(document["categories"])}
    things = [bool(category["isthing"]) for category in document["categories"]]
    rng = np.random.default_rng(0)
    images = []
    for annotation in document["annotations"]:
        truth = read_ids(folder / "panoptic_examples" / annotation["file_name"])
        segments = [
            (part["id"], places[part["category_id"]], bool(part["iscrowd"])) for part in annotation["segments_info"]
        ]
        exact = [(number, index) for number, index, crowd in segments if not crowd]
        without_crowds = np.where(np.isin(truth, [number for number, _ in exact]), truth, 0)
        assert counted([(truth, segments, without_crowds, exact)], 133).mean().pq == 1
        images += [perturbed(rng, truth, segments, 133) for _ in range(2)]
    assert any(crowd for _, segments, *_ in images for *_, crowd in segments)
    assert any((truth == 0).any() for truth, *_ in images)
    groups = [[i for i, thing in enumerate(things) if thing in wanted] for wanted in ((True, False), (True,), (False,))]
    assert_equal(counted(images, 133), images, groups)


def test_counts_of_parts_in_any_order_add_up_to_those_of_the_whole_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    images = [drawn(rng) for _ in range(20)]
    whole = counted(images, 5)
    parts = [counted(images[start::3], 5).counts for start in (2, 0, 1)]
    assert np.array_equal(sum(parts), whole.counts)
    assert np.array_equal(counted(images[::-1], 5).counts, whole.counts)


def test_the_names_of_ids_and_the_order_of_segments_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    for truth, segments, prediction, guesses in (drawn(rng) for _ in range(10)):
        segments = [(number, index, False) for number, index, _ in segments]
        first = counted([(truth, segments, prediction, guesses)], 5).counts
        moved = np.where(prediction > 0, (prediction * 5) % ((1 << 24) - 1) + 1, 0)  # 5 and 2**24 - 1 share 5
        renamed = {number: (number * 5) % ((1 << 24) - 1) + 1 for number, _ in guesses}
        if len({*renamed.values()}) == len(renamed):
            again = [(renamed[number], index) for number, index in guesses[::-1]]
            assert np.array_equal(counted([(truth, segments[::-1], moved, again)], 5).counts, first)


def test_a_perfect_prediction_gives_one_and_an_empty_one_zero() -> None:
    truth, segments, *_ = drawn(np.random.default_rng(3))
    segments = [(number, index, False) for number, index, _ in segments]
    exact = [(number, index) for number, index, _ in segments]
    perfect = counted([(truth, segments, truth, exact)], 5).mean()
    assert (perfect.pq, perfect.sq, perfect.rq) == (1, 1, 1)
    nothing = counted([(truth, segments, np.zeros_like(truth), [])], 5)
    assert (nothing.mean().pq, nothing.mean().sq, nothing.mean().rq) == (0, 0, 0)
    assert PanopticCounts(3).mean().pq is None


def test_half_is_no_match_and_more_than_half_in_void_or_the_last_crowd_is_excused() -> None:
    truth = np.zeros((1, 12), np.int32)
    truth[0, :4], truth[0, 4:6], truth[0, 6:8] = 1, 2, 3
    crowds = [(1, 0, False), (2, 0, True), (3, 0, True)]
    half = np.where(np.arange(12) < 2, 9, 0)[None]  # IoU 2 of 4
    assert counted([(truth, crowds, half, [(9, 0)])], 1).counts[0, [TP, FP, FN]].tolist() == [0, 1, 1]
    row = np.arange(12)
    for inside, false in (((5, 8), 0), ((4, 6), 1), ((7, 9), 0), ((3, 5), 1), ((5, 7), 1), ((3, 4), 1)):
        guess = np.where((row >= inside[0]) & (row < inside[1]), 9, 0)[None]
        assert counted([(truth, crowds, guess, [(9, 0)])], 1).counts[0, FP] == false, inside


def test_what_does_not_fit_is_refused_and_not_counted() -> None:
    counts, ids = PanopticCounts(2), np.ones((2, 3), np.int32)
    with pytest.raises(DataError, match="differ in size: 3 x 2 and 2 x 3"):
        counts.update(ids, [(1, 0, False)], ids.T, [(1, 0)])
    for segments, guesses in (([], [(1, 0)]), ([(1, 0, False)], []), ([(1, 0, False)], [(1, 0), (2, 1)])):
        with pytest.raises(ValueError, match="must be those of the pixels"):
            counts.update(ids, segments, ids, guesses)
    assert not counts.counts.any()
