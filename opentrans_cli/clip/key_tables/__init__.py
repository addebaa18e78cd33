"""What other libraries call the tensors of a CLIP image tower, as data, and where the tower is in a checkpoint."""

from opentrans_cli.checkpoints.rules import Place
from opentrans_cli.clip.key_tables.find import (
    OUTPUT_HEAD,
    OUTSIDE,
    TEXT_TOWER,
    Found,
    TowerPlace,
    check_narrow,
    find_layers,
    find_tower,
    find_tower_layers,
    find_towers,
    laid_out,
)
from opentrans_cli.clip.key_tables.tables import TABLES, KeyTable, find_table, table_names

__all__ = [
    "OUTPUT_HEAD",
    "OUTSIDE",
    "TABLES",
    "TEXT_TOWER",
    "Found",
    "KeyTable",
    "Place",
    "TowerPlace",
    "check_narrow",
    "find_layers",
    "find_table",
    "find_tower",
    "find_tower_layers",
    "find_towers",
    "laid_out",
    "table_names",
]
