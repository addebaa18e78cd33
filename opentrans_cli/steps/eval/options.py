"""Options of `eval`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opentrans_cli.datasets.suffixes import LABEL_SUFFIXES
from opentrans_cli.errors import OptionError
from opentrans_cli.option import Options, option
from opentrans_cli.steps.shared_options import TASKS


@dataclass(frozen=True)
class EvalOptions(Options):
    """What is scored of a bundle."""

    curve: bool = option(False, help="score every sparsity that the bundle's run passed through, and draw a chart")


@dataclass(frozen=True)
class CompareOptions(Options):
    """What stands in a table of several evaluations."""

    compare: bool = option(
        False, help="score nothing, and put the reports of several evaluations into one table", panel="Comparison"
    )
    published: bool = option(
        False, help="add the rows of the paper and of FC-CLIP's README to it, marked as published", panel="Comparison"
    )


@dataclass(frozen=True)
class ScoreOptions(Options):
    """How label maps are scored."""

    absent: Literal["exclude", "zero"] = option(
        "exclude",
        help="what a class without labelled pixels means for the mean IoU",
        choices={"exclude": "nothing", "zero": "an IoU of 0 where it is predicted"},
        noun="rule for absent classes",
    )
    boundary: bool = option(False, help="score the pixels near contours by themselves as well: boundary IoU")


@dataclass(frozen=True)
class TaskOptions(Options):
    """What is found and scored besides label maps."""

    task: str = option("semantic", help="what is scored besides label maps", choices=TASKS)
    save_predictions: Path | None = option(
        None, help="new folder for the segments or objects that were found, in COCO's formats", kind="path"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.save_predictions is not None and self.task == "semantic":
            raise OptionError(
                f"objects are saved, not label maps: --save-predictions {self.save_predictions}; add --task panoptic "
                "or instance, or use `opentrans segment`"
            )


@dataclass(frozen=True)
class PredictionChoice(Options):
    """What another tool has predicted, in place of a segmentor."""

    predictions: Path | None = option(
        None,
        help="what any tool has predicted, to be compared with the truth: a folder of label maps; with --task panoptic "
        "or instance a JSON in COCO's format of that task, with its PNGs beside it, or a folder of this program's",
        kind="path",
    )


@dataclass(frozen=True)
class PredictionOptions(Options):
    """How predictions of another tool are read."""

    prediction_suffix: str | None = option(
        None,
        help="end of the names of predictions, such as _pred.png; what is before it is the name of the label map",
        unset="any suffix",
        panel="Predictions",
    )
    prediction_ids: Literal["labels", "order"] | None = option(
        None,
        help="what predictions hold",
        choices={"labels": "the ids of the label maps", "order": "0, 1, ... in the order of the classes"},
        noun="kind of prediction ids",
        unset="labels; order with --dataset",
        panel="Predictions",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        end = self.prediction_suffix
        if end is not None and not end.lower().endswith(LABEL_SUFFIXES):
            raise OptionError(
                f"no end of a label map's name: --prediction-suffix {end}; write the suffix too, as _x.png"
            )
