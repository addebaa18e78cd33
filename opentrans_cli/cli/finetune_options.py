"""Options of `finetune` alone, by the panel of `--help` they stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

_HOW, _CROPS, _OPTIMIZER, _LOSS = "Training", "Crops", "Optimizer", "Loss"
_FREEZING, _COST, _RUNNING = "Freezing", "Cost", "Running"

BundleArg = Annotated[
    str | None, Argument(help="Bundle folder, or hf://org/name@revision; may be left out with --estimate.")
]
OutOpt = Annotated[Path | None, Option("--out", "-o", help="Where to write; never overwritten without --force.")]
RecipeOpt = Annotated[
    str | None, Option(help="The papers' settings: han, deeplabv3 or fcclip. What is given beside it wins.")
]
ShowRecipeOpt = Annotated[bool, Option("--show-recipe", help="Print every value and where it is from; train nothing.")]

FrameworkOpt = Annotated[
    str | None, Option(help="Built if the bundle holds none (default: deeplabv3).", rich_help_panel=_HOW)
]
StepsOpt = Annotated[int, Option(help="Optimizer steps.", rich_help_panel=_HOW)]
BatchOpt = Annotated[int, Option(help="Crops in a step, of all processes together.", rich_help_panel=_HOW)]
AccumulateOpt = Annotated[int, Option(help="Parts of a batch, one after the other.", rich_help_panel=_HOW)]
PrecisionOpt = Annotated[str, Option(help="float32, bfloat16 or float16.", rich_help_panel=_HOW)]
EmaOpt = Annotated[float, Option(help="Decay of the averaged weights; 0 for none.", rich_help_panel=_HOW)]

CropOpt = Annotated[
    int | None, Option(help="Side of training crops, pixels (default: the data set's).", rich_help_panel=_CROPS)
]
ScaleOpt = Annotated[
    str | None, Option(help="Range of the resizing factor (default: 0.75,1.5).", rich_help_panel=_CROPS)
]
ScaleOfOpt = Annotated[
    str, Option(help="What it multiplies: image, or what fits the crop: crop.", rich_help_panel=_CROPS)
]
FlipOpt = Annotated[bool, Option("--flip/--no-flip", help="Mirror half of the crops.", rich_help_panel=_CROPS)]
ViewsOpt = Annotated[
    int, Option(help="Fixed crops of every image; 0 for new ones in every epoch.", rich_help_panel=_CROPS)
]

OptimizerOpt = Annotated[str, Option(help="adamw or sgd.", rich_help_panel=_OPTIMIZER)]
RateOpt = Annotated[float, Option(help="Peak learning rate of the head.", rich_help_panel=_OPTIMIZER)]
FactorOpt = Annotated[float, Option(help="Learning rate of the tower / of the head.", rich_help_panel=_OPTIMIZER)]
DecayOpt = Annotated[float, Option(help="Weight decay; norms and biases have none.", rich_help_panel=_OPTIMIZER)]
MomentumOpt = Annotated[float, Option(help="Of sgd.", rich_help_panel=_OPTIMIZER)]
ScheduleOpt = Annotated[str, Option(help="cosine, poly, steps or constant.", rich_help_panel=_OPTIMIZER)]
LrWarmupOpt = Annotated[
    int | None,
    Option(help="Steps in which the rate rises (default: a tenth, at most 20).", rich_help_panel=_OPTIMIZER),
]
MilestonesOpt = Annotated[
    str | None,
    Option(help="Of --schedule steps: shares after which it falls (default: 0.8,0.9).", rich_help_panel=_OPTIMIZER),
]
GammaOpt = Annotated[float, Option(help="By this factor.", rich_help_panel=_OPTIMIZER)]
ClipOpt = Annotated[float, Option(help="Largest norm of all gradients; 0 for any.", rich_help_panel=_OPTIMIZER)]

ClassWeightOpt = Annotated[float, Option(help="Of the class of a query.", rich_help_panel=_LOSS)]
MaskWeightOpt = Annotated[float, Option(help="Of cross-entropy on the points of a mask.", rich_help_panel=_LOSS)]
DiceWeightOpt = Annotated[float, Option(help="Of dice on the points of a mask.", rich_help_panel=_LOSS)]
NoObjectOpt = Annotated[float, Option(help="Of a query without a mask.", rich_help_panel=_LOSS)]
PointsOpt = Annotated[int, Option(help="Points a mask is compared at.", rich_help_panel=_LOSS)]
OversampleOpt = Annotated[float, Option(help="Points looked at for each that is taken.", rich_help_panel=_LOSS)]
ImportanceOpt = Annotated[float, Option(help="Share taken for being uncertain.", rich_help_panel=_LOSS)]
RegionDropoutOpt = Annotated[
    float, Option(help="Share of matched queries whose class takes no part.", rich_help_panel=_LOSS)
]
KdOpt = Annotated[float, Option(help="Of distillation from the dense CLIP, by region.", rich_help_panel=_LOSS)]
GroundingOpt = Annotated[float, Option(help="Of words of captions; needs --captions.", rich_help_panel=_LOSS)]
CaptionsOpt = Annotated[
    Path | None, Option(help="File of words: image stem, tab, words with commas.", rich_help_panel=_LOSS)
]

FreezeOpt = Annotated[
    str | None,
    Option(
        help="heavy (small alpha), light, random or none (default: what `analyze` stored, else heavy).",
        rich_help_panel=_FREEZING,
    ),
]
FreezeRatioOpt = Annotated[
    float | None,
    Option(help="Share of layers to freeze (default: those beyond the median).", rich_help_panel=_FREEZING),
]
ScopeOpt = Annotated[
    str | None, Option(help="Layers that are ranked: trunk, or with the head's: model.", rich_help_panel=_FREEZING)
]
PrefixOpt = Annotated[
    bool,
    Option(
        "--freeze-prefix", help="Freeze whole blocks from the input on: no backward pass.", rich_help_panel=_FREEZING
    ),
]
PrefixEndOpt = Annotated[
    str | None, Option(help="Last block of the prefix, such as layer2.3.", rich_help_panel=_FREEZING)
]
CacheOpt = Annotated[
    Path | None, Option(help="Folder for the features of the prefix; needs --views.", rich_help_panel=_FREEZING)
]
WarmupOpt = Annotated[
    int, Option(help="First steps with nothing frozen; the layers are chosen then.", rich_help_panel=_FREEZING)
]
EstimatorOpt = Annotated[
    str | None, Option(help="Whose alphas decide what is frozen (default: xmin_peak).", rich_help_panel=_FREEZING)
]

EstimateOpt = Annotated[
    bool, Option("--estimate", help="Count what training would cost; train nothing.", rich_help_panel=_COST)
]
AccountingOpt = Annotated[
    str, Option(help="Of --estimate: exact, by what autograd computes, or paper.", rich_help_panel=_COST)
]
TimingOpt = Annotated[int, Option(help="Steps to time beside full training before the run.", rich_help_panel=_COST)]

WorkersOpt = Annotated[int, Option(help="Processes that make crops; 0 for none.", rich_help_panel=_RUNNING)]
SaveOpt = Annotated[int, Option(help="Steps between two states on disk.", rich_help_panel=_RUNNING)]
MinutesOpt = Annotated[
    float | None, Option(help="Stop after so long, with a state for --resume.", rich_help_panel=_RUNNING)
]
LogOpt = Annotated[Path | None, Option(help="JSON lines (default: OUT.log.jsonl).", rich_help_panel=_RUNNING)]
TensorboardOpt = Annotated[Path | None, Option(help="Folder for TensorBoard's event files.", rich_help_panel=_RUNNING)]
EvalEveryOpt = Annotated[int, Option(help="Steps between two looks at the mIoU; 0 for none.", rich_help_panel=_RUNNING)]
EvalLimitOpt = Annotated[int, Option(help="Images of each.", rich_help_panel=_RUNNING)]
EvalListOpt = Annotated[Path | None, Option(help="Of own photos: stems of those to look at.", rich_help_panel=_RUNNING)]
ShardOpt = Annotated[
    bool, Option("--shard", help="Several processes hold parts of the model (FSDP2).", rich_help_panel=_RUNNING)
]
SyncOpt = Annotated[
    bool,
    Option(
        "--sync-batchnorm/--no-sync-batchnorm",
        help="Statistics of the whole batch, or of each process alone.",
        rich_help_panel=_RUNNING,
    ),
]
