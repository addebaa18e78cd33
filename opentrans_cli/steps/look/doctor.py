"""doctor: what is installed, what this machine can compute on, and what is broken. Whatever is broken, it goes on.

Packages are imported in another process, since a broken one may end the process that imports it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from opentrans_cli.files.folder_size import folder_size
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.step_record import processor
from opentrans_cli.version import __version__

T = TypeVar("T")

PACKAGE = "opentrans-cli"
MODULES = {
    "numpy": "numpy",
    "torch": "torch",
    "open_clip_torch": "open_clip",
    "transformers": "transformers",
    "huggingface_hub": "huggingface_hub",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "threadpoolctl": "threadpoolctl",
    "jsonschema": "jsonschema",
    "packaging": "packaging",
    "pyyaml": "yaml",
    "typer": "typer",
    "rich": "rich",
}
"""By package that opentrans needs the module that it is imported as."""

EXTRAS: dict[str, tuple[str, dict[str, str]]] = {
    "distributed": ("prune, finetune, eval and segment under torchrun", {"accelerate": "accelerate"}),
    "coco": ("eval --task instance", {"faster-coco-eval": "faster_coco_eval"}),
    "onnx": (
        "transfer --to onnx",
        {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    ),
    "sign": (
        "push --sign, push --sign-key and verify of a signature",
        {"model-signing": "model_signing", "pyopenssl": "OpenSSL"},
    ),
    "tensorboard": ("finetune --tensorboard", {"tensorboard": "tensorboard"}),
}
"""By extra the commands that need it, and its packages with the modules that they are imported as."""

VARIABLES = (
    *("OPENTRANS_CACHE", "OPENTRANS_TRACEBACK", "XDG_CACHE_HOME", "TMPDIR"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("HF_TOKEN_PATH", "HF_HUB_DISABLE_XET", "TRANSFORMERS_OFFLINE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
    *("KMP_BLOCKTIME", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "LD_PRELOAD", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("PYTORCH_ENABLE_MPS_FALLBACK", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"),
)
"""Variables of the environment that change what opentrans, torch or the Hub's client do."""

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_PATIENCE = 180  # seconds for all imports together
_MOST_FILES = 200_000  # of a cache that are counted

# Imports each module and prints a line of JSON about it, after a mark that no package can print. The paths are ours:
# otherwise the current folder would come first, and a file torch.py there would be taken for torch.
_PROBE = """
import json, sys
mark, sys.path[:], modules = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
def torch_facts(torch):
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            gpus.append({"name": found.name, "bytes": found.total_memory, "capability": f"{found.major}.{found.minor}"})
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cuda_built": torch.version.cuda,
        "hip_built": torch.version.hip,
        "cuda": gpus,
        "mps": torch.backends.mps.is_available(),
    }
for module in modules:
    facts = {}
    try:
        found = __import__(module)
        if module == "torch":
            facts = torch_facts(found)
    except BaseException as error:
        facts = {"error": f"{type(error).__name__}: {error}"}
    print(f"\\n{mark}{json.dumps({'module': module, **facts})}", flush=True)
"""


@dataclass(frozen=True)
class PackageState:
    """An installed or missing package."""

    name: str
    version: str | None  # None: not installed
    needs: str  # ">=2.6", or "" if that is not known
    problem: str | None  # why it cannot be used; None also for a package of an extra that is not installed


@dataclass(frozen=True)
class ExtraState:
    """An extra of the package: `pip install opentrans-cli[NAME]`."""

    name: str
    commands: str  # what it is for
    installed: bool
    packages: tuple[PackageState, ...]


@dataclass(frozen=True)
class DeviceState:
    """A kind of device, as `--device` names it."""

    kind: str  # "cpu", "cuda" or "mps"
    available: bool
    names: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class CacheState:
    """A folder in which downloads are kept."""

    of: str
    path: str
    exists: bool
    bytes: int
    files: int
    complete: bool  # False: not all files were counted


@dataclass(frozen=True)
class DiskState:
    """The disk on which something lies."""

    of: tuple[str, ...]
    path: str
    free: int  # bytes
    total: int


