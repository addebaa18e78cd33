"""Towers are found whole or not at all, and parts that a library keeps apart are found part by part."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.clip.key_tables import Found, find_table
from opentrans_cli.clip.key_tables.places import find_tower_layers, laid_out, places_of, rows_of
from opentrans_cli.errors import TransferError

LAYERS = {f"layer1.{block}.conv1": (4, 4, 1, 1) for block in range(3)}
KEYS = {f"{layer}.weight": shape for layer, shape in LAYERS.items()}


def find(keys: dict[str, tuple[int, ...]]) -> Found:
    return find_tower_layers(LAYERS, keys, where="x.pth", table=None, under=None, next_move="look elsewhere")


def found_in(keys: dict[str, tuple[int, ...]], table: str) -> Found:
    return Found(find_table(table), "", keys, {}, ())


def test_all_layers_have_places_or_the_first_without_one_is_named() -> None:
    assert set(find(KEYS).layers) == set(LAYERS)
    for keys, message in (
        ({k: v for k, v in KEYS.items() if ".1." not in k}, "no place of its shape in x.pth: layer1.1.conv1, by"),
        ({"a": (1,)}, "^the tower is not there in x.pth: .*; look elsewhere$"),
        ({f"{p}.{k}": v for k, v in KEYS.items() for p in "ab"}, "^several towers fit in x.pth: .*; look elsewhere$"),
    ):
        with pytest.raises(TransferError, match=message) as caught:
            find(keys)
        assert "bundle" not in str(caught.value)


def test_a_packed_bias_is_in_one_place_or_in_three() -> None:
    name = "transformer.resblocks.0.attn.in_proj_bias"
    (place,) = places_of(found_in({name: (12,)}, "open-clip"), name, (12,))
    assert place.key == name and rows_of(place, (12,)) is None
    apart = {f"encoder.layers.0.self_attn.{part}_proj.bias": (4,) for part in "qkv"}
    places = places_of(found_in(apart, "huggingface"), name, (12,))
    assert [place.key for place in places] == list(apart)
    assert places_of(found_in(dict(list(apart.items())[:2]), "huggingface"), name, (12,)) == ()


def test_a_tensor_of_another_shape_has_no_place() -> None:
    assert places_of(found_in({"conv1.weight": (4, 3, 3, 3)}, "open-clip"), "conv1.weight", (8, 3, 3, 3)) == ()


def test_thirds_and_transposes_are_laid_out_as_the_checkpoint_has_them() -> None:
    found = found_in({"attn.in_proj_weight": (12, 4)}, "open-clip")
    (place,) = places_of(found, "attn.k_proj.weight", (4, 4))
    assert rows_of(place, (12, 4)) == slice(4, 8)
    tensor = torch.arange(6).reshape(2, 3)
    found = Found(find_table("huggingface"), "vision_model.", {"visual_projection.weight": (3, 2)}, {}, ())
    (place,) = places_of(found, "proj", (2, 3))
    assert torch.equal(laid_out(tensor, place), tensor.T) and torch.equal(
        laid_out(laid_out(tensor, place), place), tensor
    )
