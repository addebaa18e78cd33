"""What the ids in label maps say about the class file and about --ignore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from opentrans_cli.datasets.class_file import ClassList, from_one, may_lack_names
from opentrans_cli.pictures.legend import percentage
from opentrans_cli.steps.check.findings import Finding, counted

MANY_IDS = 16
"""So many ids without a class in one label map are no slip of the pen."""
COMMON = 0.1
"""Share of the label maps from which on an id without a class looks like a rule of the data set."""
MOST_VOID = 3
"""So many ids may well mean "not labelled"; more look like the ids of another class file."""


@dataclass(frozen=True)
class DataClasses:
    """Class `names[i]` has the id `ids[i]`; pixels of the ids `void` are not labelled, also where that is a class."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    void: tuple[int, ...]
    remarks: tuple[str, ...] = ()  # how the class file was read
    written: bool = False  # whether the class file writes ids

    @classmethod
    def of(cls, classes: ClassList, ignored: tuple[int, ...]) -> DataClasses:
        """The classes of a file; ignored: what --ignore says, () without it."""
        return cls(
            classes.vocabulary.names, classes.ids, ignored or classes.default_ignored, classes.remarks, classes.written
        )

    def foreign(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are neither a class nor void, ascending."""
        return sorted({*ids} - {*self.ids, *self.void})

    @property
    def after(self) -> int | None:
        """The id after that of the last class where ids are places in the class file, else None."""
        return len(self.ids) if self.ids == tuple(range(len(self.ids))) else None

    def may_have_gaps(self, ids: Collection[int]) -> bool:
        """Whether the class file may lack names in between, when label maps hold `ids`."""
        return self.after is not None and not self.written and may_lack_names(self.after, self.foreign(ids), ids)

    def gaps_first(self, move: str, ids: Collection[int]) -> str:
        """`move` behind what comes first where the class file may have gaps."""
        if not self.may_have_gaps(ids):
            return move
        first = "if the class file lacks names in between, write ids into it (7:NAME)"
        if self.foreign(ids) == [self.after]:
            first += f"; if ids count from 1, write them as well ({self.from_one})"
        return f"{first}; else {move}"

    @property
    def from_one(self) -> str:
        """How the class file says that ids count from 1."""
        return from_one(self.names)


@dataclass
class Ids:
    """The ids in the label maps that were read."""

    label_maps: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    files: dict[int, list[str]] = field(default_factory=dict)  # by id, the label maps that have it
    crowded: list[str] = field(default_factory=list)  # label maps with so many foreign ids that these are not counted
    unlabelled: list[str] = field(default_factory=list)  # label maps with void pixels alone

    @classmethod
    def of(cls, label_maps: Iterable[tuple[str, dict[int, int]]], classes: DataClasses) -> Ids:
        """The ids of label maps, each with its name and its pixels by id."""
        ids = cls()
        for name, pixels in label_maps:
            if not pixels:  # it cannot be read
                continue
            ids.label_maps += 1
            foreign = classes.foreign(pixels)
            if len(foreign) >= MANY_IDS:
                ids.crowded.append(name)
                pixels = {number: count for number, count in pixels.items() if number not in foreign}
            elif pixels.keys() <= {*classes.void}:
                ids.unlabelled.append(name)
            ids.pixels.update(pixels)
            for number in pixels:
                ids.files.setdefault(number, []).append(name)
        return ids

    def share(self, number: int) -> float:
        """The share of an id of all pixels, in [0, 1]."""
        return self.pixels[number] / max(1, self.pixels.total())

    def spread(self, number: int) -> int:
        """In how many label maps an id is."""
        return len(self.files.get(number, ()))


def about_ids(ids: Ids, classes: DataClasses) -> tuple[list[Finding], tuple[int, ...] | None]:
    """Findings about ids and classes; and what --ignore should be, if that is something else."""
    found, suggested = _about_classes(ids, classes)
    if ids.crowded:
        what = f"{counted(len(ids.crowded), 'label map has', 'label maps have')} {MANY_IDS} or more ids without a class"
        move = "write ids of this class file, as PNG, without JPEG or smooth resizing, which make ids that nobody drew"
        found.append(Finding("many-ids", "fault", what, move, tuple(ids.crowded)))
    if ids.unlabelled:
        what = f"{counted(len(ids.unlabelled), 'label map has', 'label maps have')} no labelled pixel"
        found.append(Finding("unlabelled", "warning", what, "label them, or leave them out", tuple(ids.unlabelled)))
    return [*found, *(Finding("class-file", "note", remark, "") for remark in classes.remarks)], suggested


def _about_classes(ids: Ids, classes: DataClasses) -> tuple[list[Finding], tuple[int, ...] | None]:
    foreign = classes.foreign(ids.pixels)
    if (shifted := _counts_from_one(ids, classes)) is not None:
        return [shifted], _ignored(ids, classes, [0]) if 0 in ids.pixels else None
    in_range = ids.pixels.keys() - {*classes.void} <= {*range(len(classes.ids))}
    if classes.after is None and foreign and foreign != [0] and in_range:
        what = f"label maps count classes from 0, and the class file writes other ids: {_listed(foreign)} has no class"
        files = sorted({name for number in foreign for name in ids.files[number]})
        return [Finding("ids-in-order", "fault", what, "pass --label-ids order", tuple(files))], None
    usual = [number for number in foreign if ids.spread(number) >= COMMON * ids.label_maps]
    if usual and len(ids.pixels.keys() & {*classes.ids}) <= 1:
        return [_other_ids(ids, classes)], None
    slips = [number for number in foreign if number not in usual or number < 0]
    void = [number for number in usual if number not in slips]
    gaps = classes.may_have_gaps(ids.pixels.keys())
    more = _ignored(ids, classes, void) if 0 < len(void) <= MOST_VOID and not gaps else None
    found = [_usual(ids, classes, void, more)] if void else []
    found += [_slips(ids, classes, slips)] if slips else []
    return found + _empty_classes(ids, classes), None if _may_count_from_zero(ids, classes) else more


def _may_count_from_zero(ids: Ids, classes: DataClasses) -> bool:
    """Whether label maps may as well count classes from 0 in their order, though the class file writes ids: 0 is there
    and no class, and ids that only the class file's numbers reach are nowhere.

    So are label maps of COCO-Stuff beside its list of labels; those of a few pictures of ADE20K look alike, where 0 is
    void.
    """
    beyond = {number for number in classes.ids if number >= len(classes.ids)}
    return bool(beyond) and 0 in ids.pixels and 0 not in classes.ids and not beyond & ids.pixels.keys()


def _other_ids(ids: Ids, classes: DataClasses) -> Finding:
    """The finding that hardly an id is that of a class."""
    there = sorted(ids.pixels.keys() - {*classes.void})
    what = f"label maps hold other ids than the class file: {_listed(there)}"
    move = "give the class file that they were made with"
    if len(there) == len(classes.names):
        example = ", ".join(f"{number}:{name}" for number, name in zip(there[:3], classes.names, strict=False))
        move += f", or write their ids into this one ({example}{', ...' if len(there) > 3 else ''})"
    files = sorted({name for number in classes.foreign(there) for name in ids.files[number]})
    return Finding("other-ids", "fault", what, move, tuple(files))


def _counts_from_one(ids: Ids, classes: DataClasses) -> Finding | None:
    """The finding that classes are 1 to their number: that id alone is foreign, and 0 is nowhere, or, as void is, in
    far more label maps.
    """
    last = classes.after
    if last is None or classes.foreign(ids.pixels) != [last]:
        return None
    void = 0 in ids.pixels
    if void and (
        classes.may_have_gaps(ids.pixels.keys()) or not COMMON * ids.label_maps <= ids.spread(last) < ids.spread(0) / 2
    ):
        return None
    what = f"ids seem to count from 1{' with 0 for void' if void else ''}: id {last} has no class"
    move = f"write the ids into the class file ({classes.from_one}){' and pass --ignore 0' if void else ''}"
    return Finding("ids-from-1", "fault", what, move, tuple(ids.files[last]))


def _ignored(ids: Ids, classes: DataClasses, more: list[int]) -> tuple[int, ...]:
    """What --ignore should be for the ids `more` to be void as well."""
    return tuple(sorted({*more, *(number for number in classes.void if number in ids.pixels)}))


def _usual(ids: Ids, classes: DataClasses, numbers: list[int], suggested: tuple[int, ...] | None) -> Finding:
    """The finding about ids without a class that many label maps have."""
    files = sorted({name for number in numbers for name in ids.files[number]})
    share = percentage(sum(map(ids.share, numbers)))
    move = "give the class file that these label maps were made with, or add the classes"
    move = classes.gaps_first(move, ids.pixels.keys())
    if suggested is not None:
        move = f"if that means 'not labelled', pass --ignore {','.join(map(str, suggested))}; else give it a class"
        if numbers == [classes.after] and 0 in ids.pixels:
            move += f"; if ids count from 1, write them into the class file ({classes.from_one})"
        if _may_count_from_zero(ids, classes):
            move += "; if label maps count classes from 0, pass --label-ids order; samples show which: --out DIR"
    what = f"id {numbers[0]} has no class" if len(numbers) == 1 else f"ids without a class: {_listed(numbers)}"
    what += f", {share} of the pixels, in {counted(len(files), 'label map')}"
    return Finding("id-without-class", "fault", what, move, tuple(files))


def _slips(ids: Ids, classes: DataClasses, numbers: list[int]) -> Finding:
    """The finding about ids without a class that few label maps have, or that no class can have."""
    files = sorted({name for number in numbers for name in ids.files[number]})
    what = f"{counted(len(files), 'label map has', 'label maps have')} ids without a class: {_listed(numbers)}"
    move = classes.gaps_first("correct these label maps, or add the classes", ids.pixels.keys())
    return Finding("id-without-class", "fault", what, move, tuple(files))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:6])) + (" and more" if len(numbers) > 6 else "")


def _empty_classes(ids: Ids, classes: DataClasses) -> list[Finding]:
    """Findings about classes that no pixel has."""
    named = dict(zip(classes.ids, classes.names, strict=True))
    there = ids.pixels.keys() & named.keys() - {*classes.void}
    empty = tuple(name for number, name in named.items() if number not in there)
    if not empty or not ids.pixels:
        return []
    what = f"{counted(len(empty), 'class has', 'classes have')} no pixel"
    ignored = ids.pixels.keys() & {*classes.void}
    if ignored & named.keys() or (ignored and len(there) <= 1):
        lost = max(ignored & named.keys() or ignored, key=ids.share)
        what = f"{what}, and id {lost} is ignored: {percentage(ids.share(lost))} of the pixels"
        move = f"if {lost} is a class, write ids into the class file ({lost}:{named.get(lost, empty[0])}) and pass "
        return [Finding("ignored-class", "fault", what, f"{move}another --ignore", empty)]
    if len(there) <= 1:
        move = "check --ignore and the ids in the class file: a segmentor needs two classes to tell apart"
        return [Finding("one-class", "fault", f"{what}, {'only one' if there else 'none'} has", move, empty)]
    move = "they cannot be learned or scored; add label maps that have them, or leave them out of the class file"
    if classes.after is not None and not classes.written:
        move += " and write ids for the others"
    if classes.after is not None and 0 not in ids.pixels:
        move = f"if ids count from 1, write them into the class file ({classes.from_one}); else {move}"
    return [Finding("class-without-pixels", "warning", what, move, empty)]
