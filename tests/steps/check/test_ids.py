"""What ids say: which one is void, whether they count from 1, which are slips."""

from __future__ import annotations

from opentrans_cli.steps.check.ids import DataClasses, Ids, about_ids

NAMES = ("sky", "tree", "road")


def judged(maps: dict[str, dict[int, int]], classes: DataClasses) -> tuple[dict[str, str], object]:
    """What is wrong and the next move, by kind; and the suggestion."""
    findings, suggested = about_ids(Ids.of(maps.items(), classes), classes)
    return {each.kind: f"{each.what}; {each.move}" for each in findings}, suggested


def of(*ids: int, count: int = 20) -> dict[str, dict[int, int]]:
    return {str(number): dict.fromkeys(ids, 10) for number in range(count)}


def test_an_id_that_all_label_maps_have_is_offered_to_be_ignored() -> None:
    plain = DataClasses(NAMES, (0, 1, 2), (255,))
    assert judged(of(0, 1, 2, 255), plain) == ({}, None)
    found, suggested = judged(of(0, 1, 2, 3), plain)
    assert suggested == (3,) and "pass --ignore 3" in found["id-without-class"] and "1:sky" in found["id-without-class"]
    found, suggested = judged(of(0, 1, 2, 40), plain)
    assert suggested == (40,) and "1:sky" not in found["id-without-class"]
    _, suggested = judged(of(0, 1, 2, 40, 255), plain)
    assert suggested == (40, 255)
    written = DataClasses(NAMES, (1, 2, 3), (255,))
    assert judged(of(1, 2, 3), written) == ({}, None)
    assert judged(of(0, 1, 2, 3), written)[1] == (0,)


def test_label_maps_that_count_from_zero_are_known_or_both_readings_are_offered() -> None:
    found, suggested = judged(of(0, 1, 2), DataClasses(NAMES, (7, 11, 19), (255,)))
    assert suggested is None and found.keys() == {"ids-in-order"} and "--label-ids order" in found["ids-in-order"]
    # A few pictures of ADE20K, where 0 is void; and COCO-Stuff, whose labels.txt calls 0 void and whose maps do not.
    for maps, void, ignore in ((of(0, 1, 2), (255,), "0"), (of(0, 1, 2, 255), (0,), "0,255")):
        found, suggested = judged(maps, DataClasses(NAMES, (1, 2, 3), void))
        text = found["id-without-class"]
        assert suggested is None and f"pass --ignore {ignore};" in text and "pass --label-ids order" in text
        found, suggested = judged({**maps, **of(3, count=1)}, DataClasses(NAMES, (1, 2, 3), void))
        assert suggested is not None and "--label-ids" not in found["id-without-class"]


def test_ids_that_count_from_one_are_known_with_and_without_void() -> None:
    plain = DataClasses(NAMES, (0, 1, 2), (255,))
    found, suggested = judged(of(1, 2, 3, 255), plain)
    assert found.keys() == {"ids-from-1"} and suggested is None and "(1:sky, 2:tree, ...)" in found["ids-from-1"]
    rare = {**of(0, 1, 2), **{str(number): {0: 5, 3: 5} for number in range(5)}}
    found, suggested = judged(rare, plain)
    assert found.keys() == {"ids-from-1"} and suggested == (0,) and "--ignore 0" in found["ids-from-1"]
    found, _ = judged(of(0, 1), plain)
    assert found["class-without-pixels"].endswith("leave them out of the class file and write ids for the others")
    found, _ = judged(of(1, 2), plain)  # the last class is in no label map
    assert found.keys() == {"class-without-pixels"} and "count from 1" in found["class-without-pixels"]


def test_a_list_that_may_lack_names_in_between_is_asked_for_ids_first() -> None:
    rare = {**of(0), **{str(number): {0: 5, 3: 5} for number in range(5)}, "one": {2: 5}}
    for maps in (of(0, 2, 3), of(0, 1, 2, 3, 5), {**of(0, 2), "few": {3: 5}}, rare):
        found, suggested = judged(maps, DataClasses(NAMES, (0, 1, 2), (255,)))
        move = found["id-without-class"].partition("; ")[2]
        assert suggested is None and move.startswith("if the class file lacks names in between, write ids into it")
        assert "--ignore" not in move and ("count from 1, write them as well (1:sky" in move) is (5 not in {*maps["0"]})
    assert judged(of(0, 2, 3), DataClasses(NAMES, (0, 1, 2), (255,), written=True))[1] == (3,)


def test_a_slip_is_not_offered_to_be_ignored() -> None:
    maps = {**of(0, 1, 2), "slip": {0: 5, 90: 1}}
    found, suggested = judged(maps, DataClasses(NAMES, (0, 1, 2), (255,)))
    assert suggested is None and found.keys() == {"id-without-class"} and "correct" in found["id-without-class"]


def test_an_ignored_class_and_a_single_class_are_faults() -> None:
    found, _ = judged(of(0, 255), DataClasses(NAMES[:2], (0, 1), (255,)))
    assert found.keys() == {"ignored-class"} and "255:tree" in found["ignored-class"]
    found, _ = judged(of(1), DataClasses(NAMES, (0, 1, 2), (255,)))
    assert found.keys() == {"one-class"}
    assert judged(of(0, 255), DataClasses(NAMES[:1], (0,), (255,))) == ({}, None)
