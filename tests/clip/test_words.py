"""Words longer than the text tower reads are said by name, or refused where nothing tells two classes apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import Result

from opentrans_cli.clip.source import load_clip
from opentrans_cli.clip.text import embed_words, text_embeddings
from opentrans_cli.clip.tokenizer import Tokenizer
from opentrans_cli.errors import DataError, SourceError
from opentrans_cli.reporter import Silent

LONG = "red " * 40  # the embedded CLIP reads 32 tokens


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_word_that_is_cut_is_said_with_its_tokens_and_embedded_as_before() -> None:
    clip, heard = load_clip("tiny"), Heard()
    embeddings = embed_words(clip, ["sky", LONG + "square"], classes=(0, 1), reporter=heard)
    # 41 words, "a photo of the" before them, start and end.
    short = "'red red red red red red ...d red red red square'"
    assert heard.lines == [f"longer than the 32 tokens that tiny reads, so cut off there: {short} (47)"]
    assert torch.equal(embeddings, text_embeddings(clip.model, clip.tokenizer, ["sky", LONG + "square"]))
    prompt_alone = Heard()  # "red" 28 times fits, but not behind the longest prompt
    embed_words(clip, ["red " * 28], reporter=prompt_alone)
    assert len(prompt_alone.lines) == 1 and prompt_alone.lines[0].endswith("(34)")
    embed_words(clip, ["red " * 28], templates=("{}",), reporter=(quiet := Heard()))
    assert quiet.lines == []


def test_words_that_differ_only_behind_the_cut_are_one_class_too_few() -> None:
    clip = load_clip("tiny")
    words = [LONG + "square", LONG + "ring"]
    with pytest.raises(DataError, match=r"two classes are one text to tiny, which reads 32 tokens: 'red .*square' and"):
        embed_words(clip, words, classes=(0, 1))
    embed_words(clip, words, classes=(0, 0))  # two words of one class
    heard = Heard()
    embed_words(clip, ["red", "Red", "sky"], classes=(0, 1, 2), reporter=heard)
    assert heard.lines == ["words of two classes that are one text, whose pixels go to the first: 'red' and 'Red'"]


def test_braces_in_a_word_or_prompt_are_text() -> None:
    clip = load_clip("tiny")
    assert embed_words(clip, ["{} {0} {x}"], templates=("a {} in {y}",)).shape == (1, 64)


@pytest.mark.parametrize("command", ["segment", "save-vocabulary", "eval"])
def test_commands_that_take_words_say_it(command: str, labelled_folder, run_cli, tmp_path: Path) -> None:
    labelled_folder.classes.write_text(f"grass\nred square\n{LONG}blue square\n")
    result: Result
    if command == "eval":
        result = run_cli("eval", "tiny", *labelled_folder.options, "--device", "cpu")
    elif command == "segment":
        photo, out = labelled_folder.images / "0.png", tmp_path / "out"
        result = run_cli("segment", "tiny", photo, "--classes", labelled_folder.classes, "--out", out)
    else:
        pack = tmp_path / "pack.safetensors"
        result = run_cli("segment", "tiny", "--classes", labelled_folder.classes, "--save-vocabulary", pack)
    assert result.exit_code == 0, result.stderr
    assert "longer than the 32 tokens that tiny reads" in result.stderr


def test_the_tokenizer_is_the_one_the_configuration_names(tmp_path: Path) -> None:
    """A tower with another tokenizer than CLIP's, as SigLIP has it; files beside the weights, as in local-dir."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    backend = Backend(WordLevel({"[PAD]": 0, "[UNK]": 1, "sky": 2, "tree": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    cfg = {"context_length": 4, "hf_tokenizer_name": "org/name"}
    tokenizer = Tokenizer(cfg, folder=tmp_path)
    assert tokenizer(["sky tree", "a tree tree tree tree"]).tolist() == [[2, 3, 0, 0], [1, 3, 3, 3]]
    assert [tokenizer.count(text) for text in ("sky " * 9, "tree a tree a")] == [9, 4]
    with pytest.raises(SourceError, match=r"tokenizer of the text tower cannot be loaded: org/name .*hf download org/"):
        Tokenizer(cfg)(["sky"])
    with pytest.raises(SourceError, match=r"cannot be loaded: that of CLIP \(TypeError\); check `text_cfg`"):
        Tokenizer({"tokenizer_kwargs": {"nonsense": 1}})(["sky"])
