"""Class files: the names of the classes, and their ids in label maps where the file writes them.

Read as they come from other projects: a name on each line; `id:name`; columns with commas, tabs or `;`; JSON. What
could be read in two ways is an error that says how to write it.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from opentrans_cli.datasets.textfile import read_text, text_entries
from opentrans_cli.datasets.vocabulary import Vocabulary, distinct_words, synonyms_in
from opentrans_cli.errors import DataError

INVALID = "invalid_class_id"
"""FC-CLIP's class files mark ids without a class by this name."""

LABELME = "__ignore__"
"""The first line of labelme's class files, for pixels of id -1: the next line is class 0."""

VOID = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "ignore_label")
"""Names of pixels that belong to no class, as label maps of published data sets have them."""

_YAML = (".yaml", ".yml")
_LONGEST_NAME = 4096
_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".names", ".lst", ".safetensors", *_YAML)

LARGEST_ID = 65535
"""Label maps hold 16 bits."""

UNLABELLED = 255
"""The usual id of unlabelled pixels."""

KIND = "class file"

_NUMBERED = re.compile(r"[\"']?(-?[0-9]+)[\"']?\s*:(.*)")
_NUMBER_LAST = re.compile(r"(.*[^\W\d].*?)\s*[:=]\s*(-?[0-9]+)")
_COLOURED = re.compile(r"(.*?[^\W\d][^:]*?)[\s:=]+[(\[]?[0-9]+[\s,]+[0-9]+[\s,]+[0-9]+[)\]]?(:.*)?")
_OTHER_NUMBERED = re.compile(r"([0-9]+)(?:\s*[=|]\s*|\s*->\s*|[.)]\s+|\s+-\s+)(.+)")
_SPACED = re.compile(r"([0-9]+)\s+([^\W\d].*)")
_NUMBERS_FIRST = re.compile(r"[-+0-9.]+(\s+[-+0-9.]+.*)?")
_SYNSET = re.compile(r"n[0-9]{8}\s+(.+)")
_INTEGER = re.compile(r"-?[0-9]+(\.0+)?")  # pandas writes 7.0 for an id in a column with a gap
_LISTED = re.compile(r"[-*\u2022]\s+(.+)")
_TWO_PARTS = re.compile(r".*[:=].*|[0-9]+[-_]\S.*|.*\(\s*[0-9]+\s*\)")
_COLOUR = r"#[0-9a-f]{6}|[(\[]?[0-9]+(,? +[0-9]+|,[0-9]+){2}[)\]]?"
_NUMBER = re.compile(rf"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?%?|{_COLOUR}", re.IGNORECASE)
_WORDNET = re.compile(r"n[0-9]{8}")

_ID_WORDS = (
    "id",
    "idx",
    "index",
    "no",
    "nr",
    "number",
    "value",
    "pixel",
    "pixel value",
    "grey",
    "gray",
    "labelid",
    "label id",
    "classid",
    "class id",
    "class index",
    "categoryid",
    "category id",
    "trainid",
    "train id",
    "",
)
_NAME_WORDS: tuple[str, ...] = (
    "readable",
    "name",
    "names",
    "class name",
    "classname",
    "label name",
    "category name",
    "label",
    "class",
)
_NAME_WORDS += ("category", "title", "text", "word", "words")
_SYNONYM_WORDS = ("synonyms", "aliases", "synonym", "alias")
_LISTS = ("categories", "classes", "names", "id2label", "label2id", "labels", "class names", "vocabulary")


class Row(NamedTuple):
    """One class as a file writes it."""

    where: str  # "classes.txt, line 3", for messages
    id: int | None
    words: tuple[str, ...]  # its name, then synonyms


