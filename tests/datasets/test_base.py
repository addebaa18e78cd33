"""Options that make no sense for any data set."""

from __future__ import annotations

from typing import Any

import pytest

from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError


@pytest.mark.parametrize("options", [{"limit": 0}, {"size": 31}, {"ignore": -1}, {"ignore": 65536}, {"split": "test"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"--{next(iter(options))} {next(iter(options.values()))}; use"):
        DatasetOptions(**options)
    DatasetOptions(limit=1, size=32, ignore=65535)
