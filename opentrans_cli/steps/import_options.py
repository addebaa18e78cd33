"""Options of `import`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass

from opentrans_cli.option import Options, option


@dataclass(frozen=True)
class ImportOptions(Options):
    """How the file of another program is read, and what is stored from it; recorded in the bundle."""

    file: str = option(
        help="pruned checkpoint of any kind; its content says which",
        kind="source",
        argument=True,
    )
    base: str | None = option(
        None, help="source of the CLIP it was pruned from; not needed where the file is a whole CLIP", kind="base"
    )
    format: str | None = option(
        None,
        help="kind of file",
        choices={
            "opentrans": "the paper's",
            "torch-prune": "torch.nn.utils.prune",
            "torch-ao": "torch.ao.pruning",
            "nncf": "masks of NNCF",
            "compressed-tensors": "bitmasks",
            "masks": "masks alone, by the names of the weights",
            "zeros": "what is zero is pruned",
        },
        unset="by its content",
    )
    keys: str | None = option(None, help="key table by which the file names the tower", unset="the one that fits")
    under: str | None = option(None, help="prefix of the tower in the file, where several towers fit")
    include: tuple[str, ...] = option(
        (), help="layers to mask beside the default ones (glob over whole names, repeatable)", completes="layer"
    )
    mask_only: bool = option(False, help="store masks without values")
    dtype: str = option("float32", help="type of the stored values", choices=("float32", "float16", "bfloat16"))
