"""Every tensor finds one place, by its whole name, or is refused aloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opentrans_cli.errors import TransferError
from opentrans_cli.frameworks.keys import KeyMatch, KeyRule, map_keys, tower_rules


def test_the_first_rule_that_matches_decides():
    first, second = KeyRule(r"a\.(.+)", r"x.\1", "one"), KeyRule(r".+", r"y.\g<0>", "two")
    assert map_keys(["a.b", "b.a"], [first, second]) == (
        KeyMatch("a.b", "x.b", first),
        KeyMatch("b.a", "y.b.a", second),
    )


def test_rules_see_whole_names_not_prefixes():
    rules = [KeyRule(r"layer1\.1\.weight", "found", "layer")]
    assert map_keys(["layer1.1.weight"], rules)[0].target == "found"
    for neighbour in ("layer1.1.weight_orig", "layer1.11.weight", "my.layer1.1.weight", "layer1.1"):
        with pytest.raises(TransferError):
            map_keys([neighbour], rules)


def test_a_key_without_a_rule_is_named_with_the_next_move():
    with pytest.raises(TransferError) as error:
        map_keys(["stem.weight", "odd.weight"], [KeyRule(r"stem\.weight", "a", "stem")], framework="deeplabv3")
    assert str(error.value) == (
        "deeplabv3 has no rule for this tensor: 'odd.weight'; use a ResNet CLIP tower, or add a rule to its key table"
    )


def test_two_tensors_never_get_one_name():
    with pytest.raises(TransferError, match=r"under one name: 'same' from 'a1' and 'a2'"):
        map_keys(["a1", "a2"], [KeyRule(r"a\d", "same", "any")])


def test_any_number_of_tensors_may_be_left_out_on_purpose():
    rule = KeyRule(r"a\d", None, "any")
    assert [match.target for match in map_keys(["a1", "a2"], [rule])] == [None, None]


def test_tower_rules_agree_with_the_checked_names_of_the_published_frameworks(reference: Path):
    rows = json.loads((reference / "clip_rn50_name_map.json").read_text())["rows"]
    matches = map_keys([row["open_clip"].removeprefix("visual.") for row in rows], tower_rules("backbone."))
    assert [match.target for match in matches] == [row["deeplab_zs3"] for row in rows]
    assert {match.rule.kind for match in matches} == {"convolution"}


def test_every_tensor_of_rn50_outside_the_attention_pool_has_a_rule(reference: Path):
    names = json.loads((reference / "open_clip_rn50_visual.json").read_text())
    keys = [name.removeprefix("visual.") for name in names]
    trunk = [key for key in keys if not key.startswith("attnpool.")]
    kinds = [match.rule.kind for match in map_keys(trunk, tower_rules(""))]
    assert kinds.count("convolution") == 55
    assert kinds.count("batchnorm") == 55 * 5
