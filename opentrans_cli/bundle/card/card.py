"""The model card of a bundle: Markdown for people, and the YAML header the Hugging Face Hub reads.

Everything in it comes from the manifest and the reports, which may be anybody's: foreign text stands in code spans
alone (`markup.py`), and the YAML is the Hub's client's. The same bundle gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentrans_cli.bundle.card.licenses import License
from opentrans_cli.bundle.card.markup import code_span, table
from opentrans_cli.bundle.card.usage import Pretrained, fence, pull_line, usage
from opentrans_cli.bundle.layout import HEAD, WEIGHTS
from opentrans_cli.bundle.manifest import Manifest, Step

TASK = "image-segmentation"
_REPRODUCE = "opentrans provenance subnet > reproduce.sh\n"
_METRICS = (
    ("miou", "mean_iou", "mIoU"),
    ("miou_seen", "mean_iou", "mIoU, seen classes"),
    ("miou_unseen", "mean_iou", "mIoU, unseen classes"),
    ("pixel_accuracy", "accuracy", "pixel accuracy"),
)


@dataclass(frozen=True)
class CardFacts:
    """All that a card tells."""

    manifest: Manifest
    digest: str  # of the bundle
    repo: str  # "org/name" on the Hub
    license: License
    revision: str | None  # tag or commit to name where something is downloaded
    dense: bool  # whether the files that open_clip loads lie beside the bundle
    base: Pretrained | None  # what open_clip calls the base
    base_model: str | None  # the base on the Hub, "org/name"
    evaluations: Sequence[Mapping[str, Any]]  # eval reports of `artifacts.schema.json`
    cost: Mapping[str, Any] | None  # the cost receipt of the last fine-tuning
    charts: Mapping[str, str]  # title -> file beside the card
    patch: bool  # whether a sparse patch of the base lies beside the bundle
    unchecked: Unchecked | None = None  # None: it passed the gate


@dataclass(frozen=True)
class Unchecked:
    """Why something was published that did not have to pass the gate of `push`."""

    reason: str
    failed: tuple[str, ...]  # names of the points that it failed


def render_card(facts: CardFacts) -> str:
    """The document README.md."""
    return f"---\n{_header(facts)}\n---\n\n" + "\n\n".join(_sections(facts)) + "\n"


def _header(facts: CardFacts) -> str:
    """The YAML that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    manifest = facts.manifest
    tags = ["clip", "pruning", "sparse", "open-vocabulary", "segmentation", "opentrans", manifest.pattern]
    data = ModelCardData(
        library_name="opentrans",
        pipeline_tag=TASK,
        license=facts.license.id,
        license_name=facts.license.name,
        license_link=facts.license.link,
        base_model=facts.base_model,
        tags=list(dict.fromkeys([*tags, *(["mask-only"] if _mask_only(manifest) else [])])),
        model_name=facts.repo.rpartition("/")[2] if facts.evaluations else None,
        eval_results=[
            EvalResult(
                task_type=TASK,
                task_name="Open-vocabulary semantic segmentation",
                dataset_type=report["dataset"],
                dataset_name=f"{report['dataset']}, {report['images']} images",
                metric_type=kind,
                metric_name=name + (f" at sparsity {report['at_sparsity']:g}" if "at_sparsity" in report else ""),
                metric_value=report[key],
            )
            for report in facts.evaluations
            for key, kind, name in _METRICS
            if report[key] is not None
        ]
        or None,
    )
    return data.to_yaml()


def _mask_only(manifest: Manifest) -> bool:
    return manifest.file(WEIGHTS) is None


def _sections(facts: CardFacts) -> Iterator[str]:
    manifest = facts.manifest
    yield f"# {code_span(facts.repo.rpartition('/')[2])}"
    yield _summary(manifest)
    if facts.unchecked is not None:
        yield _unchecked_note(facts.unchecked)
    if _mask_only(manifest):
        yield _mask_note(manifest)
    yield usage(
        manifest, repo=facts.repo, revision=facts.revision, dense=facts.dense, patch=facts.patch, base=facts.base
    )
    for title, file in facts.charts.items():
        yield f"## {title}\n\n![{title}]({file})"
    if facts.evaluations:
        yield _evaluation(facts.evaluations) + _left_out(manifest)
    if facts.cost is not None:
        yield _cost(facts.cost)
    yield _provenance(facts)
    yield _limits(manifest)


def _summary(manifest: Manifest) -> str:
    base = manifest.base
    framework = ""
    if manifest.segmentor is not None and manifest.file(HEAD) is not None:
        framework = f" It comes with the tensors of a segmentor, {code_span(manifest.segmentor.framework)}."
    return (
        f"The image encoder of CLIP {code_span(base.source)} (architecture {code_span(base.architecture)}) with "
        f"{100 * manifest.achieved_sparsity:.2f} % of its prunable weights removed: {manifest.kept:,} of "
        f"{manifest.total:,} are kept in {len(manifest.layers)} layers, pattern {code_span(manifest.pattern)}. "
        f"Text encoder and architecture are those of the base, so it goes wherever the base goes.{framework}"
    )


