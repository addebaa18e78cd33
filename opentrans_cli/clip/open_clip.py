"""open_clip's modules, one at a time.

`import open_clip` also imports torchvision, timm and transformers, which takes longer than importing torch, and the
usual ResNets and ViTs need none of them. So its modules are loaded inside a package with another name, which points to
the same folder but does not run its `__init__`. Three modules in it are stand-ins: their functions and classes are
looked up in the real open_clip when they are called.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from opentrans_cli.quiet import quiet_libraries

_ALIAS = "opentrans_open_clip"
_STAND_INS = ("utils", "timm_model", "hf_model")  # they import torchvision, timm and transformers


def open_clip_module(name: str) -> ModuleType:
    """A module of open_clip, such as "model". Its classes are copies of those of `import open_clip`."""
    with quiet_libraries():
        try:
            _stand_for_open_clip()
            return importlib.import_module(f"{_ALIAS}.{name}")
        except (ImportError, AttributeError):
            # This version of open_clip is built in another way: importing all of it is slower but gives the same.
            return importlib.import_module(f"open_clip.{name}")


_DOWNLOADERS = ("safetensors.torch", "huggingface_hub")  # the former imports torch


def open_clip_table() -> ModuleType:
    """open_clip's module with the table of the weights it publishes, to be read.

    It does without two libraries by which it would download them, unless they are loaded already: reading the table
    then takes a tenth of the time, and no torch.
    """
    hidden = [name for name in _DOWNLOADERS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: importing it is an ImportError
    try:
        return open_clip_module("pretrained")
    finally:
        for name in hidden:
            del sys.modules[name]


def open_clip_config(name: str) -> dict[str, Any] | None:
    """open_clip's configuration of an architecture; None if open_clip does not know the name."""
    path = _folder() / "model_configs" / f"{name}.json"
    if path.name != f"{name}.json" or not path.is_file():
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def open_clip_architectures() -> tuple[str, ...]:
    """The names of all architectures that open_clip has a configuration of, in the order of the alphabet."""
    return tuple(sorted(path.stem for path in (_folder() / "model_configs").glob("*.json")))


def _folder() -> Path:
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'open_clip'")
    return Path(next(iter(spec.submodule_search_locations)))


def _stand_for_open_clip() -> None:
    """Register the package that points to open_clip's folder, and the stand-ins in it."""
    if _ALIAS in sys.modules:
        return
    package = ModuleType(_ALIAS)
    package.__path__ = [str(_folder())]
    for name in _STAND_INS:
        stand_in: Any = ModuleType(f"{_ALIAS}.{name}")
        stand_in.__getattr__ = _called_later(name)
        sys.modules[stand_in.__name__] = stand_in
    sys.modules[f"{_ALIAS}.utils"].to_2tuple = _pair  # type: ignore[attr-defined]
    sys.modules[_ALIAS] = package


def _called_later(module: str) -> Callable[[str], Any]:
    """`__getattr__` of a stand-in: gives functions that look up the real function or class when they are called."""

    def look_up(name: str) -> Any:
        if name.startswith("__"):  # the import system asks every module for these
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with quiet_libraries():
                real = importlib.import_module(f"open_clip.{module}")
            return getattr(real, name)(*args, **kwargs)

        return call

    return look_up


def _pair(value: Any) -> Any:
    """Turns one side into (height, width) and leaves pairs unchanged. Every ViT needs this function."""
    return value if isinstance(value, Iterable) else (value, value)
