"""Words in another order than the classes of the data set are refused, and published class files are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opentrans_cli import assets
from opentrans_cli.datasets.class_file import read_classes
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError
from opentrans_cli.steps.eval.word_order import check_word_order

NAMES = ("sky", "Sea", "sand", "rock")


def test_exchanged_classes_are_refused_before_anything_is_loaded(run_cli: Any, labelled_folder: Any, tmp_path: Path):
    other = tmp_path / "other.txt"
    other.write_text("red square\ngrass, meadow\nblue square\n")
    result = run_cli("eval", "nothing", *labelled_folder.options, "--vocabulary", other, "--quiet")
    assert result.exit_code == 1 and result.stderr == (
        "opentrans: error: words in another order than the data set: its class 0 is 'grass', that of the words "
        "'red square' (2 such classes); write them in its order\n"
    )


@pytest.mark.parametrize(
    "classes",
    [
        ("sky", "sea", "sand", "rock"),
        ("heaven,SKY", "ocean,sea", "beach", "stone"),
        ("blue", "ocean", "beach", "stone"),
        ("sky", "ocean", "sand,sea", "rock"),  # one word that is the name of a neighbour
        ("sky,sea", "water", "beach,rock", "cliff,rocks"),
    ],
)
def test_other_words_for_the_same_classes_are_taken(classes: tuple[str, ...]) -> None:
    check_word_order(Vocabulary(tuple(tuple(each.split(",")) for each in classes)), NAMES)


def test_a_turned_list_is_refused_wherever_it_begins() -> None:
    for first in range(1, 4):
        turned = (*NAMES[first:], *NAMES[:first])
        with pytest.raises(DataError, match=r"\(4 such classes\)"):
            check_word_order(Vocabulary.from_names(turned), NAMES)


PUBLISHED = {
    "coco": "coco_panoptic",
    "coco-stuff": "coco_stuff",
    "cityscapes": "cityscapes",
    "ade20k-150": "ade20k_150",
    "ade20k-847": "ade20k_847",
    "voc-21": "pascal_voc_21",
    "context-59": "pascal_ctx_59",
    "context-459": "pascal_ctx_459",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_words_stand_in_the_order_of_our_data_sets(shared: Path, name: str) -> None:
    listed = read_classes(Path(assets.__file__).parent / "class_lists" / f"{name}.txt").vocabulary
    words = read_classes(shared / "reference" / "class_names" / f"{PUBLISHED[name]}_with_prompt_eng.txt").vocabulary
    check_word_order(words, listed.names)
    with pytest.raises(DataError, match="in another order"):
        check_word_order(Vocabulary((*words.classes[1:], words.classes[0])), listed.names)
