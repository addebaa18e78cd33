"""analyze: the spectrum of every layer, its alpha, how stable the decisions are, and which layers to freeze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.bundle.hub.source import is_cached
from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.store import add_file
from opentrans_cli.clip.layers import candidates
from opentrans_cli.errors import OptionError, did_you_mean
from opentrans_cli.files.records import finite
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.spectral.estimators import ESTIMATORS, Estimator, estimator
from opentrans_cli.spectral.measure import measure
from opentrans_cli.spectral.report import AlphaReport
from opentrans_cli.spectral.selection import Selection
from opentrans_cli.spectral.stability import judge
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.analyze.outputs import Outputs
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.analyze.source import SpectrumSource, open_spectrum_source
from opentrans_cli.steps.by_name import by_name, on_processor, takes
from opentrans_cli.steps.step_record import step_record

if TYPE_CHECKING:
    from opentrans_cli.steps.analyze.frontier import Resolution, TowerPrices

BASE = "base"
"""`against` this: the base of the bundle itself."""


@takes(AnalyzeOptions, Outputs)
def analyze(
    source: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    freeze_list: str | Path | None = None,
    frontier: bool = False,
    resolution: Resolution | None = None,
    against: str | None = None,
    base: str | None = None,
    **given: Any,
) -> AnalyzeResult:
    """Fit the spectrum of every layer and decide which to freeze; a bundle gets `alpha.safetensors`.

    A heavy tail means a small alpha: the layer is well trained and is frozen (OpenTrans, Sec. 3.3.2). By default these
    are the layers below the median. `finetune` freezes what is decided here, unless its options say otherwise.

    source: any source of `prune`, or any file of weights. out: a new folder for the report. device: "auto" or "cpu";
    spectra are computed on the CPU. freeze_list: a file with the names of the layers to freeze, used instead of a rule,
    like `freeze_layer`. frontier: count what each share of frozen layers saves, for images of `resolution` pixels (one
    side, or height and width; None: the tower's own). against: another source to compare the alphas with, or "base" for
    the bundle's own base. base: where that base is now. Options: the fields of `AnalyzeOptions`, and `plot` and `esd`
    of `Outputs`.

    Raises OptionError, SourceError, BundleError, HubError or SpectrumError.
    """
    on_processor("analyze", device)
    options: AnalyzeOptions
    outputs: Outputs
    options, outputs = by_name("analyze", {**given, "out": out, "force": force}, AnalyzeOptions, Outputs)
    reporter, source = reporter or LOGGED, str(source)
    fit = estimator(options.estimator, window=options.window)  # type: ignore[arg-type]
    by_name_alone = freeze_list is not None or bool(options.freeze_layer)
    selection = _selection(options, listed=() if by_name_alone else None)
    priced = frontier or selection.rule == "top"
    if resolution is not None and not priced:
        raise OptionError("nothing is priced: --resolution; add --frontier or --freeze-top, or leave it out")
    outputs.check()
    weights = open_spectrum_source(source, base=base, reporter=reporter)
    bundle, names = weights.bundle, weights.chosen(options.include, options.exclude)
    if by_name_alone:
        listed = () if freeze_list is None else read_freeze_list(Path(freeze_list), names)
        selection = _selection(options, listed=(*listed, *_matching(options.freeze_layer, names)))
    outputs.check_layers(names)
    prices = _prices(weights, resolution) if priced else None
    outputs.prepare()
    beside: Mapping[str, float] = {}
    if against is not None:
        beside = _alphas_of(against, names, fit, weights=weights, base=base, reporter=reporter)
    others = {rule: estimator(rule) for rule in ESTIMATORS.names() if rule != options.estimator}
    layers = measure(names, weights.read, fit, others=others, reporter=reporter)
    weight_gradients = None if prices is None else {layer.name: layer.weight_gradient for layer in prices.layers}

    def choose(alphas: Mapping[str, float]) -> tuple[str, ...]:
        return selection.choose(alphas, weight_gradients)

    layers = judge(
        layers, fit, choose, resamples=options.bootstrap, null=options.null, seed=options.seed, reporter=reporter
    )
    alphas = {layer.name: layer.alpha for layer in layers}
    report = AlphaReport.chosen(options.estimator, options.window, layers, choose(alphas), selection)
    own = None if bundle is None or is_cached(bundle.path) else bundle  # a bundle from the Hub is not changed
    mode: Any = "heavy" if options.freeze == "none" else options.freeze
    counted = prices if frontier else None
    result = AnalyzeResult(
        source=source,
        path=own.path if own is not None else outputs.out or outputs.plot,
        options=options,
        report=report,
        left_out=weights.left_out(names),
        against=beside,
        against_source=against,
        frontier=counted.frontier(alphas, mode=mode, chosen=report.frozen, seed=options.seed) if counted else (),
        image_size=counted.image_size if counted else None,
    )
    outputs.write(result)
    if own is not None:
        # The step records what decides the list, so that the same list can be chosen again.
        recorded = asdict(options) | {"freeze_layer": list(report.frozen) if by_name_alone else []}
        if selection.rule == "top" and resolution is not None:
            recorded["resolution"] = resolution
        step = step_record("analyze", recorded, seed=options.seed, metrics={"median_alpha": finite(report.median)})
        add_file(own, ALPHA, report.tensors(), step=step)
    return result


def read_freeze_list(path: Path, layers: Sequence[str]) -> tuple[str, ...]:
    """Read names of `layers` from a text file, one per line; empty lines and text after a # are ignored.

    Raises OptionError for a file that cannot be read and for a name that is not in `layers`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the list of layers: {path}; give a text file with a name per line") from error
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    for name in names:
        if name not in layers:
            near = did_you_mean(name, layers)
            raise OptionError(f"no analyzed layer is called so: '{name}' in {path}; see the names in the report{near}")
    return tuple(layer for layer in layers if layer in names)


def _matching(patterns: Sequence[str], layers: Sequence[str]) -> tuple[str, ...]:
    """The `layers` that match one of the globs. Raises OptionError for a glob that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise OptionError(
                f"no analyzed layer is called so: --freeze-layer {pattern}; analyze without it to see the names"
                f"{did_you_mean(pattern, layers)}"
            )
    return tuple(layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns))


def _selection(options: AnalyzeOptions, *, listed: tuple[str, ...] | None) -> Selection:
    selection = Selection(
        options.freeze,  # type: ignore[arg-type]
        ratio=options.freeze_ratio,
        threshold=options.freeze_threshold,
        top=options.freeze_top,
        listed=listed,
        seed=options.seed,
    )
    selection.check()
    return selection


def _prices(weights: SpectrumSource, resolution: Resolution | None) -> TowerPrices:
    """The tower without weights. For a file the architecture is inferred, and it must have the layers of the file.

    Raises OptionError if there is no such tower.
    """
    from opentrans_cli.steps.analyze.frontier import TowerPrices

    kept = None if weights.bundle is None else {x.name: x.kept / x.total for x in weights.bundle.manifest.layers}
    if weights.model_cfg is not None:
        prices = TowerPrices(weights.model_cfg, resolution=resolution, kept=kept)
        built = {layer.name: layer.shape for layer in candidates(prices.visual)}
        if {layer.name: layer.shape for layer in weights.layers if layer.skipped is None}.items() <= built.items():
            return prices
    raise OptionError(
        f"costs of the layers are not known: {weights.source} does not tell the architecture of a CLIP; "
        "leave --frontier and --freeze-top out, or give it as NAME:FILE"
    )


def _alphas_of(
    source: str,
    names: Sequence[str],
    fit: Estimator,
    *,
    weights: SpectrumSource,
    base: str | None,
    reporter: Reporter,
) -> dict[str, float]:
    """Alphas of those layers of `names` that another source has."""
    if source == BASE:
        if weights.bundle is None:
            raise OptionError("only a bundle has a base to compare with: --against base; name a source")
        source = base or weights.bundle.manifest.base.source
    other = open_spectrum_source(source, loaded=weights.clip, reporter=reporter)
    there = {layer.name for layer in other.layers}
    shared = [name for name in names if name in there]
    if not shared:
        raise OptionError(f"no layer in common: --against {source}; name a source of the same architecture")
    spectra = measure(shared, other.read, fit, title=f"spectra of {source}", reporter=reporter)
    return {layer.name: layer.alpha for layer in spectra}
