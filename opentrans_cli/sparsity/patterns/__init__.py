"""Patterns: each takes scores by layer and a sparsity and returns masks by layer (bool, True = kept)."""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

PATTERNS = Catalog(
    "pattern",
    {
        "unstructured": "opentrans_cli.sparsity.patterns.unstructured:unstructured_masks",
    },
)
