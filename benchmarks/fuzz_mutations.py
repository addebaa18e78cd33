"""Changes to the files of a bundle, blind and by structure, for `fuzz.py`. An input is files by name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Files = dict[str, bytes]

NUMBERS = [0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32, 2**33, 2**33 + 1, 2**40, 2**53 + 1]
NUMBERS += [2**63 - 1, 2**63, 2**64, 10**400]
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(None, True, False, "", [], {}, 0.0, -0.0, 0.5, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
    *("../x", "/etc/passwd", "C:\\x", "x\u202ey", "\x1b[31m", "\ud800", "[/red]", "a" * 300, "sha256:" + "0" * 64),
    *("U8", "F32", "BF16", "BOOL", "I64", "F8_E4M3", "float32", "bfloat16", "mask.safetensors", "weights.safetensors"),
    *("rounds.safetensors", "round_weights.safetensors", "reports/x.json", "conv2", "conv2.weight", "1/conv2.weight"),
    *([[]], [0], [1, 1], [2**32, 2**32], [0, 2**62], {"a": {}}, [[[[[[]]]]]]),
)
NEAR = (-8, -1, 1, 8)


class Raw(str):
    """Text that goes into JSON as it is."""


def mutate(files: Files, others: list[Files], rng: random.Random) -> Files:
    """One to four changes to `files`; `others` lend parts."""
    changed = dict(files)
    for _ in range(1 + min(3, int(rng.expovariate(1.2)))):
        name = rng.choice(sorted(changed))
        data = changed[name]
        if rng.random() < 0.06:
            data = rng.choice(others).get(name, data)
        elif name.endswith(".safetensors") and rng.random() < 0.75:
            data = _tensor_file(data, rng)
        elif name.endswith(".json") and rng.random() < 0.85:
            data = _json(data, rng)
        else:
            data = _bytes(data, rng)
        changed[name] = data[: 1 << 16]
    if len(changed) > 1 and rng.random() < 0.02:
        changed.pop(rng.choice([name for name in sorted(changed) if name != "manifest.json"]), None)
    return changed


def _bytes(data: bytes, rng: random.Random) -> bytes:
    place, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    end = min(end, place + 32)
    kind = rng.randrange(7)
    if kind == 0 and data:
        place = min(place, len(data) - 1)
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + rng.randbytes(rng.randint(1, 8)) + data[end:]
    if kind == 2:
        return data[:place] + data[end:]
    if kind == 3:
        return data[:place] + data[place:end] * rng.randint(2, 4) + data[end:]
    if kind == 4:
        return data[:place]
    if kind == 5:
        number = rng.choice(NUMBERS[:-3]) & (2**64 - 1)
        return data[:place] + number.to_bytes(8, "little") + data[place + 8 :]
    return data + rng.randbytes(rng.choice((1, 2, 4, 8, 16)))


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    return _text(_change(document, rng), rng).encode("utf-8", "surrogatepass")


def _tensor_file(data: bytes, rng: random.Random) -> bytes:
    """The header's JSON changed under a length that fits, or does not; or the bytes behind it."""
    length = int.from_bytes(data[:8], "little")
    head, rest = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(8)
    if kind == 0:
        return _bytes(data, rng)
    if kind <= 2:
        return data[:8] + head + _bytes(rest, rng)
    head = _json(head, rng)
    told = len(head) if kind < 7 else rng.choice((0, 1, len(head) - 1, len(head) + 1, 2**25, 2**25 + 1, 2**63))
    return max(0, told).to_bytes(8, "little") + head + rest


def _nodes(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items:
        found.append((value, key))
        _nodes(inner, found)
    return found


def _change(document: Any, rng: random.Random) -> Any:
    nodes = _nodes(document, [])
    if not nodes or rng.random() < 0.01:
        return rng.choice(VALUES)
    holder, key = rng.choice(nodes)
    CHANGES[rng.randrange(len(CHANGES))](holder, key, nodes, rng)
    return document


def _replace(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    holder[key] = rng.choice(VALUES)


def _nudge(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    if type(holder[key]) in (int, float):
        holder[key] = holder[key] + rng.choice(NEAR)
    elif isinstance(holder[key], str):
        holder[key] = _bytes(holder[key].encode("utf-8", "surrogatepass"), rng).decode("latin-1")
    else:
        holder[key] = rng.choice(VALUES)


def _copy_from(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    other, place = rng.choice(nodes)
    holder[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None


def _drop(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    del holder[key]


def _add(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(key, json.loads(json.dumps(holder[key])) if rng.random() < 0.5 else rng.choice(VALUES))
    else:
        holder[str(rng.choice(VALUES))[:40]] = holder[key]


def _rename(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    if isinstance(holder, dict):
        names = [name for container, name in nodes if isinstance(container, dict)]
        holder[rng.choice([*names, "x", "", "\x1b", "__metadata__"])] = holder.pop(key)


def _wrap(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}


def _raw(holder: Any, key: Any, nodes: list[tuple[Any, Any]], rng: random.Random) -> None:
    depth = rng.choice((5, 40, 2000))
    holder[key] = Raw(rng.choice(("NaN", "1e999", "-0", "01", "1" * 5000, "[" * depth + "]" * depth, "{" * 9, "1,2")))


Change = Callable[[Any, Any, list[tuple[Any, Any]], random.Random], None]
CHANGES: tuple[Change, ...] = (_replace, _replace, _nudge, _nudge, _copy_from, _drop, _add, _rename, _wrap, _raw)


def _text(value: Any, rng: random.Random) -> str:
    """JSON of `value`, keys now and then twice."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(key))}:{_text(item, rng)}" for key, item in value.items()]
        if parts and rng.random() < 0.002:
            parts.append(rng.choice(parts))
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item, rng) for item in value) + "]"
    if isinstance(value, int) and abs(value) > 10**4000:
        return "1" * 4200
    return json.dumps(value)