@dataclass(frozen=True)
class ClassList:
    """The classes of a file, and what label maps hold for them."""

    vocabulary: Vocabulary
    ids: tuple[int, ...]  # of each class, ascending; 0, 1, ... in the order of the file if it writes none
    void: tuple[int, ...] = ()  # ids that the file names as pixels without a class
    written: bool = False  # whether the file writes ids
    remarks: tuple[str, ...] = ()  # what a user should know of how the file was read

    @classmethod
    def of(cls, classes: Path | Vocabulary | ClassList) -> ClassList:
        """`classes` as a list with ids. Raises DataError."""
        if isinstance(classes, Vocabulary):
            return cls(classes, tuple(range(len(classes))))
        return read_classes(classes) if isinstance(classes, Path) else classes

    @property
    def default_ignored(self) -> tuple[int, ...]:
        """The ids of unlabelled pixels unless told otherwise: those that the file calls void, else 255.

        Where a class has the id 255, it is 65535, so that no class is dropped.
        """
        return self.void or ((UNLABELLED,) if UNLABELLED not in self.ids else (LARGEST_ID,))

    @property
    def counted(self) -> bool:
        """Whether ids are 0, 1, ... in the order of the classes."""
        return self.ids == tuple(range(len(self.ids)))

    def in_order(self) -> ClassList:
        """The same classes for label maps that count 0, 1, ... in their order, whatever the file writes."""
        return ClassList(self.vocabulary, tuple(range(len(self.vocabulary))))


def read_classes(path: Path) -> ClassList:
    """The classes of a file, in the order of their ids if it writes any, else in its own.

    What is understood, with or without a byte order mark:

    - a class on each line, synonyms behind commas or `;`; blank lines and lines that start with `#` are skipped;
    - `7:road`, `7 road`, `7,road`, `7<TAB>road`, `7;road` and the like on every line, or `road,7`;
    - columns with a line of headings, of which one is "name" and one may be "id";
    - JSON, JSON lines, YAML and Python literals: names, objects with id and name, `{"7": "road"}`, `{"road": 7}`,
      and these under "categories" (COCO), "classes", "names", "labels" or "id2label".

    Ids may come in any order and have gaps. Entries named `invalid_class_id` are left out, entries named as in VOID are
    pixels without a class. Two classes may share a word only where ids keep them apart, as in published benchmarks.
    Raises DataError, with the next move, for a file that is missing, empty, no text, or can be read in two ways.
    """
    text = read_text(path, KIND)
    start = text.lstrip()[:40]
    if start.startswith(("<", "version https://git-lfs")):
        what = "a web page" if start.startswith("<") else "the pointer of Git LFS"
        raise DataError(f"{KIND} is {what}: {path}; download the file itself")
    remarks: list[str] = []
    if start.startswith(("[", "{", "(")) or path.suffix.lower() in (".json", ".jsonl", *_YAML):
        rows = list(_of_data(_parsed(text, path), str(path)))
        if not rows:
            raise DataError(f"{KIND} is empty: {path}; write a list of names")
    else:
        rows, remarks = _of_lines(text_entries(text, path, KIND), path)
    return _listed(rows, remarks, path)


def from_one(names: Sequence[str]) -> str:
    """How a class file says that the ids of its classes count from 1."""
    return ", ".join(f"{number}:{name}" for number, name in enumerate(names[:2], start=1)) + ", ..."


def may_lack_names(names: int, foreign: Collection[int], there: Collection[int]) -> bool:
    """Whether a class file of so many `names` without ids may lack some in between, as that of COCO-Stuff does: then
    every id after a gap is taken for its neighbour.

    So it is if label maps hold `foreign` ids just beyond the last name, and these are several, or an id before them is
    not `there`.
    """
    beyond = [number for number in foreign if names <= number < 2 * names]
    return len(beyond) > 1 or (bool(beyond) and not {*range(names)} <= {*there})


def file_among(words: str) -> str | None:
    """The name of a file that a user gave in a place for words with commas; None if all are words.

    A word counts as a file's name if it ends as class files do, or if it has a suffix or folder and the file is there.
    """
    return next((word for part in words.split(",") if _is_file((word := part.strip()))), None)


def _is_file(word: str) -> bool:
    path = Path(word)
    if path.suffix.lower() in _SUFFIXES:
        return True
    return bool(path.suffix or len(path.parts) > 1) and len(word) < _LONGEST_NAME and path.is_file()


