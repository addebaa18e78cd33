"""A picture becomes what a tower takes, as open_clip's own transform does it."""

from __future__ import annotations

import numpy as np
import open_clip
import torch
from PIL import Image

from opentrans_cli.clip.preprocess import Preprocess


def test_a_picture_is_prepared_bit_for_bit_as_by_open_clip() -> None:
    random = np.random.default_rng(0)
    for width, height in ((64, 64), (97, 31), (31, 97), (200, 133), (45, 64), (1, 9)):
        photo = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for image in (photo, photo.convert("L"), photo.quantize(7), photo.convert("RGBA")):
            for mode in ("shortest", "longest", "squash"):
                for interpolation in ("bicubic", "bilinear"):
                    own = Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation, mode)
                    theirs = open_clip.image_transform(
                        32, False, mean=own.mean, std=own.std, interpolation=interpolation, resize_mode=mode
                    )
                    assert torch.equal(own(image), theirs(image)), (image.mode, image.size, mode, interpolation)
