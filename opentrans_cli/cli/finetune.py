"""opentrans finetune."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from opentrans_cli.cli import finetune_show as show
from opentrans_cli.cli.command import Force, Resume, Talk, Typed, command
from opentrans_cli.datasets.options import DatasetOptions, dataset_name
from opentrans_cli.errors import OptionError
from opentrans_cli.option import Options, option
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions, finetune_options, sources
from opentrans_cli.steps.shared_options import BUNDLE, BaseChoice, DataChoice, Machine


@dataclass(frozen=True)
class FinetuneRequest(Options):
    """What is asked for besides the options that decide the result."""

    bundle: str | None = option(
        None, help=f"{BUNDLE}; may be left out with --estimate", kind="source", argument=True, completes="bundle"
    )
    out: Path | None = option(None, also=("-o",), help="new bundle; needed unless --estimate or --show-recipe is given")
    show_recipe: bool = option(False, help="print every value and where it is from; train nothing")
    estimate: bool = option(False, help="count what training would cost; train nothing", panel="Cost")
    accounting: str | None = option(
        None,
        help="how --estimate counts",
        choices={"exact": "what autograd computes", "paper": "the settings of its Tables 2 and 4, as it counts them"},
        unset="exact",
        panel="Cost",
    )


@command
def finetune_command(
    asked: FinetuneRequest,
    given: Typed[FinetuneOptions],
    controls: FinetuneControls,
    choice: DataChoice,
    data: DatasetOptions,
    base: BaseChoice,
    machine: Machine,
    resume: Resume,
    write: Force,
    talk: Talk,
) -> None:
    """Train the segmentor with the well-trained (heavy-tailed) layers frozen and pruned weights held at zero.

    opentrans finetune subnet --out trained
    opentrans finetune subnet --images img --labels maps --classes c.txt -o new
    opentrans finetune --estimate --recipe han --accounting paper
    """
    recipe = given.get("recipe")
    options = finetune_options(recipe, {name: value for name, value in given.items() if name != "recipe"})
    if asked.show_recipe:
        origins, values = sources(options, given), asdict(options)
        rows = {name: {"value": values[name], "from": origins[name]} for name in values if name != "recipe"}
        document = {"recipe": recipe, "options": rows}
        talk.emit(document, partial(show.show_recipe, document=document))
        return
    if asked.estimate:
        from opentrans_cli.steps.estimate.estimate import estimate

        known = asked.bundle is not None or choice.dataset is not None or data.images is not None
        counted = estimate(
            asked.bundle,
            options,
            accounting=asked.accounting or "exact",
            dataset=dataset_name(choice.dataset, data) if known else None,
            data=data if known else None,
            base=base.base,
            cached=controls.cache_features is not None,
            reporter=talk.reporter,
        )
        talk.emit(counted.to_json(), partial(show.show_estimate, counted=counted))
        return
    if asked.accounting is not None:
        raise OptionError(
            f"only an estimate counts one way or another: --accounting {asked.accounting}; add --estimate"
        )
    if asked.bundle is None or asked.out is None:
        missing = "BUNDLE to train" if asked.bundle is None else "--out to write to"
        raise OptionError(f"nothing to go by: {missing} is missing; `opentrans finetune BUNDLE --out FOLDER`")
    from opentrans_cli.steps.finetune.finetune import finetune

    given |= {**vars(controls), **vars(choice), **vars(data), **vars(base)}
    given |= {**vars(machine), **vars(resume), **vars(write)}
    result = finetune(asked.bundle, out=asked.out, **given, reporter=talk.reporter)
    talk.emit(result.to_json(), partial(show.show_run, result=result), result.path)
