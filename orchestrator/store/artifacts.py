"""Fields too large for a line of the log: a preview stays in the event, the whole goes into chunk files.

`plan` is pure: it turns an event's data into data that fits and the pieces to store. `write` puts the pieces into
`artifacts/<seq>-<type>/`, and `read_field` gives any field of any event back in pages, whether it was stored or not.
What a `Spool` stored of an artifact that came in pieces is read in the same way.

Chunk files hold exactly CHUNK_BYTES each, but for the last: byte offset // CHUNK_BYTES is the file to open, and
`cat` over them gives the whole.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from orchestrator import files
from orchestrator.errors import ArtifactNotFound, InvalidArgument, StoreError
from orchestrator.events import Event
from orchestrator.model import Document, JsonObject
from orchestrator.store.layout import RunDir, make_directory, write_new

CHUNK_BYTES = 64 * 1024
MOST_BYTES = 256 * 2**20
"""Of a file that is kept as it is."""
LEAF_BYTES = 2_000
LARGE_LEAF_BYTES = 8_000
PREVIEW_BYTES = 240
"""What stays in the event of a leaf that is stored, but for large leaves, which keep as much as they may hold."""
LINE_BYTES = 16 * 1024
_TRIMMED_BYTES = 2_000
"""What an array or object keeps of itself in the event once its whole is stored."""

_LARGE_LEAVES = re.compile(r"(agent_message:/text|run_completed:/final_response|(input|auth)_required:/request/.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref(Document):
    """Where the whole of a previewed field is. `relpath` is relative to the run's directory: the first chunk file."""

    field_path: str
    relpath: str
    mime: str
    encoding: str
    total_bytes: int
    chunk_count: int
    truncated: bool = False

    @property
    def container(self) -> bool:
        """Whether it is an array or object that we stored as JSON; a text may be JSON too, and stays a text."""
        return self.relpath.endswith(".json")


class Stored(NamedTuple):
    """One field to store whole: its name as a file, its type, its bytes."""

    stem: str
    mime: str
    content: bytes


class Plan(NamedTuple):
    """What becomes of an event's data: what the line holds, and what is stored beside it, by JSON Pointer."""

    data: JsonObject
    stored: dict[str, Stored]


class Page(NamedTuple):
    """Some bytes of a field."""

    mime: str
    encoding: str
    total_bytes: int
    content: str
    offset: int
    returned_bytes: int


def plan(event_type: str, data: JsonObject) -> Plan:
    """Makes an event's data fit a line. Types never change: a string stays a string, an array an array.

    Leaves first: each string over its limit becomes a preview of head and tail. If the line is still over LINE_BYTES,
    the largest top-level fields keep their first items and are stored whole, and at last the data itself.
    """
    stored: dict[str, Stored] = {}
    small = cast(JsonObject, _shorten(event_type, "", data, stored))
    if _size(small, stored) > LINE_BYTES:
        for key in sorted(small, key=lambda key: -len(orjson.dumps(small[key]))):
            small[key] = _trim_whole(f"/{_escape(key)}", data[key], small[key], stored)
            if _size(small, stored) <= LINE_BYTES:
                break
        else:
            small = cast(JsonObject, _trim_whole("", data, small, stored))
    return Plan(small, stored)


