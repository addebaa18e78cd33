"""The Hugging Face Hub: how its repos are named, the client, what its errors mean, and what is tried again.

The client library is loaded on first use. Endpoint, token and offline mode are read from the environment at every
call. No message of this module holds a token, nor an address, which may be signed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from opentrans_cli.errors import HubError, OptionError
from opentrans_cli.source_name import HUB
from opentrans_cli.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FIRST_WAIT = 1.0
"""Seconds before the second try; doubled before each further one, up to `LONGEST_WAIT`."""
LONGEST_WAIT = 8.0

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_MAX_REPO = 96  # characters, the Hub's own bound
_MAX_REVISION = 200
_TRANSPORT = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"

T = TypeVar("T")


@dataclass(frozen=True)
class HubRef:
    """A repo of the Hub and, where one is named, its revision."""

    repo: str  # "org/name"
    revision: str | None  # tag, branch or commit; None: the newest

    def __str__(self) -> str:
        return f"{HUB}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_ref(text: str) -> HubRef:
    """ "org/name" or "org/name@revision", with or without "hf://" before it. Raises OptionError for anything else."""
    repo, at, revision = text.removeprefix(HUB).partition("@")
    good = _REPO.fullmatch(repo) and len(repo) <= _MAX_REPO and not repo.endswith(".git")
    if not good or "--" in repo or ".." in repo:
        raise OptionError(f"not a repo of the Hub: {text[:200]!r}; write org/name or org/name@revision")
    if at and not is_revision(revision):
        raise OptionError(f"not a revision: {text[:200]!r}; write a tag, a branch or a commit after the @")
    return HubRef(repo, revision or None)


def is_revision(text: str) -> bool:
    """Whether `text` can name a tag, a branch or a commit."""
    fits = _REVISION.fullmatch(text) and len(text) <= _MAX_REVISION
    return bool(fits) and ".." not in text and not text.endswith((".", ".lock"))


def endpoint() -> str:
    """Address of the Hub, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the user forbade calls to the Hub (HF_HUB_OFFLINE)."""
    return (os.environ.get("HF_HUB_OFFLINE") or "").upper() in ("1", "ON", "YES", "TRUE")


def client() -> HfApi:
    """The client for the current endpoint; the token comes from HF_TOKEN or `hf auth login`."""
    from huggingface_hub import HfApi

    # The token is left to the client, which looks it up when it asks, so that it lies in no object of ours.
    return HfApi(endpoint=endpoint(), library_name="opentrans", library_version=__version__)


@contextmanager
def silent_client() -> Iterator[None]:
    """The client's own bars and warnings are off: the warnings hold addresses, which may be signed."""
    from huggingface_hub import constants, utils

    bars: Any = utils  # its functions for bars are public, but not declared
    level, shown = utils.logging.get_verbosity(), not bars.are_progress_bars_disabled()
    shown &= constants.HF_HUB_DISABLE_PROGRESS_BARS is not False  # else the user insists on them
    utils.logging.set_verbosity_error()
    if shown:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if shown:
            bars.enable_progress_bars()


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns whatever the client raises in the block into one line of HubError about `what`, such as "hf://org/name".

    Known errors pass, and so do those of the local disk (OSError with an error number).
    """
    try:
        yield
    except Exception as error:
        told = _translate(error, what)
        if told is None:
            raise
        # A cause is shown by OPENTRANS_TRACEBACK=1; some of the client's quote the header they could not send.
        raise told from (None if _shows_token(error) else error)


def retrying(
    call: Callable[[], T],
    *,
    attempts: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> T:
    """The result of `call`, tried again after server errors, refused and dropped connections; else its exception.

    For requests that the client itself does not retry: create, commit, tag, and queries. A call may have succeeded
    although its answer was lost, so repeating `call` must be safe.
    """
    pause = FIRST_WAIT
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            if attempt == attempts or not is_transient(error):
                raise
            say(f"trouble with the Hub, {_cause(error)}; trying again in {pause:g} s ({attempt} of {attempts - 1})")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_WAIT)
    raise ValueError("attempts is at least 1")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    # No answer and no copy that would do instead, or "Error while uploading": the reason is behind it.
    if isinstance(error, (LocalEntryNotFoundError, RuntimeError)):
        return error.__cause__ is not None and is_transient(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return status(error) in (408, 429) or (status(error) or 0) >= 500
    return isinstance(error, (ConnectionError, TimeoutError)) or _is_transport(error)


def status(error: BaseException) -> int | None:
    """HTTP status of the client's error; None if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_transport(error: BaseException) -> bool:
    # By module: the client has changed its HTTP library twice, and that library's errors share no base with ours.
    local = type(error).__name__ in ("LocalProtocolError", "InvalidURL", "UnsupportedProtocol", "InvalidHeader")
    return not local and any(kind.__module__.partition(".")[0] in _TRANSPORT for kind in type(error).__mro__)


