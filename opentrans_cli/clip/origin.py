"""Whether a source is one of open_clip's published weights, and where on the Hugging Face Hub those lie."""

from __future__ import annotations

from typing import NamedTuple

import open_clip

from opentrans_cli.clip.source import is_local


class Published(NamedTuple):
    """Weights in open_clip's table."""

    name: str  # architecture, "RN50-quickgelu"
    tag: str  # "openai"
    repo: str | None  # "timm/resnet50_clip.openai"; None for weights that are not on the Hub


def published(source: str) -> Published | None:
    """The entry of the source NAME[:TAG]; None for any other source. Reads open_clip's table alone."""
    name, _, tag = source.partition(":")
    if source == "tiny" or is_local(source) or (tag and is_local(tag)):
        return None
    tag = tag or "openai"
    if tag not in open_clip.list_pretrained_tags_by_model(name):
        return None
    repo = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").strip("/")
    return Published(name, tag, repo or None)
