"""A message of the caller as content blocks of the Messages API. Pure."""

from __future__ import annotations

from orchestrator import parts
from orchestrator.model import JsonObject, Message

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")


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
            return _text(parts.data_text(part))
        case _ if "uri" in part:
            return _linked(part)
        case _:
            return _embedded(place, part)


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _linked(part: JsonObject) -> JsonObject:
    """A file elsewhere: an image on the web is shown, any other is named."""
    if str(part["uri"]).startswith("https://") and part.get("mime_type") in IMAGES:
        return {"type": "image", "source": {"type": "url", "url": part["uri"]}}
    return _text(parts.link_text(part))


def _embedded(place: str, part: JsonObject) -> JsonObject:
    mime, data = part.get("mime_type", ""), part["bytes_base64"]
    if mime in IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}
    if mime == "application/pdf":
        source: JsonObject = {"type": "base64", "media_type": mime, "data": data}
    elif (text := parts.embedded_text(place, part)) is not None:
        source = {"type": "text", "media_type": "text/plain", "data": text}
    else:
        raise parts.unshowable(place, part, "claude_code", f"an image ({', '.join(IMAGES)}), a PDF or text")
    title = {"title": part["name"]} if part.get("name") else {}
    return {"type": "document", "source": source, **title}