def _translate(error: Exception, what: str) -> HubError | None:
    """The error to raise instead; None if the Hub is not the cause."""
    from huggingface_hub import errors as hub

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return _translate(error.__cause__, what)
    if isinstance(error, hub.OfflineModeIsEnabled):
        return HubError(f"calls to the Hub are forbidden: {what}, HF_HUB_OFFLINE is set; unset it")
    if isinstance(error, hub.LocalEntryNotFoundError):
        return HubError(f"not in the cache, and the Hub gives no answer: {what}; check the connection and HF_ENDPOINT")
    if isinstance(error, hub.HfHubHTTPError):
        return _translate_answer(error, what)
    if is_transient(error):
        return HubError(f"the Hub cannot be reached: {what}, {_cause(error)}; check the connection and HF_ENDPOINT")
    disk = isinstance(error, OSError) and error.errno is not None
    foreign = type(error).__module__.partition(".")[0] in {"huggingface_hub", "hf_xet", *_TRANSPORT}
    if not disk and (foreign or isinstance(error, (ValueError, KeyError, RuntimeError, OSError))):
        return HubError(f"the Hub's client gave up: {what}, {_cause(error)}; {_move(error)}")
    return None


def _translate_answer(error: Any, what: str) -> HubError:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return HubError(f"access must be asked for: {what}; ask on the repo's page, then {_LOGIN}")
    if isinstance(error, hub.RepositoryNotFoundError):
        return HubError(f"no such repo, or no right to see it: {what}; check the name, or {_LOGIN}")
    if isinstance(error, hub.RevisionNotFoundError):
        return HubError(f"no such revision: {what}; name a tag, a branch or a commit of the repo")
    if isinstance(error, hub.EntryNotFoundError):
        return HubError(f"no such file on the Hub: {what}; check the repo and its revision")
    code = status(error) or 0
    if code in (401, 403):
        return HubError(f"the Hub refuses: {what}, {_cause(error)}; {_LOGIN} of an account that may do that")
    if is_transient(error):
        return HubError(f"the Hub is out of order: {what}, {_cause(error)}; run the command again later")
    return HubError(f"the Hub refuses: {what}, {_cause(error)}; check the name and your rights")


def _cause(error: BaseException) -> str:
    """In a few words and without addresses: the status or the exception's class, and what was said of it."""
    code = status(error)
    # Those who send headers may quote them.
    quotes = type(error).__module__.partition(".")[0] in _TRANSPORT or isinstance(error, UnicodeError)
    said = getattr(error, "server_message", None) if code is not None else "" if quotes else str(error)
    words = _scrub(" ".join(str(said or "").split()))[:160]
    name = type(error).__name__ if code is None else f"it answers {code}"
    return f"{name} ({words})" if words else name


def _scrub(text: str) -> str:
    """`text` without tokens and addresses."""
    return re.sub(r"https?://\S+|hf_\w+|api_org_\w+|" + (re.escape(_token()) or "(?!)"), "...", text)


def _move(error: BaseException) -> str:
    if type(error).__name__ in ("LocalProtocolError", "InvalidHeader", "UnicodeEncodeError"):
        return f"the token cannot be sent, {_LOGIN} anew"
    return "check HF_ENDPOINT, and that huggingface_hub is up to date"


def _token() -> str:
    from huggingface_hub import get_token

    return get_token() or ""


def _shows_token(error: BaseException | None) -> bool:
    """Whether the error, or one behind it, holds the token in its text."""
    while error is not None:
        if _token() and _token() in f"{error!s} {error!r}":
            return True
        error = error.__cause__ or error.__context__
    return False
