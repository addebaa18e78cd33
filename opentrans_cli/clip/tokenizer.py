"""The tokenizer of a text tower: open_clip's own, or the one of transformers that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.clip.open_clip import open_clip_module
from opentrans_cli.errors import SourceError
from opentrans_cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH = 77  # of every text tower whose configuration does not say another
_MARKS = 4  # more tokens than any tokenizer adds for start, end, class and a leading blank


class Tokenizer:
    """Texts to the tokens a text tower reads; open_clip's tokenizer is loaded when the first text comes.

    `text_cfg`: the text part of open_clip's configuration. `folder`: of the weights, where files of the tokenizer may
    lie too. `local`: whether the Hub must not be asked for them.
    """

    def __init__(self, text_cfg: Mapping[str, Any], *, folder: Path | None = None, local: bool = True) -> None:
        self.context_length = int(text_cfg.get("context_length", _LENGTH))
        self._text_cfg, self._folder, self._local = text_cfg, folder, local

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens, int64 (N, context length), as the text tower reads them: a longer text is cut.

        Raises SourceError if files of the tokenizer are missing.
        """
        with quiet_libraries():
            tokens: Tensor = self._tokenizer(list(texts))
        return tokens

    def is_cut(self, text: str) -> bool:
        """Whether `text` has more tokens than the text tower reads."""
        return self.count(text) > self.context_length

    def count(self, text: str) -> int:
        """The tokens of the whole of `text`, with those that mark its start and end; an upper bound if it is short."""
        # No token stands for less than a byte, so most texts are short enough without being looked at.
        longest = len(text.encode("utf-8", "surrogatepass")) + _MARKS
        if longest <= self.context_length:
            return longest
        own = self._tokenizer
        with quiet_libraries():
            if not hasattr(own, "tokenizer"):
                return len(own.encode(text)) + 2
            clips = getattr(own, "tokenizer_mode", "") == "clips"  # which adds its own marks
            ids = own.tokenizer(own.clean_fn(text), add_special_tokens=not clips)["input_ids"]
            return len(ids) + (3 if clips else 0)

    @cached_property
    def _tokenizer(self) -> Any:
        name = self._text_cfg.get("hf_tokenizer_name")
        # open_clip takes the files beside the weights, if there are any, and else those of the name.
        beside = self._folder is not None and (self._folder / "tokenizer_config.json").is_file()
        where = str(self._folder) if beside else str(name)
        try:
            given = dict(self._text_cfg.get("tokenizer_kwargs") or {})
            module = open_clip_module("tokenizer")
            if not name:
                return module.SimpleTokenizer(context_length=self.context_length, **given)
            with quiet_libraries():
                return module.HFTokenizer(
                    where,
                    context_length=self.context_length,
                    tokenizer_mode=self._text_cfg.get("tokenizer_mode"),
                    local_files_only=self._local or beside,
                    **given,
                )
        except Exception as error:  # the Hub, its cache and the formats of tokenizers raise many classes
            move = f"get it with `hf download {name}`" if name else "check `text_cfg` in the configuration"
            raise SourceError(
                f"tokenizer of the text tower cannot be loaded: {where if name else 'that of CLIP'} "
                f"({type(error).__name__}); {move}, or give words as a vocabulary pack"
            ) from error
