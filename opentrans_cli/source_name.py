"""The spellings of a source. Other projects write the same places in other ways; each is one of ours here.

hf-hub:org/name      open_clip's, for hf://org/name
local-dir:PATH       open_clip's, for the folder PATH
ViT-B/32, RN50x4     OpenAI's names, for open_clip's ViT-B-32, RN50x4; ViT-L/14@336px for ViT-L-14-336
"""

from __future__ import annotations

import re
from pathlib import Path

HUB = "hf://"

_OPENAI = re.compile(r"(ViT-[A-Za-z]+)/(\d+)(?:@(\d+)px)?((?:-[\w-]+)?(?::.*)?)")


def plain_source(source: str) -> str:
    """`source` in our spelling; one that is a path to something on this disk stays as it is."""
    if source.startswith("hf-hub:"):
        return HUB + source.removeprefix("hf-hub:").lstrip("/")
    if source.startswith("local-dir:"):
        path = source.removeprefix("local-dir:")
        return path if "/" in path else f"./{path}"  # without a slash it could be the name of an architecture
    name = _OPENAI.fullmatch(source)
    if name is None or Path(source).exists():
        return source
    return "-".join(part for part in name.groups()[:3] if part) + name[4]
