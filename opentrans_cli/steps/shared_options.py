"""Options that several commands share; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.datasets import DATASETS
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.option import Options, option, workers

SOURCE = (
    "what to start from: tiny (embedded), open_clip NAME[:TAG], NAME:FILE, a checkpoint file or folder, "
    "hf://org/name@revision, or a bundle"
)
"""What a source is, in the words of `--help`."""
BUNDLE = "bundle folder, or hf://org/name@revision"

DEVICES = ("auto", "cpu", "cuda", "mps")

FREEZE = {
    "heavy": "small alpha, the method",
    "light": "large alpha",
    "random": "as many, drawn by --seed",
    "none": "",
}
"""Modes of `opentrans_cli.spectral.selection`."""


TASKS = {"semantic": "", "instance": "for frameworks of masks", "panoptic": "for frameworks of masks"}
"""What `segment` finds and `eval` scores besides label maps."""


@dataclass(frozen=True)
class Machine(Options):
    """The device on which a command computes."""

    device: str = option(
        "auto", help="device to compute on: auto (CUDA, then MPS, then CPU), cpu, cuda or mps", known=DEVICES
    )


@dataclass(frozen=True)
class Reading(Options):
    """How pictures get to a segmentor; this changes no result."""

    workers: int = workers(2, "threads that read pictures ahead of the model")


@dataclass(frozen=True)
class DataChoice(Options):
    """The choice of the data set, apart from its options."""

    dataset: str | None = option(
        None,
        help="data set; published ones lie under --root",
        choices={
            **dict.fromkeys(DATASETS.names(), ""),
            "shapes": "the embedded scenes",
            "folder": "your own; needs --images, --labels and --classes",
            "panoptic": "your own in COCO's panoptic format; needs --images, and the JSON as --labels",
        },
        noun="data set",
        unset="folder with --images, or panoptic if --labels is a JSON file, else shapes",
        panel="Data",
    )


@dataclass(frozen=True)
class BaseChoice(Options):
    """Where the dense CLIP of a bundle is."""

    base: str | None = option(
        None,
        help="source of the text tower, and of weights that a bundle does not hold, where its own base has moved",
        kind="base",
    )


@dataclass(frozen=True)
class BundleChoice(Options):
    """The source of a command that takes only bundles."""

    bundle: str = option(help=BUNDLE, kind="source", argument=True, completes="bundle")


@dataclass(frozen=True)
class RoundChoice(Options):
    """The choice of a round of a bundle."""

    at_sparsity: float | None = option(
        None,
        least=0,
        below=1,
        help="sparsity of an earlier round of the bundle, of those that `opentrans inspect` lists",
        unset="the last round",
        completes="round",
    )


@dataclass(frozen=True)
class CheckpointChoice(Options):
    """A framework's own checkpoint, in place of a source."""

    framework: str | None = option(
        None,
        help="framework of --checkpoint, or the one that reads a source without a segmentor",
        choices=FRAMEWORKS.names(),
    )
    checkpoint: Path | None = option(
        None, help="checkpoint of --framework as it was published, in place of a source", kind="path"
    )
    seen: Path | None = option(
        None,
        help="class file with the classes that training had labels of",
        kind="path",
        unset="as the bundle records; for --checkpoint COCO's 133 names",
    )
    own_size: bool = option(
        False,
        flag="--no-resize",
        help="keep pictures at their own size, not at that of the checkpoint's own evaluation",
    )


@dataclass(frozen=True)
class WindowChoice(Options):
    """Whether big pictures are looked at in parts."""

    window: int | None = option(
        None,
        least=64,
        help="side in pixels of square windows in which larger pictures are looked at; their scores are averaged",
        unset="pictures as a whole",
    )
    overlap: float = option(0.25, least=0, most=0.9, help="share of its side that a window has in common with the next")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is None and self.overlap != WindowChoice.overlap:
            raise OptionError(f"only windows overlap: --overlap {self.overlap:g}; add --window, or leave it out")

    def check_task(self, task: str) -> None:
        """Raises OptionError for windows where a task looks for objects."""
        if self.window is not None and task != "semantic":
            raise OptionError(f"objects may reach over windows: --window with --task {task}; leave one out")


@dataclass(frozen=True)
class WordChoice(Options):
    """The class names of a segmentor."""

    words: str | None = option(
        None, also=("-w",), help='your own words, with commas, and synonyms with bars: "cat|kitten, sky"'
    )
    vocabulary: Path | None = option(
        None,
        also=("--classes",),
        help="class file instead of --words, vocabulary pack (.safetensors), which needs no text tower, or name of a "
        "published data set, such as ade20k-150",
        kind="path",
    )

    def chosen(self, what: str) -> str | Path:
        """The class names or their file. Raises OptionError, which names `what`, unless exactly one is given."""
        if (self.words is None) == (self.vocabulary is None):
            raise OptionError(f'{what} needs words: --words "cat, dog, sky" or --vocabulary FILE; give exactly one')
        return self.vocabulary or self.words or ""