def _listed(rows: list[Row], remarks: list[str], path: Path) -> ClassList:
    """The classes of `rows`, checked."""
    written = rows[0].id is not None
    if (odd := next((row for row in rows if (row.id is not None) != written), None)) is not None:
        raise DataError(f"class without an id among others with ids: {odd.where}; write all ids or none")
    if len(rows) == 1 and not written and len(rows[0].words) > 1:
        raise DataError(
            f"one class with synonyms, or several classes: {rows[0].where} is all there is; write a class on each line"
        )
    if written:
        numbered = _with_ids(rows, remarks)
    else:
        first = -1 if rows[0].words[0] == LABELME else 0
        numbered = [row._replace(id=place) for place, row in enumerate(rows, start=first) if place >= 0]
    void = [row for row in numbered if row.words[0].casefold() in VOID]
    kept = [row for row in numbered if row not in void and row.words[0] != INVALID]
    if not kept:
        raise DataError(f"{KIND} has only {rows[0].words[0]} lines: {path}; write one class per line")
    remarks += [f"'{row.words[0]}' in {row.where} is no class: pixels of id {row.id} are not labelled" for row in void]
    ids = tuple(row.id for row in kept if row.id is not None)
    if written and ids != tuple(range(len(ids))):
        remarks.append(f"{path} writes ids: its {len(ids)} classes have {ids[0]} to {ids[-1]}")
    if written:
        vocabulary = Vocabulary(tuple(distinct_words(row.words) for row in kept))
    else:
        vocabulary = Vocabulary.from_entries([(row.where, row.words) for row in kept])
    unlabelled = {row.id for row in void if row.id is not None}
    if written and sum(row.id == UNLABELLED for row in rows) > 1:
        unlabelled.add(UNLABELLED)
    return ClassList(vocabulary, ids, tuple(sorted(unlabelled)), written, tuple(remarks))


def _with_ids(rows: list[Row], remarks: list[str]) -> list[Row]:
    """`rows` by id. Rows without a place in label maps, of id -1 or of the same id 255, are left out.

    Raises DataError for two classes of one id, and an id that label maps cannot hold.
    """
    found: dict[int, Row] = {}
    nowhere = [row for row in rows if row.id is not None and row.id < 0]
    unlabelled = [row for row in rows if row.id == UNLABELLED]
    if len(unlabelled) > 1:  # Cityscapes' ids for training, and others'
        nowhere += unlabelled
    for row in rows:
        assert row.id is not None
        if row in nowhere:
            continue
        if row.id > LARGEST_ID:
            raise DataError(f"class id is too large: {row.id} in {row.where}; label maps hold at most {LARGEST_ID}")
        if (first := found.setdefault(row.id, row)) is not row:
            raise DataError(
                f"two classes have the id {row.id}: {first.where} and {row.where}; give each its own, and write "
                "synonyms behind the name"
            )
    if nowhere:
        names = ", ".join(row.words[0] for row in nowhere[:8]) + (", ..." if len(nowhere) > 8 else "")
        remarks.append(f"{len(nowhere)} names with the id -1 or 255 are no classes: {names}")
    if not found:
        raise DataError(f"no class has an id of its own: {rows[0].where} has {rows[0].id}; write the ids of label maps")
    return [found[key] for key in sorted(found)]


# Lines.


