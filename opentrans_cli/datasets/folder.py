"""The data set `folder`: the user's own images and label maps, paired by name, without code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from opentrans_cli.datasets.class_file import LARGEST_ID, UNLABELLED, ClassList, may_lack_names, read_classes
from opentrans_cli.datasets.labelled import LabelledPairs
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.pairs import pair_pictures
from opentrans_cli.datasets.picture_source import is_shards
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import OptionError


class FolderDataset(LabelledPairs):
    """Images in one folder, label maps in another, paired by relative path without suffix; or both in tar shards.

    `image_suffix` and `label_suffix` replace the suffixes in a name, as in Cityscapes: "_leftImg8bit.png".
    Without `labels`, `images` are tar shards as `list_pictures` takes them, with a label map beside each photo.

    Label maps hold the ids of `classes`, or one of `ignore` (none given: the ids that the class file calls void, else
    255, or 65535 where a class has the id 255).

    `split` is a list of stems; without it every image needs a label map and the other way round. `unseen` names classes
    without labels in training, `limit` is the largest number of pairs, `crop` replaces the default training crop.
    """

    _where_all = "; `opentrans check` names all"

    def __init__(
        self,
        images: Path,
        labels: Path | None,
        classes: Path | Vocabulary | ClassList,
        *,
        ignore: tuple[int, ...] = (),
        split: Path | None = None,
        unseen: tuple[str, ...] = (),
        limit: int | None = None,
        crop: int | None = None,
        image_suffix: str | None = None,
        label_suffix: str | None = None,
    ) -> None:
        known = ClassList.of(classes)
        ignored = ignore or known.default_ignored
        pairing = pair_pictures(images, labels, image_suffix=image_suffix, label_suffix=label_suffix, split=split)
        pairing.refuse_faults(images, labels, suffixes=image_suffix is not None or label_suffix is not None)
        pairs = pairing.pairs[:limit]
        super().__init__(known, pairs, ignored=ignored, unseen=unseen, crop=crop, listed=pairing.remarks)

    def _next_move(self, foreign: Sequence[int], there: Collection[int]) -> str:
        classes = self.classes
        unlabelled = ",".join(map(str, sorted({*self.ignored, *foreign})))
        moves = []
        if not classes.written and may_lack_names(len(classes.ids), {*there} - self._known, there):
            moves.append("write ids into the class file (7:NAME) if it lacks names in between")
        elif len(foreign) < 6:
            moves.append(f"pass --ignore {unlabelled} if they are not labelled")
        if classes.written and not classes.counted:
            moves.append("--label-ids order if label maps count classes from 0")
        elif not classes.written and list(foreign) == [len(classes.ids)]:
            moves.append(f"write 1:{classes.vocabulary.names[0]} and so on into the class file if they count from 1")
        moves.append("add the class to the class file")
        return ", or ".join(moves)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Which files were left out, how the class file was read, and classes that `ignore` leaves without pixels."""
        names = dict(zip(self.classes.ids, self.vocabulary.names, strict=True))
        lost = [
            f"pixels of id {i} are not labelled (--ignore), so none is '{names[i]}'" for i in self.ignored if i in names
        ]
        moved = self.ignored == (LARGEST_ID,) and UNLABELLED in names
        told = [f"id {UNLABELLED} is '{names[UNLABELLED]}', so unlabelled pixels have {LARGEST_ID}"] if moved else []
        return (*self._listed, *self.classes.remarks, *lost, *told)


def open_folder(options: DatasetOptions) -> FolderDataset:
    """The data set that --images, --labels and --classes describe; raises OptionError if one is missing."""
    if options.root is not None:
        raise OptionError(f"data set 'folder' is no published one: --root {options.root}; leave it out, or name one")
    own = options.labels is None or options.labels == options.images
    # A folder of photos may hold a tar file as well.
    inside = options.images is not None and is_shards(options.images) and (own or not options.images.is_dir())
    if inside and not own:
        raise OptionError(f"tar shards hold their own label maps: --labels {options.labels}; leave it out")
    if options.images is None or (options.labels is None and not inside) or options.classes is None:
        wanted = {"--images": options.images, "--labels": inside or options.labels, "--classes": options.classes}
        missing = " and ".join(name for name, value in wanted.items() if value is None)
        raise OptionError(f"data set 'folder' is not fully described: {missing} missing; add it")
    return FolderDataset(
        options.images,
        None if inside else options.labels,
        class_list(options, options.classes),
        ignore=options.ignore,
        split=options.split_list,
        unseen=options.hold_out,
        limit=options.limit,
        crop=options.size,
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
    )


def class_list(options: DatasetOptions, path: Path) -> ClassList:
    """The classes of the file `path`, with ids as --label-ids says."""
    classes = read_classes(path)
    return classes.in_order() if options.label_ids == "order" else classes
