"""Laws of packed masks: round trip, length, bit order, padding, and values that the mask alone selects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from opentrans_cli.bundle.bitmask import kept_values, pack_mask, scatter_values, unpack_mask
from opentrans_cli.errors import BundleError, MaskError

masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


@given(masks)
def test_packing_and_unpacking_gives_the_mask_back_in_one_bit_per_weight(mask: np.ndarray) -> None:
    bits = pack_mask(mask)
    assert bits.dtype == np.uint8 and bits.shape == (-(-mask.size // 8),)
    assert np.array_equal(unpack_mask(bits, mask.shape), mask)


@given(masks)
def test_bits_equal_a_slow_obvious_packing(mask: np.ndarray) -> None:
    slow = [0] * (-(-mask.size // 8))
    for index, kept in enumerate(mask.reshape(-1)):
        slow[index // 8] |= int(kept) << (index % 8)
    assert pack_mask(mask).tolist() == slow


@given(masks, st.sampled_from([np.float16, np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_scattering_the_kept_values_gives_the_masked_weight_bit_for_bit(
    mask: np.ndarray, dtype: type, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal(mask.shape).astype(dtype)
    weight[np.abs(weight) < 0.5] = -0.0  # a kept zero must keep its place and its sign
    values = kept_values(weight, mask)
    assert values.shape == (int(mask.sum()),)
    expected = np.where(mask, weight, dtype(0))
    assert scatter_values(values, mask).tobytes() == expected.tobytes()


def test_c_order_counts_whatever_the_memory_layout() -> None:
    mask = np.array([[True, False, False], [False, True, True]])
    assert pack_mask(np.asfortranarray(mask)).tolist() == [0b110001]
    weight = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert kept_values(weight, mask).tolist() == [0, 4, 5]


def test_bits_with_padding_set_or_of_another_length_or_type_are_refused() -> None:
    for size in (1, 7, 9, 17):
        bits = pack_mask(np.ones(size, dtype=bool))
        assert unpack_mask(bits, (size,)).all()
        bits[-1] |= 0x80
        with pytest.raises(BundleError, match="padding bits set"):
            unpack_mask(bits, (size,))
    for bits in (np.zeros(1, np.uint8), np.zeros(3, np.uint8), np.zeros((2, 1), np.uint8), np.zeros(2, np.int64)):
        with pytest.raises(BundleError, match="wrong length"):
            unpack_mask(bits, (3, 3))


def test_more_or_fewer_values_than_kept_weights_are_refused() -> None:
    for count in (0, 1, 3):
        with pytest.raises(BundleError, match="for 2 kept weights"):
            scatter_values(np.zeros(count, np.float32), np.array([True, False, True]))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(MaskError, match="differ in shape"):
        kept_values(np.zeros((2, 3)), np.ones((3, 2), dtype=bool))


def test_a_mask_of_zeros_and_ones_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="a mask is bool"):
        pack_mask(np.ones(3, np.uint8))  # type: ignore[arg-type]
