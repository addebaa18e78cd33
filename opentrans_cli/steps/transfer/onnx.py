"""transfer --to onnx: a segmentor and its words as one graph, compared with torch before the file is kept.

Input `image`: float32 (1, 3, H, W), RGB in [0, 255]; the graph normalises it. Outputs `scores`: float32 (1, C, H, W),
larger is better, and `label_map`: int64 (1, H, W). Frameworks that classify pixels take any H and W of at least 32.
Frameworks that predict regions take only the size they were exported for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from opentrans_cli.errors import OptionError, TransferError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.quiet import quiet_libraries
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.opened import open_source
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.words import AnyWords, Words
from opentrans_cli.steps.step_record import versions
from opentrans_cli.steps.transfer.result import Transferred

ONNX = "onnx"
"""The target's name on the command line."""

SUFFIX = ".onnx"
TOLERANCE = 1e-4  # largest difference of a score, as a fraction of the largest score

OPSET = 18  # the oldest that torch's exporter writes by itself, so that older runtimes can read it
SMALLEST = 32  # pixels: a side shorter than the stride of the towers gives an empty feature map

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 2**31 - 1  # the most bytes that one protobuf message can have

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Outputs = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores (C, H, W) and label map (H, W)


@dataclass(frozen=True)
class OnnxExport(Transferred):
    """What was written, and how close its results are to torch's."""

    classes: tuple[str, ...]
    resolution: tuple[int, int] | None  # (H, W), the only size it takes; None: any size
    compared: tuple[tuple[int, int], ...]  # sizes (H, W) of the pictures that both were run on
    difference: float  # largest difference of a score, as a fraction of the largest score
    agreement: float  # share of pixels with the same class, in [0, 1]
    bytes: int
    opset: int
    bundle: str | None  # digest of the bundle; None if the source is none

    def to_json(self) -> dict[str, Any]:
        """The ONNX report of `artifacts.schema.json`."""
        sizes = {"resolution": self.resolution and list(self.resolution), "compared": [*map(list, self.compared)]}
        path = None if self.path is None else str(self.path)
        made = {"path": path, "classes": list(self.classes), "versions": {**versions(), **package_versions()}}
        return {**asdict(self), **sizes, **made}


