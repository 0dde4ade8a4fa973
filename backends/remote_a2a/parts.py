"""The parts of a message, in A2A's shape and in ours. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from a2a.types import Part
from google.protobuf.json_format import ParseDict

from backends.remote_a2a.agent import plain
from backends.remote_a2a.extension import whole_numbers
from orchestrator.model import JsonObject


def part_of(part: JsonObject) -> Part:
    """One part of our messages as A2A has it."""
    if part["type"] == "text":
        return Part(text=part["text"])
    if part["type"] == "data":
        data: Part = Part(media_type="application/json")
        ParseDict(part["data"], data.data)
        return data
    names: dict[str, Any] = {"media_type": part.get("mime_type", ""), "filename": part.get("name", "")}
    if "uri" in part:
        return Part(url=part["uri"], **names)
    return Part(raw=base64.b64decode(part["bytes_base64"]), **names)


def text_of(parts: Iterable[Part]) -> str:
    """The text parts of a message, one below the other."""
    return "\n".join(part.text for part in parts if part.HasField("text"))


def json_part(part: Part) -> JsonObject:
    """A part that is no text, in the words of our messages. Files come as what they are, never fetched."""
    names: JsonObject = {"mime_type": part.media_type, "name": part.filename}
    named = {key: value for key, value in names.items() if value}
    match part.WhichOneof("content"):
        case "data":
            return {"type": "data", "data": whole_numbers(plain(part.data))}
        case "url":
            return {"type": "file", "uri": part.url, **named}
        case "raw":
            return {"type": "file", "bytes_base64": base64.b64encode(part.raw).decode(), **named}
        case _:
            return {"type": "unknown"}
