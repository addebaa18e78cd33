"""Key tables: what other libraries call the tensors of a CLIP image tower, as data, and how a table is recognised."""

from opentrans_cli.clip.key_tables.find import Found, find_layers
from opentrans_cli.clip.key_tables.rules import NameRule, Place
from opentrans_cli.clip.key_tables.tables import TABLES, KeyTable, find_table, table_names

__all__ = ["TABLES", "Found", "KeyTable", "NameRule", "Place", "find_layers", "find_table", "table_names"]
