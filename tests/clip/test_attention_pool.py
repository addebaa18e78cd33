"""Masks are pooled as CLIP pools pictures, from the cells inside them alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import mask_means, masked_attention_pool

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}
GENERATOR = torch.Generator()


def noise(*shape):
    return torch.randn(*shape, generator=GENERATOR)


@pytest.fixture
def pool():
    torch.manual_seed(3)
    GENERATOR.manual_seed(4)
    pool = build_clip(CONFIG).visual.attnpool
    for parameter in pool.parameters():  # biases start at zero, and scores too near each other to tell keys apart
        parameter.data.normal_(0, parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3)
    return pool


def attention(pool, query, keys, blocked):
    """torch's own attention of CLIP's pool: query (1, N, C), keys (n, N, C), `blocked` bool (N, n)."""
    heads = pool.num_heads
    return F.multi_head_attention_forward(
        query,
        keys,
        keys,
        embed_dim_to_check=keys.shape[-1],
        num_heads=heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        training=False,
        need_weights=False,
        attn_mask=blocked.repeat_interleave(heads, 0)[:, None],
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )[0][0]


def test_at_its_own_size_a_mask_pools_as_clip_with_all_keys_outside_it_blocked(pool):
    features = noise(2, 256, 3, 3)
    masks = noise(2, 4, 3, 3) > 0
    masks[:, 0] = True
    tokens = features.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + pool.positional_embedding[:, None]
    nothing = torch.zeros(2, 10, dtype=torch.bool)
    torch.testing.assert_close(attention(pool, tokens[:1], tokens, nothing), pool(features))  # the reference is CLIP's
    pooled = masked_attention_pool(pool, features, masks)
    assert pooled.shape == (2, 4, 16)
    for number in range(4):
        blocked = torch.cat([torch.ones(2, 1, dtype=torch.bool), ~masks[:, number].flatten(1)], 1)
        torch.testing.assert_close(pooled[:, number], attention(pool, tokens[:1], tokens, blocked))


def test_at_other_sizes_positions_are_stretched(pool):
    features, masks = noise(1, 256, 4, 5), noise(1, 3, 4, 5) > 0
    grid = pool.positional_embedding[1:].T.reshape(1, 256, 3, 3)
    stretched = F.interpolate(grid, size=(4, 5), mode="bilinear")
    keys = (features + stretched).flatten(2).permute(2, 0, 1)
    query = features.mean((2, 3))[None] + pool.positional_embedding[0]
    pooled = masked_attention_pool(pool, features, masks)
    for number in range(3):
        expected = attention(pool, query, keys, ~masks[:, number].flatten(1))
        torch.testing.assert_close(pooled[:, number], expected)


def test_what_is_outside_a_mask_reaches_it_through_the_mean_alone(pool):
    features, mask = noise(1, 256, 3, 4), torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    mask[..., :2] = True
    moved = features.clone()
    moved[..., 2], moved[..., 3] = features[..., 3], features[..., 2]  # the mean stays
    before, after = (masked_attention_pool(pool, x, mask) for x in (features, moved))
    torch.testing.assert_close(before, after)
    moved[..., 0] += 1
    assert not torch.allclose(before, masked_attention_pool(pool, moved, mask), atol=1e-3)
    cell = torch.zeros(1, 2, 3, 4, dtype=torch.bool)
    cell[0, 0, 1, 2] = True  # the second mask is empty: finite, and gradients pass
    pooled = masked_attention_pool(pool, features.requires_grad_(), cell)
    pooled.square().sum().backward()
    assert torch.isfinite(pooled).all() and torch.isfinite(features.grad).all()


def test_means_are_taken_over_the_cells_of_each_mask():
    features, masks = torch.randn(2, 5, 3, 4), torch.rand(2, 6, 3, 4) > 0.5
    means = mask_means(features, masks)
    for b in range(2):
        for q in range(6):
            torch.testing.assert_close(means[b, q], features[b][:, masks[b, q]].mean(1))
    for dtype in (torch.float32, torch.float16):
        assert not mask_means(features.to(dtype), torch.zeros_like(masks)).any()  # the mean of none


def test_masks_cost_scores_of_one_query_whatever_their_number(pool):
    """The query is the same for all: only the mix of values grows with the number of masks."""
    calls = SimpleNamespace(shapes=[])
    pool.q_proj.register_forward_hook(lambda _module, inputs, _result: calls.shapes.append(inputs[0].shape))
    masked_attention_pool(pool, noise(1, 256, 3, 3), torch.ones(1, 50, 3, 3, dtype=torch.bool))
    assert calls.shapes == [(1, 1, 256)]
