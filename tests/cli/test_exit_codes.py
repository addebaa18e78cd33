"""Every known error is one line on stderr, and its exit code says what kind it is."""

from __future__ import annotations

from typing import Any

import pytest

from opentrans_cli import errors
from opentrans_cli.steps.look import verify

CODES = {errors.OptionError: 2, errors.TrainingStopped: 75}


def kinds(base: type[errors.OpentransError]) -> list[type[errors.OpentransError]]:
    return [
        base,
        *(kind for child in base.__subclasses__() for kind in kinds(child) if child.__module__ == base.__module__),
    ]


@pytest.mark.parametrize("kind", kinds(errors.OpentransError), ids=lambda kind: kind.__name__)
def test_an_error_is_told_in_one_line_and_ends_with_its_code(
    kind: type[errors.OpentransError], run_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise kind("time is up: step 3 of 6; go on with --resume")

    monkeypatch.setattr(verify, "verify", step)
    result = run_cli("verify", "somewhere")
    assert (result.exit_code, result.stdout) == (CODES.get(kind, 1), "")
    assert result.stderr == "opentrans: error: time is up: step 3 of 6; go on with --resume\n"
