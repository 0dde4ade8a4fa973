"""Profiles: Markdown files that say what an agent is to be. Found, read and checked here; what one does to a run is
decided by the engine.

    ---
    name: reviewer                  optional front matter: YAML, the keys of `READERS`
    permission: read_only
    ---
    You review ...                  the job description

A name is looked up in `<cwd>/profiles`, `<cwd>/.claude/agents`, `$ORCHESTRATOR_HOME/profiles` and among the packaged
ones, in this order. Files in a folder `.claude/agents` are made for Claude Code's sub-agents and are taken as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import orjson

from orchestrator import values
from orchestrator.errors import InvalidArgument, LimitExceeded, OrchestratorError, ProfileNotFound, nearest
from orchestrator.json_schema import schema_fault
from orchestrator.limits import limits_of
from orchestrator.model import ON_APPROVAL, PERMISSIONS, JsonObject, as_array, as_object

Source = Literal["project", "claude", "user", "packaged", "path"]
"""Where a profile was found; `path` where the caller named the file."""

PACKAGED = Path(__file__).parents[1] / "profiles"
MAX_BYTES = 256 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile, as its file says it."""

    name: str
    path: Path
    source: Source
    text: str
    """The job description."""
    sha256: str
    """Of the whole file."""
    description: str = ""
    fields: JsonObject = field(default_factory=dict[str, Any])
    """The rest of the front matter, checked: what it would have `spawn_run` do."""
    notices: tuple[str, ...] = ()
    """What of the file is not used, for its writer to read."""

    def to_json(self) -> JsonObject:
        """A row of `list_profiles`."""
        shown = {key: self.fields[key] for key in ("role", "backend", "model", "permission") if key in self.fields}
        row = {"name": self.name, "description": self.description, **shown, "source": self.source}
        return {**row, "structured": "output_schema" in self.fields, "path": str(self.path)}


class Fault(NamedTuple):
    """A file among the profiles that is none."""

    name: str
    path: Path
    source: Source
    why: OrchestratorError

    def to_json(self) -> JsonObject:
        """A row of `list_profiles`."""
        return {"name": self.name, "source": self.source, "path": str(self.path), "fault": str(self.why)}


def places(cwd: Path, home: Path) -> list[tuple[Source, Path]]:
    """Where names are looked up, in order.

    Args:
        cwd: of the run.
        home: `$ORCHESTRATOR_HOME`.
    """
    return [
        ("project", cwd / "profiles"),
        ("claude", cwd / ".claude" / "agents"),
        ("user", home / "profiles"),
        ("packaged", PACKAGED),
    ]


def find(given: str, cwd: Path, home: Path) -> Profile:
    """The profile of a name, or in a file that is named absolutely, by `~/` or relative to cwd. Reads files.

    Raises:
        ProfileNotFound: there is none; the message says where was looked, and the nearest names.
        InvalidArgument, LimitExceeded: the file is no profile; the message says what to mend.
    """
    if "/" in given or given.endswith(".md"):
        path = cwd / os.path.expanduser(given)  # noqa: PTH111  a user that does not exist is no error yet
        if not path.exists():
            raise ProfileNotFound(f"no profile at {path}; give the path of a Markdown file, or a name")
        return read(path, "claude" if path.parts[-3:-1] == (".claude", "agents") else "path")
    known = places(cwd, home)
    for source, folder in known:
        for path in _files(folder):
            if path.stem == given:
                return read(path, source)
        for path in _files(folder):  # what the file says of its name counts too, as it does for Claude Code
            with suppress(OrchestratorError):
                if (profile := read(path, source)).name == given:
                    return profile
    looked = ", ".join(str(folder) for _, folder in known)
    raise ProfileNotFound(f"no profile {given!r} in {looked}{nearest(given, {row.name for row in listed(cwd, home)})}")


def listed(cwd: Path, home: Path) -> list[Profile | Fault]:
    """Every profile that a name reaches, and every file that should be one and is not. Reads files."""
    found: dict[str, Profile | Fault] = {}
    for source, folder in places(cwd, home):
        for path in _files(folder):
            try:
                row: Profile | Fault = read(path, source)
            except OrchestratorError as why:
                row = Fault(path.stem, path, source, why)
            found.setdefault(row.name, row)
    return sorted(found.values(), key=lambda row: row.name)


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    return []


def read(path: Path, source: Source) -> Profile:
    """Reads one file.

    Raises:
        InvalidArgument: it cannot be read, is empty, or has front matter that is wrong.
        LimitExceeded: it is over MAX_BYTES.
    """
    content = _content(path)
    try:
        written = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"profile {path} is no UTF-8 text ({error.reason} at byte {error.start})") from error
    front, text = _split(path, written, lenient=source == "claude")
    notices: list[str] = []
    if source == "claude":
        front, notices = _of_claude_code(front)
    if not text.strip():
        raise InvalidArgument(f"profile {path} is empty: write what the agent is to do, below the front matter")
    checked = _checked(path, front, source)
    name = checked.pop("name", path.stem)
    if not NAME.fullmatch(name):
        raise InvalidArgument(
            f"profile {path}: name {name[:80]!r} must be letters, digits, '.', '_' and '-', at most 64"
        )
    return Profile(
        name=name,
        path=path,
        source=source,
        text=text.strip(),
        sha256=hashlib.sha256(content).hexdigest(),
        description=checked.pop("description", ""),
        fields=checked,
        notices=tuple(notices),
    )


