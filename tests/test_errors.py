"""Messages about a name that is not known suggest the nearest one, and there is one function for it."""

from __future__ import annotations

import re
from pathlib import Path

from opentrans_cli.errors import did_you_mean, unknown

PACKAGE = Path(__file__).parents[1] / "opentrans_cli"


def test_the_nearest_name_is_suggested_whatever_its_case_and_none_for_a_glob_or_a_stranger() -> None:
    names = ("RN50-quickgelu", "RN101", "ViT-B-32")
    assert did_you_mean("rn50-quickgleu", names) == "; did you mean RN50-quickgelu?"
    assert did_you_mean("vit-b-32", names) == "; did you mean ViT-B-32?"
    assert did_you_mean("RN10*", names) == did_you_mean("swin", names) == did_you_mean("x", ()) == ""
    assert unknown("tower", "RN11", names) == (
        "unknown tower: 'RN11'; choose one of RN50-quickgelu, RN101, ViT-B-32; did you mean RN101?"
    )


def test_no_message_about_an_unknown_name_is_made_without_it() -> None:
    """Each line that raises an error with "unknown X: 'NAME'" or the like goes through errors.py."""
    own = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"f\"unknown [a-z ]+: '\{|get_close_matches|; choose one of \{', '\.join\(\w+\)\}\"\)", line)
    ]
    assert own == []
