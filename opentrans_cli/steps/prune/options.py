"""Options of `prune` and its recipes; light, so that `--help` can read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.datasets import PUBLISHED
from opentrans_cli.datasets.options import root_folder
from opentrans_cli.errors import OptionError, unknown
from opentrans_cli.option import Options, option, seed, workers
from opentrans_cli.source_name import HUB, plain_source
from opentrans_cli.sparsity.criteria import CRITERIA
from opentrans_cli.steps.by_name import by_name
from opentrans_cli.steps.shared_options import SOURCE

# Recipes of `prune`: named sets of option values; options that the user gives as well take precedence.


PRUNE_RECIPES: dict[str, dict[str, Any]] = {
    # OpenTrans, arXiv 2404.07448, Alg. 1, Sec. 4.1 and Table 7; batch, decay and clipping as in the released
    # configuration. The paper trains t steps before each cut, which is the same sequence of cuts and steps after the
    # first t.
    "paper": {
        "criterion": "magnitude",
        "pattern": "unstructured",
        "schedule": "rounds",
        "rate": 0.1,
        "distill": "text-guided",
        "steps_per_round": 5000,
        "final_steps": 5000,
        "batch_size": 28,
        "lr": 1e-4,
        "weight_decay": 0.05,
        "grad_clip": 0.01,
    },
    # Takes minutes instead of days: one cut, and all steps come after it.
    "fast": {"criterion": "fisher", "schedule": "one-shot", "distill": "image", "final_steps": 352},
}


EMBEDDED = "shapes"
"""In place of a path of images: the embedded scenes."""

MAX_ROUNDS = 255  # one byte per weight holds the round that pruned it

_WHICH, _WHEN, _ON, _DISTIL, _OUT = "Which weights", "Rounds", "Images", "Distillation", "Output and machine"
_GUIDED = ", for text-guided on photos"
_BLIND = ("magnitude", "folded")  # criteria that look at weights alone


@dataclass(frozen=True)
class PruneOptions(Options):
    """Everything that decides the result of `prune`; recorded in the bundle."""

    source: str = option("RN50-quickgelu:openai", help=SOURCE, kind="source", argument=True, completes="source")
    sparsity: float = option(
        0.9, least=0, below=1, also=("-s",), help="share of the prunable weights to remove; a pattern N:M sets it"
    )
    # Which weights are removed.
    criterion: str | None = option(
        None,
        help="measure of how important a weight is",
        choices={name: "" if name in _BLIND else "needs images" for name in CRITERIA.names()},
        unset="fisher; without images magnitude",
        panel=_WHICH,
    )
    pattern: str = option(
        "unstructured",
        help="which weights are removed together: unstructured (one threshold for all layers), layerwise (the same "
        "share of every layer), channel (whole channels), or N:M such as 2:4 (N of every M inputs are kept)",
        known=("unstructured", "layerwise", "channel", "2:4", "4:8"),
        panel=_WHICH,
    )
    include: tuple[str, ...] = option(
        (),
        help="layers to prune beside the default ones (glob over whole names, repeatable)",
        panel=_WHICH,
        completes="layer",
    )
    exclude: tuple[str, ...] = option(
        (), help="layers to leave alone (glob over whole names, repeatable)", panel=_WHICH, completes="layer"
    )
    score_images: int = option(
        512, least=1, help="largest number of views that a criterion looks at in each round", panel=_WHICH
    )
    probes: int = option(
        1, least=1, help="random probes for each image, a backward pass each; for fisher", panel=_WHICH
    )
    # How fast they are removed.
    schedule: str = option(
        "rounds",
        help="how sparsity grows",
        choices={"rounds": "a share of what is left", "one-shot": "", "linear": "", "cubic": ""},
        panel=_WHEN,
    )
    rate: float = option(
        0.1, above=0, below=1, help="share of the remaining weights that each round removes; for rounds", panel=_WHEN
    )
    rounds: int = option(10, least=1, most=MAX_ROUNDS, help="number of rounds; for linear and cubic", panel=_WHEN)
    # The images.
    images: str | None = option(
        None,
        help="a folder, a list file, .tar shards (a-{000..009}.tar), shapes (the embedded scenes), or the name of a "
        "published data set, whose training images are used",
        unset="none: one cut by magnitude, no distillation",
        known=(EMBEDDED, *PUBLISHED),
        kind="path",
        panel=_ON,
    )
    root: str | None = root_folder(panel=_ON)
    image_limit: int = option(
        4096, least=1, help="largest number of views; a photo gives two, whole and cropped", panel=_ON
    )
    skip_bad: bool = option(False, help="leave out images that cannot be read, and name them", panel=_ON)
    labels: str | None = option(
        None, help=f"folder of label maps{_GUIDED}; not with tar shards that hold them", kind="path", panel=_ON
    )
    image_suffix: str | None = option(
        None, help=f"end of the names of images, such as _leftImg8bit.png{_GUIDED}", unset="any suffix", panel=_ON
    )
    label_suffix: str | None = option(
        None,
        help=f"end of the names of label maps, such as _gtFine_labelIds.png{_GUIDED}",
        unset="any suffix",
        panel=_ON,
    )
    classes: str | None = option(None, help=f"class file{_GUIDED}", kind="path", panel=_ON)
    ignore: tuple[int, ...] = option(
        (),
        least=0,
        most=65535,
        help=f"ids of unlabelled pixels, with commas{_GUIDED}",
        kind="commas",
        unset="those that the class file calls void, else 255",
        panel=_ON,
    )
    label_ids: str = option(
        "file",
        help=f"what label maps hold{_GUIDED}",
        choices={
            "file": "the ids in the class file, if it writes any",
            "order": "0, 1, ... in the order of the classes",
        },
        noun="kind of label ids",
        panel=_ON,
    )
    # Distillation.
    distill: str = option(
        "image",
        help="what is compared with the dense tower",
        choices={
            "image": "embeddings of whole images, no labels",
            "text-guided": "the paper's loss, on labelled regions; needs --labels and --classes",
            "none": "",
        },
        noun="distillation",
        panel=_DISTIL,
    )
    framework: str = option(
        "deeplabv3",
        help="segmentor that makes embeddings of regions for text-guided: deeplabv3 or maskclip",
        known=("deeplabv3", "maskclip"),
        panel=_DISTIL,
    )
    steps_per_round: int = option(16, least=1, help="optimizer steps in each round but the last", panel=_DISTIL)
    final_steps: int = option(
        352, least=1, help="optimizer steps in the last round, at the target sparsity", panel=_DISTIL
    )
    batch_size: int = option(64, least=2, help="images in a step, over all processes", panel=_DISTIL)
    lr: float = option(1e-3, above=0, most=1e9, help="learning rate of AdamW", panel=_DISTIL)
    weight_decay: float = option(0.0, least=0, most=1e9, help="weight decay of AdamW", panel=_DISTIL)
    grad_clip: float = option(
        0.0, least=0, help="largest L2 norm of all gradients together; 0 clips nothing", panel=_DISTIL
    )
    precision: str = option(
        "float32",
        help="precision of the forward pass of the student",
        choices={"float32": "", "bfloat16": "autocast"},
        panel=_DISTIL,
    )
    # Other options.
    random: bool = option(
        False,
        help="make a control: prune at random, as many weights of each layer as the criterion would",
        panel=_WHICH,
    )
    like: str | None = option(
        None, help="bundle whose counts the control of --random copies", kind="bundle", panel=_WHICH
    )
    keep_rounds: str = option(
        "none",
        help="what the bundle keeps of earlier rounds, for --at-sparsity",
        choices={"none": "", "masks": "one byte a weight", "weights": "their towers as well"},
        noun="choice of rounds to keep",
        panel=_WHEN,
    )
    mask_only: bool = option(False, help="store masks without values", panel=_OUT)
    dtype: str = option(
        "float32", help="type of the stored values", choices=("float32", "float16", "bfloat16"), panel=_OUT
    )
    seed: int = seed()

    def __post_init__(self) -> None:
        """Raises OptionError for a value out of range, and for options that contradict each other."""
        super().__post_init__()
        if self.like is not None and not self.random:
            raise OptionError("--like names the bundle a random control copies; add --random")
        if self.mask_only and self.keep_rounds == "weights":
            raise OptionError("--mask-only stores no values: --keep-rounds weights; use --keep-rounds masks")
        self._check_label_maps()
        # The number is computed without making the rounds, which may be billions.
        rounds = math.log1p(-self.sparsity) / math.log1p(-self.rate)
        if self.schedule == "rounds" and rounds > MAX_ROUNDS:
            raise OptionError(f"too many rounds: {rounds + 0.5:.0f}, at most {MAX_ROUNDS} fit; raise --rate")

    def _check_label_maps(self) -> None:
        names = ("labels", "classes", "ignore", "image_suffix", "label_suffix", "label_ids")
        given = [name.replace("_", "-") for name in names if getattr(self, name) not in (None, (), "file")]
        # Shards may hold the label maps; without them the data set says so.
        shards = self.images is not None and (self.images.lower().endswith(".tar") or "{" in self.images)
        if self.root is not None and self.published is None:
            raise OptionError(f"no published data set is named: --root {self.root}; add --images NAME, or leave it out")
        if self.distill != "text-guided" or self.images == EMBEDDED or self.published is not None:
            if given:
                raise OptionError(f"no use for label maps: --{given[0]}; add --distill text-guided, or leave it out")
        elif self.images is None:
            raise OptionError("text-guided distillation needs images: --distill text-guided; add --images and --labels")
        elif self.classes is None or (self.labels is None and not shards):
            raise OptionError(
                "text-guided distillation needs labelled regions: --labels and --classes; add both, or use --distill "
                "image"
            )

    @property
    def published(self) -> str | None:
        """The published data set that `images` names; without a root, a file or folder of this name goes before it."""
        named = self.images in PUBLISHED and (self.root is not None or not Path(str(self.images)).exists())
        return self.images if named else None

    @property
    def resolved_criterion(self) -> str:
        """The name of the criterion that is used."""
        return self.criterion or ("magnitude" if self.images is None else "fisher")


@dataclass(frozen=True)
class PruneControls(Options):
    """How a run of `prune` works; none of this changes the result, except that `compile` changes rounding."""

    workers: int = workers(2, "processes that decode images", panel=_ON)
    compile: bool = option(False, help="compile the student with torch.compile; for image distillation", panel=_DISTIL)
    save_every: int = option(100, least=1, help="distillation steps between two states on disk", panel=_OUT)
    max_minutes: float | None = option(
        None, above=0, help="minutes after which the run stops, with a state for --resume and exit code 75", panel=_OUT
    )
    log: Path | None = option(
        None,
        help="file of JSON lines, one for each round and each step of distillation",
        unset="OUT.log.jsonl",
        panel=_OUT,
    )


def prune_options(
    source: str | Path, recipe: str | None, given: Mapping[str, Any]
) -> tuple[PruneOptions, PruneControls]:
    """The options of `given`, then the recipe's values, then the defaults. A pattern that fixes the sparsity sets it.

    Raises OptionError for an unknown recipe or name, and for a value of the wrong kind or out of range.
    """
    if recipe is not None and recipe not in PRUNE_RECIPES:
        raise OptionError(unknown("recipe", recipe, PRUNE_RECIPES))
    values = {**(PRUNE_RECIPES[recipe] if recipe else {}), **given}
    kept, _, group = str(values.get("pattern", "")).partition(":")
    if "sparsity" not in values and kept.isdigit() and group.isdigit() and int(group) > 0:
        values["sparsity"] = 1 - int(kept) / int(group)
    options, controls = by_name("prune", {"source": source, **values}, PruneOptions, PruneControls)
    return options, controls


def default_out(options: PruneOptions) -> Path:
    """Name of the bundle when none is given: "rn50-quickgelu-openai-s90", with "-random" for the random control."""
    stem = Path(plain_source(options.source).removeprefix(HUB).rstrip("/")).name.lower()
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
    return Path(f"{safe}-s{100 * options.sparsity:g}{'-random' if options.random else ''}")
