"""Names that lead elsewhere or look like others: no spelling of a path gets through, no letter but those of ASCII."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

ESCAPES = (
    *("../mask.safetensors", "..", ".", "", "/etc/passwd", "//host/share", "./mask.safetensors"),
    *("reports/../mask.safetensors", "reports//x.json", "reports/./x.json", "reports/x/../y.json", "reports/.json"),
    *("C:\\x.json", "C:mask.safetensors", "..\\mask.safetensors", "reports\\x.json", "\\\\host\\share\\x.json"),
    *("%2e%2e/mask.safetensors", "..%2fmask.safetensors", "reports/%2e%2e%2fx.json", "file:///etc/passwd", "~/x.json"),
    *("$HOME/x.json", "mask.safetensors/", "mask.safetensors ", " mask.safetensors", "mask.safetensors."),
    *("MASK.safetensors", "Mask.Safetensors", "readme.md", "reports/X.json", "REPORTS/x.json", "reports/x.JSON"),
    *("manifest.json", "weights.pt", "pytorch_model.bin", "reports/x.py", "reports/x.json.py", "reports/x", "reports/"),
    *("reports/../../x.json", "reports/x.json\n", "reports/x.json\0.png", "reports/a b.json", "reports/-.json"),
    *("reports/" + "a" * 300 + ".json", "README.md/x", "reports/a/b.json", "reports/.hidden.json", "reports/x.html"),
    *("mask.safetensors\n", "open_clip_model.safetensors"),
)

TRICKS = {
    "fullwidth slash": "reports\uff0fx.json",
    "fraction slash": "..\u2044mask.safetensors",
    "division slash": "reports\u2215x.json",
    "one dot leader": "\u2024\u2024/mask.safetensors",
    "fullwidth dots": "\uff0e\uff0e/mask.safetensors",
    "Cyrillic a": "m\u0430sk.safetensors",
    "Greek omicron": "r\u03bfunds.safetensors",
    "dotless i": "we\u0131ghts.safetensors",
    "fullwidth m": "\uff4dask.safetensors",
    "ligature": "mask.sa\ufb00etensors",
    "direction turned": "reports/\u202egnp.x.json",
    "direction isolated": "reports/\u2066x\u2069.json",
    "zero width space": "mask\u200b.safetensors",
    "zero width joiner": "mask\u200d.safetensors",
    "soft hyphen": "mask\u00ad.safetensors",
    "byte order mark": "\ufeffmask.safetensors",
    "accents composed": unicodedata.normalize("NFC", "reports/e\u0301.json"),
    "accents apart": unicodedata.normalize("NFD", "reports/\u00e9.json"),
    "digits of another script": "reports/\u0661.json",
    "no break space": "reports/\u00a0x.json",
    "line separator": "reports/x\u2028.json",
    "escape": "reports/\x1b[2Jx.json",
    "bell": "reports/x\x07.json",
    "NUL": "mask.safetensors\0",
    "half a surrogate pair": "reports/\ud800.json",
    "tag letters": "mask\U000e0061.safetensors",
}


def _declare(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["files"].append({"name": name, "sha256": "0" * 64, "bytes": 0})


def test_a_file_whose_name_leads_elsewhere(victim: Any, judged: Any) -> None:
    sound = (victim.path / "manifest.json").read_text()
    for name in ESCAPES:
        victim.edit(_declare(name))
        refused = judged(victim.path)
        assert {"open", "verify", "inspect"} <= refused.keys() and "manifest is not valid" in refused["open"], name
        (victim.path / "manifest.json").write_text(sound)


def test_a_file_whose_name_looks_like_another(victims: Any, refused: Any) -> None:
    for kind, name in TRICKS.items():
        victim = victims(kind)
        victim.edit(_declare(name))
        refused(victim.path, "manifest is not valid|not readable as JSON")


def test_a_file_or_a_layer_declared_twice(victims: Any, refused: Any) -> None:
    for number, name in enumerate(("mask.safetensors", "README.md", "reports/note.json")):
        victim = victims(str(number))
        victim.edit(_declare(name))
        refused(victim.path, "files has .* twice")
    victim = victims("layers")
    victim.edit(lambda document: document["layers"][0].update(name=document["layers"][1]["name"]))
    refused(victim.path, "layers has .* twice")


LAYERS = ("", ".", "..", "a..b", ".a", "a.", "a/b", "../a", "a b", "a-b", "c\u043env2", "conv2\u200b", "conv2\u202e")
LAYERS += ("con\u0076\u0301", "conv2\n", "conv2\0", "\x1b[31m", "conv\uff12", "a" * 201, "__class__.__init__()")
LAYERS += ("conv2;rm", "[/red]", "{}")


def test_a_layer_whose_name_is_none(victim: Any, judged: Any) -> None:
    for name in LAYERS:
        victim.edit(lambda document, name=name: document["layers"][0].update(name=name))
        refused = judged(victim.path)
        assert {"open", "verify", "inspect"} <= refused.keys() and "layers[" in refused["open"], name


HOLDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "pattern": lambda document: document,
    "verb": lambda document: document["steps"][0],
    "framework": lambda document: document["segmentor"],
}


def test_a_name_that_is_looked_up(victim: Any, judged: Any) -> None:
    """What has the letters of a name is looked up in a closed table; all else is refused."""
    sound = (victim.path / "manifest.json").read_text()
    for place, holder in HOLDERS.items():
        for name in ("os.system", "../x", "UPPER", "a b", "", "\u0430", "a" * 201, "module:object()", "__import__"):
            document = json.loads(sound)
            holder(document)[place] = name
            (victim.path / "manifest.json").write_text(json.dumps(document))
            refused = judged(victim.path)
            assert name == "os.system" or {"open", "verify", "inspect"} <= refused.keys(), (place, name)