@dataclass(frozen=True)
class DoctorResult:
    """Everything that is known; a part that could not be found out is empty, and stands in `problems`."""

    opentrans: str
    python: dict[str, str] = field(default_factory=dict)
    system: dict[str, str] = field(default_factory=dict)
    threads: int | None = None  # of torch
    packages: tuple[PackageState, ...] = ()
    extras: tuple[ExtraState, ...] = ()
    devices: tuple[DeviceState, ...] = ()
    caches: tuple[CacheState, ...] = ()
    disks: tuple[DiskState, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The doctor report of `artifacts.schema.json`."""
        return asdict(self)


def doctor(*, imports: bool = True, reporter: Reporter | None = None) -> DoctorResult:
    """Look at the installation and the machine. Nothing is written, and no network is used.

    imports: import every package, in another process, which takes some seconds; else no device is looked for. Home
    folders are written as ~, and neither tokens nor passwords inside addresses are in the result. Raises nothing: what
    is broken stands in `problems`.
    """
    reporter, problems = reporter or LOGGED, list[str]()

    def part(title: str, look: Callable[[], T], otherwise: T) -> T:
        try:
            return look()
        except Exception as error:
            problems.append(f"{title}: {type(error).__name__}: {error}")
            return otherwise

    needs: dict[str, str] = part("packages", _needs, {})
    wanted = [*MODULES.items(), *(item for _, packages in EXTRAS.values() for item in packages.items())]
    there = {name: module for name, module in wanted if _version(name) is not None}
    modules = tuple(there.values()) if imports else ()
    probed: dict[str, dict[str, Any]] = part("imports", lambda: _probe(modules, reporter), {})
    states = {name: _package(name, needs, probed.get(module, {})) for name, module in wanted}
    packages = tuple(states[name] for name in MODULES)
    extras = tuple(_extra(name, states) for name in EXTRAS)
    used = (*packages, *(state for extra in extras for state in extra.packages if state.version is not None))
    problems += [f"{state.name}: {state.problem}" for state in used if state.problem is not None]
    problems += part("installation", lambda: list(_other_install()), [])
    about_torch = probed.get("torch", {})
    caches: tuple[CacheState, ...] = part("caches", lambda: tuple(_caches(problems)), ())
    found = DoctorResult(
        opentrans=__version__,
        python=part("Python", _python, {}),
        system=part("system", lambda: _system(about_torch), {}),
        threads=about_torch.get("threads"),
        packages=packages,
        extras=extras,
        devices=part("devices", lambda: tuple(_devices(about_torch)), ()) if imports else (),
        caches=caches,
        disks=part("disks", lambda: tuple(_disks(caches)), ()),
        environment=part("environment", _environment, {}),
        problems=tuple(problems),
    )
    return _clean(found)


# Packages.


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _needs() -> dict[str, str]:
    """By package the versions that opentrans needs, from its metadata; nothing in a folder that is not installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        found = [Requirement(text) for text in distribution(PACKAGE).requires or ()]
    except PackageNotFoundError:
        return {}
    return {canonicalize_name(each.name): str(each.specifier) for each in found}


def _package(name: str, needs: Mapping[str, str], probed: Mapping[str, Any]) -> PackageState:
    found, wanted = _version(name), needs.get(name.replace("_", "-"), "")
    problem = None
    if found is None:
        problem = f"not installed; pip install '{name}{wanted}'"
    elif error := probed.get("error"):
        problem = f"cannot be imported, {' '.join(str(error).split())[:500]}"
    elif not _fits(found, wanted):
        problem = f"version {found} does not fit; pip install '{name}{wanted}'"
    return PackageState(name, found, wanted, problem)


def _fits(found: str, wanted: str) -> bool:
    if not wanted:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(found, prereleases=True)


def _extra(name: str, states: Mapping[str, PackageState]) -> ExtraState:
    commands, packages = EXTRAS[name]
    own = tuple(states[package] for package in packages)
    return ExtraState(name, commands, all(state.version is not None for state in own), own)


def _other_install() -> Iterator[str]:
    """What is wrong if the metadata is that of another copy than the code."""
    known = _version(PACKAGE)
    if known is None:
        yield f"{PACKAGE} is not installed, it runs from a folder: versions are not compared; pip install it"
    elif known != __version__:
        yield f"two copies: this code is {__version__}, the installed {PACKAGE} is {known}; pip install it again"


def _probe(modules: tuple[str, ...], reporter: Reporter) -> dict[str, dict[str, Any]]:
    """What importing each module gave: facts about torch, or an `error`."""
    found: dict[str, dict[str, Any]] = {}
    with reporter.bar("imports", len(modules)) as advance:
        while left := [module for module in modules if module not in found]:
            for line in _imported(left):
                found[line.pop("module")] = line
                advance("")
    return found


def _imported(modules: list[str]) -> Iterator[dict[str, Any]]:
    """A line about each module that one process imports, the last about the one that ended it."""
    with tempfile.TemporaryFile("w+", errors="replace") as talk:
        mark = token_hex(8)
        line = [sys.executable, "-c", _PROBE, mark, json.dumps(sys.path), *modules]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=talk, text=True, errors="replace") as process:
            assert process.stdout is not None
            watch = _Watch(process)
            done = 0
            for text in process.stdout:
                if text.startswith(mark):
                    done += 1
                    yield json.loads(text.removeprefix(mark))
            code = process.wait()
            late = watch.stop()
        if done < len(modules):
            talk.seek(0)
            last = (talk.read().strip().splitlines() or [""])[-1]
            why = f"no end after {_PATIENCE} s" if late else f"it ended Python with code {code}"
            yield {"module": modules[done], "error": f"{why}{f': {last}' if last else ''}"}


