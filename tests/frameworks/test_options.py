"""Options come from names and text, and are refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import parse_options


@dataclass(frozen=True)
class Sample:
    count: int = 1
    share: float = 0.5
    flag: bool = False
    width: int | None = None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Sample()),
        ({"count": "12", "share": "0.25", "flag": "true", "width": "8"}, Sample(12, 0.25, True, 8)),
        ({"count": 3, "share": 1, "flag": False, "width": None}, Sample(3, 1, False, None)),
        ({"width": "none", "flag": "False"}, Sample()),
    ],
)
def test_text_is_converted_to_the_type_of_the_field(given, expected):
    assert parse_options(Sample, given, owner="sample") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 1}, "sample has no option: 'height'; choose from count, share, flag, width"),
        ({"count": "many"}, "wrong value for sample count: 'many'; give int"),
        ({"count": 1.5}, "wrong value for sample count: 1.5; give int"),
        ({"count": True}, "wrong value for sample count: True; give int"),
        ({"flag": 1}, "wrong value for sample flag: 1; give bool"),
        ({"width": "wide"}, "wrong value for sample width: 'wide'; give int or none"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_wanted(given, message):
    with pytest.raises(OptionError) as error:
        parse_options(Sample, given, owner="sample")
    assert str(error.value) == message
