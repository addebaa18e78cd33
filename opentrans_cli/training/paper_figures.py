"""What is published on the cost of fine-tuning Han et al. with CLIP RN50: facts that cannot be counted here.

OpenTrans, arXiv 2404.07448: the list is that of the released code, kept there as a comment; the figures are Table 2 and
Table 4. The paper counts MACs with a tool that sees modules of known types alone; thop on the published modules gives
the figures the tables were made with.
"""

from __future__ import annotations

from collections.abc import Mapping

FROZEN_LAYERS = (
    "conv1",
    "conv2",
    "conv3",
    "layer1.0.conv1",
    "layer1.0.conv2",
    "layer1.1.conv2",
    "layer1.1.conv3",
    "layer1.2.conv2",
    "layer1.2.conv3",
    "layer2.0.conv1",
    "layer2.0.conv2",
    "layer2.0.downsample.0",
    "layer2.1.conv1",
    "layer2.1.conv2",
    "layer2.2.conv2",
    "layer2.2.conv3",
    "layer2.3.conv2",
    "layer2.3.conv3",
    "layer3.0.conv1",
    "layer3.0.conv2",
    "layer3.1.conv2",
    "layer3.2.conv2",
    "layer3.3.conv2",
    "layer3.4.conv2",
    "layer3.5.conv2",
    "layer4.0.conv2",
    "layer4.2.conv2",
)
"""The heavy-tailed layers of RN50's tower, 27 of its 55 convolutions; the order is that of use."""

MEDIAN_LAYER = "layer4.0.conv1"
"""The light-tailed layer that is trained in either case.

It is not published which. By the cost of alpha* it is this one, layer3.0.downsample.0 or layer4.0.downsample.0, which
cost the same.
"""

CONVOLUTIONS = 55
"""Layers of RN50's tower that were ranked: its attention pool is not there."""

ITERATIONS, BATCH_SIZE, SIZE = 40_000, 28, (512, 512)
"""The last 40,000 of 50,000 iterations; height and width in pixels. The 10,000 before, all dense, are not counted."""

TRUNK_MACS = 28_306_000_000
"""One image of `SIZE` through the trunk, by thop: 28.041 G of convolutions, and BatchNorm and pooling."""

HEAD_MACS = 25_674_000_000
"""One image of `SIZE` through the head of Han et al., by thop: without attention, matrix products, and what detectron2
wraps. All of it is 44.7 G by fvcore."""

KEPT = 0.1
"""Share of the weights the subnet keeps, as the paper rounds it."""

PUBLISHED_PMACS: Mapping[str, float] = {
    "full": 181.4,
    "random": 164.5,
    "alpha_opposite": 172.3,
    "alpha": 159.6,
    "alpha_subnet": 122.2,
}
"""Training cost by setting, see accounting.paper_settings; 1 P = 1e15."""
