"""Options that all frameworks with a mask decoder share."""

from __future__ import annotations

from dataclasses import dataclass

from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.mask_decoder import DecoderSizes

_STEP = 32  # widths are multiples of it


@dataclass(frozen=True)
class DecoderOptions:
    """Raises OptionError if a value is out of range."""

    queries: int = 100  # masks looked for in an image
    width: int | None = None  # channels, a multiple of 32; None: an eighth of the last stage's, at most 256
    encoder_layers: int = 6  # deformable attention over the pixels
    decoder_layers: int = 9  # masked attention of the queries

    def __post_init__(self) -> None:
        self.sizes(_STEP)

    def sizes(self, channels: int) -> DecoderSizes:
        """The decoder's sizes behind a trunk whose last stage has `channels`; inner layers are as wide as published."""
        width = self.width if self.width is not None else min(256, max(_STEP, channels // 8 // _STEP * _STEP))
        return DecoderSizes(
            width=width,
            mask_width=width,
            queries=self.queries,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
            encoder_ffn=4 * width,
            decoder_ffn=8 * width,
        )


def share(value: float, name: str) -> None:
    """Raises OptionError unless `value` is in [0, 1]; `name` says whose it is."""
    if not 0 <= value <= 1:
        raise OptionError(f"{name} is out of range: {value}; give a value in [0, 1]")
