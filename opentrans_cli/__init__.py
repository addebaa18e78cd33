"""opentrans: prune a CLIP image encoder once, publish the subnet, use it in any segmentation framework.

    import opentrans_cli as ot

    ot.prune("tiny", sparsity=0.5, out="subnet")
    subnet = ot.load("subnet")

A module is imported only when one of its names is used. All verbs are called in the same way, `verb(source, *,
out=..., device="auto", force=False, reporter=None, **options)`. The options are those of the command. A verb returns a
dataclass.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentrans_cli.version import __version__

if TYPE_CHECKING:
    from opentrans_cli.errors import OpentransError as OpentransError
    from opentrans_cli.steps.analyze.analyze import analyze as analyze
    from opentrans_cli.steps.apply import apply as apply
    from opentrans_cli.steps.apply import attach as attach
    from opentrans_cli.steps.check.check import check as check
    from opentrans_cli.steps.eval.compare import compare as compare
    from opentrans_cli.steps.eval.evaluate import evaluate as evaluate
    from opentrans_cli.steps.eval.predictions import score_predictions as score_predictions
    from opentrans_cli.steps.finetune.finetune import finetune as finetune
    from opentrans_cli.steps.hub.pull import pull as pull
    from opentrans_cli.steps.hub.push import push as push
    from opentrans_cli.steps.import_masks import import_masks as import_masks
    from opentrans_cli.steps.load import load as load
    from opentrans_cli.steps.look.diff import diff as diff
    from opentrans_cli.steps.look.doctor import doctor as doctor
    from opentrans_cli.steps.look.inspect import inspect as inspect
    from opentrans_cli.steps.look.models import models as models
    from opentrans_cli.steps.look.verify import verify as verify
    from opentrans_cli.steps.prepare.prepare import prepare as prepare
    from opentrans_cli.steps.prune.prune import prune as prune
    from opentrans_cli.steps.report.report import report as report
    from opentrans_cli.steps.segment.segment import segment as segment
    from opentrans_cli.steps.transfer.transfer import transfer as transfer

_STEPS = "opentrans_cli.steps"
_PLACES = {
    "OpentransError": "opentrans_cli.errors",
    "analyze": f"{_STEPS}.analyze.analyze",
    "apply": f"{_STEPS}.apply",
    "attach": f"{_STEPS}.apply",
    "check": f"{_STEPS}.check.check",
    "compare": f"{_STEPS}.eval.compare",
    "diff": f"{_STEPS}.look.diff",
    "doctor": f"{_STEPS}.look.doctor",
    "evaluate": f"{_STEPS}.eval.evaluate",
    "finetune": f"{_STEPS}.finetune.finetune",
    "import_masks": f"{_STEPS}.import_masks",
    "inspect": f"{_STEPS}.look.inspect",
    "load": f"{_STEPS}.load",
    "models": f"{_STEPS}.look.models",
    "prepare": f"{_STEPS}.prepare.prepare",
    "prune": f"{_STEPS}.prune.prune",
    "pull": f"{_STEPS}.hub.pull",
    "push": f"{_STEPS}.hub.push",
    "report": f"{_STEPS}.report.report",
    "score_predictions": f"{_STEPS}.eval.predictions",
    "segment": f"{_STEPS}.segment.segment",
    "transfer": f"{_STEPS}.transfer.transfer",
    "verify": f"{_STEPS}.look.verify",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
