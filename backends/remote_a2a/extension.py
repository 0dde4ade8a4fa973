"""The orchestration extension of A2A: what a card that declares it understands beyond plain A2A.

A client that activates it (header `A2A-Extensions`) sends the directory, the ids and the permission of a run in its
message's metadata under `URI`, and gets back the events that plain A2A has no words for, each as an envelope
`{v, seq, type, ts, data}` in the metadata of a status update. Both sides of the wire use this module. Pure; data from
the other side is untrusted and checked field by field.
"""

from __future__ import annotations

import contextlib
from dataclasses import fields
from typing import Any, NamedTuple, cast

from orchestrator.model import InputRequest, JsonObject, Usage, as_array, as_object, now
from orchestrator.questions import with_context
from orchestrator.updates import (
    CommandFinished,
    CommandStarted,
    CommandUpdated,
    FileChanged,
    MessageAdded,
    Progress,
    Reasoning,
    TodoUpdated,
    ToolFinished,
    ToolStarted,
    Update,
)

URI = "urn:orchestrator-mcp:a2a:orchestration:v1"
"""Permanent; a breaking change gets another one."""
LEGACY_KEY = "nanobot_orchestrator"
"""Where the predecessor's agents look for `{cwd, run_id, session_id}`."""
FINAL_ARTIFACT = "final-response"
EVENTS_ARTIFACT = "orchestration-events"
"""At the end of a task: the envelopes of DURABLE types again, for a client that missed some."""

_CARRIED: dict[str, type[Update]] = {
    cls.type: cls
    for cls in (
        MessageAdded,
        Reasoning,
        CommandStarted,
        CommandUpdated,
        CommandFinished,
        FileChanged,
        ToolStarted,
        ToolFinished,
        TodoUpdated,
    )
}
TOOL_CALL = "tool_call"
"""The type of an envelope in the message of a paused task: the agent calls one of the client's tools, and waits for
what it gives. Questions to the caller come as `input_required` or `auth_required`."""
_ASK = "ask_caller"
"""The tool whose call is a question to the caller like any other, and outlives a crash like those."""
_NAME_CHARS = 100
"""Of the name of a tool, and of the id of a call."""


class ToolCall(NamedTuple):
    """One call of a tool that the client offered with its first message."""

    call_id: str
    name: str
    arguments: JsonObject


DURABLE = frozenset({"command_finished", "file_changed", "tool_finished", "todo_updated"})


def envelope(seq: int, event_type: str, data: JsonObject) -> JsonObject:
    """One event on the wire."""
    return {"v": 1, "seq": seq, "type": event_type, "ts": now(), "data": data}


def carried(update: Update) -> bool:
    """Whether the extension has words for this update."""
    return update.type in _CARRIED or isinstance(update, Progress)


def update_of(received: Any) -> Update | None:
    """The update in an envelope; None for anything unknown or malformed."""
    data = as_object((as_object(received) or {}).get("data"))
    if data is None:
        return None
    event_type: Any = received.get("type")
    if event_type == "status_changed" and isinstance(detail := data.get("detail"), str):
        return Progress(detail=detail[:500], progress=_progress_of(data.get("progress")))
    cls = _CARRIED.get(event_type) if isinstance(event_type, str) else None
    if cls is None:
        return None
    known: JsonObject = {}
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name in data:
            if not _fits(str(field.type), data[field.name]):
                return None
            known[field.name] = data[field.name]
    with contextlib.suppress(TypeError):  # a required field is missing
        return cls(**known)
    return None


def _progress_of(received: Any) -> JsonObject | None:
    progress = as_object(received) or {}
    text, percent = progress.get("text"), progress.get("percent")
    if not isinstance(text, str):
        return None
    known = isinstance(percent, (int, float)) and not isinstance(percent, bool) and 0 <= percent <= 100
    return {"text": text[:200], **({"percent": percent} if known else {})}


def call_of(received: Any) -> ToolCall | None:
    """The call in a `tool_call` envelope; None for a question, for anything else, or malformed."""
    call = _call_of(received)
    return None if call is None or call.name == _ASK else call


def _call_of(received: Any) -> ToolCall | None:
    envelope = as_object(received) or {}
    call = as_object((as_object(envelope.get("data")) or {}).get("call"))
    if envelope.get("type") != TOOL_CALL or call is None:
        return None
    call_id, name, arguments = call.get("id"), call.get("name"), as_object(call.get("arguments", {}))
    if not isinstance(call_id, str) or not isinstance(name, str) or arguments is None:
        return None
    return ToolCall(call_id, name, arguments) if call_id and max(len(call_id), len(name)) <= _NAME_CHARS else None


def request_of(received: Any, fallback: InputRequest) -> InputRequest:
    """The request in an `input_required` or `auth_required` envelope, or the plain one that A2A gave."""
    if call := _call_of(received):
        return _question_of(call, fallback)
    data = as_object((as_object(received) or {}).get("data")) or {}
    request = as_object(data.get("request"))
    if request is None:
        return fallback
    fits = (
        request.get("kind") in ("approval", "question", "input", "auth")
        and all(isinstance(request.get(name), str) for name in ("request_id", "text"))
        and all(_fits("list[JsonObject] | None", request.get(name)) for name in ("options", "questions"))
        and all(isinstance((as_object(o) or {}).get("id"), str) for o in as_array(request.get("options")) or ())
        and isinstance(request.get("detail") or {}, dict)
    )
    if not fits:
        return fallback
    names = ("request_id", "kind", "text", "options", "questions", "detail")
    return InputRequest(**{name: request[name] for name in names if request.get(name) is not None})


def _question_of(call: ToolCall, fallback: InputRequest) -> InputRequest:
    options = [option for option in as_array(call.arguments.get("options")) or () if isinstance(option, str)]
    return InputRequest(
        request_id=call.call_id,
        kind="question",
        text=with_context(call.arguments) or fallback.text,
        options=[{"id": option, "label": option} for option in options] or None,
    )


def usage_of(received: Any) -> Usage | None:
    """The usage that stands beside a completed task."""
    usage = as_object((as_object(received) or {}).get("usage"))
    if usage is None:
        return None
    numbers = {name: value for name, value in usage.items() if _is_amount(value, whole=name != "cost_usd")}
    with contextlib.suppress(TypeError):
        return Usage.from_json(numbers)
    return None


def _is_amount(value: Any, *, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < 1e15


def whole_numbers(value: Any) -> Any:
    """Protobuf's Struct knows floats only: gives whole numbers their type back."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in cast(JsonObject, value).items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in cast(list[Any], value)]
    return value


def _fits(annotation: str, value: Any) -> bool:
    if annotation.endswith("| None") and value is None:
        return True
    match annotation.removesuffix(" | None"):
        case "str":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "list[JsonObject]":
            return isinstance(value, list) and all(isinstance(item, dict) for item in cast(list[Any], value))
        case _:
            return True
