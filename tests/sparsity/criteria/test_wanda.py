"""Wanda scores against inputs computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import layer_weight
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.criteria.base import Evidence
from opentrans_cli.sparsity.criteria.wanda import WANDA

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")


def built(**vision: Any) -> Any:
    torch.manual_seed(0)
    return build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).visual


def root_mean_square(rows: Tensor) -> Tensor:
    """Over all but the last dimension."""
    return rows.detach().double().flatten(0, -2).square().mean(0).sqrt()


def assert_scores(score: Tensor, weight: Tensor, norms: Tensor) -> None:
    """`norms` as by weight: one for each (O, I) of it."""
    wanted = weight.detach().double().abs() * norms.reshape(*norms.shape, *(1 for _ in weight.shape[2:]))
    torch.testing.assert_close(score, wanted.float(), rtol=2e-5, atol=1e-7)
    assert score.shape == weight.shape and score.any()


def test_a_convolution_and_a_linear_layer_multiply_the_norm_of_their_input(tower, images, evidence_of):
    scores = WANDA.score(evidence_of(tower, [images[:5], images[5:]]))
    of_images = root_mean_square(images.movedim(1, -1))
    assert_scores(scores["conv1"], tower.conv1.weight, of_images.expand(4, 3))
    assert_scores(scores["proj"], tower.proj.weight, root_mean_square(tower.pooled(images)).expand(5, 6))


def test_a_convolution_in_groups_sees_the_channels_of_each_group(tower, images, evidence_of):
    score = WANDA.score(evidence_of(tower, [images]))["conv2"]
    norms = root_mean_square(tower.hidden(images).movedim(1, -1))
    assert_scores(score, tower.conv2.weight, torch.stack([norms[:2]] * 3 + [norms[2:]] * 3))


def test_a_depthwise_convolution_sees_one_channel_each(evidence_of):
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(2))
    images = torch.randn(2, 3, 5, 5) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    score = WANDA.score(evidence_of(tower, [images], layers=["0"]))["0"]
    norms = root_mean_square(images.movedim(1, -1)).repeat_interleave(2)
    assert_scores(score, tower[0].weight, norms[:, None])


def test_a_linear_layer_on_maps_has_its_channels_last(evidence_of):
    """As in ConvNeXt and Swin, whose linear layers are given (B, H, W, C)."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(images.movedim(1, -1)).flatten(1)

    tower, images = Mixed(), torch.randn(2, 3, 5, 6) * torch.tensor([1.0, 5.0, 9.0])[:, None, None]
    score = WANDA.score(evidence_of(tower, [images], layers=["fc"]))["fc"]
    assert_scores(score, tower.fc.weight, root_mean_square(images.movedim(1, -1)).expand(4, 3))


def attended_by_hand(attention: Any, tokens: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, head after head, (B, L, E)."""
    size = attention.embed_dim // attention.num_heads
    query, key, value = (
        tokens @ weight.T + bias
        for weight, bias in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    )
    heads = []
    for start in range(0, attention.embed_dim, size):
        own = slice(start, start + size)
        shares = (query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(size)).softmax(-1)
        heads.append(shares @ value[..., own])
    return torch.cat(heads, -1)


@torch.no_grad()
def test_the_parts_of_an_attention_are_seen_in_a_vision_transformer(evidence_of):
    visual = built(image_size=16, layers=2, width=32, patch_size=8, head_width=8)
    attention = visual.transformer.resblocks[1].attn
    attention.in_proj_bias.uniform_(-1, 1)
    attention.out_proj.bias.uniform_(-1, 1)
    images, kept = torch.randn(3, 3, 16, 16), {}

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        kept.update(tokens=args[0] if args else kwargs["query"], output=output[0])

    with attention.register_forward_hook(keep, with_kwargs=True):
        visual(images)
    attended = attended_by_hand(attention, kept["tokens"])
    torch.testing.assert_close(attention.out_proj(attended), kept["output"])  # the reference is the module's own

    names = [f"transformer.resblocks.1.attn.{part}" for part in PARTS]
    scores = WANDA.score(evidence_of(visual, [images], layers=[*names, "transformer.resblocks.1.mlp.c_fc"]))
    for name in names:
        rows = attended if name.endswith("out_proj") else kept["tokens"]
        assert_scores(scores[name], layer_weight(visual, name), root_mean_square(rows).expand(32, 32))
    assert scores["transformer.resblocks.1.mlp.c_fc"].shape == (128, 32)


class Cross(nn.Module):
    """Attention of three different inputs, tokens first or images first, under a mask that forbids."""

    def __init__(self, batch_first: bool, mask: Tensor) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=False)
        self.mask = mask

    def inputs(self, images: Tensor) -> list[Tensor]:
        tokens = images.flatten(2)[..., :8]  # (B, 3, 8)
        given = [tokens[:, :2], tokens * 2, tokens.flip(1) * 3]
        return given if self.attn.batch_first else [x.transpose(0, 1) for x in given]

    def forward(self, images: Tensor) -> Tensor:
        out, _ = self.attn(*self.inputs(images), attn_mask=self.mask)
        return out if self.attn.batch_first else out.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("boolean", [True, False], ids=["forbidding", "added"])
@torch.no_grad()
def test_queries_keys_and_values_may_differ_and_a_mask_is_heeded(evidence_of, batch_first, boolean):
    torch.manual_seed(0)
    forbidden = torch.tensor([[False, True, False], [True, False, False]])
    tower = Cross(batch_first, forbidden if boolean else forbidden.float() * -5)
    images = torch.randn(4, 3, 3, 3)
    query, key, value = inputs = tower.inputs(images)
    _, shares = tower.attn(*inputs, attn_mask=tower.mask, average_attn_weights=False)  # (B, heads, 2, 3) by torch
    projected = value @ tower.attn.in_proj_weight[16:].T
    projected = projected if batch_first else projected.transpose(0, 1)
    attended = torch.cat([shares[:, 0] @ projected[..., :4], shares[:, 1] @ projected[..., 4:]], -1)

    scores = WANDA.score(evidence_of(tower, [images], layers=[f"attn.{part}" for part in PARTS]))
    for part, rows in zip(PARTS, (query, key, value, attended), strict=True):
        weight = layer_weight(tower, f"attn.{part}")
        assert_scores(scores[f"attn.{part}"], weight, root_mean_square(rows).expand(8, 8))


@pytest.mark.parametrize("part", ["q_proj", "c_proj"])
def test_an_attention_pools_projections_cannot_be_seen_and_are_named(evidence_of, part):
    visual = built(image_size=32, layers=[1, 1, 1, 1], width=8, patch_size=None).train()
    layers = ["layer1.0.conv1", f"attnpool.{part}"]
    with pytest.raises(OptionError, match=rf"^wanda cannot see .*: attnpool\.{part}; leave it out, or choose fisher$"):
        WANDA.score(evidence_of(visual, [torch.randn(1, 3, 32, 32)], layers=layers))
    assert visual.training and not any(module._forward_pre_hooks for module in visual.modules())


def test_the_hooks_are_gone_also_after_an_error(tower, images):
    def readout(batch: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        WANDA.score(Evidence(tower.train(), ("conv1",), readout, lambda: iter([(0, images)])))
    assert tower.training and not tower.conv1._forward_pre_hooks
