"""The parts of a caller's message, for models that take text and images. Pure.

Above: the drivers of local agents, whose prompts differ in how images and documents are put, and in nothing else.
"""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit

import orjson

from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject

_TEXTS = ("application/json", "application/xml", "application/toml", "application/yaml")


def data_text(part: JsonObject) -> str:
    """A data part as text."""
    return f"```json\n{orjson.dumps(part['data'], option=orjson.OPT_INDENT_2).decode()}\n```"


def local_path(part: JsonObject) -> str | None:
    """The path of a file part that names a file of this machine."""
    parts = urlsplit(str(part["uri"]))
    return unquote(parts.path) if parts.scheme == "file" else None


def link_text(part: JsonObject) -> str:
    """A file part that is elsewhere, named: the agent can read it by itself."""
    mime = f" ({part['mime_type']})" if part.get("mime_type") else ""
    return f"File: {local_path(part) or part['uri']}{mime}"


def embedded_text(place: str, part: JsonObject) -> str | None:
    """The text of a file part that holds one; None if it is another kind of file.

    Raises:
        InvalidArgument: it says that it is text, and is no UTF-8.
    """
    mime = str(part.get("mime_type", ""))
    if not mime.startswith("text/") and mime not in _TEXTS:
        return None
    try:
        return base64.b64decode(part["bytes_base64"]).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{place} says that it is {mime}, and is no UTF-8") from error


def unshowable(place: str, part: JsonObject, backend: str, shown: str) -> InvalidArgument:
    """The refusal of a file part that a model cannot be shown."""
    return InvalidArgument(
        f"{place} is a file of type {part.get('mime_type') or 'unknown'}, which {backend} cannot show its model; "
        f"give {shown}, or put it into cwd and name it"
    )