def _of_lines(entries: list[tuple[int, str]], path: Path) -> tuple[list[Row], list[str]]:
    """The classes of lines of text, and remarks."""
    lines = [(f"{path}, line {number}", text) for number, text in entries]
    if braces := next((where for where, text in lines if text.endswith("{") or text == "}"), None):
        raise DataError(f"{KIND} has blocks in braces: {braces}; write a class on each line, as 'id:name'")
    if any("\t" in text for _, text in lines):
        cells = [(where, _cells(text, "\t", where)) for where, text in lines]
        if odd := next((where for where, row in cells if len(row) == 1), None):
            raise DataError(f"line without a tab among lines with tabs: {odd}; write the same columns in each")
        return _of_table(cells, path, loose=False)
    for delimiter in ";,":
        cells = [(where, _cells(text, delimiter, where)) for where, text in lines]
        if _is_table([row for _, row in cells]):
            return _of_table(cells, path, loose=True)
    if all(_LISTED.fullmatch(text) for _, text in lines):
        lines = [(where, _LISTED.sub(r"\1", text)) for where, text in lines]
    for pattern, what in ((_SYNSET, "WordNet ids"), (_COLOURED, "colours")):
        if all(pattern.fullmatch(text) for _, text in lines):
            named = [(where, pattern.sub(r"\1", text)) for where, text in lines]
            return _plain(named), [f"{path}: {what} are not read, ids are places in the file"]
    for pattern in (_NUMBERED, _OTHER_NUMBERED, _SPACED):
        matches = [(where, pattern.fullmatch(text)) for where, text in lines]
        found = sum(match is not None for _, match in matches)
        if found < len(lines) and found >= (1 if pattern is _NUMBERED else max(2, len(lines) / 2)):
            odd = next(where for where, match in matches if match is None)
            raise DataError(f"line without an id among lines with ids: {odd}; write 'id:name' or drop all ids")
        if found == len(lines):
            if pattern is _SPACED and found == 1:
                raise DataError(f"an id and a name, or a name: '{lines[0][1]}' in {lines[0][0]}; write 'id:name'")
            return [Row(where, int(match[1]), synonyms_in(match[2], where)) for where, match in matches if match], []
    last = [(where, _NUMBER_LAST.fullmatch(text)) for where, text in lines]
    if all(match for _, match in last):
        return [Row(where, int(match[2]), synonyms_in(match[1], where)) for where, match in last if match], []
    if all(map(_NUMBERS_FIRST.fullmatch, (text for _, text in lines))):
        raise DataError(f"{KIND} holds numbers without names: {path}; write 'id:name', or numbers as words")
    if lines[0][1].casefold() in (*_NAME_WORDS, "classes", "labels"):
        raise DataError(f"a heading or a class: '{lines[0][1]}' in {lines[0][0]}; put # before a heading")
    if len(lines) > 1 and all(_TWO_PARTS.fullmatch(text) for _, text in lines):
        raise DataError(
            f"a name, or a name and something else: '{lines[0][1]}' in {lines[0][0]}; write 'id:name' or names"
        )
    return _plain(lines), []


def _plain(lines: list[tuple[str, str]]) -> list[Row]:
    return [Row(where, None, synonyms_in(",".join(_cells(text, ",", where)), where)) for where, text in lines]


def _cells(text: str, delimiter: str, where: str) -> list[str]:
    """The cells of a line; quotes as in CSV files, and several tabs are one."""
    if '"' not in text or delimiter not in text:
        return [cell.strip() for cell in (re.split("\t+", text) if delimiter == "\t" else text.split(delimiter))]
    try:
        (cells,) = csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        raise DataError(f"quotes do not match: {where}; close or remove them") from None
    return [cell.strip() for cell in cells]


def _is_table(rows: list[list[str]]) -> bool:
    """Whether cells are columns, and not a name with its synonyms."""
    if min(map(len, rows)) < 2:
        return False
    if headings := _headings(rows[0]):
        known = (*_NAME_WORDS, *_ID_WORDS, *_SYNONYM_WORDS)
        return all(cell in known for cell in headings) or any(_NUMBER.fullmatch(c) for row in rows[1:] for c in row)
    firsts = [bool(_INTEGER.fullmatch(row[0])) for row in rows]
    return (
        all(firsts)
        or (len(firsts) > 1 and all(firsts[1:]))
        or all(not _NUMBER.fullmatch(row[0]) and all(map(_NUMBER.fullmatch, row[1:])) for row in rows)
    )


def _headings(row: list[str]) -> list[str]:
    """The headings that a line has, in the spelling of the tables above; none if it is no line of headings."""
    spelled = list(map(_spelled, row))
    named = any(cell in _NAME_WORDS for cell in spelled)
    return spelled if named and not any(map(_NUMBER.fullmatch, row)) else []