def _unchecked_note(unchecked: Unchecked) -> str:
    failed = f" It failed: {', '.join(unchecked.failed)}." if unchecked.failed else " It would have passed them."
    return (
        "**Published without the checks** that `opentrans push` makes (reading it again in a fresh interpreter, "
        f"licence, figures).{failed} The reason given: {code_span(unchecked.reason)}"
    )


def _mask_note(manifest: Manifest) -> str:
    return (
        "**Masks alone.** This repository holds no weights. They are taken from the base, "
        f"{code_span(manifest.base.source)}, whose image tower must have the digest {code_span(manifest.base.digest)}; "
        "`opentrans` checks that and refuses another. What distillation or fine-tuning changed is not in here."
    )


def _evaluation(reports: Sequence[Mapping[str, Any]]) -> str:
    header = (
        "data", ">images", "framework", ">sparsity", ">mIoU", ">seen", ">unseen", ">pixels",
        ">MACs, dense", ">MACs, kept", ">measured",
    )  # fmt: skip
    rows = [
        (
            code_span(report["dataset"]),
            _images(report),
            code_span(report["framework"]),
            f"{report['at_sparsity']:g}" if "at_sparsity" in report else "as it is",
            *(_percent(report[key]) for key, _, _ in _METRICS),
            _macs(report["macs"]),
            _macs(report["macs_kept"]),
            f"{1000 * report['seconds_per_image']:.1f} ms",
        )
        for report in reports
    ]
    return (
        f"## Evaluation\n\n{table(header, rows)}\n\n"
        "mIoU and pixel accuracy in percent, by `opentrans eval`; unseen classes had no labels in training. MACs are "
        "counted for one image, those of weights that are kept in the column after. The time of one image was measured "
        f"with dense kernels, on {', '.join(_places(reports))}."
    )


def _images(report: Mapping[str, Any]) -> str:
    """How many were scored, and how many could not be."""
    skipped = report.get("skipped")
    return f"{report['images']:,}" + (f", {len(skipped):,} left out" if isinstance(skipped, list) and skipped else "")


def _left_out(manifest: Manifest) -> str:
    """A warning where reports may speak of values that are not there any more."""
    numbers = [number for number, step in enumerate(manifest.steps, start=1) if step.verb == "push"]
    if not numbers or not _mask_only(manifest):
        return ""
    return (
        f" Values were left out in step {numbers[-1]} of the history: figures from before hold for those values, not "
        "for the base's under the same masks."
    )


def _places(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Devices of the measurements, as code."""
    environments = [report["environment"] for report in reports]
    names = [str(place.get("processor" if place.get("device") == "cpu" else "device")) for place in environments]
    return [code_span(name) for name in dict.fromkeys(names)]


def _cost(receipt: Mapping[str, Any]) -> str:
    rows = [("dense tower, every layer trained", _macs(receipt["dense_total"]), "100.0 %")]
    named = [("this run, dense kernels", "unmasked_total"), ("this run, zeros not counted", "total")]
    rows += [
        (title, _macs(receipt[key]), f"{100 * receipt[key] / receipt['dense_total']:.1f} %")
        for title, key in named
        if key in receipt and receipt["dense_total"]
    ]
    return (
        f"## Cost of fine-tuning\n\n{table(('', '>MACs', '>share'), rows)}\n\n"
        f"Counted over {receipt['images']:,} images, {len(receipt['frozen_layers'])} layers frozen; no time was "
        "recorded. Frozen layers save with any kernels, zeros with sparse ones alone."
    )


def _provenance(facts: CardFacts) -> str:
    rows = [(str(number), *_step(step)) for number, step in enumerate(facts.manifest.steps, start=1)]
    return "\n\n".join(
        [
            "## Provenance",
            table((">", "step", ">seed", "data", "versions"), rows),
            f"Bundle {code_span(facts.digest)}, from the base {code_span(facts.manifest.base.digest)}. "
            "To check it, and to make it again:",
            fence("bash", f"{pull_line(facts.repo, facts.revision)}opentrans verify subnet\n{_REPRODUCE}"),
        ]
    )


def _step(step: Step) -> tuple[str, str, str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(step.versions.items()))
    return (
        code_span(step.verb),
        "" if step.seed is None else str(step.seed),
        "" if step.data is None else code_span(step.data[:19]),
        code_span(versions),
    )


def _limits(manifest: Manifest) -> str:
    lines = [
        "Zeros do not make dense kernels faster: in torch, on CPU and GPU alike, this tower takes the time of its "
        "base. What is smaller is the bundle, and the count of multiplications that a sparse kernel would make.",
        "It knows what its base knows, less what pruning took; figures hold for the data they were measured on.",
        "The licence covers what is published here; the base's own terms go with weights that come from it.",
    ]
    if manifest.pattern == "channel":
        lines[0] = (
            "Zeros do not make dense kernels faster; whole channels can be cut out, by "
            "`opentrans transfer subnet --to open-clip --compact`, which gives a narrower dense tower."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _macs(count: int) -> str:
    return f"{count / 1e9:,.3f} G"
