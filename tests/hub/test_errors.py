"""Every failure of the Hub's client becomes one line that names the repo, the next move, and never a token."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from opentrans_cli.bundle.hub.client import HubRef, client, hub_errors, is_transient, parse_ref, retrying
from opentrans_cli.errors import BundleError, HubError, OptionError

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits")
REPO = "org/name"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("org/name", HubRef("org/name", None)),
        ("hf://org/name", HubRef("org/name", None)),
        ("hf://org/name@v1.0", HubRef("org/name", "v1.0")),
        ("Org-1/na.me_2@refs/pr/3", HubRef("Org-1/na.me_2", "refs/pr/3")),
    ],
)
def test_a_repo_is_written_with_or_without_revision(text: str, ref: HubRef) -> None:
    assert parse_ref(text) == ref and str(ref) == f"hf://{text.removeprefix('hf://')}"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "name",
            "hf://name",
            "a/b/c",
            "/b",
            "a/",
            "../b",
            "a/..",
            "a/b--c",
            "a/b.git",
            "a/b c",
            "a/b\n",
            "a/é",
            "a/b@",
        ),
        *("a/b@../x", "a/b@-x", "a/b@x..y", "a/b@x.lock", "a/b@x y", "a/b@x\x1b", "hf://hf://a/b", "a/" + "b" * 100),
    ],
)
def test_anything_else_is_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(OptionError, match=r"^not a (repo of the Hub|revision): .*; write ") as caught:
        parse_ref(text)
    assert str(caught.value).isprintable()


CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no repo": (lambda api: api.model_info("org/none"), "no such repo, or no right to see it: it; check the name, or"),
    "no revision": (lambda api: api.model_info(REPO, revision="v9"), "no such revision: it; name a tag"),
    "no file": (lambda api: api.hf_hub_download(REPO, "none.txt"), "no such file on the Hub: it; check the repo"),
    "conflict": (lambda api: api.create_repo(REPO), "the Hub refuses: it, it answers 409 (You already created"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_the_hub_answers_is_told_in_one_line(name: str, hub: Hub) -> None:
    client().create_repo(REPO)
    call, told = CALLS[name]
    with pytest.raises(HubError) as caught, hub_errors("it"):
        call(client())
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "the Hub refuses: it, it answers 401 (injected); log in with `hf auth login`, or set HF_TOKEN of an"),
        (403, "the Hub refuses: it, it answers 403 (injected); log in"),
        (400, "the Hub refuses: it, it answers 400 (injected); check the name"),
        (429, "the Hub is out of order: it, it answers 429 (injected); run the command again later"),
        (500, "the Hub is out of order: it, it answers 500 (injected); run the command again later"),
    ],
)
def test_statuses_have_their_next_moves(status: int, told: str, hub: Hub) -> None:
    hub.server.fail("create", status)
    with pytest.raises(HubError) as caught, hub_errors("it"):
        client().create_repo(REPO)
    assert str(caught.value).startswith(told) and "http" not in str(caught.value)


def test_a_connection_that_drops_is_told(hub: Hub) -> None:
    hub.server.lose("create")
    told = r"^the Hub cannot be reached: it, \w+; check the connection and HF_ENDPOINT$"
    with pytest.raises(HubError, match=told), hub_errors("it"):
        client().create_repo(REPO)


def test_the_answer_of_a_server_that_quotes_the_token_is_cleaned(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "strange-token")
    hub.server.token = "another"
    hub.server.refusal = "strange-token and hf_abc may not do that at https://signed.example/?key=1"
    with pytest.raises(HubError) as caught, hub_errors("it"):
        client().create_repo(REPO)
    assert "(... and ... may not do that at ...)" in str(caught.value)


def test_offline_is_told_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = r"^calls to the Hub are forbidden: it, HF_HUB_OFFLINE is set; unset it$"
    with pytest.raises(HubError, match=told), hub_errors("it"):
        retrying(lambda: client().model_info(REPO))
    with pytest.raises(HubError, match="not in the cache, and the Hub gives no answer: it"), hub_errors("it"):
        retrying(lambda: client().hf_hub_download(REPO, "a.txt"))
    assert hub.server.log == []


def test_errors_of_the_disk_and_of_programs_are_left_alone() -> None:
    for error in (
        PermissionError(13, "Permission denied", "x"),
        BundleError("damaged"),
        TypeError("a bug"),
        OSError(28, ""),
    ):
        with pytest.raises(type(error)) as caught, hub_errors("it"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("error", [ValueError("odd\nanswer"), KeyError("oid"), RuntimeError("xet"), OSError("short")])
def test_an_answer_that_the_client_cannot_read_is_told(error: Exception) -> None:
    told = r"^the Hub's client gave up: it, \w+ \(.*\); check HF_ENDPOINT"
    with pytest.raises(HubError, match=told) as caught, hub_errors("it"):
        raise error
    assert "\n" not in str(caught.value)


def test_builtin_errors_of_connections_are_tried_again() -> None:
    assert is_transient(ConnectionResetError()) and is_transient(TimeoutError()) and not is_transient(ValueError())


def test_the_endpoint_is_read_when_it_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with type(hub.server)() as second:
        monkeypatch.setenv("HF_ENDPOINT", second.url + "/")
        client().create_repo(REPO)
        assert list(second.repos) == [REPO] and not hub.server.repos


def test_naming_a_repo_loads_no_client(tmp_path: Path) -> None:
    code = "import sys; from opentrans_cli.bundle.hub.client import *\n"
    code += "import opentrans_cli.steps.hub.push, opentrans_cli.cli.push\n"
    code += "parse_ref('a/b@v1'); print([n for n in ('huggingface_hub', 'torch', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
