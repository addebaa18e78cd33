"""Fixed square images for distillation, so that the teacher's embeddings can be computed once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.datasets.images import list_images, read_image, resize_image
from opentrans_cli.datasets.shapes.dataset import ShapesDataset
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.reporter import Reporter

EMBEDDED = "shapes"


def distillation_images(where: str, *, size: int, limit: int, seed: int, reporter: Reporter) -> Tensor:
    """Images uint8 (N, size, size, 3) from a folder, or from the embedded scenes if `where` is "shapes".

    Of every photo: the whole image (shorter side to `size`, middle square) and one random square crop of 20-100 % of
    its area. At most `limit` images altogether; of a larger folder a seeded choice. Raises DataError for a folder
    without images or a file that is no image, OptionError for a limit below 1.
    """
    if limit < 1:
        raise OptionError(f"--image-limit must be at least 1: {limit}; leave it out for the default")
    views: list[np.ndarray] = []
    if where == EMBEDDED:
        dataset = ShapesDataset("train", size=size, count=limit)
        with reporter.bar("rendering scenes", limit) as advance:
            for index in range(limit):
                views.append(dataset[index].image)
                advance("")
        return torch.from_numpy(np.stack(views))
    paths = list_images(Path(where))
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen = sorted(rng.permutation(len(paths))[: max(1, (limit + 1) // 2)])
    with reporter.bar("reading images", len(chosen)) as advance:
        for index in chosen:
            image = read_image(paths[index])
            views += [whole_view(image, size), random_view(image, size, rng)]
            advance("")
    return torch.from_numpy(np.stack(views[:limit]))


def whole_view(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of `image` (H, W, 3), its shorter side resized to `size` (CLIP's own preprocessing)."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    resized = resize_image(image, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def random_view(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of `image` with 20-100 % of its largest square's area, resized to `size`."""
    shorter = min(image.shape[:2])
    side = int(rng.integers(max(1, int(shorter * 0.2**0.5)), shorter + 1))
    top = int(rng.integers(image.shape[0] - side + 1))
    left = int(rng.integers(image.shape[1] - side + 1))
    return resize_image(image[top : top + side, left : left + side], (size, size))


def pixel_fingerprint(images: Tensor) -> str:
    """ "sha256:<hex>" of shape and pixels: what distillation really saw."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
