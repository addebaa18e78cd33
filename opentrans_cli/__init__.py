"""opentrans: prune a CLIP image encoder once, publish the subnet, use it in any segmentation framework."""

from typing import TYPE_CHECKING, Any

from opentrans_cli.version import __version__

if TYPE_CHECKING:
    from opentrans_cli.steps.attach import attach


__all__ = ["__version__", "attach"]


def __getattr__(name: str) -> Any:
    """`attach` loads torch, so it is imported when it is asked for."""
    if name == "attach":
        from opentrans_cli.steps.attach import attach

        return attach
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
