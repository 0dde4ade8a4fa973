"""Criteria of acceptance: they go into the prompt, and the agent answers each in its structured result. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import orjson

from orchestrator.ends import Completed
from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, RunSpec, as_array, as_object

MOST = 20
EVIDENCE_CHARS = 4_000
"""Of the evidence for all criteria together: what stands in a run's last event is read whole."""


class Answered(NamedTuple):
    """An agent's end without what it says of the criteria, and that."""

    outcome: Completed
    answers: list[JsonObject]


def acceptance_of(given: Any) -> list[str] | None:
    """The criteria of a call.

    Raises:
        InvalidArgument: with what they may be.
    """
    listed = as_array(given)
    if listed is None or not all(isinstance(item, str) and item.strip() for item in listed):
        raise InvalidArgument("acceptance must be an array of sentences, each one thing that must hold")
    if len(listed) > MOST or sum(map(len, listed)) > 4_000:
        raise InvalidArgument(f"acceptance takes {MOST} sentences, of 4,000 characters together")
    return [item.strip() for item in listed] or None


def asking(spec: RunSpec) -> RunSpec:
    """The spec as the agent gets it: with the criteria in its task and in the schema of its answer."""
    if not spec.acceptance:
        return spec
    listed = "\n".join(f"{place}. {criterion}" for place, criterion in enumerate(spec.acceptance, 1))
    schema = _schema(spec.output_schema, len(spec.acceptance))
    shape = '{"result": ..., "acceptance": [{"criterion": "...", "met": true, "evidence": "..."}]}'
    words = (
        f"\n\n## Acceptance\n\nYour work is accepted if each of these holds:\n\n{listed}\n\n"
        f"Your final answer is one JSON object, {shape}: `result` is what you would have answered otherwise, "
        "`acceptance` has one entry for each of the above, in their order, with what shows that it is met or why not."
    )
    parts = [*spec.message.parts, {"type": "text", "text": words}]
    if parts[0].get("type") == "text":  # one text, for some agents read no other
        parts = [{**parts[0], "text": parts[0]["text"] + words}, *spec.message.parts[1:]]
    return replace(spec, message=replace(spec.message, parts=parts), output_schema=schema)


def _schema(own: JsonObject | None, count: int) -> JsonObject:
    entry = {
        "type": "object",
        "properties": {"criterion": {"type": "string"}, "met": {"type": "boolean"}, "evidence": {"type": "string"}},
        "required": ["criterion", "met", "evidence"],
        "additionalProperties": False,
    }
    answers = {"type": "array", "items": entry, "minItems": count, "maxItems": count}
    result = _moved(own, "#/properties/result") if own is not None else {"type": "string"}
    properties = {"result": result, "acceptance": answers}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands within another one: what refers to its root refers to its place now."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in cast(list[Any], schema)]
    fields = as_object(schema)
    if fields is None:
        return schema
    moved = {key: _moved(value, place) for key, value in fields.items() if not _names_root(key, value)}
    ref = fields.get("$ref")
    return {**moved, "$ref": place + ref[1:]} if isinstance(ref, str) and re.match(r"#(/|$)", ref) else moved


def _names_root(key: str, value: Any) -> bool:
    return key in ("$schema", "$id") and isinstance(value, str)


def answered(spec: RunSpec, outcome: Completed, structured: Any) -> Answered | str:
    """Takes the answers out of an agent's end.

    Args:
        structured: what the agent answered, as JSON.

    Returns:
        A sentence if it did not answer them.
    """
    assert spec.acceptance is not None
    document = as_object(structured) or {}
    answers = [as_object(entry) for entry in as_array(document.get("acceptance")) or ()]
    if "result" not in document or len(answers) != len(spec.acceptance) or not all(map(_is_answer, answers)):
        return "the run was asked to answer each criterion of acceptance and did not"
    result: Any = document["result"]
    text = result if isinstance(result, str) else orjson.dumps(result).decode()
    room = EVIDENCE_CHARS // len(answers)
    told = [
        {"criterion": criterion, "met": answer["met"], "evidence": answer["evidence"][:room]}
        for criterion, answer in zip(spec.acceptance, cast(Sequence[JsonObject], answers), strict=True)
    ]
    given = result if spec.output_schema is not None else None
    return Answered(replace(outcome, final_response=text, structured_output=given), told)


def _is_answer(entry: JsonObject | None) -> bool:
    return entry is not None and isinstance(entry.get("met"), bool) and isinstance(entry.get("evidence"), str)
