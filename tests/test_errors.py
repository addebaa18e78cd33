"""Messages about a name that is not known suggest the nearest one, and there is one function for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import BundleError, SourceError, did_you_mean, unknown
from opentrans_cli.files.near import near_path

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


def test_a_path_that_is_not_there_is_compared_with_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "subnet").mkdir()
    assert near_path(tmp_path / "subnt") == f"; did you mean {tmp_path / 'subnet'}?"
    monkeypatch.chdir(tmp_path)
    assert near_path(Path("subnt")) == "; did you mean subnet?"
    assert near_path(tmp_path / "other") == near_path(tmp_path / "none" / "subnt") == near_path(Path("a\0/b")) == ""
    with pytest.raises(BundleError, match=r"no such bundle: .*; did you mean .*/subnet\?$"):
        open_bundle(tmp_path / "Subnet2")
    with pytest.raises(SourceError, match=r"no such file or folder: .*; did you mean .*/subnet\?$"):
        load_clip(f"{tmp_path}/subnets")