def _of_table(cells: list[tuple[str, list[str]]], path: Path, *, loose: bool) -> tuple[list[Row], list[str]]:
    """The classes of lines with columns, and remarks; loose: words in further columns are synonyms."""
    headings = _headings(cells[0][1])
    if headings:
        return _of_headings(headings, cells, path)
    width = min(len(row) for _, row in cells)
    if (
        not _INTEGER.fullmatch(cells[0][1][0])
        and len(cells) > 1
        and all(_INTEGER.fullmatch(r[0]) for _, r in cells[1:])
    ):
        raise DataError(f"no column of names: {cells[0][0]} has {', '.join(cells[0][1])}; call one 'name'")
    columns = list(zip(*(row[:width] for _, row in cells), strict=True))
    numbers = [place for place, column in enumerate(columns) if all(map(_NUMBER.fullmatch, column))]
    whole = [place for place in numbers if all(map(_INTEGER.fullmatch, columns[place]))]
    names = [p for p in range(width) if p not in numbers and not all(map(_WORDNET.fullmatch, columns[p]))]
    where = next((place for place, row in cells if len(row) != width), cells[0][0])
    if not loose and any(len(row) != width for _, row in cells):
        raise DataError(f"lines have different numbers of columns: {where}; write the same in each")
    if not names or (not loose and len(names) > 1):
        raise DataError(
            f"which column holds the names is not clear: {where}; add a line of headings with 'id' and 'name'"
        )
    colours = [place for place in whole if place > names[0]] if 0 not in whole else []
    ids = None if len(colours) == 3 else next(iter(whole), None)
    if (0 not in whole and len(whole) not in (0, 1, 3)) or (whole[:3] == [0, 1, 2] and names[0] == 3):
        raise DataError(
            f"which column holds the ids is not clear: {where}; add a line of headings with 'id' and 'name'"
        )
    rows = []
    for place, row in cells:
        words = [row[name] for name in names] + ([cell for cell in row[width:] if not _NUMBER.fullmatch(cell)])
        rows.append(Row(place, None if ids is None else int(float(row[ids])), synonyms_in(",".join(words), place)))
    left = [str(place + 1) for place in range(width) if place not in (ids, *names)]
    return rows, [f"{path}: column {', '.join(left)} of the lines is not read"] if left else []


def _of_headings(headings: list[str], cells: list[tuple[str, list[str]]], path: Path) -> tuple[list[Row], list[str]]:
    """The classes of lines below a line of headings, and remarks."""
    (top, shown), *body = cells
    if not body:
        raise DataError(f"{KIND} has headings only: {path}; write one class per line")
    for where, row in body:
        if len(row) != len(headings):
            raise DataError(f"{len(row)} columns, but {len(headings)} headings: {where}; quote a name with commas")
    columns = dict(zip(headings, zip(*(row for _, row in body), strict=True), strict=True))
    if len(columns) < len(headings):
        raise DataError(f"two columns have one heading: {top}; rename one")
    whole = {name for name, column in columns.items() if all(map(_INTEGER.fullmatch, column))}
    ids = {name: columns[name] for name in headings if name in whole and name in (*_ID_WORDS, *_NAME_WORDS)}
    names = [name for name in _NAME_WORDS if name in columns and name not in whole]
    if not names:
        raise DataError(f"no column of names: {top} has {', '.join(shown)}; call one 'name'")
    if len(set(ids.values())) > 1:
        first, second = list(ids)[:2]
        raise DataError(f"which ids label maps hold is not clear: {top} has '{first}' and '{second}'; keep one column")
    chosen, more = next(iter(ids), None), [name for name in _SYNONYM_WORDS if name in columns]
    rows = []
    for number, (where, row) in enumerate(body):
        words = [row[headings.index(names[0])], *(row[headings.index(name)] for name in more)]
        key = None if chosen is None else int(float(columns[chosen][number]))
        rows.append(Row(where, key, synonyms_in(",".join(word for word in words if word), where)))
    read = {names[0], *more, *ids}
    left = [shown[place] for place, name in enumerate(headings) if name not in read]
    told = f"{path}: names are those of the column '{shown[headings.index(names[0])]}'"
    return rows, [f"{told}; not read: {', '.join(left)}"] if left else []


# JSON and Python literals.


