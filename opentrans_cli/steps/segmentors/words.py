"""The words for a segmentor, to be embedded by a text tower or with embeddings from a pack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import DEFAULT_TEMPLATES, embed_words
from opentrans_cli.datasets import DATASETS, PUBLISHED
from opentrans_cli.datasets.benchmarks.pairs import class_list_of
from opentrans_cli.datasets.class_file import ClassList, file_among, read_classes
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.datasets.vocabulary_pack import PackedClass, VocabularyPack, is_pack, read_pack
from opentrans_cli.errors import DataError, did_you_mean
from opentrans_cli.files.digest import file_sha256
from opentrans_cli.files.near import near_path
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.reporter import SILENT, Reporter

DATA_SET = "data set"
"""The origin of words that are the data set's own names of its classes."""

_NO_COMMA = {";": "';'", "\n": "line ends", "\t": "tabs"}


@dataclass(frozen=True)
class Words:
    """Classes, and the pack they were read from, if any."""

    vocabulary: Vocabulary
    pack: VocabularyPack | None = None
    written: tuple[int, ...] = ()  # ids of the classes, if a class file writes them
    remarks: tuple[str, ...] = ()  # what a user should know of how they were read
    origin: str = "given"  # "given", "data set", "class file" or "vocabulary pack"
    file: str | None = None  # name of the class file or pack
    sha256: str | None = None  # of that file, lower-case hex

    @classmethod
    def of(cls, words: AnyWords) -> Words:
        """Words as a user gives them. Raises DataError or BundleError."""
        if isinstance(words, Path):
            return cls.from_file(words)
        if isinstance(words, str):
            if (file := file_among(words)) is not None:
                raise DataError(f"a file where words are expected: {file}; read it with --vocabulary {file}")
            if words.strip()[:1] in ("[", "{") or words.strip()[-1:] in ("]", "}"):
                raise DataError(
                    f"words in brackets: {words[:60]!r}; give words and commas alone, or save them in a file"
                )
            if separator := next((called for sign, called in _NO_COMMA.items() if sign in words), None):
                raise DataError(f"words are separated by {separator}: {words[:60]!r}; use commas, or name a class file")
            *first, last = [word.strip() for word in words.split(",")]
            words = [*first, last] if last else first
        if isinstance(words, Sequence):
            words = Vocabulary.from_names(words)
        return cls(words) if isinstance(words, Vocabulary) else words

    @classmethod
    def from_file(cls, path: Path) -> Words:
        """A vocabulary pack (`.safetensors`), a class file, or, where no such file is, the classes of the published
        data set of this name with the ids of its own files. Raises DataError or BundleError.
        """
        if not is_pack(path):
            published = not path.suffix and not path.exists()
            listed = _published(path) if published else read_classes(path)
            words = cls(listed.vocabulary, written=listed.ids, remarks=listed.remarks, origin=DATA_SET)
            return words if published else words._of_file("class file", path)
        pack = read_pack(path)
        vocabulary = Vocabulary(tuple(_named(packed) for packed in pack.classes))
        return cls(vocabulary, pack)._of_file("vocabulary pack", path)

    def _of_file(self, origin: str, path: Path) -> Words:
        return replace(self, origin=origin, file=path.name, sha256=file_sha256(path))

    @property
    def ids(self) -> tuple[int, ...]:
        """The id of each class in label maps."""
        return self.written or tuple(range(len(self.vocabulary)))

    def seen_by(self, names: Sequence[str]) -> tuple[bool, ...]:
        """By class, whether it had training labels: from a pack, else from `names`; no names mean all classes."""
        if self.pack is not None:
            return tuple(packed.seen for packed in self.pack.classes)
        return self.vocabulary.seen_by(names) if names else (True,) * len(self.vocabulary)

    def embedded(
        self,
        clip: Callable[[], LoadedClip],
        *,
        dimension: int,
        templates: Sequence[str],
        seen: Sequence[bool],
        reporter: Reporter = SILENT,
    ) -> ClassText:
        """The words as text embeddings of length `dimension`; `clip` is only called if there is no pack.

        templates: the prompts of the framework. seen: by class. Raises DataError if the embeddings have another
        length, and what `clip` raises.
        """
        if self.pack is not None:
            text = ClassText(torch.from_numpy(self.pack.embeddings), self.pack.class_indices, tuple(seen))
            origin = "the vocabulary pack"
        else:
            loaded = clip()
            text = embed_vocabulary(loaded, self.vocabulary, templates=templates, seen=seen, reporter=reporter)
            origin = f"the text tower {loaded.source}"
        given = text.embeddings.shape[1]
        if given != dimension:
            raise DataError(
                f"texts and segmentor do not fit: {origin} gives embeddings of length {given}, the segmentor wants "
                f"{dimension}; take both from the same kind of CLIP"
            )
        return text


def _published(name: Path) -> ClassList:
    """The classes of a published data set. Raises DataError for another name."""
    if str(name) not in PUBLISHED:
        near = near_path(name) or did_you_mean(name, PUBLISHED)
        raise DataError(f"class file not found: {name}; name a file, or one of {', '.join(PUBLISHED)}{near}")
    return class_list_of(DATASETS.load(str(name)))


def packed(vocabulary: Vocabulary, text: ClassText, templates: Sequence[str]) -> VocabularyPack:
    """`vocabulary` with its embeddings, to be written; `text` has a row for each synonym, class by class.

    templates: the prompts that the embeddings were made with.
    """
    classes = zip(vocabulary.classes, text.seen, strict=True)
    return VocabularyPack(
        tuple(PackedClass(synonyms[0], synonyms, seen) for synonyms, seen in classes),
        text.embeddings.cpu().numpy(),
        tuple(templates),
    )


def _named(given: PackedClass) -> tuple[str, ...]:
    """The name of a class and its other texts, called synonyms in a Vocabulary."""
    return (given.name, *(text for text in given.texts if text != given.name))


def text_class_indices(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The class of each synonym, class by class."""
    return tuple(index for index, synonyms in enumerate(vocabulary.classes) for _ in synonyms)


AnyWords = str | Sequence[str] | Path | Vocabulary | Words
"""Words in any form: "red star, sky", a sequence of names, the Path of a class file or vocabulary pack, or made."""


def embed_vocabulary(
    clip: LoadedClip,
    vocabulary: Vocabulary,
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    seen: Sequence[bool] | None = None,
    reporter: Reporter = SILENT,
) -> ClassText:
    """Text embeddings of every synonym of every class; what the text tower cannot read of them is reported.

    templates: the prompts of the framework. seen: by class, whether it had training labels; None: all had.
    """
    names = [name for synonyms in vocabulary.classes for name in synonyms]
    indices = text_class_indices(vocabulary)
    embeddings = embed_words(clip, names, templates=templates, classes=indices, reporter=reporter)
    return ClassText(embeddings, indices, tuple(seen or (True,) * len(vocabulary)))
