"""The Hub of the tests is one the real client is content with, and its faults are those it says."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opentrans_cli.bundle.hub.client import client

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

pytestmark = pytest.mark.usefixtures("no_waits")
REPO = "org/name"


def fill(hub: Hub, folder: Path) -> dict[str, bytes]:
    """A repo with a large file that is sent in parts, one that is not, and two that git keeps."""
    files = {"a.safetensors": bytes(range(256)) * 20, "b.txt": b"hi", "in/c.txt": b"ho", "d.bin": b"0" * 600}
    hub.server.lfs_above, hub.server.part_bytes = 500, 1000
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    client().create_repo(REPO, exist_ok=True)
    client().upload_folder(repo_id=REPO, folder_path=folder)
    client().create_tag(REPO, tag="v1")
    return files


def get(url: str, wanted: str | None = None) -> tuple[int, bytes, str | None]:
    request = urllib.request.Request(url, headers={"Range": wanted} if wanted else {})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, answer.read(), answer.headers["Content-Range"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["Content-Range"]


def test_what_was_uploaded_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    files = fill(hub, tmp_path / "up")
    found = Path(client().snapshot_download(REPO, revision="v1"))
    assert {name: (found / name).read_bytes() for name in files} == files
    assert len(hub.server.requests("PUT /lfs/.*/[0-9]+$")) == 6 and len(hub.server.requests("PUT /lfs/[^/]*$")) == 1
    assert all(request.authorized for request in hub.server.requests("^(POST|GET) /api"))


def test_ranges_are_served_and_impossible_ones_refused(hub: Hub, tmp_path: Path) -> None:
    fill(hub, tmp_path / "up")
    url = f"{hub.server.url}/{REPO}/resolve/v1/b.txt"
    assert get(url) == (200, b"hi", None)
    assert get(url, "bytes=0-0") == (206, b"h", "bytes 0-0/2")
    assert get(url, "bytes=1-9") == (206, b"i", "bytes 1-1/2")
    assert get(url, "bytes=-1") == (206, b"i", "bytes 1-1/2")
    assert get(url, "bytes=5-9") == (416, b"", "bytes */2")
    hub.server.refuse_range()
    assert get(url, "bytes=0-0") == (200, b"hi", None)


def test_faults_strike_as_often_as_asked(hub: Hub, tmp_path: Path) -> None:
    files = fill(hub, tmp_path / "up")
    url = f"{hub.server.url}/{REPO}/resolve/v1/a.safetensors"
    hub.server.fail("GET .*a.safetensors", status=500, times=2)
    assert [get(url)[0] for _ in range(3)] == [500, 500, 200]
    hub.server.drop("GET .*a.safetensors", after_bytes=100)
    with pytest.raises(http.client.IncompleteRead):
        get(url)
    hub.server.corrupt("a.safetensors", times=1)
    wrong = get(url)[1]
    assert len(wrong) == len(files["a.safetensors"]) and wrong != files["a.safetensors"]
    assert get(url)[1] == files["a.safetensors"]


def test_state_outlives_the_server(hub: Hub, tmp_path: Path) -> None:
    files = fill(hub, tmp_path / "up")
    with type(hub.server)(state=hub.server.state) as second:
        assert get(f"{second.url}/{REPO}/resolve/v1/b.txt")[1] == files["b.txt"]
