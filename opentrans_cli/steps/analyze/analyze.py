"""analyze: the spectrum of every layer, its alpha, how far to trust it, and which layers fine-tuning would freeze."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.hub.source import is_cached
from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.store import Bundle, add_file
from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.layers import candidates
from opentrans_cli.errors import OptionError
from opentrans_cli.files.records import finite
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.spectral.estimators import ESTIMATORS, Estimator, estimator
from opentrans_cli.spectral.measure import measure
from opentrans_cli.spectral.selection import Selection, median_alpha
from opentrans_cli.spectral.trust import judge
from opentrans_cli.steps.analyze import frontier as prices
from opentrans_cli.steps.analyze.frontier import FrontierPoint, Resolution, image_size, tower_costs
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.analyze.outputs import Outputs
from opentrans_cli.steps.analyze.result import AnalyzeResult
from opentrans_cli.steps.analyze.source import SpectrumSource, open_spectrum_source
from opentrans_cli.steps.by_name import by_name, on_processor, takes
from opentrans_cli.steps.step_record import step_record
from opentrans_cli.training.costs.macs import LayerCost

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
    """Fit the spectrum of every layer and choose the layers to freeze; a bundle gets `alpha.safetensors`.

    Heavy tail = small alpha = well trained = frozen (OpenTrans, Sec. 3.3.2): by default the layers below the median.

    source: any source of `prune`, or any file of weights. out: a new folder for the report. device: "auto" or "cpu",
    spectra are computed by the processor. freeze_list: a file of layer names, taken instead of a choice; a bundle then
    keeps the report it has. frontier: count what each share of frozen layers saves, for images of `resolution` pixels,
    a side or (height, width), the tower's own if None. against: another source whose alphas are put beside, or "base",
    the bundle's own. base: where that lies now. Options: the fields of `AnalyzeOptions`, and `plot` and `esd` of
    `Outputs`.

    Raises OptionError, SourceError, BundleError, HubError or SpectrumError.
    """
    on_processor("analyze", device)
    options: AnalyzeOptions
    outputs: Outputs
    options, outputs = by_name("analyze", {**given, "out": out, "force": force}, AnalyzeOptions, Outputs)
    reporter, source = reporter or LOGGED, str(source)
    fit = estimator(options.estimator, window=options.window)  # type: ignore[arg-type]
    selection = _selection(options, freeze_list)
    priced = _priced(frontier, selection, resolution)
    outputs.check()
    with open_spectrum_source(source, base=base, reporter=reporter) as weights:
        bundle, names = weights.bundle, weights.chosen(options.include, options.exclude)
        listed = None if freeze_list is None else read_freeze_list(Path(freeze_list), names)
        outputs.check_layers(names)
        model_cfg = _architecture(weights) if priced else {}
        choose = _choice(selection, listed, tower_costs(model_cfg, resolution=resolution) if priced else {})
        outputs.prepare()
        beside = _alphas_of(against, names, fit, bundle=bundle, base=base, reporter=reporter) if against else {}
        others = {rule: estimator(rule) for rule in ESTIMATORS.names() if rule != options.estimator}
        spectra = measure(names, weights.read, fit, others=others, reporter=reporter)
    alphas = {layer.name: layer.alpha for layer in spectra}
    frozen = choose(alphas)
    trust = judge(
        spectra, fit, choose, resamples=options.bootstrap, null=options.null, seed=options.seed, reporter=reporter
    )
    own = None if bundle is None or is_cached(bundle.path) else bundle  # one from the Hub stays as it is
    result = AnalyzeResult(
        source=source,
        path=own.path if own is not None else outputs.out or outputs.plot,
        options=options,
        rule=selection.rule if listed is None else "list",
        median_alpha=median_alpha(alphas),
        layers=spectra,
        frozen=frozen,
        trust=trust,
        left_out=weights.left_out(names),
        against=beside,
        against_source=against,
        frontier=_frontier(model_cfg, alphas, frozen, options, bundle, resolution) if frontier else (),
        image_size=image_size(model_cfg, resolution) if frontier else None,
    )
    outputs.write(result)
    if own is not None and listed is None:
        _add(result, own)
    return result


def _add(result: AnalyzeResult, bundle: Bundle) -> None:
    options, metrics = result.options, {"median_alpha": finite(result.median_alpha)}
    step = step_record("analyze", asdict(options), seed=options.seed, metrics=metrics)
    add_file(bundle, ALPHA, result.tensors(), step=step)


def read_freeze_list(path: Path, layers: Sequence[str]) -> tuple[str, ...]:
    """Names of `layers` in a text file, one a line; empty lines and what follows a # do not count.

    Raises OptionError for a file that cannot be read and for a name that is none of `layers`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the list of layers: {path}; give a text file with a name per line") from error
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    for name in names:
        if name not in layers:
            raise OptionError(f"no analyzed layer is called so: '{name}' in {path}; see the names in the report")
    return tuple(layer for layer in layers if layer in names)


