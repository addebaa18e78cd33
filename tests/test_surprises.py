"""The table of surprises names every finding and a test for each line, and every finding has the form of the others."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "findings").iterdir()}
TABLE = (ROOT / "docs" / "surprises.md").read_text(encoding="utf-8")
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| tool")]


def test_every_finding_is_in_the_table_and_every_finding_in_the_table_is_there() -> None:
    linked = re.findall(r"\(\.\./findings/([^)]+)\)", TABLE)
    assert sorted(linked) == sorted(SCRIPTS)


def test_every_surprise_has_a_version_or_a_source_and_names_a_test_that_is_there() -> None:
    assert len(ROWS) > 15
    for row in ROWS:
        tool, what, source, ours, test = (cell.strip() for cell in row.strip("|").split(" | "))
        assert all((tool, what, source, ours)), row
        found = re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)`", test)
        assert found is not None, row
        assert f"def {found[2]}(" in (ROOT / found[1]).read_text(encoding="utf-8"), row


def test_every_finding_says_what_was_seen_pins_what_it_installs_and_fails_if_that_changes() -> None:
    for name, script in SCRIPTS.items():
        assert name.endswith(".sh") and script.startswith("#!/usr/bin/env bash\n# "), name
        said = re.search(r"^# Seen.*:\n((?:#   .+\n)+)set -euo pipefail\nwork=\$\(mktemp -d\)\ntrap ", script, re.M)
        compared = re.search(r"^diff - seen\.txt <<'TXT'\n(.+)^TXT\n\Z", script, re.M | re.S)
        assert said is not None and compared is not None, name
        assert said[1].replace("#   ", "") == compared[1], name
        installed = re.findall(r"^ *\w+/bin/pip install ((?:.*\\\n)*.*)", script, re.M)
        wanted = [word for line in installed for word in line.split() if re.match(r"[\"\w]", word)]
        packages = [word for word in wanted if word != '"$version"']  # a folder of --target
        assert packages and all("==" in word for word in packages), (name, packages)
        assert "opentrans_cli" not in script.partition("set -euo")[2], name
