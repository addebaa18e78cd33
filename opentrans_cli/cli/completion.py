"""What the shell offers for the value of an option or argument when Tab is pressed.

It must be quick and say nothing: names come from tables and from the current folder, torch is never loaded, and where
something fails nothing is offered. Where nothing is offered, the shell completes paths by itself; so values that are
paths into other folders are left to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer

from opentrans_cli.option import Completes, Statement

Offer = tuple[str, str]
"""A value, and what it means, or ""."""


def completer(said: Statement) -> Callable[[typer.Context, str], list[Offer]] | None:
    """The function that typer asks for values beginning with what is typed; None where the shell is to offer paths."""
    fixed = [*said.choices.items(), *((name, "") for name in said.known)]
    listed = said.completes
    if not fixed and listed is None:
        return None

    def offer(ctx: typer.Context, incomplete: str) -> list[Offer]:
        try:
            found = [*fixed, *(_LISTS[listed](ctx, incomplete) if listed else ())]
            if said.kind == "path" and fixed:  # a name or a path; the shell adds no paths to what is offered
                found += _entries(incomplete)
        except Exception:
            return []
        return [(name, meaning) for name, meaning in dict(found).items() if name.startswith(incomplete)]

    return offer


def _sources(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    from opentrans_cli.clip.open_clip import open_clip_table

    yield "tiny", "the embedded model"
    yield from _bundles(ctx, incomplete)
    if incomplete:  # there are two hundred
        yield from ((f"{name}:{tag}", "open_clip") for name, tag in open_clip_table().list_pretrained())


def _bundles(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    from opentrans_cli.bundle.hub.source import pulled_bundles

    yield from ((entry.name, "bundle") for entry in _folders() if os.path.isfile(f"{entry.path}/manifest.json"))
    yield from ((name, "pulled bundle") for name, _ in pulled_bundles())


def _layers(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    """Layers of the bundle or the model that the line has named already."""
    from opentrans_cli.assets import tiny_config
    from opentrans_cli.clip.architecture import plain_shapes
    from opentrans_cli.clip.layers import tower_candidates
    from opentrans_cli.clip.open_clip import open_clip_config

    source = _named(ctx)
    if os.path.isfile(f"{source}/manifest.json"):
        config = _bundle(source).manifest.base.model_cfg
    else:
        config = tiny_config()["model_cfg"] if source == "tiny" else open_clip_config(source.partition(":")[0]) or {}
    yield from ((layer.name, layer.reason or "") for layer in tower_candidates(plain_shapes(config) or {}))


def _blocks(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    from opentrans_cli.clip.prefix import block_of

    names = (block_of(layer) for layer, _ in _layers(ctx, incomplete))
    yield from ((name, "") for name in names if name is not None)


def _rounds(ctx: typer.Context, incomplete: str) -> Iterator[Offer]:
    from opentrans_cli.bundle.rounds import available

    for found in available(_bundle(_named(ctx))):
        yield f"{found.sparsity:.4f}".rstrip("0").rstrip("."), f"round {found.round}"


_LISTS: dict[Completes, Callable[[typer.Context, str], Iterable[Offer]]] = {
    "source": _sources,
    "bundle": _bundles,
    "layer": _layers,
    "block": _blocks,
    "round": _rounds,
}


def _named(ctx: typer.Context) -> str:
    """What the line has named so far as what the command reads."""
    # An option that still lacks its value ends the parsing before arguments are assigned: they are left over.
    values: list[Any] = ctx.args or [ctx.params.get(name) for name in ("source", "bundle", "file")]
    named = next((value for value in values if value), "")
    return str(named[0] if isinstance(named, list | tuple) else named)


def _bundle(path: str) -> Any:
    from opentrans_cli.bundle.store import open_bundle

    return open_bundle(path)


def _folders() -> Iterator[os.DirEntry[str]]:
    with os.scandir() as entries:
        yield from sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)


def _entries(incomplete: str) -> Iterator[Offer]:
    """Files and folders that begin with what is typed, as paths."""
    folder = os.path.dirname(incomplete)
    with os.scandir(os.path.expanduser(folder) or ".") as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if not entry.name.startswith("."):
                yield os.path.join(folder, entry.name) + ("/" if entry.is_dir() else ""), ""
