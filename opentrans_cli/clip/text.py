"""Class names to text embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.architecture import build_clip, unfilled
from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.tokenizer import Tokenizer
from opentrans_cli.errors import DataError, SourceError
from opentrans_cli.reporter import SILENT, Reporter

# The text tower of a framework's checkpoint that has no image tower.


_HEAD_WIDTH = 64  # channels of an attention head in the text tower of every published CLIP
_SMALLEST = 32  # pixels
_SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_NEEDED = ("positional_embedding", "token_embedding.weight", "ln_final.weight", "text_projection")


def text_part(state: Mapping[str, Tensor], *, quick_gelu: bool, source: str) -> LoadedClip:
    """A CLIP for text only; its image tower is a small placeholder without meaning.

    `state`: tensors by open_clip's names. `quick_gelu`: the activation, which the tensors do not tell. Errors name
    `source`. Raises SourceError if tensors are missing or do not fit.
    """
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise SourceError(
            f"no text tower in the checkpoint: {source} ('{missing[0]}' is missing); give a vocabulary pack, "
            "which holds the embeddings of the words"
        )
    context, vocabulary = state["positional_embedding"].shape[0], state["token_embedding.weight"].shape[0]
    width, dimension = state["text_projection"].shape
    model_cfg: dict[str, Any] = {
        "embed_dim": dimension,
        "vision_cfg": {"image_size": _SMALLEST, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {
            "context_length": context,
            "vocab_size": vocabulary,
            "width": width,
            "heads": max(1, width // _HEAD_WIDTH),
            "layers": len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}),
        },
        "quick_gelu": quick_gelu,
    }
    # It is built on the meta device, since random values for weights that are replaced at once would take seconds.
    with unfilled():
        model: Any = build_clip(model_cfg)
    model.visual = build_clip({**model_cfg, "text_cfg": dict(_SMALLEST_TEXT)}).visual
    model.logit_scale = nn.Parameter(torch.zeros(()))
    model.register_buffer("attn_mask", torch.full((context, context), float("-inf")).triu(1), persistent=False)
    _fill(model, state, source)
    preprocess = Preprocess(size=_SMALLEST)
    return LoadedClip(
        model=model.float().eval(),
        tokenizer=Tokenizer(model_cfg["text_cfg"]),
        source=source,
        architecture="text tower",
        model_cfg=model_cfg,
        preprocess=preprocess,
    )


def _fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors of `state` into the text tower of `model`; it must have exactly these tensors."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items() if value.is_meta}
    # Older versions of open_clip saved the causal attention matrix, which is not a weight.
    given = {key: value for key, value in state.items() if key != "attn_mask"}
    odd = sorted(
        key for key in wanted.keys() | given.keys() if key not in given or wanted.get(key) != tuple(given[key].shape)
    )
    if odd:
        more = f" and {len(odd) - 1} others" if len(odd) > 1 else ""
        raise SourceError(
            f"text tower of an unknown build: '{odd[0]}'{more} in {source}; give a vocabulary pack instead"
        )
    model.load_state_dict(given, strict=False, assign=True)


DEFAULT_TEMPLATES = ("{}", "the {}", "a photo of the {}")
"""Prompts whose embeddings are averaged for a class name."""


def unread_words(tokenizer: Any, names: Sequence[str], *, read_tokens: Sequence[int]) -> tuple[str, ...]:
    """The names with a token that is not in `read_tokens`; padding does not count."""
    known = torch.tensor([0, *read_tokens])
    return tuple(name for name in names if not bool(torch.isin(tokenizer([name]), known).all()))


def embed_words(
    clip: LoadedClip,
    words: Sequence[str],
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    classes: Sequence[int] | None = None,
    reporter: Reporter = SILENT,
) -> Tensor:
    """`text_embeddings` of `words`, after a look at what the text tower can read of them; the reporter is told.

    classes: by word, the class it stands for; None: the words are not told from each other. Raises DataError if words
    of two classes only differ where the text tower does not read.
    """
    if clip.read_tokens is not None:
        unread = unread_words(clip.tokenizer, words, read_tokens=clip.read_tokens)
        if unread:
            reporter.say(f"words that {clip.source} never read in training, so without meaning to it: {_some(unread)}")
    limit = clip.tokenizer.context_length
    cut = {word: size for word in words if (size := _longest(clip.tokenizer, word, templates)) > limit}
    if cut:
        shown = [f"{_short(word)} ({size})" for word, size in cut.items()]
        reporter.say(f"longer than the {limit} tokens that {clip.source} reads, so cut off there: {_some(shown)}")
    if classes is not None:
        _check_distinct(clip, words, templates, classes, cut, reporter)
    return text_embeddings(clip.model, clip.tokenizer, words, templates=templates)


def _longest(tokenizer: Any, word: str, templates: Sequence[str]) -> int:
    """Number of tokens of the longest prompt with `word`, or an upper bound where that is short enough."""
    return max(tokenizer.count(_prompt(template, word)) for template in templates)


def _check_distinct(
    clip: LoadedClip,
    words: Sequence[str],
    templates: Sequence[str],
    classes: Sequence[int],
    cut: Mapping[str, int],
    reporter: Reporter,
) -> None:
    """Two classes with one text are told to the reporter; DataError if they are one because the text is cut."""
    first: dict[bytes, tuple[str, int]] = {}
    same: list[str] = []
    for word, index in zip(words, classes, strict=True):
        prompts = [_prompt(template, word) for template in templates] if word in cut else [word]
        other, owner = first.setdefault(clip.tokenizer(prompts).numpy().tobytes(), (word, index))
        if owner == index:
            continue
        if word in cut:
            raise DataError(
                f"two classes are one text to {clip.source}, which reads {clip.tokenizer.context_length} tokens: "
                f"{_short(other)} and {_short(word)}; write what sets them apart at the front"
            )
        same.append(f"{_short(other)} and {_short(word)}")
    if same:
        reporter.say(f"words of two classes that are one text, whose pixels go to the first: {_some(same)}")


def _some(shown: Sequence[str]) -> str:
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _short(word: str) -> str:
    return f"'{word}'" if len(word) <= 48 else f"'{word[:24]}...{word[-20:]}'"


def _prompt(template: str, word: str) -> str:
    """`template` with the word at its braces; other braces in either stay as they are."""
    return template.replace("{}", word)


@torch.no_grad()
def text_embeddings(
    model: Any, tokenizer: Any, names: Sequence[str], *, templates: Sequence[str] = DEFAULT_TEMPLATES
) -> Tensor:
    """Text embeddings (N, D) of `names`, float32, rows of length 1.

    Each name is put into every template; the normalised embeddings are averaged and normalised again (Radford et al.
    2021, Sec. 3.1.4). Raises SourceError if the text tower gives no finite embedding.
    """
    prompts = [_prompt(template, name) for name in names for template in templates]
    parts = [model.encode_text(tokenizer(prompts[i : i + 256]), normalize=True) for i in range(0, len(prompts), 256)]
    embeddings = torch.cat(parts).view(len(names), len(templates), -1).mean(1)
    if not torch.isfinite(embeddings).all():
        raise SourceError("text tower gives NaN or infinite embeddings: the base checkpoint; check the weights")
    return F.normalize(embeddings, dim=-1)