def export_onnx(
    source: str,
    *,
    words: AnyWords,
    out: Path | None,
    framework: str | None = None,
    resolution: int | None = None,
    at_sparsity: float | None = None,
    base: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> OnnxExport:
    """Write the segmentor of `source`, with `words` inside, as the ONNX file `out`; with `out` None only compare.

    A source without a segmentor is read out without training, as by `segment`. `resolution`: side in pixels of the
    square picture it is exported with, by default the one the tower was trained with; frameworks that predict regions
    take no other size afterwards. `at_sparsity` takes an earlier round of a bundle. `base` is the source of the text
    tower if the bundle's base has moved. Nothing is written unless onnxruntime's scores on fixed pictures are within
    `TOLERANCE` of torch's. Raises TransferError, OptionError, SourceError, BundleError, HubError or DataError.
    """
    require_packages()
    words = Words.of(words)
    for remark in words.remarks:
        reporter.say(remark)
    _check_target(out, resolution, force=force)
    opened = open_source(source, framework=framework, at_sparsity=at_sparsity, base=base, reporter=reporter)
    built, text = opened.built, opened.embedded(words, reporter=reporter)
    side = resolution or max(SMALLEST, built.tower.preprocess.size)
    fixed = (side, side) if built.framework.masks else None
    if fixed:
        reporter.say(f"{built.framework.name} is exported for pictures of {side} x {side} alone; see --resolution")
    sizes = ((side, side),) if fixed else ((side, side), (max(SMALLEST, side * 3 // 4), side + 37))
    pictures = [_picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    expected = _by_torch(built, text, pictures)
    graph = export_graph(_Pixels(built, text), side, dynamic=fixed is None, name=built.framework.name)
    for key, value in _metadata(built, words, text).items():
        graph.metadata_props.add(key=f"opentrans.{key}", value=value)
    content = graph.SerializeToString(deterministic=True)
    difference, agreement = _compared(expected, _by_runtime(content, pictures), built.framework.name)
    bundle = built.tower.bundle
    if out is not None:
        _write(out, content)
    return OnnxExport(
        path=out,
        framework=built.framework.name,
        classes=words.vocabulary.names,
        resolution=fixed,
        compared=sizes,
        difference=difference,
        agreement=agreement,
        bytes=len(content),
        opset=OPSET,
        bundle=None if bundle is None else bundle.digest,
    )


class _Pixels(nn.Module):
    """A segmentor from pixels to classes, with its words and its normalisation inside."""

    def __init__(self, built: BuiltSegmentor, text: ClassText) -> None:
        super().__init__()
        preprocess = built.tower.preprocess
        self.segmentor = built.module
        self.class_indices, self.seen = text.class_indices, text.seen
        self.register_buffer("text", text.embeddings)
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (1, C, H, W) and label map (1, H, W) of `image` (1, 3, H, W), in [0, 255]."""
        inside: Any = self
        normalised = (image / 255 - inside.mean) / inside.std
        scores = self.segmentor(normalised, ClassText(inside.text, self.class_indices, self.seen))
        return scores, scores.argmax(1)


def _check_target(out: Path | None, resolution: int | None, *, force: bool) -> None:
    if resolution is not None and resolution < SMALLEST:
        raise OptionError(f"pictures are smaller than the tower's stride: --resolution {resolution}; give at least 32")
    if out is None:
        return
    if out.suffix != SUFFIX:
        raise OptionError(f"files of ONNX end in {SUFFIX}: --out {out}; add it")
    check_file_target(out, force=force)
    prepare_parent(out)


def _picture(height: int, width: int, *, seed: int) -> Image:
    """Spots of random colours with noise, the same on every machine; a picture of noise alone would have no areas."""
    rng = np.random.default_rng(seed)
    spots = rng.integers(0, 224, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    large = spots.repeat(16, 0).repeat(16, 1)[:height, :width]
    return large + rng.integers(0, 32, large.shape, dtype=np.uint8)


def _by_torch(built: BuiltSegmentor, text: ClassText, pictures: list[Image]) -> list[NDArray[np.float32]]:
    """Scores (C, H, W) as `segment` computes them."""
    predictor = Predictor(built, text, device=torch.device("cpu"))
    return [predictor.scores(picture).numpy() for picture in pictures]


def _metadata(built: BuiltSegmentor, words: Words, text: ClassText) -> dict[str, str]:
    """What a program needs to know besides the graph; lists and objects are JSON."""
    preprocess, base, bundle = built.tower.preprocess, built.tower.base, built.tower.bundle
    documents = {
        "classes": words.vocabulary.names,
        "synonyms": words.vocabulary.classes,
        "seen": text.seen,
        "normalisation": {"mean": preprocess.mean, "std": preprocess.std, "inside": True, "input": "RGB, 0 to 255"},
        "base": {"source": base.source, "digest": base.digest},
    }
    found = {name: json.dumps(document, ensure_ascii=False) for name, document in documents.items()}
    found |= {"framework": built.framework.name, "version": versions()["opentrans"]}
    return found if bundle is None else {**found, "bundle": bundle.digest}


def _by_runtime(content: bytes, pictures: list[Image]) -> list[Outputs]:
    """Scores (C, H, W) and label map (H, W) as onnxruntime computes them."""
    try:
        run = load_graph(content)
        return [run(picture.transpose(2, 0, 1)[None].astype(np.float32)) for picture in pictures]
    except Exception as error:  # the runtime's errors have no common class
        raise TransferError(f"onnxruntime cannot run the graph: {one_line(error)}; report this as a bug") from error


def _compared(expected: list[NDArray[np.float32]], found: list[Outputs], name: str) -> tuple[float, float]:
    """Largest difference of a score as a fraction of the largest, and the share of pixels with the same class.

    Raises TransferError if the difference is above `TOLERANCE` or NaN, or if a label map does not agree with its
    scores.
    """
    worst, equal, pixels = 0.0, 0, 0
    for scores, (others, label_map) in zip(expected, found, strict=True):
        difference = np.abs(scores - others).max() / np.abs(scores).max() if scores.shape == others.shape else np.inf
        if not difference <= TOLERANCE:
            raise TransferError(
                f"the graph does not say what torch says: {name}, scores differ by {difference:.1e} of the largest "
                f"and may by {TOLERANCE:.0e}; nothing was written, report this as a bug"
            )
        if not np.array_equal(label_map, others.argmax(0)):
            raise TransferError(f"the graph's label map is not that of its scores: {name}; report this as a bug")
        worst = max(worst, float(difference))
        equal += int((scores.argmax(0) == label_map).sum())
        pixels += label_map.size
    return worst, equal / pixels


def _write(out: Path, content: bytes) -> None:
    try:
        write_file(out, [content])
    except OSError as error:
        raise TransferError(f"cannot write: {out} ({error.strerror or error}); choose another --out") from error


def require_packages() -> None:
    """Raises OptionError unless the packages of the extra `onnx` are installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise OptionError(f"--to onnx needs a package that is missing: {missing[0]}; pip install 'opentrans-cli[onnx]'")


def package_versions() -> dict[str, str]:
    """Versions of the packages that made and ran a graph."""
    return {name: version(name) for name in _PACKAGES}


def export_graph(module: nn.Module, side: int, *, dynamic: bool, name: str) -> Any:
    """`module` as an onnx.ModelProto: `image` (1, 3, H, W) in, `scores` and `label_map` out, all values inside.

    side: pixels of the square picture it is traced with. dynamic: whether H and W are free, from `SMALLEST` on.
    name: of the framework, for messages. Raises TransferError for what the exporter cannot export, or for a graph too
    large for a protobuf.
    """
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > _LARGEST:
        raise TransferError(f"too large for one ONNX file: {name} of {size / 1e9:.1f} GB; at most 2 GB fit")
    width, axes = side, None
    if dynamic:
        width = side + SMALLEST  # torch might treat two equal sides as one dimension
        axes = ({2: torch.export.Dim("height", min=SMALLEST), 3: torch.export.Dim("width", min=SMALLEST)},)
    try:
        with torch.no_grad(), _silence():
            program: Any = torch.onnx.export(
                module.eval(),
                (torch.zeros(1, 3, side, width),),
                dynamo=True,
                dynamic_shapes=axes,
                input_names=["image"],
                output_names=["scores", "label_map"],
                opset_version=OPSET,
                verbose=False,
            )
            model = program.model_proto
    except torch.onnx.OnnxExporterError as error:
        raise TransferError(f"torch cannot export it: {name} ({one_line(error)}); report this as a bug") from error
    _forget_places(model)
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress output and warnings: the exporter prints messages about its work even if all is well."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), quiet_libraries():
        yield


def _forget_places(model: Any) -> None:
    """Remove what the exporter notes at every node: lines of source code, with the paths of this machine."""
    graph = model.graph
    parts = [model, graph, *graph.input, *graph.output, *graph.initializer, *model.functions]
    for owner in (graph, *model.functions):
        parts += [*owner.node, *owner.value_info]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def load_graph(content: bytes) -> Callable[[NDArray[np.float32]], Outputs]:
    """A serialised graph, ready to run on the CPU: `image` (1, 3, H, W), RGB in [0, 255] -> outputs.

    Raises whatever onnxruntime raises; its errors have no common class.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors; its warnings are about its own optimiser
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.float32]) -> Outputs:
        scores, label_map = session.run(["scores", "label_map"], {"image": image})
        return scores[0], label_map[0]

    return run


def one_line(error: Exception) -> str:
    """The beginning of an error's message, without line breaks."""
    return " ".join(str(error).split())[:200]
