"""Where the weights of a spectrum come from: the tower of a CLIP or a bundle, or any checkpoint file.

A file is read one layer at a time and no model is built, so files that are no CLIP can be analysed as well. In a file
that holds a CLIP, layers have the names they have inside the image tower, as in a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from opentrans_cli.bundle.store import Bundle
from opentrans_cli.checkpoints.pruned import open_pruned
from opentrans_cli.clip.file_layers import CODED, EMBEDDING, WeightLayer, file_contents, read_layer
from opentrans_cli.clip.key_tables import OUTPUT_HEAD
from opentrans_cli.clip.layers import PARTS, tower_candidates
from opentrans_cli.clip.source import is_local
from opentrans_cli.errors import OptionError, SourceError, did_you_mean
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.source_name import plain_source
from opentrans_cli.steps.sources import AnyClip, Tower, clip_tower, load_tower

EXCLUDED = "excluded"

_NO_WEIGHT = "give a checkpoint with convolutions or linear layers"
_DECODE = "save the model in floating point with the program that made it"


@dataclass(frozen=True)
class LeftOut:
    """Layers or tensors that are not analysed, all for the same reason."""

    reason: str
    count: int  # layers, or tensors that cannot be layers
    names: tuple[str, ...]  # of layers, which --include can add, or of weights that are not read; empty: other tensors


@dataclass(frozen=True)
class SpectrumSource:
    """The weights of a source, read one at a time; no file stays open."""

    source: str  # as the user gave it
    layers: tuple[WeightLayer, ...]  # in module order
    counted: Mapping[str, int]  # tensors of a file that cannot be layers, by reason
    coded: tuple[str, ...]  # tensors of a file with weights in a form that is not read
    bundle: Bundle | None  # None if the source is no bundle
    model_cfg: dict[str, Any] | None  # open_clip's, for a CLIP or only for its image tower; None: not known
    reader: Callable[[str], NDArray[Any]] = field(repr=False)
    clip: AnyClip | None = field(default=None, repr=False)  # the tower that was loaded for it

    def read(self, name: str) -> NDArray[Any]:
        """One layer's weight, (O, I, kh, kw) or (O, I), floating point. Do not change it, since it may be shared.

        Several threads may read at once. Raises KeyError for an unknown layer, and SourceError if the file cannot be
        read any more.
        """
        return self.reader(name)

    def chosen(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of the layers to analyse, in module order: the default ones, plus `include`, minus `exclude`.

        Both hold glob patterns for whole names (`attnpool.*`); exclude wins. A pattern selects embedding tables only if
        it matches nothing else, so that it means the same for a file as for a bundle, which does not list them.
        Raises OptionError for a pattern that matches no layer, and if no layer is left.
        """
        fewer = {layer.name for matches in self._matches("--exclude", exclude) for layer in matches}
        more: set[str] = set()
        for matches in self._matches("--include", include):
            more |= {layer.name for layer in matches if layer.skipped != EMBEDDING} or {m.name for m in matches}
        names = tuple(
            layer.name
            for layer in self.layers
            if (layer.skipped is None or layer.name in more) and layer.name not in fewer
        )
        if not names:
            reasons = ", ".join(group.reason for group in self.left_out(names) if group.names)
            raise OptionError(f"no layer is left to analyse: all of {self.source} are left out ({reasons}); leave some")
        return names

    def _matches(self, option: str, patterns: Iterable[str]) -> Iterator[list[WeightLayer]]:
        for pattern in patterns:
            matches = [layer for layer in self.layers if fnmatchcase(layer.name, pattern)]
            if not matches:
                near = did_you_mean(pattern, [layer.name for layer in self.layers])
                raise OptionError(
                    f"no layer is called so: {option} {pattern}; analyze without it to see the names{near}"
                )
            yield matches

    def left_out(self, chosen: Iterable[str]) -> tuple[LeftOut, ...]:
        """What is not in `chosen`, by reason: first layers, in module order, then tensors that cannot be layers."""
        taken, groups = set(chosen), dict[str, list[str]]()
        for layer in self.layers:
            if layer.name not in taken:
                groups.setdefault(layer.skipped or EXCLUDED, []).append(layer.name)
        layers = [LeftOut(reason, len(names), tuple(names)) for reason, names in groups.items()]
        coded = [LeftOut(CODED, len(self.coded), self.coded)] if self.coded else []
        return (*coded, *layers, *(LeftOut(reason, count, ()) for reason, count in sorted(self.counted.items())))


def open_spectrum_source(
    source: str, *, base: str | None = None, loaded: AnyClip | None = None, reporter: Reporter = SILENT
) -> SpectrumSource:
    """The weights of a bundle, a CLIP or a checkpoint file.

    A local file is read as it is, whatever it holds. Every other source is loaded as a tower (`load_tower`). A bundle
    that holds only masks gets the weights of its base, or of the source `base` if the base has moved. loaded: a CLIP
    that is already loaded, used if it is the source. Raises SourceError or BundleError with a message of one line.
    """
    if loaded is not None and loaded.source == source:
        return _from_tower(source, clip_tower(loaded))
    if _is_file(plain_source(source)):
        return _from_file(plain_source(source), reporter)
    return _from_tower(source, load_tower(source, reporter, base=base))


def _is_file(source: str) -> bool:
    name, _, tag = source.partition(":")
    built = source == "tiny" or (tag and is_local(tag) and not is_local(name))
    return not built and is_local(source) and not Path(source).is_dir()


def _from_file(source: str, reporter: Reporter) -> SpectrumSource:
    file = open_pruned(Path(source))
    contents = file_contents(file.tensors)
    if not contents.layers:
        why = f"{len(contents.coded)} are {CODED}: '{contents.coded[0]}'; {_DECODE}" if contents.coded else _NO_WEIGHT
        raise SourceError(f"no 2-D or 4-D weight in {source}; {why}")
    if file.file.note is not None:
        reporter.say(file.file.note)
    if contents.coded:
        first, count = contents.coded[0], len(contents.coded)
        reporter.say(f"{source}: left out, since they are {CODED}: {count} weights such as '{first}'; {_DECODE}")
    if contents.tower is not None and contents.tower.prefix:
        reporter.say(f"image tower of {source}: below '{contents.tower.prefix}', layers are named inside it")
    places = {layer.name: layer for layer in contents.layers}
    return SpectrumSource(
        source=source,
        layers=contents.layers,
        counted=contents.counted,
        coded=contents.coded,
        bundle=None,
        model_cfg=contents.model_cfg,
        reader=lambda name: read_layer(file, places[name]),
    )


def _from_tower(source: str, tower: Tower) -> SpectrumSource:
    layers = []
    for found in tower_candidates(tower.shapes):
        owner, _, leaf = found.name.rpartition(".")
        packed = leaf in PARTS and f"{owner}.in_proj_bias" in tower.state
        kind = "attention" if packed else "conv" if len(found.shape) == 4 else "linear"
        # The input layer is never pruned but has a spectrum like any other: the paper ranks all 55 of RN50.
        skipped = OUTPUT_HEAD if found.reason == OUTPUT_HEAD else None
        layers.append(WeightLayer(found.name, found.shape, kind, skipped))
    return SpectrumSource(
        source=source,
        layers=tuple(layers),
        counted={},
        coded=(),
        bundle=tower.bundle,
        model_cfg=tower.base.model_cfg,
        clip=tower.clip,
        reader=lambda name: tower.state[f"{name}.weight"],
    )
