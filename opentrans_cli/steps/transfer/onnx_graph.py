"""Graphs of ONNX: made by torch's exporter, run by onnxruntime."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from opentrans_cli.errors import OptionError, TransferError

OPSET = 18  # the first that torch's exporter writes by itself, so that older runtimes read it
SMALLEST = 32  # pixels: a side shorter than the towers' stride has no cell

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 2**31 - 1  # bytes of one protobuf message

Outputs = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores (C, H, W) and label map (H, W)


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

    side: pixels of the square picture it is traced with. dynamic: whether H and W are free, from `SMALLEST`. name: of
    the framework, for messages. Raises TransferError for what the exporter cannot do, or a protobuf cannot hold.
    """
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > _LARGEST:
        raise TransferError(f"too large for one ONNX file: {name} of {size / 1e9:.1f} GB; at most 2 GB fit")
    width, axes = side, None
    if dynamic:
        width = side + SMALLEST  # torch might take two equal sides for one
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
    """Nothing on the terminal, and no warning: the exporter talks about its own work, even where all is well."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_places(model: Any) -> None:
    """Drop what the exporter says about every node: lines of source code, with the paths of this machine."""
    graph = model.graph
    parts = [model, graph, *graph.input, *graph.output, *graph.initializer, *model.functions]
    for owner in (graph, *model.functions):
        parts += [*owner.node, *owner.value_info]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def load_graph(content: bytes) -> Callable[[NDArray[np.float32]], Outputs]:
    """A serialised graph, ready to run on the CPU: `image` (1, 3, H, W), RGB in [0, 255] -> outputs.

    Raises whatever onnxruntime does; its errors have no class in common.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about its own optimiser
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.float32]) -> Outputs:
        scores, label_map = session.run(["scores", "label_map"], {"image": image})
        return scores[0], label_map[0]

    return run


def one_line(error: Exception) -> str:
    """The beginning of an error's message, without line breaks."""
    return " ".join(str(error).split())[:200]