def write(run: RunDir, seq: int, event_type: str, stored: dict[str, Stored]) -> JsonObject:
    """Writes the stored fields of one event. Returns its `artifact_refs`; to be called before the event is."""
    folder = run.artifact_dir(seq, event_type)
    if folder.exists():  # left by an owner that died between this and the line
        shutil.rmtree(folder)
    make_directory(folder)
    refs: JsonObject = {}
    used: set[str] = set()
    for pointer, (stem, mime, content) in stored.items():
        name = stem
        while name.lower() in used:  # lower: some file systems do not tell them apart
            name += "_"
        used.add(name.lower())
        suffix = ".json" if mime == "application/json" else ".txt"
        count = max(1, -(-len(content) // CHUNK_BYTES))
        for index in range(count):
            chunk = content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            write_new(str(folder / chunk_name(name, index, suffix)), chunk)
        refs[pointer] = Ref(
            field_path=pointer,
            relpath=str((folder / chunk_name(name, 0, suffix)).relative_to(run.path)),
            mime=mime,
            encoding="utf-8",
            total_bytes=len(content),
            chunk_count=count,
        ).to_json()
    write_manifest(folder, seq, event_type, refs)
    return refs


def stored_bytes(run: RunDir | None) -> int:
    """What all stored fields of a run's events take on disk."""
    found = run.path.glob("artifacts/[0-9]*/*.[0-9]*.*") if run else ()
    return sum(path.lstat().st_size for path in found)


def discard_behind(run: RunDir, last_seq: int) -> None:
    """Removes what was stored for events that were never written."""
    for folder in (run.path / "artifacts").glob("[0-9]*-*"):
        number = folder.name.partition("-")[0]
        if number.isdigit() and int(number) > last_seq:
            shutil.rmtree(folder)


def preview(content: bytes, limit: int, total: int | None = None) -> str:
    """Head and tail of a UTF-8 text with a note between them, in at most `limit` bytes."""
    total = len(content) if total is None else total
    note = f"\n… {total:,} bytes …\n"
    room = (limit - len(note.encode())) // 2
    head, tail = content[:room], content[-room:]
    return head.decode(errors="ignore") + note + tail.decode(errors="ignore")


def read_field(run: RunDir, event: Event, pointer: str, offset: int, limit: int) -> Page:
    """A page of a field of an event.

    Args:
        pointer: JSON Pointer (RFC 6901) relative to the event's data.
        offset: in bytes of the field; a position inside a character is moved back to where it starts.
        limit: bytes at most, but at least one character; none is ever split.

    Raises:
        InvalidArgument: the pointer is malformed, or the offset lies past the end.
        ArtifactNotFound: the event has no such field.
    """
    refs = _refs(event)
    if ref := refs.get(pointer):
        return _page(ref.mime, ref.encoding, ref.total_bytes, partial(_read, run, ref), offset, limit)
    holder = max((p for p in refs if pointer.startswith(p + "/") and refs[p].container), key=len, default=None)
    if holder is not None:
        value = resolve(_whole(run, refs[holder]), pointer[len(holder) :], pointer)
    else:
        value = resolve(event.data, pointer, pointer)
        value = _completed(run, refs, pointer, value)
    mime, content = (
        ("text/plain", value.encode()) if isinstance(value, str) else ("application/json", orjson.dumps(value))
    )
    return _page(mime, "utf-8", len(content), lambda start, size: content[start : start + size], offset, limit)


def read_file(path: Path, mime: str, offset: int, limit: int) -> Page:
    """A page of a file that is kept as it is; as base64 if it is no UTF-8."""
    content = files.read_file(path, MOST_BYTES)
    try:
        content.decode()
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "base64"
    return _page(mime, encoding, len(content), lambda start, size: content[start : start + size], offset, limit)


def whole_data(run: RunDir, event: Event) -> JsonObject:
    """An event's data with everything in it that is stored apart. For texts of known size: all of it is in memory.

    Raises:
        StoreError: what is stored is damaged or missing.
    """
    refs = _refs(event)
    return _whole(run, refs[""]) if "" in refs else _completed(run, refs, "", event.data)


def _refs(event: Event) -> dict[str, Ref]:
    try:
        documents = cast(JsonObject, event.data.get("artifact_refs", {})).items()
        refs = {pointer: Ref.from_json(document) for pointer, document in documents}
        if all(isinstance(ref.total_bytes, int) and isinstance(ref.relpath, str) for ref in refs.values()):  # pyright: ignore[reportUnnecessaryIsInstance]
            return refs
    except (TypeError, AttributeError):
        pass
    raise StoreError(f"event {event.seq} of the log is damaged: its artifact_refs are none")


def _whole(run: RunDir, ref: Ref) -> Any:
    content = _read(run, ref, 0, ref.total_bytes)
    if not ref.container:
        return content.decode(errors="replace")
    try:
        return orjson.loads(content)
    except ValueError as error:
        raise StoreError(f"{run.path / ref.relpath} is damaged: {error}") from error


def _completed(run: RunDir, refs: dict[str, Ref], pointer: str, value: Any) -> Any:
    """A container with the fields below it that are stored apart, which it holds as previews, put back whole."""
    below = [p for p, ref in refs.items() if p.startswith(pointer + "/") and ref.encoding == "utf-8"]
    if not below:
        return value
    value = orjson.loads(orjson.dumps(value))
    for place in below:
        parent, _, token = place[len(pointer) :].rpartition("/")
        holder = resolve(value, parent, place)
        holder[int(token) if isinstance(holder, list) else _unescape(token)] = _whole(run, refs[place])
    return value


def resolve(value: Any, pointer: str, shown: str) -> Any:
    """What a JSON Pointer points at. `shown` is the pointer that the caller gave, for the message."""
    if pointer and not pointer.startswith("/"):
        raise InvalidArgument(
            f"{shown[:200]!r} is no JSON Pointer; it starts with '/', as in '/output' or '/changes/0/diff'"
        )
    for token in pointer.split("/")[1:]:
        key = _unescape(token)
        try:
            value = cast(list[Any], value)[_index(key)] if isinstance(value, list) else cast(JsonObject, value)[key]
        except (KeyError, IndexError, ValueError, TypeError):
            known = ", ".join(f"'/{_escape(k)}'" for k in cast(JsonObject, value)) if isinstance(value, dict) else ""
            hint = f"; at that place it has {known[:300]}" if known else ""
            raise ArtifactNotFound(f"the event has no field {shown[:200]!r}{hint}") from None
    return value


def _index(key: str) -> int:
    if not re.fullmatch(r"0|[1-9]\d{0,8}", key):
        raise ValueError(key)
    return int(key)


def _page(mime: str, encoding: str, total: int, read: Callable[[int, int], bytes], offset: int, limit: int) -> Page:
    if offset > total:
        raise InvalidArgument(f"offset {offset} is past the end; the field has {total} bytes")
    if encoding == "base64":
        content = read(offset, limit)
        return Page(mime, encoding, total, base64.b64encode(content).decode(), offset, len(content))
    begin = max(0, offset - 3)
    window = read(begin, offset - begin + limit + 4)
    start = end = _character_start(window, offset - begin)
    if len(window) > start:
        end = _character_start(window, min(start + limit, len(window)))
        end = end if end > start else _character_start(window, start + 1, step=1)
    return Page(mime, encoding, total, window[start:end].decode(errors="replace"), begin + start, end - start)


def _character_start(text: bytes, position: int, step: int = -1) -> int:
    """The nearest position, going by `step`, where a character of a UTF-8 text starts."""
    while 0 < position < len(text) and text[position] & 0xC0 == 0x80:
        position += step
    return position


def _read(run: RunDir, ref: Ref, offset: int, limit: int) -> bytes:
    match = re.fullmatch(r"(artifacts/[\w.-]+/[\w-]+)\.0001(\.\w+)", ref.relpath)
    if match is None:
        raise StoreError(f"{run.path} names an artifact in a way that this version does not know")
    stem, suffix = match.groups()
    pieces: list[bytes] = []
    end = min(offset + limit, ref.total_bytes)
    try:
        while offset < end:
            index, start = divmod(offset, CHUNK_BYTES)
            with os.fdopen(files.open_file(run.path / chunk_name(stem, index, suffix), os.O_RDONLY), "rb") as file:
                file.seek(start)
                piece = file.read(min(end - offset, CHUNK_BYTES - start))
            if not piece:
                raise StoreError(f"{run.path / ref.relpath} is shorter than its event says")
            pieces.append(piece)
            offset += len(piece)
    except OSError as error:
        raise StoreError(f"cannot read {error.filename}: {error.strerror}") from error
    return b"".join(pieces)


def chunk_name(stem: str, index: int, suffix: str = ".txt") -> str:
    """The name of one chunk file."""
    return f"{stem}.{index + 1:04d}{suffix}"


def write_manifest(folder: Path, seq: int, event_type: str, refs: JsonObject) -> None:
    """Writes what a directory of chunk files holds."""
    manifest = {"seq": seq, "type": event_type, "chunk_bytes": CHUNK_BYTES, "fields": refs}
    write_new(str(folder / "manifest.json"), orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def _shorten(event_type: str, pointer: str, value: Any, stored: dict[str, Stored]) -> Any:
    if isinstance(value, str):
        if len(value) * 4 <= LEAF_BYTES:
            return value
        content = value.encode()
        large = len(content) > LEAF_BYTES and _LARGE_LEAVES.fullmatch(f"{event_type}:{pointer}")
        limit = LARGE_LEAF_BYTES if large else LEAF_BYTES
        if len(content) <= limit:
            return value
        stored[pointer] = Stored(_stem(pointer), "text/plain", content)
        return preview(content, limit if large else PREVIEW_BYTES)
    if isinstance(value, dict):
        items = cast(JsonObject, value).items()
        return {key: _shorten(event_type, f"{pointer}/{_escape(key)}", item, stored) for key, item in items}
    if isinstance(value, list):
        items = enumerate(cast(list[Any], value))
        return [_shorten(event_type, f"{pointer}/{index}", item, stored) for index, item in items]
    return value


def _trim_whole(pointer: str, whole: Any, short: Any, stored: dict[str, Stored]) -> Any:
    """Stores a container whole under its own pointer, and returns its first items."""
    if not isinstance(short, (dict, list)):
        return short
    for inner in [p for p in stored if p.startswith(pointer + "/")]:
        del stored[inner]
    stored[pointer] = Stored(_stem(pointer), "application/json", orjson.dumps(whole))
    return _first_items(short, _TRIMMED_BYTES)


def _first_items(value: Any, room: int) -> Any:
    """The same kind of value with as many first items as fit; what does not fit as a whole is trimmed likewise."""
    if isinstance(value, list):
        kept: list[Any] = []
        for item in cast(list[Any], value):
            room -= len(orjson.dumps(item)) + 1
            if room < 0:
                break
            kept.append(item)
        return kept
    if isinstance(value, dict):
        fields: JsonObject = {}
        for key, item in cast(JsonObject, value).items():
            size = len(orjson.dumps(item)) + len(orjson.dumps(key)) + 2
            small = item if size <= room // 2 else _first_items(item, room // 4)
            room -= len(orjson.dumps(small)) + len(orjson.dumps(key)) + 2
            if room < 0:
                break
            fields[key] = small
        return fields
    if isinstance(value, str) and len(value.encode()) > max(room, 200):
        return preview(value.encode(), max(room, 200))
    return value


def _size(data: JsonObject, stored: dict[str, Stored]) -> int:
    # a reference takes about 300 bytes and its pointer twice
    return len(orjson.dumps(data)) + sum(300 + 2 * len(orjson.dumps(pointer)) for pointer in stored) + 120


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unescape(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")


def _stem(pointer: str) -> str:
    """A file name for a field: `/changes/0/diff` becomes `changes-0-diff`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", pointer).strip("-")[:80] or "data"
