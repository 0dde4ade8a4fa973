"""A message of the caller as input of a turn. Pure."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

import orjson

from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, Message

_TEXTS = ("application/json", "application/xml", "application/toml", "application/yaml")


def input_of(message: Message) -> list[JsonObject]:
    """The input items of a message.

    Raises:
        InvalidArgument: a part is of a kind that the model cannot be shown.
    """
    return [_item(f"part {number}", part) for number, part in enumerate(message.parts, 1)]


def text_item(text: str) -> JsonObject:
    """A text as an input item."""
    return {"type": "text", "text": text, "text_elements": []}


def _item(place: str, part: JsonObject) -> JsonObject:
    match part["type"]:
        case "text":
            return text_item(part["text"])
        case "data":
            return text_item(f"```json\n{orjson.dumps(part['data'], option=orjson.OPT_INDENT_2).decode()}\n```")
        case _ if "uri" in part:
            return _linked(part)
        case _:
            return _embedded(place, part)


def _linked(part: JsonObject) -> JsonObject:
    """A file elsewhere: a local image is shown, any other is named, for the agent can read it by itself."""
    uri, mime = str(part["uri"]), str(part.get("mime_type", ""))
    parts = urlsplit(uri)
    if parts.scheme == "file" and mime.startswith("image/"):
        return {"type": "localImage", "path": parts.path}
    return text_item(f"File: {parts.path if parts.scheme == 'file' else uri}" + (f" ({mime})" if mime else ""))


def _embedded(place: str, part: JsonObject) -> JsonObject:
    mime, data = str(part.get("mime_type", "")), str(part["bytes_base64"])
    if mime.startswith("image/"):
        return {"type": "image", "url": f"data:{mime};base64,{data}"}
    if mime.startswith("text/") or mime in _TEXTS:
        try:
            text = base64.b64decode(data).decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{place} says that it is {mime}, and is no UTF-8") from error
        return text_item(f"File {part.get('name', '')}:\n```\n{text}\n```")
    raise InvalidArgument(
        f"{place} is a file of type {mime or 'unknown'}, which codex cannot show its model; "
        "give an image or text, or put it into cwd and name it"
    )
