"""The smallest documents that `artifacts.schema.json` allows."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from opentrans_cli.bundle.schema import check_document, load_schema

TEXTS = ("x", "org/name", "sha256:" + 64 * "0", 40 * "0")


def valid(value: object, rule: dict[str, Any]) -> bool:
    return Draft202012Validator({"$defs": load_schema()["$defs"], **rule}).is_valid(value)


def sample(rule: dict[str, Any]) -> Any:
    """The smallest value that a rule of the schema allows: required fields, one row a list, the least numbers."""
    if "$ref" in rule:
        found = load_schema()["$defs"][rule["$ref"].rsplit("/", 1)[-1]]
        return sample({**found, **{key: value for key, value in rule.items() if key != "$ref"}})
    if "const" in rule or "enum" in rule:
        return rule.get("const", rule.get("enum", [None])[0])
    if "anyOf" in rule:
        return sample(rule["anyOf"][0])
    kind = rule["type"][0] if isinstance(rule.get("type"), list) else rule.get("type")
    if kind == "object":
        own = rule.get("properties", {})
        made = {name: sample(own[name]) for name in rule.get("required", ())}
        for case in rule.get("allOf", [rule] if "if" in rule else []):
            more = case["then"] if valid(made, case["if"]) else case.get("else", {})
            made |= sample({"type": "object", **more, "properties": {**own, **more.get("properties", {})}})
        return made
    if kind == "array":
        return [sample(rule["items"])] * rule.get("minItems", 1)
    if kind in ("integer", "number"):
        return rule.get("minimum", 1)
    return True if kind == "boolean" else next(text for text in TEXTS if valid(text, rule))


def smallest_document(kind: str) -> dict[str, Any]:
    """A sound report with nothing but what it must have; of the log, the line of a step."""
    rule = load_schema()["$defs"][kind]
    events = {"event": {"const": "step"}, "step": {"const": 1}} if kind == "run_log_line" else {}
    made: dict[str, Any] = sample({**rule, "properties": {**rule["properties"], **events}})
    check_document(made, kind)
    return made
