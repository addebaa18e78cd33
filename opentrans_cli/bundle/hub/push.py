"""Publishing a bundle: one commit that nobody else's can come between, and a tag that names it for ever."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from opentrans_cli.bundle.folder import MANIFEST, MAX_MANIFEST
from opentrans_cli.bundle.hub.client import client, endpoint, hub_errors, offline, retrying, silent_client, status
from opentrans_cli.bundle.hub.tree import FileContent, RepoTree
from opentrans_cli.bundle.layout import README
from opentrans_cli.bundle.manifest import FILE_NAME, FORMAT
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.tensorfile import read_bytes

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

BRANCH = "main"
_LARGE = 4 << 20  # bytes; larger files are sent one by one, so that progress can be told
_NUMBERED = re.compile(r"v([1-9][0-9]{0,8})")
_TRIES = 5  # to find a free number when others tag as well

Say = Callable[[str], None]
Bar = Callable[[int], AbstractContextManager[Say]]
"""Opens a progress bar over so many files; called with the name of each that was sent."""


@dataclass(frozen=True)
class Outgoing:
    """What a repo is to hold."""

    repo: str  # "org/name"
    files: Mapping[str, Path]  # manifest.json, what it declares, and files of open_clip: name there -> file here
    card: Callable[[str], Mapping[str, bytes]]  # tag -> model card, name -> content; people may edit it on the Hub
    extras: Collection[str]  # all names beside declared ones that `files` may have; another push may delete them
    charts: Collection[str]  # the same of the card
    message: str  # of the commit
    private: bool = False


@dataclass(frozen=True)
class Published:
    """What is on the Hub now."""

    tag: str
    commit: str
    url: str  # of a page for people
    committed: bool  # False: the content was there already
    uploaded: Mapping[str, int] = field(default_factory=dict)  # name -> bytes, what the commit added or changed
    deleted: tuple[str, ...] = ()  # files of an older bundle


def publish(
    outgoing: Outgoing,
    *,
    tag: str | None,
    say: Say = lambda text: None,
    bar: Bar = lambda total: nullcontext(lambda name: None),
) -> Published:
    """Creates the repo if need be, commits what changed, and tags it; what is there already is neither sent nor made.

    tag: None takes the one that the content has, or the next of v1, v2, ... say: told of every new try. bar: shown
    while files are sent. Raises HubError; nothing is visible then, or everything but the tag, and the same call goes on
    from there.
    """
    if offline():
        raise HubError(f"calls to the Hub are forbidden: hf://{outgoing.repo}, HF_HUB_OFFLINE is set; unset it")
    with hub_errors(f"hf://{outgoing.repo}"), silent_client():
        return _Push(outgoing, say, bar).run(tag)


class _Push:
    """One call of `publish`."""

    def __init__(self, outgoing: Outgoing, say: Say, bar: Bar) -> None:
        self.outgoing, self.repo, self.say, self.bar = outgoing, outgoing.repo, say, bar
        self.api: HfApi = client()
        self.contents = {name: FileContent.of(path) for name, path in outgoing.files.items()}

    def run(self, tag: str | None) -> Published:
        self._create()
        head, tags = self._refs()
        if tag is not None and tag in tags:
            if not self._whole(self._at(tags[tag])):
                raise self._taken(tag)
            return self._published(tag, tags[tag], committed=False)
        remote = self._at(head)
        if remote.commit is None or not self._whole(remote) or README not in remote.files:
            return self._update(remote, tag, tags)
        known = None if tag else self._known(remote.commit, tags)
        if known is not None:
            return self._published(known, tags[known], committed=False)
        return self._published(self._tag(tag, remote.commit, tags), remote.commit, committed=False)

    def _create(self) -> None:
        from huggingface_hub import get_token

        if get_token() is None:
            raise HubError(f"no token to push with: hf://{self.repo}; log in with `hf auth login`, or set HF_TOKEN")
        private = self.outgoing.private or None  # None: as the organization wants it
        self._ask(lambda: self.api.create_repo(self.repo, private=private, exist_ok=True))
        if private and not self._ask(lambda: self.api.model_info(self.repo)).private:
            raise HubError(f"repo is public: hf://{self.repo}; make it private on its page, or leave out --private")

    def _refs(self) -> tuple[str | None, dict[str, str]]:
        """Commit of the branch, and commits by tag."""
        refs = self._ask(lambda: self.api.list_repo_refs(self.repo))
        heads = [branch.target_commit for branch in refs.branches if branch.name == BRANCH]
        return (heads[0] if heads else None), {tag.name: tag.target_commit for tag in refs.tags}

    def _at(self, commit: str | None) -> RepoTree:
        if commit is None:
            return RepoTree(None, {})
        tree = self._ask(lambda: list(self.api.list_repo_tree(self.repo, recursive=True, revision=commit)))
        return RepoTree(commit, {entry.path: entry for entry in tree if hasattr(entry, "blob_id")})

    def _whole(self, remote: RepoTree) -> bool:
        """Whether the bundle is there as it is to be, whatever became of its card."""
        surplus = any(name in remote.files and name not in self.contents for name in self.outgoing.extras)
        return not surplus and all(remote.has(name, content) for name, content in self.contents.items())

    def _known(self, head: str, tags: Mapping[str, str]) -> str | None:
        """A tag that names this content: one at the head, or the last number."""
        here = sorted((tag for tag, commit in tags.items() if commit == head), key=_number)
        if here:
            return here[-1]
        last = max(tags, key=_number, default=None)
        return last if last is not None and self._whole(self._at(tags[last])) else None

    def _update(self, remote: RepoTree, tag: str | None, tags: Mapping[str, str]) -> Published:
        declared = self._declared(remote)
        beside = {*self.outgoing.extras, *self.outgoing.charts}
        if declared is None:
            self._refuse_foreign(remote, {*self.contents, *beside})
        changed = [name for name, content in self.contents.items() if not remote.has(name, content)]
        card = self.outgoing.card(tag or _next(tags))
        ours = set() if declared is None else {*declared, *beside}
        gone = tuple(sorted(ours.intersection(remote.files) - {*self.contents, *card}))
        commit = self._commit(remote, {**{name: self.outgoing.files[name] for name in changed}, **card}, gone)
        if not self._whole(self._at(commit)):
            raise HubError(f"the Hub did not store all files: hf://{self.repo}, commit {commit}; run the command again")
        sizes = {name: self.contents[name].bytes for name in changed} | {name: len(data) for name, data in card.items()}
        name = self._tag(tag, commit, tags)
        return self._published(name, commit, committed=True, uploaded=sizes, deleted=gone)

    def _refuse_foreign(self, remote: RepoTree, names: Collection[str]) -> None:
        """A repo without a bundle may hold somebody's model, which no push may overwrite or stand beside."""
        theirs = sorted(set(names).intersection(remote.files))
        if theirs:
            raise HubError(f"repo holds a file of its own: {theirs[0]!r} in hf://{self.repo}; push to another repo")

    def _declared(self, remote: RepoTree) -> set[str] | None:
        """The files of the bundle that the repo holds; None if it holds none."""
        found = remote.files.get(MANIFEST)
        if found is None or found.size > MAX_MANIFEST:
            return None
        with TemporaryDirectory() as scratch:
            path = self._ask(
                lambda: self.api.hf_hub_download(self.repo, MANIFEST, revision=remote.commit, local_dir=scratch)
            )
            try:
                document = parse_json(read_bytes(path), MANIFEST)
            except BundleError:
                return None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            return None
        entries = document.get("files")
        names = [entry.get("name") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        # Whoever wrote that manifest, it deletes nothing but what a bundle can hold.
        return {name for name in names if isinstance(name, str) and FILE_NAME.fullmatch(name)}

    def _commit(self, remote: RepoTree, new: Mapping[str, Path | bytes], gone: Collection[str]) -> str:
        """Sends files and makes the commit, provided that the branch is still where `remote` is."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        additions = [
            CommitOperationAdd(name, data if isinstance(data, bytes) else str(data)) for name, data in new.items()
        ]
        deletions = [CommitOperationDelete(name, is_folder=False) for name in gone]
        self._upload(additions)
        try:
            info = self._ask(
                lambda: self.api.create_commit(
                    self.repo,
                    [*additions, *deletions],
                    commit_message=self.outgoing.message,
                    revision=BRANCH,
                    parent_commit=remote.commit,
                )
            )
            return info.oid
        except HfHubHTTPError as error:
            if status(error) not in (404, 409, 412):
                raise
        now = self._at(self._refs()[0])
        # The commit was made, but its answer lost; or somebody else pushed the very same.
        if now.commit is not None and self._whole(now):
            return now.commit
        raise HubError(f"somebody pushed meanwhile: hf://{self.repo}; look at what is there, and run the command again")

    def _upload(self, additions: list[CommitOperationAdd]) -> None:
        """Sends what is not stored yet; nothing of it is visible before the commit."""
        small = [addition for addition in additions if addition.upload_info.size <= _LARGE]
        large = [[addition] for addition in additions if addition.upload_info.size > _LARGE]
        with self.bar(len(additions)) as sent:
            for group in (small, *large):
                # Newer clients try the requests of this again by themselves, for long enough.
                retrying(partial(self._send, group), attempts=2, say=self.say)
                for addition in group:
                    sent(addition.path_in_repo)

    def _send(self, group: list[CommitOperationAdd]) -> None:
        # The rules given here stand in for the repo's own .gitignore, which might leave files out.
        self.api.preupload_lfs_files(self.repo, group, revision=BRANCH, free_memory=False, gitignore_content="\n")

    def _tag(self, asked: str | None, commit: str, tags: Mapping[str, str]) -> str:
        from huggingface_hub.errors import HfHubHTTPError

        for _ in range(_TRIES):
            tag = asked or _next(tags)
            try:
                self._ask(partial(self.api.create_tag, self.repo, tag=tag, revision=commit))
                return tag
            except HfHubHTTPError as error:
                if status(error) != 409:
                    raise
            tags = self._refs()[1]
            if tags.get(tag) == commit:
                return tag  # made by a try whose answer was lost
            if asked is not None:
                break
        raise self._taken(tag)

    def _taken(self, tag: str) -> HubError:
        return HubError(f"tag names something else: hf://{self.repo}@{tag}; choose another --revision, tags stay")

    def _published(self, tag: str, commit: str, **facts: Any) -> Published:
        return Published(tag, commit, f"{endpoint()}/{self.repo}/tree/{tag}", **facts)

    def _ask(self, call: Callable[[], Any]) -> Any:
        return retrying(call, say=self.say)


def _number(tag: str) -> int:
    """7 of "v7", 0 of any other tag."""
    match = _NUMBERED.fullmatch(tag)
    return int(match[1]) if match else 0


def _next(tags: Collection[str]) -> str:
    return f"v{max(map(_number, tags), default=0) + 1}"
