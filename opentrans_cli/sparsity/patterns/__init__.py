"""Patterns: each offers `NAME(text, model_cfg)` that returns a Pattern (see base.py): scores -> masks, by layer."""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

PATTERNS = Catalog(
    "pattern",
    {
        "unstructured": "opentrans_cli.sparsity.patterns.unstructured:unstructured",
        "layerwise": "opentrans_cli.sparsity.patterns.layerwise:layerwise",
        "n_m": "opentrans_cli.sparsity.patterns.n_m:n_m",
        "channel": "opentrans_cli.sparsity.patterns.channel:channel",
    },
)
