"""A bundle that a stranger has changed, and the judgement of everything that reads bundles on it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import OpentransError
from opentrans_cli.files.records import is_clean
from opentrans_cli.steps.look.inspect import inspect

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1-rounds"

Change = Callable[[dict[str, Any]], object]
READS: dict[str, Callable[[Bundle], object]] = {
    "masks": Bundle.masks,
    "tower": Bundle.tower,
    "rounds": Bundle.rounds,
    "round towers": lambda bundle: [bundle.round_tower(number) for number in bundle.saved_rounds()],
    "head": Bundle.head,
    "alpha": Bundle.alpha,
    "documents": lambda bundle: [bundle.read(entry.name) for entry in bundle.manifest.files],
}


class Victim:
    """A copy of a golden bundle, with the tools of a forger: whatever is put into it, the manifest vouches for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def edit(self, change: Change) -> None:
        """Change the document of the manifest."""
        document = json.loads((self.path / "manifest.json").read_text())
        change(document)
        (self.path / "manifest.json").write_text(json.dumps(document, allow_nan=True))

    def replace(self, old: str, new: str) -> None:
        """Change the text of the manifest; whatever `old` is must be there."""
        text = (self.path / "manifest.json").read_text()
        assert old in text
        (self.path / "manifest.json").write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogatepass"))

    def put(self, name: str, data: bytes) -> None:
        """Write a file and vouch for it."""
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_bytes(data)
        entry = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

        def vouch(document: dict[str, Any]) -> None:
            document["files"] = [*(file for file in document["files"] if file["name"] != name), entry]

        self.edit(vouch)

    def header(
        self, name: str, change: Callable[[dict[str, Any]], object] | bytes, *, data: bytes | None = None
    ) -> None:
        """Change the header of a tensor file, or replace its text, and the bytes behind it."""
        content = (self.path / name).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        if isinstance(change, bytes):
            text = change
        else:
            document = json.loads(content[8:end])
            change(document)
            text = json.dumps(document).encode()
        self.put(name, len(text).to_bytes(8, "little") + text + (content[end:] if data is None else data))


def told(error: BaseException) -> str:
    """The message of one of our errors, once it can be shown to people."""
    text = str(error)
    assert "\n" not in text and is_clean(text) and len(text) < 4000 and "; " in text, repr(text[:500])
    return text


def judge(path: Path) -> dict[str, str]:
    """Who refuses the bundle, and how. Anything but an error of our own is raised."""
    refused: dict[str, str] = {}

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OpentransError as error:
            refused[name] = told(error)
            return None

    checks = attempt("verify", lambda: verify_bundle(path)) or ()
    failed = [told(ValueError(f"{check.name}: {check.detail}; ")) for check in checks if not check.ok]
    if failed:
        refused["verify"] = " | ".join(failed)
    bundle = attempt("open", lambda: open_bundle(path))
    attempt("inspect", lambda: inspect(path))
    for name, read in READS.items() if bundle is not None else ():
        attempt(name, lambda read=read: read(bundle))
    return refused


@pytest.fixture
def victims(tmp_path: Path) -> Callable[[str], Victim]:
    """A new victim by a name of its own, under which messages of a failed test show it."""
    return lambda name: Victim(Path(shutil.copytree(GOLDEN, tmp_path / name / "bundle")))


@pytest.fixture
def victim(victims: Callable[[str], Victim]) -> Victim:
    return victims("victim")


@pytest.fixture
def judged() -> Callable[[Path], dict[str, str]]:
    return judge


@pytest.fixture
def reads() -> dict[str, Callable[[Bundle], object]]:
    """What reads an opened bundle, by name."""
    return READS


@pytest.fixture
def refused(run_cli: Any) -> Callable[..., None]:
    """`verify` and these readers refuse the bundle, for a reason that matches; commands do, in one line.

    Commands print what readers raise, so one bundle of five is enough for them.
    """
    number = itertools.count()

    def check(path: Path, reason: str = "", readers: tuple[str, ...] = ("open", "inspect")) -> None:
        found = judge(path)
        assert {"verify", *readers} <= found.keys(), (path, found)
        for who in readers:
            assert re.search(reason, found[who]), (path, found[who])
        if next(number) % 5 == 0:
            _check_commands(run_cli, path)

    return check


def _check_commands(run_cli: Any, path: Path) -> None:
    for line in (("verify", path), ("transfer", path, "--dry-run")):
        result = run_cli(*line)
        assert result.exit_code == 1, (line, result.stdout)
        lines = [text for text in result.stderr.splitlines() if text.startswith("opentrans: error: ")]
        assert len(lines) == 1 and result.stderr.splitlines() == lines, result.stderr
        assert all(is_clean(text) for text in (*result.stdout.split("\n"), *result.stderr.split("\n")))
    result = run_cli("inspect", path)
    assert result.exit_code in (0, 1) and len(result.stderr.splitlines()) == result.exit_code
    assert all(is_clean(text) for text in (*result.stdout.split("\n"), *result.stderr.split("\n")))
