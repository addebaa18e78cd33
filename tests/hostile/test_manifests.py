"""Manifests that lie, come from the future, or are made to be printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentrans_cli.files.records import is_clean

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "infinity": b"Infinity",
    "of another tool": b'{"format": "other", "version": 1}',
    "from the future": b'{"format": "opentrans-bundle", "version": 2, "unheard": "of"}',
    "from the far future": b'{"format": "opentrans-bundle", "version": ' + b"9" * 4000 + b"}",
    "of a version of ten thousand digits": b'{"format": "opentrans-bundle", "version": ' + b"9" * 10_000 + b"}",
    "of version 1.0": b'{"format": "opentrans-bundle", "version": 1.0}',
    "of version true": b'{"format": "opentrans-bundle", "version": true}',
    "of version minus one": b'{"format": "opentrans-bundle", "version": -1}',
    "not UTF-8": b'{"format": "\xff"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "with a byte order mark": b'\xef\xbb\xbf{"format": "opentrans-bundle"}',
    "two documents": b"{}{}",
    "a hundred thousand lists deep": b"[" * 100_000,
    "a hundred thousand objects deep": b'{"a":' * 100_000,
    "with single quotes": b"{'format': 'opentrans-bundle'}",
    "python": b"__import__('os').system('true')",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "YAML": b"format: opentrans-bundle\nversion: !!python/object/apply:os.system ['true']\n",
}


def test_a_manifest_that_is_none(victim: Any, refused: Any) -> None:
    for kind, text in TEXTS.items():
        (victim.path / "manifest.json").write_bytes(text)
        none = "not readable as JSON|not the manifest|manifest is not valid"
        refused(victim.path, "upgrade opentrans" if "future" in kind else none)


REPLACED = {
    "a key twice": ('"pattern":', '"pattern": "unstructured", "pattern":'),
    "a key of a layer twice": ('"kept":', '"kept": 5, "kept":'),
    "NaN": ('"target_sparsity": 0.5', '"target_sparsity": NaN'),
    "1e999": ('"target_sparsity": 0.5', '"target_sparsity": 1e999'),
    "minus infinity": ('"loss": 0.25', '"loss": -Infinity'),
    "1e999 in metrics": ('"loss": 0.25', '"loss": 1e999'),
    "a whole number no float holds": ('"loss": 0.25', f'"loss": {10**400}'),
    "a number of ten thousand digits": ('"loss": 0.25', f'"loss": {"9" * 10_000}'),
    "an escape in an option": ('"rounds": 3', '"rounds": "\\u001b[2J"'),
    "an escape in the name of an option": ('"rounds": 3', '"\\u001b[2J": 3'),
    "an escape in the source": ('"source": "', '"source": "\\u001b]0;owned\\u0007'),
    "a turned direction in the source": ('"source": "', '"source": "\\u202e'),
    "two lines in the source": ('"source": "', '"source": "a\\nopentrans: all is well\\n'),
    "a line separator in a class": ('"sky"', '"sky\\u2028road"'),
    "half a surrogate pair": ('"sky"', '"\\ud800"'),
    "an escape in a template": ('"a photo of a {}."', '"a \\u001b[31m {}"'),
    "an escape in the preprocessing": ('"bicubic"', '"\\u001b[2J"'),
    "an escape in the configuration": ('"quick_gelu": true', '"quick_gelu": "\\u001b[2J"'),
    "a template of two places": ('"a photo of a {}."', '"{} of a {}."'),
    "a template that formats": ('"a photo of a {}."', '"{.__class__}"'),
    "forty levels of options": ('"rounds": 3', '"rounds": ' + "[" * 40 + "]" * 40),
    "a layer of the size of the world": ('"total": 10', f'"total": {2**62}'),
}


def test_one_wrong_place(victims: Any, refused: Any) -> None:
    for kind, (old, new) in REPLACED.items():
        victim = victims(kind)
        victim.replace(old, new)
        refused(victim.path, "manifest is not valid|not readable as JSON")


FUTURE: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown field": lambda document: document.update(future=1),
    "unknown field of a layer": lambda document: document["layers"][0].update(future=1),
    "unknown field of a file": lambda document: document["files"][0].update(future=1),
    "no field": lambda document: document.pop("steps"),
}


def test_fields_of_the_future(victims: Any, refused: Any) -> None:
    for kind, change in FUTURE.items():
        victim = victims(kind)
        victim.edit(change)
        refused(victim.path, "unknown key 'future'|lacks 'steps'")


def test_a_bundle_without_a_history_is_sound(victim: Any, judged: Any) -> None:
    victim.edit(lambda document: document.update(steps=[]))
    assert judged(victim.path) == {}


def test_markup_of_the_terminal_library_is_shown_and_not_obeyed(victim: Any, run_cli: Any) -> None:
    victim.replace('"source": "', '"source": "[/red][link=file:///etc/passwd]x[/link][/')
    result = run_cli("inspect", victim.path)
    assert result.exit_code == 0 and "[/red][link=file:///etc/passwd]x[/link][/" in result.stdout.replace("\n", "")


def test_markup_in_the_name_of_a_tensor_is_shown_and_not_obeyed(victim: Any, refused: Any, run_cli: Any) -> None:
    victim.header("mask.safetensors", lambda document: document.update({"[/red]": document.pop("conv2")}))
    refused(victim.path, "conv2", ("masks",))
    victim.header("rounds.safetensors", lambda document: document.update({"[/]x": document.pop("conv2")}))
    assert "conv2" in run_cli("verify", victim.path).stdout
    victim.header("weights.safetensors", lambda document: _first(document).update(dtype="[/red]"))
    assert "[/red]" in run_cli("verify", victim.path).stdout


def _first(document: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in document.items() if name != "__metadata__")


def test_a_message_does_not_repeat_megabytes(victim: Any, judged: Any) -> None:
    for old, new in (
        ('"pattern":', f'"{"x" * (4 << 20)}": 1, "pattern":'),
        ('"unstructured"', f'"{"X" * (4 << 20)}"'),
        ('"road"', f'"{"r" * (4 << 20)}"'),
        ('"a photo of a {}."', f'"{"t" * (4 << 20)}"'),
        ('"loss": 0.25', f'"{"k" * (4 << 20)}": [' + "0," * 9999 + "NaN]"),
    ):
        text = (victim.path / "manifest.json").read_text()
        victim.replace(old, new)
        assert {"open", "verify", "inspect"} <= judged(victim.path).keys()
        (victim.path / "manifest.json").write_text(text)


CONFIGURATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "none": lambda cfg: cfg.clear(),
    "no image tower": lambda cfg: cfg.update(vision_cfg=None),
    "a million blocks": lambda cfg: cfg["vision_cfg"].update(layers=10**6),
    "a million blocks in stages": lambda cfg: cfg["vision_cfg"].update(layers=[10**6] * 4),
    "a width of 10^12": lambda cfg: cfg["vision_cfg"].update(width=10**12),
    "a picture of 10^9 pixels": lambda cfg: cfg["vision_cfg"].update(image_size=10**9),
    "a patch of no pixels": lambda cfg: cfg["vision_cfg"].update(layers=2, patch_size=0),
    "a width of nothing": lambda cfg: cfg["vision_cfg"].update(width=0, layers=2, patch_size=4),
    "a width without a stem": lambda cfg: cfg["vision_cfg"].update(width=1),
    "a model of the hub": lambda cfg: cfg["vision_cfg"].update(timm_model_name="hf-hub:evil/model"),
    "a model of a folder": lambda cfg: cfg["vision_cfg"].update(timm_model_name="local-dir:/etc"),
    "pretrained weights": lambda cfg: cfg["vision_cfg"].update(timm_model_name="resnet18", timm_model_pretrained=True),
    "a text tower of the hub": lambda cfg: cfg.update(text_cfg={"hf_model_name": "evil/model"}),
    "a text tower of 10^12": lambda cfg: cfg.update(text_cfg={"vocab_size": 10**12, "width": 10**9}),
    "fields of others": lambda cfg: cfg.update(os="system"),
    "text for numbers": lambda cfg: cfg["vision_cfg"].update(width="4"),
}


def test_a_configuration_builds_no_giant_and_fetches_nothing(tmp_path: Path, tiny_bundle: Path, run_cli: Any) -> None:
    """The embedded model's bundle, with another configuration: refused, or built as what its tensors are."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    text = (folder / "manifest.json").read_text()
    for kind, change in CONFIGURATIONS.items():
        document = json.loads(text)
        change(document["base"]["model_cfg"])
        (folder / "manifest.json").write_text(json.dumps(document))
        result = run_cli("transfer", folder, "--dry-run", "--quiet")
        assert result.exit_code == (0 if kind.startswith("a text tower") else 1), (kind, result.stdout)
        lines = result.stderr.splitlines()
        assert len(lines) == result.exit_code and all(map(is_clean, lines)), kind