def _parsed(text: str, path: Path) -> Any:
    if path.suffix.lower() in _YAML:
        import yaml  # type: ignore[import-untyped]

        try:
            return _with_pairs(yaml.safe_load(text))
        except (yaml.YAMLError, RecursionError) as error:
            raise DataError(f"{KIND} is no YAML: {path} ({' '.join(str(error).split())}); mend it") from None
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        wrong = error
    except RecursionError:
        raise DataError(f"{KIND} is nested too deeply: {path}; write a list of names") from None
    try:
        return [json.loads(line, object_pairs_hook=_Pairs) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        pass
    try:
        return _with_pairs(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise DataError(
            f"{KIND} begins like JSON and is none: {path} ({wrong}); mend it, or write a class on each line"
        ) from None


class _Pairs(list[tuple[Any, Any]]):
    """The members of an object, so that a name that occurs twice is seen."""


def _with_pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return _Pairs((key, _with_pairs(part)) for key, part in value.items())
    return [_with_pairs(part) for part in value] if isinstance(value, list | tuple) else value


def _of_data(data: Any, where: str) -> Iterator[Row]:
    """The classes in data read from JSON."""
    if isinstance(data, _Pairs):
        yield from _of_object(data, where)
    elif isinstance(data, list):
        for number, each in enumerate(data):
            yield _of_entry(each, f"{where}, entry {number}")
    else:
        raise DataError(f"{KIND} holds no list: {where}; write a list of names")


def _of_object(data: _Pairs, where: str) -> Iterator[Row]:
    keys = [str(key) for key, _ in data]
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        raise DataError(f"'{twice}' occurs twice: {where}; keep one")
    members = {_spelled(key): value for key, value in data}
    inside = [name for name in _LISTS if isinstance(members.get(name), list)]
    if inside:
        yield from _of_data(members[inside[0]], f"{where}, '{inside[0]}'")
        return
    values = [value for _, value in data]
    keyed = bool(keys) and all(map(_is_integer, keys))
    if keyed and all(isinstance(value, str | list) for value in values):
        for key, value in data:
            yield _of_entry(value, f"{where}, entry {key}")._replace(id=int(float(key)))
    elif not keyed and keys and all(_is_integer(value) for value in values):
        for key, value in data:
            yield Row(f"{where}, entry '{key}'", int(float(value)), synonyms_in(key, f"{where}, entry '{key}'"))
    else:
        shown = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
        raise DataError(
            f"no classes found: {where} has {shown or 'nothing'}; write a list of names, or ids and names as in "
            '{"7": "road"}'
        )


def _of_entry(entry: Any, where: str) -> Row:
    """A class of a list: its name, its names, or an object with id and name."""
    if isinstance(entry, str):
        return Row(where, None, synonyms_in(entry, where))
    if isinstance(entry, list) and not isinstance(entry, _Pairs):
        pair = len(entry) == 2 and [part for part in entry if _is_integer(part)]
        words = [part for part in entry if isinstance(part, str) and not _is_integer(part)]
        if words and len(words) == len(entry) - (len(pair) if pair else 0):
            return Row(where, int(float(pair[0])) if pair else None, synonyms_in(",".join(words), where))
    if isinstance(entry, _Pairs):
        members = {_spelled(key): value for key, value in entry}
        name = next((members[key] for key in _NAME_WORDS if isinstance(members.get(key), str)), None)
        ids = {key: int(float(members[key])) for key in _ID_WORDS if _is_integer(members.get(key))}
        more = [part for key in _SYNONYM_WORDS for part in _texts(members.get(key))]
        if len(set(ids.values())) > 1:
            first, second = list(ids)[:2]
            raise DataError(f"which ids label maps hold is not clear: {where} has '{first}' and '{second}'; keep one")
        if name is not None:
            return Row(where, next(iter(ids.values()), None), synonyms_in(",".join([name, *more]), where))
    raise DataError(f"no class name: {where}; write a text, or an object with 'id' and 'name'")


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [part for part in value or () if isinstance(part, str)]


def _spelled(key: Any) -> str:
    return " ".join(str(key).casefold().replace("_", " ").split())


def _is_integer(value: Any) -> bool:
    """Whether a value of JSON is a whole number, also as text."""
    return not isinstance(value, bool) and _INTEGER.fullmatch(str(value)) is not None
