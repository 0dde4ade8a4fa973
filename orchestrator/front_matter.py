"""The front matter of a profile: YAML at the beginning of a Markdown file, as checked values. Pure.

Whoever wrote it may mean ill: it is bounded in size and depth, and whatever it holds, a fault is told in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import orjson

from orchestrator import values
from orchestrator.errors import InvalidArgument, LimitExceeded, nearest
from orchestrator.json_schema import schema_fault
from orchestrator.limits import limits_of
from orchestrator.model import ON_APPROVAL, PERMISSIONS, JsonObject, as_array, as_object

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_CHARS = 32 * 1024
MAX_DEPTH = 40
_SHOWN = 5
"""Keys that a notice names; the rest is counted."""


class Parts(NamedTuple):
    """A file taken apart: checked values by key, the text below, and what is not used."""

    fields: JsonObject
    text: str
    notices: tuple[str, ...]


def read(written: str, *, claudes: bool) -> Parts:
    """Takes a file apart.

    Args:
        claudes: it is a sub-agent of Claude Code: its keys are translated, and what is no YAML is taken line by line.

    Raises:
        InvalidArgument, LimitExceeded: what is wrong, in words that follow the name of the file and a colon.
    """
    head, text = _split(written)
    front, notices = _front(head, lenient=claudes), list[str]()
    if claudes:
        front, notices = _of_claude_code(front)
    readers = {**READERS, **_CLAUDES} if claudes else READERS
    for key in front:
        if key not in readers:
            raise InvalidArgument(f"no key {key[:40]!r} in the front matter{nearest(key, READERS)}")
    return Parts({key: readers[key](key, value) for key, value in front.items()}, text, tuple(notices))


def _split(written: str) -> tuple[str, str]:
    from frontmatter.default_handlers import YAMLHandler

    body = written.lstrip("\r\n\t ")
    if not body.startswith("---"):
        return "", written
    if body.splitlines()[0].rstrip() != "---":
        raise InvalidArgument("front matter begins with a line that is `---` and nothing else")
    try:
        head, text = YAMLHandler().split(body)
    except ValueError:
        raise InvalidArgument("the front matter that begins with --- has no second ---") from None
    if len(head) > MAX_CHARS:
        raise LimitExceeded(f"the front matter has over {MAX_CHARS:,} characters; shorten it")
    return head, text


def _front(head: str, *, lenient: bool) -> JsonObject:
    try:
        return _yaml(head)
    except ValueError as why:
        if lenient and (pairs := _by_key(head)):
            return pairs
        raise InvalidArgument(f"the front matter cannot be used: {why}") from None


def _yaml(head: str) -> JsonObject:
    """YAML as JSON.

    Raises:
        ValueError: it is none, or holds what JSON does not know.
    """
    import yaml

    depth = 0
    try:
        for event in cast(Iterable[object], yaml.parse(head, yaml.SafeLoader)):  # pyright: ignore[reportUnknownMemberType]
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has an alias, which could make much of little; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        document = orjson.loads(orjson.dumps(yaml.safe_load(head) or {}))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error
    if (front := as_object(document)) is None:
        raise ValueError("it must be keys with values")
    return front


_KEY = re.compile(r"^(?=[A-Za-z][\w-]*:)", re.MULTILINE)


def _by_key(head: str) -> JsonObject:
    """Each key with what stands behind it: as YAML where that is some, otherwise the text of its first line."""
    pairs: JsonObject = {}
    for piece in _KEY.split(head):
        key, colon, rest = piece.partition(":")
        if not colon or not key.strip():
            continue
        try:
            pairs |= _yaml(piece)
        except ValueError:
            pairs[key] = rest.strip()
    return pairs


def _of_claude_code(front: JsonObject) -> tuple[JsonObject, list[str]]:
    """The front matter of a sub-agent of Claude Code in our words, and what of it is not used."""
    fields: JsonObject = {"backend": "claude_code"}
    unused: list[str] = []
    for key, value in front.items():
        match key, value:
            case (_, None) | ("model", "inherit") | ("color", _):
                pass
            case "name", _ if not NAME.fullmatch(str(value)):
                unused.append("name (the file's counts)")
            case "disallowedTools", _:
                fields["disallowed_tools"] = value
            case "maxTurns", _:
                fields["limits"] = {"max_turns": int(value) if str(value).isdecimal() else value}
            case "permissionMode", "plan":
                fields["permission"] = "read_only"
            case _ if key in READERS or key == "effort":
                fields[key] = value
            case _:
                unused.append(key[:40])
    return fields, [f"not used: {in_short(unused)}"] if unused else []


def in_short(names: list[str]) -> str:
    """Some names in words, however many they are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


# ---- values ----


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{key} is {repr(value)[:40]}, which YAML takes for no text; put it in quotes")
    if not NAME.fullmatch(value):
        raise InvalidArgument(f"{key} {value[:80]!r} must be letters, digits, '.', '_' and '-', at most 64")
    return value


def _one_line(key: str, value: Any) -> str:
    return " ".join(values.text(key, value).split())


def _label(key: str, value: Any) -> str:
    if len(label := values.text(key, value)) > 64:
        raise InvalidArgument(f"{key} is over 64 characters")
    return label


def _version(key: str, value: Any) -> str:
    return values.text(key, str(value) if isinstance(value, (int, float)) else value)


def _schema(key: str, value: Any) -> JsonObject:
    schema = as_object(value)
    if schema is None:
        raise InvalidArgument(f"{key} must be a JSON Schema, written as YAML")
    if fault := schema_fault(schema):
        raise InvalidArgument(f"{key} is not a valid JSON Schema, at {fault}")
    return schema


def _limits(key: str, value: Any) -> JsonObject:
    limits = as_object(value)
    if limits is None:
        raise InvalidArgument(f"{key} must be keys with numbers, as `timeout_s: 600`")
    try:
        return limits_of(limits)
    except InvalidArgument as error:
        raise InvalidArgument(f"{key}: {error}") from error


def _tools(key: str, value: Any) -> tuple[str, ...]:
    """Names, in an array or with commas between them. What stands in brackets behind one says nothing of which."""
    given = _BRACKETS.sub("", value).split(",") if isinstance(value, str) else as_array(value)
    if given is None or not all(isinstance(name, str) for name in given):
        raise InvalidArgument(f"{key} must be names of tools, as `Read, Grep`")
    names = (_BRACKETS.sub("", name).strip() for name in given)
    return tuple(values.word(key, name) for name in names if name)


_BRACKETS = re.compile(r"\([^()]*\)")


def _checks(key: str, value: Any) -> tuple[str, ...]:
    """Commands, each by itself or as `run` of an object."""
    items: list[Any] = value if (array := as_array(value)) is None else array
    commands = [(as_object(item) or {}).get("run", item) for item in ([items] if array is None else array)]
    return tuple(values.text(key, command) for command in commands)


READERS: Mapping[str, values.Reader] = {
    "name": _name,
    "description": _one_line,
    "role": _label,
    "backend": values.word,
    "model": values.word,
    "permission": values.one_of(PERMISSIONS),
    "on_approval": values.one_of(ON_APPROVAL),
    "output_schema": _schema,
    "checks": _checks,
    "limits": _limits,
    "tools": _tools,
    "version": _version,
}
"""The keys of the front matter."""
_CLAUDES: Mapping[str, values.Reader] = {"disallowed_tools": _tools, "effort": values.word}
"""What only files made for Claude Code may say besides."""
