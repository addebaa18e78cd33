"""Bundles pulled before: one folder a commit, and what every revision was when it was asked for last.

    $OPENTRANS_CACHE/hub/ORG--NAME/COMMIT/          a bundle, complete and checked
    $OPENTRANS_CACHE/hub/ORG--NAME/revisions.json   tag or branch -> commit; "" is the newest

The cache is ~/.cache/opentrans if OPENTRANS_CACHE is not set. Anything in it may be deleted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from opentrans_cli.bundle.hub.client import HubRef
from opentrans_cli.bundle.hub.remote import COMMIT
from opentrans_cli.errors import BundleError
from opentrans_cli.files.atomic import locked, write_file
from opentrans_cli.files.records import json_bytes

_REVISIONS = "revisions.json"


def cache_folder() -> Path:
    """Where pulled bundles are kept."""
    given = os.environ.get("OPENTRANS_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opentrans"


def is_cached(path: Path) -> bool:
    """Whether `path` lies in the cache, where nothing is to be added to a bundle."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(cache_folder()))


def repo_folder(ref: HubRef) -> Path:
    """Everything about one repo; its name may not hold two dashes in a row, so no two repos share a folder."""
    return cache_folder() / "hub" / ref.repo.replace("/", "--")


def bundle_folder(ref: HubRef, commit: str) -> Path:
    """Where the bundle of one commit is, or goes."""
    return repo_folder(ref) / commit


def remembered(ref: HubRef) -> str | None:
    """The commit of the revision when it was asked for last, if the bundle of that commit is there."""
    commit = ref.revision or ""
    if not COMMIT.fullmatch(commit):
        commit = _read(repo_folder(ref)).get(commit, "")
    return commit if commit and bundle_folder(ref, commit).is_dir() else None


def remember(ref: HubRef, commit: str) -> None:
    """Keep the commit of a revision. Raises BundleError if the disk refuses."""
    folder = repo_folder(ref)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            known = _read(folder)
            if known.get(ref.revision or "") != commit:
                write_file(folder / _REVISIONS, [json_bytes({**known, ref.revision or "": commit})])
    except OSError as error:
        raise BundleError(
            f"cannot write the cache: {str(folder)!r}, {error.strerror or error}; set OPENTRANS_CACHE to another folder"
        ) from error


def _read(folder: Path) -> dict[str, str]:
    try:
        known = json.loads((folder / _REVISIONS).read_bytes())
    except (OSError, ValueError):
        return {}  # damaged is as good as lost: the Hub is asked again
    items = known.items() if isinstance(known, dict) else ()
    return {name: commit for name, commit in items if isinstance(commit, str) and COMMIT.fullmatch(commit)}