def _content(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
            raise InvalidArgument(f"profile {path} is no file; give the path of a Markdown file")
        if facts.st_size > MAX_BYTES:
            raise LimitExceeded(f"profile {path} has {facts.st_size:,} bytes, over {MAX_BYTES:,}; shorten it")
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise InvalidArgument(f"profile {path} cannot be read: {error.strerror}") from error


# ---- front matter ----


def _split(path: Path, written: str, *, lenient: bool) -> tuple[JsonObject, str]:
    """The front matter and what stands below it.

    Args:
        lenient: Claude Code's way with what is no YAML: what stands behind a key in its line is its value.
    """
    if not written.startswith("---"):
        return {}, written
    from frontmatter.default_handlers import YAMLHandler

    try:
        head, body = YAMLHandler().split(written)
    except ValueError:
        raise InvalidArgument(f"profile {path}: the front matter that begins with --- has no second ---") from None
    try:
        return _front(head), body
    except ValueError as why:
        if lenient and (pairs := dict(_LINE.findall(head))):
            return pairs, body
        raise InvalidArgument(f"profile {path}: the front matter cannot be used: {why}") from None


_LINE = re.compile(r"^([A-Za-z][\w-]*):[ \t]*(.*?)[ \t]*$", re.MULTILINE)


def _front(head: str) -> JsonObject:
    """YAML as JSON.

    Raises:
        ValueError: it is none, or holds what JSON does not know; the message says where.
    """
    import yaml

    try:
        events = cast(Iterable[object], yaml.parse(head, yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise ValueError("it has an alias, which could make much of little; write the value out")
        document = orjson.loads(orjson.dumps(yaml.safe_load(head) or {}))
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
    if (front := as_object(document)) is None:
        raise ValueError("it must be keys with values")
    return front


def _of_claude_code(front: JsonObject) -> tuple[JsonObject, list[str]]:
    """The front matter of a sub-agent of Claude Code in our words, and what of it is not used."""
    fields: JsonObject = {"backend": "claude_code"}
    notices: list[str] = []
    for key, value in front.items():
        match key, value:
            case ("model", "inherit") | ("color", _):
                pass
            case "name", _ if not NAME.fullmatch(str(value)):
                notices.append(f"name {str(value)[:80]!r} is none; the file's name counts")
            case "disallowedTools", _:
                fields["disallowed_tools"] = value
            case "maxTurns", _:
                fields["limits"] = {"max_turns": int(value) if str(value).isdecimal() else value}
            case "permissionMode", "plan":
                fields["permission"] = "read_only"
            case _ if key in READERS or key == "effort":
                fields[key] = value
            case _:
                notices.append(f"{key} is not used")
    return fields, notices


def _one_line(place: str, value: Any) -> str:
    return " ".join(values.text(place, value).split())


def _label(place: str, value: Any) -> str:
    if len(label := values.text(place, value)) > 64:
        raise InvalidArgument(f"{place} is over 64 characters")
    return label


def _version(place: str, value: Any) -> str:
    return values.text(place, str(value) if isinstance(value, (int, float)) else value)


def _schema(place: str, value: Any) -> JsonObject:
    schema = as_object(value)
    if schema is None:
        raise InvalidArgument(f"{place} must be a JSON Schema, written as YAML")
    if fault := schema_fault(schema):
        raise InvalidArgument(f"{place} is not a valid JSON Schema, at {fault}")
    return schema


def _limits(place: str, value: Any) -> JsonObject:
    limits = as_object(value)
    if limits is None:
        raise InvalidArgument(f"{place} must be keys with numbers, as `timeout_s: 600`")
    try:
        return limits_of(limits)
    except InvalidArgument as error:
        raise InvalidArgument(f"{place}: {error}") from error


def _tools(place: str, value: Any) -> tuple[str, ...]:
    """Names, in an array or with commas between them; what stands in brackets behind one says nothing of which."""
    given = _BRACKETS.sub("", value).split(",") if isinstance(value, str) else as_array(value)
    if given is None or not all(isinstance(name, str) for name in given):
        raise InvalidArgument(f"{place} must be names of tools, as `Read, Grep`")
    names = (_BRACKETS.sub("", name).strip() for name in given)
    return tuple(values.word(place, name) for name in names if name)


_BRACKETS = re.compile(r"\([^)]*\)")


def _checks(place: str, value: Any) -> tuple[str, ...]:
    """Commands, each by itself or as `run` of an object."""
    commands = [(as_object(item) or {}).get("run", item) for item in as_array(value) or [value]]
    return tuple(values.text(place, command) for command in commands)


READERS: Mapping[str, values.Reader] = {
    "name": values.text,
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


def _checked(path: Path, front: JsonObject, source: Source) -> dict[str, Any]:
    readers = {**READERS, **_CLAUDES} if source == "claude" else READERS
    for key in front:
        if key not in readers:
            raise InvalidArgument(f"profile {path}: no key {key!r} in the front matter{nearest(key, READERS)}")
    return {key: readers[key](f"profile {path}: {key}", value) for key, value in front.items()}
