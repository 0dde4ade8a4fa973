"""A message of the caller as content blocks of the Messages API. Pure."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

import orjson

from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, Message

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXTS = ("application/json", "application/xml", "application/toml", "application/yaml")


def content_of(message: Message) -> list[JsonObject]:
    """The blocks of a message.

    Raises:
        InvalidArgument: a part is of a kind that the model cannot be shown.
    """
    return [_block(f"part {number}", part) for number, part in enumerate(message.parts, 1)]


def _block(place: str, part: JsonObject) -> JsonObject:
    match part["type"]:
        case "text":
            return _text(part["text"])
        case "data":
            return _text(f"```json\n{orjson.dumps(part['data'], option=orjson.OPT_INDENT_2).decode()}\n```")
        case _ if "uri" in part:
            return _linked(part)
        case _:
            return _embedded(place, part)


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _linked(part: JsonObject) -> JsonObject:
    """A file elsewhere: an image on the web is shown, any other is named, for the agent can read it by itself."""
    uri, mime = str(part["uri"]), str(part.get("mime_type", ""))
    parts = urlsplit(uri)
    if parts.scheme == "https" and mime in IMAGES:
        return {"type": "image", "source": {"type": "url", "url": uri}}
    return _text(f"File: {parts.path if parts.scheme == 'file' else uri}" + (f" ({mime})" if mime else ""))


def _embedded(place: str, part: JsonObject) -> JsonObject:
    mime, data = part.get("mime_type", ""), part["bytes_base64"]
    if mime in IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}
    title = {"title": part["name"]} if part.get("name") else {}
    if mime == "application/pdf":
        source = {"type": "base64", "media_type": mime, "data": data}
        return {"type": "document", "source": source, **title}
    if mime.startswith("text/") or mime in _TEXTS:
        try:
            text = base64.b64decode(data).decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{place} says that it is {mime}, and is no UTF-8") from error
        return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}, **title}
    raise InvalidArgument(
        f"{place} is a file of type {mime or 'unknown'}, which claude_code cannot show its model; "
        f"give an image ({', '.join(IMAGES)}), a PDF or text, or put it into cwd and name it"
    )
