"""The mask decoder says what transformers' modules say, starts where they start, and can be counted and trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.mask_decoder import DecoderSizes, MaskDecoder, enlarge_masks, pad_images
from opentrans_cli.training.costs.macs import count_macs

CHANNELS = (16, 32, 64, 128)
SMALL = DecoderSizes(
    width=64, mask_width=32, heads=4, queries=12, encoder_layers=2, decoder_layers=5, encoder_ffn=48, decoder_ffn=80
)


def decoder(seed: int = 0, sizes: DecoderSizes = SMALL) -> MaskDecoder:
    torch.manual_seed(seed)
    return MaskDecoder(CHANNELS, sizes).eval()


def alive(seed: int = 0) -> MaskDecoder:
    """One whose every parameter was drawn: fresh ones are zero or one in many places."""
    built = decoder(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            gain = 0.2 if "sampling_offsets" in name else 1.0
            fan = parameter[0].numel() if parameter.dim() > 1 else 16
            parameter.add_(gain * torch.randn_like(parameter) / fan**0.5)
    return built


def features(height: int = 96, width: int = 128, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(batch, channels, height // stride, width // stride, generator=generator)
        for channels, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def theirs(built: MaskDecoder, maps: list[torch.Tensor]):
    pixels = built.pixel_decoder(maps)
    module = built.transformer_module
    return pixels, module(list(pixels.multi_scale_features), pixels.mask_features, output_hidden_states=True)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert ((actual - expected).abs().max() / expected.abs().max()).item() < 1e-5


def test_every_layer_says_what_transformers_modules_say_image_by_image():
    built, maps = alive(), features()
    for inference in (True, False):  # two ways through the deformable attention
        with torch.set_grad_enabled(not inference):
            pixels, queries = theirs(built, maps)
            out = built(maps, all_layers=True)
        close(out.mask_features, pixels.mask_features)
        for actual, expected in zip(out.states, queries.intermediate_hidden_states, strict=True):
            close(actual, expected.transpose(0, 1))
        for actual, expected in zip(out.mask_logits, queries.masks_queries_logits, strict=True):
            close(actual, expected)
    with torch.no_grad():
        alone = [built([m[i : i + 1] for m in maps]).mask_logits[-1] for i in range(2)]
    close(torch.cat(alone), out.mask_logits[-1])


def test_queries_whose_masks_are_empty_look_everywhere():
    built, maps = alive(), features()
    embedder = built.transformer_module.decoder.mask_predictor.mask_embedder
    with torch.no_grad():
        nn.init.zeros_(embedder.layers[-1].layers[0].weight)
        nn.init.constant_(embedder.layers[-1].layers[0].bias, -1.0)
        nn.init.zeros_(built.pixel_decoder.mask_projection.weight)
        nn.init.ones_(built.pixel_decoder.mask_projection.bias)
        out = built(maps)
        _, queries = theirs(built, maps)
    assert (out.mask_logits[-1] < 0).all()
    assert torch.isfinite(out.states[-1]).all()
    close(out.states[-1], queries.intermediate_hidden_states[-1].transpose(0, 1))


def test_only_training_asks_for_the_earlier_layers():
    built, maps = alive(), features()
    last = built(maps)
    assert len(last.states) == len(last.mask_logits) == 1
    everything = built.train()(maps)
    assert len(everything.states) == len(everything.mask_logits) == 6
    torch.testing.assert_close(last.states[-1], everything.states[-1])
    torch.testing.assert_close(last.mask_logits[-1], everything.mask_logits[-1])


def test_a_loss_on_all_layers_reaches_every_parameter():
    built = alive().train()
    out = built(features())
    loss = sum(x.square().mean() for x in (*out.states, *out.mask_logits))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_a_fresh_decoder_starts_like_one_inside_transformers_own_model():
    from transformers import Mask2FormerConfig, SwinConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    swin = SwinConfig(depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], embed_dim=16, image_size=64, window_size=2)
    swin.out_features = ["stage1", "stage2", "stage3", "stage4"]
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=64, hidden_dim=64, mask_feature_size=32, num_attention_heads=4,
        num_queries=12, encoder_layers=2, decoder_layers=6, encoder_feedforward_dim=48, dim_feedforward=80,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Mask2FormerForUniversalSegmentation(config).model
    expected = {f"pixel_decoder.{k}": v for k, v in model.pixel_level_module.decoder.named_parameters()}
    expected |= {f"transformer_module.{k}": v for k, v in model.transformer_module.named_parameters()}
    actual = dict(decoder().named_parameters())
    assert actual.keys() == expected.keys()
    for name, parameter in actual.items():
        other = expected[name]
        if other.unique().numel() <= 16:  # a constant, or the compass of the sampling offsets
            torch.testing.assert_close(parameter, other, msg=name)
        else:
            tolerance = 4 / other.numel() ** 0.5
            assert parameter.std().item() == pytest.approx(other.std().item(), rel=tolerance), name
            assert abs(parameter.mean() - other.mean()) < 2 * tolerance * other.std(), name


class Flat(nn.Module):
    """Features as separate arguments, as `count_macs` gives them."""

    def __init__(self, built: MaskDecoder) -> None:
        super().__init__()
        self.decoder = built

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        return self.decoder(maps).mask_logits[-1]


def test_its_cost_is_counted_without_memory():
    shapes = [tuple(x.shape) for x in features(batch=1)]
    pixels, queries = "decoder.pixel_decoder.", "decoder.transformer_module.decoder.layers.0."
    cells, sizes = 3 * 4 + 6 * 8 + 12 * 16, [3 * 4, 6 * 8, 12 * 16, 3 * 4, 6 * 8]
    cross = sum(64 * 64 * (12 + 2 * size) + 2 * 12 * size * 64 + 12 * size * 32 for size in sizes)
    for training, masks in ((True, 6), (False, 1)):  # as many whole masks as are asked for
        costs = {cost.name: cost.forward for cost in count_macs(Flat(decoder()).train(training), *shapes)}
        assert costs[f"{pixels}layer_1.0"] == 24 * 32 * 64 * 64 * 9
        assert costs[f"{pixels}encoder.layers.1.fc1"] == cells * 64 * 48
        assert costs[f"{pixels}encoder.layers.0.self_attn.value_proj"] == cells * 64 * 64
        assert costs[f"{queries}fc2"] == 12 * 64 * 80
        # What has no parameter of its own: keys and values, attention, masks.
        assert costs["decoder"] == masks * 12 * 32 * 24 * 32 + cross + 5 * 2 * 12 * 12 * 64


def test_images_are_padded_at_the_right_and_at_the_bottom(images):
    padded = pad_images(images)
    assert padded.shape == (2, 3, 96, 128)
    assert torch.equal(padded[..., :75, :100], images)
    assert not padded[..., 75:, :].any() and not padded[..., 100:].any()
    whole = torch.randn(1, 3, 64, 32)
    assert pad_images(whole) is whole


def test_masks_are_enlarged_as_if_nothing_was_padded():
    ramp = (torch.arange(32) * 4 + 1.5).expand(1, 2, 24, 32)  # the column of each cell's centre, in pixels
    large = enlarge_masks(ramp, (75, 100))
    assert large.shape == (1, 2, 75, 100)
    torch.testing.assert_close(large[0, 0, 40, 2:], torch.arange(2, 100).float())
    torch.testing.assert_close(enlarge_masks(ramp[0], (75, 100)), large[0])


def test_sizes_that_do_not_fit_are_refused():
    for name, value in (
        ("width", 48),
        ("width", 0),
        ("heads", 7),
        ("queries", 0),
        ("encoder_layers", 0),
        ("decoder_layers", 0),
    ):
        with pytest.raises(OptionError, match="give"):
            DecoderSizes(**{name: value})
