"""push when things go wrong: errors, dropped connections, kills and races leave the old state or the new one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import HubError
from opentrans_cli.steps.hub.push import push as publish

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("charts_drawn_once", "no_waits", "reads_here")
REPO = "org/name"
push = partial(publish, license="mit")
ENDPOINTS = [
    "POST /api/repos/create",
    "GET .*/refs",
    "GET .*/tree/",
    "POST .*/preupload/",
    "POST .*/objects/batch",
    "PUT /lfs/",
    "POST /lfs-verify",
    "POST .*validate-yaml",
    "POST .*/commit/",
    "POST .*/tag/",
]


UNGATED = """
from opentrans_cli.steps.hub import gate
gate.gate_points = lambda subject: ()
from opentrans_cli.cli.app import main
main()
"""
"""The command without the gate, which would take longer than all the rest."""


def holds(hub: Hub, bundle: Path, revision: str) -> bool:
    """Whether the repo holds exactly that bundle and a card at `revision`."""
    found = hub.server.repos[REPO].files(revision)
    names = ["manifest.json", *(entry.name for entry in open_bundle(bundle).manifest.files)]
    beside = {name for name in found if not name.startswith("card/")} - {*names, "README.md", ".gitattributes"}
    return not beside and "README.md" in found and all(found[name] == (bundle / name).read_bytes() for name in names)


@pytest.fixture
def older(hub: Hub, nested_bundle: Callable[[str], Path]) -> Path:
    """A bundle that the repo holds already, as v1."""
    path = nested_bundle("bare")
    push(path, REPO)
    return path


@pytest.mark.parametrize("kind", ["503", "lost", "dropped"])
def test_one_failure_at_any_endpoint_is_overcome(kind: str, hub: Hub, tiny_bundle: Path) -> None:
    for pattern in ENDPOINTS if kind != "dropped" else ["PUT /lfs/"]:
        hub.server.state.repos.clear()
        hub.server.state.objects.clear()
        hub.server.log.clear()
        if kind == "503":
            hub.server.fail(pattern, 503)
        elif kind == "dropped":
            hub.server.drop(pattern, after_bytes=20)
        else:
            hub.server.lose(pattern)
        result = push(tiny_bundle, REPO)
        assert len(hub.server.requests(pattern)) >= 2 and holds(hub, tiny_bundle, "v1"), pattern
        assert hub.server.repos[REPO].tags == {"v1": result.commit} and len(hub.server.repos[REPO].commits) == 2


def test_one_failure_on_the_way_to_a_second_version_is_overcome(
    hub: Hub, nested_bundle: Callable[[str], Path], tiny_bundle: Path
) -> None:
    older = nested_bundle("bare")
    for pattern in ("GET .*/resolve/", "POST .*/commit/"):
        hub.server.state.repos.clear()
        push(older, REPO)
        for fault in (hub.server.fail, hub.server.lose):
            fault(pattern)
        push(tiny_bundle, REPO)
        assert holds(hub, tiny_bundle, "v2") and holds(hub, older, "v1")
        assert len(hub.server.repos[REPO].commits) == 3, pattern


# Not lfs-verify: by then the file is stored, which a second try finds out.
@pytest.mark.parametrize("pattern", [pattern for pattern in ENDPOINTS if pattern != "POST /lfs-verify"])
def test_a_hub_that_stays_broken_gives_one_line_and_nothing_half_visible(
    pattern: str, hub: Hub, older: Path, tiny_bundle: Path
) -> None:
    before = dict(hub.server.repos[REPO].commits)
    hub.server.fail(pattern, 503, times=1000)
    with pytest.raises(HubError) as caught:
        push(tiny_bundle, REPO)
    assert re.fullmatch(
        r"the Hub is out of order: hf://org/name, it answers 503 \(injected\); run the command again later",
        str(caught.value),
    )
    assert hub.server.repos[REPO].tags.keys() == {"v1"} and holds(hub, older, "v1")
    if pattern != "POST .*/tag/":
        assert hub.server.repos[REPO].commits == before
    puts = hub.server.requests("PUT")
    hub.server.heal()
    push(tiny_bundle, REPO)
    assert holds(hub, tiny_bundle, "v2") and len(hub.server.repos[REPO].commits) == len(before) + 1
    if pattern == "POST .*/commit/":
        assert hub.server.requests("PUT") == puts, "a second try sends no large file again"


def test_nobody_there_is_told_in_one_line(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"^the Hub cannot be reached: hf://org/name, \w+; check the connection and HF_"):
        push(tiny_bundle, REPO)


def test_of_two_pushers_one_wins_and_the_other_is_told(
    hub: Hub, older: Path, tiny_bundle: Path, nested_bundle: Callable[[str], Path]
) -> None:
    third = nested_bundle("masks")
    outcome = _meeting(hub, tiny_bundle, lambda: push(third, REPO), commits=2)
    assert str(outcome).startswith("somebody pushed meanwhile: hf://org/name; look at what is there")
    assert hub.server.repos[REPO].tags.keys() == {"v1", "v2"} and holds(hub, third, "v2") and holds(hub, third, "main")
    push(tiny_bundle, REPO)
    assert holds(hub, tiny_bundle, "v3") and holds(hub, third, "v2") and holds(hub, older, "v1")


def test_two_who_push_the_same_both_succeed(hub: Hub, tiny_bundle: Path) -> None:
    commits: list[object] = []
    outcome = _meeting(hub, tiny_bundle, lambda: commits.append(push(tiny_bundle, REPO).commit), commits=1)
    assert [outcome] == commits and len(hub.server.repos[REPO].commits) == 2


def _meeting(hub: Hub, bundle: Path, meanwhile: Callable[[], object], *, commits: int) -> object:
    """What comes of a push whose commit, the one of that number, waits until `meanwhile` is done."""
    hub.server.slow("POST .*/commit/", 600)
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(push(bundle, REPO).commit)
        except HubError as error:
            outcome.append(error)

    slow = Thread(target=run)
    slow.start()
    assert hub.server.wait_for("POST .*/commit/", commits, seconds=600)
    meanwhile()
    hub.server.heal()
    slow.join(600)
    return outcome[0]


@pytest.mark.parametrize(
    "moment", ["POST .*/create", "GET .*/refs", "POST .*/preupload", "PUT /lfs/", "POST .*/commit/", "POST .*/tag/"]
)
def test_a_killed_push_leaves_the_old_state_and_the_next_one_finishes(moment: str, hub: Hub, tiny_bundle: Path) -> None:
    hub.server.slow(moment, 600)
    line = [sys.executable, "-c", UNGATED, "push", str(tiny_bundle), REPO, "--license", "mit", "--quiet"]
    process = subprocess.Popen(line, env=hub.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert hub.server.wait_for(moment, seconds=600)
    finally:
        process.kill()
        _, said = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, said
    hub.server.forget()
    hub.server.heal()
    made = hub.server.repos.get(REPO)
    assert made is None or (not made.tags and (len(made.commits) == 1 or holds(hub, tiny_bundle, "main")))
    push(tiny_bundle, REPO)
    assert holds(hub, tiny_bundle, "v1") and len(hub.server.repos[REPO].commits) == 2
