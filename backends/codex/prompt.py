"""A message of the caller as input of a turn. Pure."""

from __future__ import annotations

from orchestrator import parts
from orchestrator.model import JsonObject, Message


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
            return text_item(parts.data_text(part))
        case _ if "uri" in part:
            return _linked(part)
        case _:
            return _embedded(place, part)


def _linked(part: JsonObject) -> JsonObject:
    """A file elsewhere: a local image is shown, any other is named."""
    path = parts.local_path(part)
    if path is not None and str(part.get("mime_type", "")).startswith("image/"):
        return {"type": "localImage", "path": path}
    return text_item(parts.link_text(part))


def _embedded(place: str, part: JsonObject) -> JsonObject:
    mime = str(part.get("mime_type", ""))
    if mime.startswith("image/"):
        return {"type": "image", "url": f"data:{mime};base64,{part['bytes_base64']}"}
    if (text := parts.embedded_text(place, part)) is not None:
        return text_item(f"File {part.get('name', '')}:\n```\n{text}\n```")
    raise parts.unshowable(place, part, "codex", "an image or text")
