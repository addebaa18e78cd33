"""Every failure of the Hub's client becomes one line that names the repo, the next move, and never a token."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from opentrans_cli.bundle.hub.client import FIRST_WAIT, HubRef, client, hub_errors, is_transient, parse_ref, retrying
from opentrans_cli.errors import BundleError, HubError, OptionError

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

REPO = "org/name"


def test_a_repo_is_written_with_or_without_revision_and_anything_else_is_refused_in_one_printable_line() -> None:
    for text, ref in (
        ("org/name", HubRef("org/name", None)),
        ("hf://org/name", HubRef("org/name", None)),
        ("hf://org/name@v1.0", HubRef("org/name", "v1.0")),
        ("Org-1/na.me_2@refs/pr/3", HubRef("Org-1/na.me_2", "refs/pr/3")),
    ):
        assert parse_ref(text) == ref and str(ref) == f"hf://{text.removeprefix('hf://')}"
    repos = ("", "name", "hf://name", "a/b/c", "/b", "a/", "../b", "a/..", "a/b--c", "a/b.git", "a/b c", "a/b\n", "a/é")
    revisions = ("a/b@", "a/b@../x", "a/b@-x", "a/b@x..y", "a/b@x.lock", "a/b@x y", "a/b@x\x1b")
    for text in (*repos, *revisions, "hf://hf://a/b", "a/" + "b" * 100):
        with pytest.raises(OptionError, match=r"^not a (repo of the Hub|revision): .*; write ") as caught:
            parse_ref(text)
        assert str(caught.value).isprintable()


@pytest.mark.usefixtures("no_waits")
def test_what_the_hub_answers_is_told_in_one_line_with_the_next_move(hub: Hub) -> None:
    client().create_repo(REPO)
    for call, told in (
        (lambda api: api.model_info("org/none"), "no such repo, or no right to see it: it; check the name, or"),
        (lambda api: api.model_info(REPO, revision="v9"), "no such revision: it; name a tag"),
        (lambda api: api.hf_hub_download(REPO, "none.txt"), "no such file on the Hub: it; check the repo"),
        (lambda api: api.create_repo(REPO), "the Hub refuses: it, it answers 409 (You already created"),
    ):
        with pytest.raises(HubError) as caught, hub_errors("it"):
            call(client())
        assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    for status, told in (
        (401, "the Hub refuses: it, it answers 401 (injected); log in with `hf auth login`, or set HF_TOKEN of an"),
        (403, "the Hub refuses: it, it answers 403 (injected); log in"),
        (400, "the Hub refuses: it, it answers 400 (injected); check the name"),
        (429, "the Hub is out of order: it, it answers 429 (injected); run the command again later"),
        (500, "the Hub is out of order: it, it answers 500 (injected); run the command again later"),
    ):
        hub.server.fail("create", status)
        with pytest.raises(HubError) as caught, hub_errors("it"):
            client().create_repo("org/other")
        assert str(caught.value).startswith(told) and "http" not in str(caught.value)
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


@pytest.mark.usefixtures("no_waits")
def test_offline_is_told_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = r"^calls to the Hub are forbidden: it, HF_HUB_OFFLINE is set; unset it$"
    with pytest.raises(HubError, match=told), hub_errors("it"):
        retrying(lambda: client().model_info(REPO))
    with pytest.raises(HubError, match="not in the cache, and the Hub gives no answer: it"), hub_errors("it"):
        retrying(lambda: client().hf_hub_download(REPO, "a.txt"))
    assert hub.server.log == []


def test_answers_that_cannot_be_read_are_told_and_errors_of_the_disk_and_of_programs_left_alone() -> None:
    told = r"^the Hub's client gave up: it, \w+ \(.*\); check HF_ENDPOINT"
    for error in (ValueError("odd\nanswer"), KeyError("oid"), RuntimeError("xet"), OSError("short")):
        with pytest.raises(HubError, match=told) as caught, hub_errors("it"):
            raise error
        assert "\n" not in str(caught.value)
    for other in (PermissionError(13, "no", "x"), BundleError("damaged"), TypeError("a bug"), OSError(28, "")):
        with pytest.raises(type(other)) as left, hub_errors("it"):
            raise other
        assert left.value is other
    assert is_transient(ConnectionResetError()) and is_transient(TimeoutError()) and not is_transient(ValueError())


def test_waits_double_and_are_no_longer_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    def call() -> int:
        if len(waits) < 4:
            raise ConnectionResetError
        return 7

    assert retrying(call) == 7 and waits == [FIRST_WAIT, 2, 4, 8]
    with pytest.raises(ConnectionResetError):
        retrying(lambda: (_ for _ in ()).throw(ConnectionResetError()), attempts=2)
    with pytest.raises(KeyError):
        retrying(lambda: {}["never tried again"])
    assert waits == [FIRST_WAIT, 2, 4, 8, FIRST_WAIT]


def test_the_endpoint_is_read_when_it_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with type(hub.server)() as second:
        monkeypatch.setenv("HF_ENDPOINT", second.url + "/")
        client().create_repo(REPO)
        assert list(second.repos) == [REPO] and not hub.server.repos


def test_naming_a_repo_loads_no_client() -> None:
    code = "import sys; from opentrans_cli.bundle.hub.client import *\n"
    code += "import opentrans_cli.steps.hub.push, opentrans_cli.steps.hub.pull, opentrans_cli.cli.push\n"
    code += "parse_ref('a/b@v1'); print([n for n in ('huggingface_hub', 'torch', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
