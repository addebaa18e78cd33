"""load: a subnet as tensors, and its image encoder ready to run.

subnet = load("my-bundle")
pixels = subnet.preprocess(Image.open("photo.jpg"))
embedding = subnet.image_encoder(pixels[None])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from opentrans_cli.bundle.store import Bundle
from opentrans_cli.clip.layers import arrays, layer_weights, tensors
from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.sparsity.selection import sparsity_of
from opentrans_cli.steps.sources import load_tower
from opentrans_cli.training.device import resolve_device


@dataclass(frozen=True, eq=False)
class Loaded:
    """A source in memory. Layers have open_clip's names in the image tower: "layer1.0.conv1"."""

    source: str  # as it was given
    image_encoder: nn.Module  # eval mode, float32: images (B, 3, H, W) -> embeddings (B, embed_dim), not normalised
    masks: Mapping[str, Tensor]  # by layer: bool, with the weight's shape, on the CPU; True = kept
    preprocess: Preprocess  # from a PIL image to the input of the encoder, float32 (3, size, size)
    embed_dim: int
    bundle: Bundle | None  # manifest, digest and files; None if the source is no bundle

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights of the encoder by layer, dense: float32, removed weights exactly zero, not copied."""
        return layer_weights(self.image_encoder, self.masks)

    @property
    def sparsity(self) -> float:
        """Removed / prunable weights, in [0, 1); 0 for a source that is no bundle."""
        return sparsity_of(arrays(self.masks))


def load(
    source: str | Path,
    *,
    device: str = "cpu",
    reporter: Reporter | None = None,
    at_sparsity: float | None = None,
    base: str | None = None,
) -> Loaded:
    """Load a bundle, or any CLIP.

    source: a bundle folder, "tiny" (embedded), open_clip's NAME[:TAG], NAME:FILE, a checkpoint file, or
    hf://org/name[@revision]. device: auto, cpu, cuda or mps, for the encoder. at_sparsity: an earlier round of a
    bundle. base: where the base of a bundle with masks only is now. Raises SourceError, BundleError, HubError or
    OptionError.
    """
    where = resolve_device(device)
    tower = load_tower(str(source), reporter or LOGGED, base=base, at_sparsity=at_sparsity)
    encoder = tower.visual.to(where).eval()
    size = int(tower.base.model_cfg["embed_dim"])
    return Loaded(str(source), encoder, tensors(tower.masks), tower.preprocess, size, tower.bundle)