def _selection(options: AnalyzeOptions, freeze_list: str | Path | None) -> Selection:
    selection = Selection(
        options.freeze,  # type: ignore[arg-type]
        ratio=options.freeze_ratio,
        threshold=options.freeze_threshold,
        top=options.freeze_top,
        seed=options.seed,
    )
    selection.check()
    if freeze_list is not None and selection.rule not in ("median", "none"):
        raise OptionError(f"more than one rule says which layers to freeze: {selection.rule} and list; give one")
    return selection


def _priced(costs: bool, selection: Selection, resolution: Resolution | None) -> bool:
    priced = costs or selection.rule == "top"
    if resolution is not None and not priced:
        raise OptionError("nothing is priced: --resolution; add --frontier or --freeze-top, or leave it out")
    return priced


def _choice(
    selection: Selection, listed: tuple[str, ...] | None, priced: Mapping[str, LayerCost]
) -> Callable[[Mapping[str, float]], tuple[str, ...]]:
    """How layers are chosen by their alphas: by the list if there is one, else by the selection."""
    if listed is not None:
        return lambda alphas: listed
    costs = {name: layer.weight_gradient for name, layer in priced.items()}
    return lambda alphas: selection.choose(alphas, costs)


def _architecture(weights: SpectrumSource) -> dict[str, Any]:
    """The configuration by which layers are priced; of a file it is inferred, so it must give the file's layers.

    Raises OptionError where there is none.
    """
    model_cfg = weights.model_cfg
    if model_cfg is not None:
        built = {layer.name: layer.shape for layer in candidates(meta_visual(model_cfg))}
        inside = {layer.name: layer.shape for layer in weights.layers if layer.skipped is None}
        model_cfg = model_cfg if inside.items() <= built.items() else None
    if model_cfg is None:
        raise OptionError(
            f"costs of the layers are not known: {weights.source} does not tell the architecture of a CLIP; "
            "leave --frontier and --freeze-top out, or give it as NAME:FILE"
        )
    return model_cfg


def _alphas_of(
    source: str,
    names: Sequence[str],
    fit: Estimator,
    *,
    bundle: Bundle | None,
    base: str | None,
    reporter: Reporter,
) -> dict[str, float]:
    """Alphas of the layers `names` in another source, those it has."""
    if source == BASE:
        if bundle is None:
            raise OptionError("only a bundle has a base to compare with: --against base; name a source")
        source = base or bundle.manifest.base.source
    with open_spectrum_source(source, reporter=reporter) as weights:
        there = {layer.name for layer in weights.layers}
        shared = [name for name in names if name in there]
        if not shared:
            raise OptionError(f"no layer in common: --against {source}; name a source of the same architecture")
        spectra = measure(shared, weights.read, fit, title=f"spectra of {source}", reporter=reporter)
        return {layer.name: layer.alpha for layer in spectra}


def _frontier(
    model_cfg: dict[str, Any],
    alphas: Mapping[str, float],
    frozen: Sequence[str],
    options: AnalyzeOptions,
    bundle: Bundle | None,
    resolution: Resolution | None,
) -> tuple[FrontierPoint, ...]:
    kept = {layer.name: layer.kept / layer.total for layer in bundle.manifest.layers} if bundle is not None else None
    mode: Any = "heavy" if options.freeze == "none" else options.freeze
    return prices.frontier(
        model_cfg, alphas, mode=mode, chosen=frozen, kept=kept, resolution=resolution, seed=options.seed
    )
