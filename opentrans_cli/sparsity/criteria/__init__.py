"""Criteria: each offers a constant `NAME = Criterion(...)` (see base.py): a tower -> scores, lowest first."""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

CRITERIA = Catalog(
    "criterion",
    {
        "magnitude": "opentrans_cli.sparsity.criteria.magnitude:MAGNITUDE",
        "folded": "opentrans_cli.sparsity.criteria.magnitude:FOLDED",
        "fisher": "opentrans_cli.sparsity.criteria.fisher:FISHER",
        "taylor": "opentrans_cli.sparsity.criteria.taylor:TAYLOR",
        "wanda": "opentrans_cli.sparsity.criteria.wanda:WANDA",
    },
)