class _Watch:
    """Ends a process that takes too long."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        from threading import Timer

        self._late = False
        self._process = process
        self._timer = Timer(_PATIENCE, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        self._late = True
        self._process.kill()

    def stop(self) -> bool:
        """Whether the process was ended."""
        self._timer.cancel()
        return self._late


# The machine.


def _python() -> dict[str, str]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "package": str(Path(__file__).parents[2]),
    }


def _system(about_torch: Mapping[str, Any]) -> dict[str, str]:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    found = {
        "system": platform.platform(),
        "processor": processor(),
        "cores": f"{cores}" + (f", {usable} of them usable" if usable != cores else ""),
    }
    if about_torch.get("instructions"):
        found["instructions"] = str(about_torch["instructions"])
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    return found


def _devices(about_torch: Mapping[str, Any]) -> Iterator[DeviceState]:
    unknown = "torch cannot be imported" if not about_torch or "error" in about_torch else ""
    yield DeviceState("cpu", not unknown, (processor(),), unknown)
    names = tuple(
        f"{each['name']}, {each['bytes'] / 2**30:.1f} GiB, compute capability {each['capability']}"
        for each in about_torch.get("cuda", ())
    )
    built = about_torch.get("cuda_built") or about_torch.get("hip_built")
    note = f"torch is built for {built}" if built else "torch is built without it"
    yield DeviceState("cuda", bool(names), names, unknown or note)
    yield DeviceState("mps", bool(about_torch.get("mps")), (), unknown)


# Disks.


def _caches(problems: list[str]) -> Iterator[CacheState]:
    places = {"bundles from the Hub": _own_cache, "Hugging Face Hub": _hub_cache, "open_clip": _open_clip_cache}
    for name, place in places.items():
        try:
            path = place()
            yield CacheState(name, str(path), path.is_dir(), *folder_size(path, most=_MOST_FILES))
        except Exception as error:
            problems.append(f"cache of {name}: {type(error).__name__}: {error}")


def _own_cache() -> Path:
    from opentrans_cli.bundle.hub.source import cache_folder

    return cache_folder()


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _open_clip_cache() -> Path:
    """Where open_clip keeps weights that it loads by an address of their own."""
    return Path("~/.cache/clip").expanduser()


def _disks(caches: tuple[CacheState, ...]) -> Iterator[DiskState]:
    """The disks of the current folder, of temporary files and of the caches, each once."""
    places = {"current folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    places |= {cache.of: Path(cache.path) for cache in caches}
    found: dict[int, tuple[list[str], Path]] = {}
    for name, path in places.items():
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        found.setdefault(there.stat().st_dev, ([], there))[0].append(name)
    for names, path in found.values():
        usage = shutil.disk_usage(path)
        yield DiskState(tuple(names), str(path), usage.free, usage.total)


# What is set, and what must not be shown.


def _environment() -> dict[str, str]:
    """The variables that are set, in the order of the list above; of tokens only that they are."""
    return {
        name: "set, not shown" if name in _SECRETS else os.environ[name] for name in VARIABLES if name in os.environ
    }


def _clean(found: DoctorResult) -> DoctorResult:
    """`found` with ~ for the home folder, and without tokens and passwords, wherever they stand."""
    tokens = [value for name in _SECRETS if (value := os.environ.get(name, "").strip())]
    homes = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))} - {"~", "/"}

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(each) for key, each in value.items()}
        if isinstance(value, tuple):
            return tuple(clean(each) for each in value)
        if hasattr(value, "__dataclass_fields__"):
            return type(value)(**{name: clean(getattr(value, name)) for name in value.__dataclass_fields__})
        if not isinstance(value, str):
            return value
        for token in tokens:
            value = value.replace(token, "***")
        for home in sorted(homes, key=len, reverse=True):
            value = re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", value)
        return re.sub(r"(?<=://)[^/@\s]+@", "***@", value)

    return clean(found)
