"""A key rule reads in both directions, sees whole names, and turns what is shifted, cut or transposed back again."""

from __future__ import annotations

import pytest

from opentrans_cli.checkpoints.rules import NameRule, below


@pytest.mark.parametrize(
    ("rule", "ours", "theirs"),
    [
        (NameRule("bn{n#}.{leaf}", "stem.conv{n#}.norm.{leaf}"), "bn2.running_mean", "stem.conv2.norm.running_mean"),
        (NameRule("layer{s#}.{b#}.conv1", "res{s#+1}.{b#}.conv1"), "layer4.10.conv1", "res5.10.conv1"),
        (NameRule("layer{s#}.x", "stages.{s#-1}.x"), "layer1.x", "stages.0.x"),
        (NameRule("{owner*}.k_proj.{leaf}", "{owner*}.in_proj_{leaf}[1]"), "a.b.k_proj.bias", "a.b.in_proj_bias"),
        (NameRule("proj", "../visual_projection.weight^T"), "proj", "../visual_projection.weight"),
        (NameRule("{name*}", "module.{name*}"), "a.b", "module.a.b"),
    ],
)
def test_a_rule_reads_in_both_directions(rule: NameRule, ours: str, theirs: str) -> None:
    place = rule.place(ours)
    assert place is not None and place.key == theirs and rule.matches(ours) and rule.about(theirs)
    assert rule.name(theirs) == ours


def test_rules_see_whole_names_and_no_number_below_zero() -> None:
    rule = NameRule("layer1.1.weight", "found")
    for neighbour in ("layer1.1.weight_orig", "layer1.11.weight", "my.layer1.1.weight", "layer1.1", "layer1x1.weight"):
        assert rule.place(neighbour) is None and not rule.matches(neighbour)
    assert NameRule("layer{n#}.x", "res{n#+1}.x").name("res0.x") is None
    assert NameRule("conv{n#}.{leaf}", "x").place("conv01.weight") is None


def test_thirds_and_transposed_tensors_have_the_shapes_of_the_other_side() -> None:
    third = NameRule("v", "packed[2]").place("v")
    assert third is not None and third.stored_shape((4, 5)) == (12, 5) and third.rows((12, 5)) == slice(8, 12)
    turned = NameRule("p", "q^T").place("p")
    assert turned is not None and turned.stored_shape((2, 3)) == (3, 2) and turned.rows((3, 2)) == slice(None)


def test_what_one_side_has_no_name_for_is_known_to_the_rule_all_the_same() -> None:
    there, here = NameRule("attnpool.{name*}", None, "pool"), NameRule(None, "criterion.{name*}", "loss")
    assert there.matches("attnpool.q.weight") and there.place("attnpool.q.weight") is None
    assert here.about("criterion.a") and here.name("criterion.a") is None and not here.matches("criterion.a")
    assert [rule.text for rule in below("x.", "any", ["a", "b{n#}"])] == ["a -> x.a", "b{n#} -> x.b{n#}"]
