"""Upload a bundle to the Hub: one commit, which no other commit can interrupt, and a permanent tag for it.

The client's `create_commit` and `create_tag` are used. This module adds what they do not do: files of others stay, the
same content makes no second version, and a commit whose answer was lost is detected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.hub.client import (
    HubRef,
    client,
    endpoint,
    hub_errors,
    offline,
    retrying,
    silent_client,
    status,
)
from opentrans_cli.bundle.hub.remote import RemoteRepo
from opentrans_cli.bundle.layout import (
    ALPHA_CHART,
    EVAL_RESULTS,
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    README,
    SIGNATURE,
    SPARSE_PATCH,
    SPARSITY_CHART,
)
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

BRANCH = "main"
_LARGE = 4 << 20  # bytes; larger files are sent one by one, so that progress can be told
_NUMBERED = re.compile(r"v([1-9][0-9]{0,8})")
# What `Outgoing.files` may have beside the bundle; another push may delete it.
_EXTRAS = (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, SPARSE_PATCH, EVAL_RESULTS)
_TRIES = 5  # to find a free number when others tag as well


@dataclass(frozen=True)
class Outgoing:
    """The content that a repo is to have."""

    repo: str  # "org/name"
    files: Mapping[str, Path]  # manifest.json, what it declares, and `_EXTRAS`: name there -> file here
    card: Callable[[str], Mapping[str, bytes]]  # tag -> model card, name -> content; people may edit it on the Hub
    message: str  # of the commit
    private: bool = False


@dataclass(frozen=True)
class Uploaded:
    """What is on the Hub now."""

    tag: str | None  # None where nothing was sent
    commit: str | None
    url: str  # of a page for people
    committed: bool  # False: the content was there already
    uploaded: Mapping[str, int] = field(default_factory=dict)  # name -> bytes, what the commit added or changed
    deleted: tuple[str, ...] = ()  # files of an older bundle


def upload(outgoing: Outgoing, *, tag: str | None, reporter: Reporter = SILENT) -> Uploaded:
    """Create the repo if need be, commit what changed, and tag it; what is there already is neither sent nor made.

    tag: None takes the one that the content has, or the next of v1, v2, ... The reporter hears of every new try, and
    has a bar while files are sent. Raises HubError; nothing is visible then, or everything but the tag, and the same
    call goes on from there.
    """
    if offline():
        raise HubError(f"calls to the Hub are forbidden: hf://{outgoing.repo}, HF_HUB_OFFLINE is set; unset it")
    with hub_errors(f"hf://{outgoing.repo}"), silent_client():
        return _Upload(outgoing, reporter).run(tag)


class _Tree(NamedTuple):
    """What a repo holds at one commit."""

    commit: str | None  # None: nothing was ever committed
    files: Mapping[str, Any]  # path -> RepoFile of the client

    def has(self, addition: CommitOperationAdd) -> bool:
        """Whether the file is there, the same byte for byte; of signatures, whether there is one."""
        from huggingface_hub.utils.sha import git_hash

        found, here = self.files.get(addition.path_in_repo), addition.upload_info
        if found is not None and addition.path_in_repo == SIGNATURE:
            return True  # each signing gives other bytes; one beside the same files holds as well
        if found is None or found.size != here.size:
            return False
        if found.lfs is not None:
            return bool(found.lfs.sha256 == here.sha256.hex())
        with addition.as_file() as file:
            return bool(found.blob_id == git_hash(file.read()))


class _Upload:
    """One call of `upload`."""

    def __init__(self, outgoing: Outgoing, reporter: Reporter) -> None:
        self.outgoing, self.repo, self.reporter = outgoing, outgoing.repo, reporter
        from huggingface_hub import CommitOperationAdd

        self.api: HfApi = client()
        self.contents = {name: CommitOperationAdd(name, str(path)) for name, path in outgoing.files.items()}

    def run(self, tag: str | None) -> Uploaded:
        self._create()
        head, tags = self._refs()
        if tag is not None and tag in tags:
            if not self._whole(self._at(tags[tag])):
                raise self._taken(tag)
            return self._uploaded(tag, tags[tag], committed=False)
        remote = self._at(head)
        if remote.commit is None or not self._whole(remote) or README not in remote.files:
            return self._update(remote, tag, tags)
        known = None if tag else self._known(remote.commit, tags)
        if known is not None:
            return self._uploaded(known, tags[known], committed=False)
        return self._uploaded(self._tag(tag, remote.commit, tags), remote.commit, committed=False)

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

    def _at(self, commit: str | None) -> _Tree:
        if commit is None:
            return _Tree(None, {})
        tree = self._ask(lambda: list(self.api.list_repo_tree(self.repo, recursive=True, revision=commit)))
        return _Tree(commit, {entry.path: entry for entry in tree if hasattr(entry, "blob_id")})

    def _whole(self, remote: _Tree) -> bool:
        """Whether the bundle is there as it is to be, whatever became of its card."""
        surplus = any(name in remote.files and name not in self.contents for name in _EXTRAS)
        return not surplus and all(map(remote.has, self.contents.values()))

    def _known(self, head: str, tags: Mapping[str, str]) -> str | None:
        """A tag that names this content: one at the head, or the last number."""
        here = sorted((tag for tag, commit in tags.items() if commit == head), key=_number)
        if here:
            return here[-1]
        last = max(tags, key=_number, default=None)
        return last if last is not None and self._whole(self._at(tags[last])) else None

    def _update(self, remote: _Tree, tag: str | None, tags: Mapping[str, str]) -> Uploaded:
        from huggingface_hub import CommitOperationAdd

        declared = self._declared(remote)
        beside = {*_EXTRAS, SIGNATURE, SPARSITY_CHART, ALPHA_CHART}
        if declared is None:
            self._refuse_foreign(remote, {*self.contents, *beside})
        card = self.outgoing.card(tag or _next(tags))
        new = [content for name, content in self.contents.items() if name == SIGNATURE or not remote.has(content)]
        new += [CommitOperationAdd(name, data) for name, data in card.items()]
        ours = set() if declared is None else {*declared, *beside}
        gone = tuple(sorted(ours.intersection(remote.files) - {*self.contents, *card}))
        commit = self._commit(remote, new, gone)
        if not self._whole(self._at(commit)):
            raise HubError(f"the Hub did not store all files: hf://{self.repo}, commit {commit}; run the command again")
        sizes = {addition.path_in_repo: addition.upload_info.size for addition in new}
        name = self._tag(tag, commit, tags)
        return self._uploaded(name, commit, committed=True, uploaded=sizes, deleted=gone)

    def _refuse_foreign(self, remote: _Tree, names: Collection[str]) -> None:
        """A repo without a bundle may hold somebody's model, which no push may overwrite or stand beside."""
        theirs = sorted(set(names).intersection(remote.files))
        if theirs:
            raise HubError(f"repo holds a file of its own: {theirs[0]!r} in hf://{self.repo}; push to another repo")

    def _declared(self, remote: _Tree) -> set[str] | None:
        """The files of the bundle that the repo holds; None if it holds none."""
        if remote.commit is None or MANIFEST not in remote.files:
            return None
        repo = RemoteRepo(HubRef(self.repo, None), remote.commit)
        try:
            return {entry.name for entry in repo.parse(repo.manifest_bytes() or b"").files}
        except BundleError:
            return None

    def _commit(self, remote: _Tree, additions: list[CommitOperationAdd], gone: Collection[str]) -> str:
        """Sends files and makes the commit, provided that the branch is still where `remote` is."""
        from huggingface_hub import CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

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
        with self.reporter.bar(f"push to {self.repo}", len(additions)) as sent:
            for group in (small, *large):
                # Newer clients try the requests of this again by themselves, for long enough.
                retrying(partial(self._send, group), attempts=2, say=self.reporter.say)
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

    def _uploaded(self, tag: str, commit: str, **facts: Any) -> Uploaded:
        return Uploaded(tag, commit, f"{endpoint()}/{self.repo}/tree/{tag}", **facts)

    def _ask(self, call: Callable[[], Any]) -> Any:
        return retrying(call, say=self.reporter.say)


def _number(tag: str) -> int:
    """7 of "v7", 0 of any other tag."""
    match = _NUMBERED.fullmatch(tag)
    return int(match[1]) if match else 0


def _next(tags: Collection[str]) -> str:
    return f"v{max(map(_number, tags), default=0) + 1}"
