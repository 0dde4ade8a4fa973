"""Profiles: Markdown files that say what an agent is to be. Found and read here; what one does to a run is decided by
the engine.

    ---
    name: reviewer                  optional front matter, see `front_matter`
    permission: read_only
    ---
    You review ...                  the job description

A name is looked up in `<cwd>/profiles`, `<cwd>/.claude/agents`, `$ORCHESTRATOR_HOME/profiles` and among the packaged
ones, in this order. Files below `.claude/agents` are made for Claude Code's sub-agents and are taken as they are.
Anybody may have written them: files are few, small, and where they seem to be.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from orchestrator import front_matter
from orchestrator.errors import InvalidArgument, LimitExceeded, OrchestratorError, ProfileNotFound, nearest
from orchestrator.files import open_file
from orchestrator.front_matter import NAME
from orchestrator.model import JsonObject

__all__ = ["NAME", "PACKAGED", "Fault", "Profile", "find", "listed", "read"]

Source = Literal["project", "claude", "user", "packaged", "path"]
"""Where a profile was found; `path` where the caller named the file."""

PACKAGED = Path(__file__).parents[1] / "profiles"
MAX_BYTES = 256 * 1024
MAX_FILES = 200
"""Files of one place that are looked at, in the order of their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile, as its file says it."""

    name: str
    path: Path
    real: Path
    """Where the file really lies, which was read."""
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


def is_path(given: str) -> bool:
    """Whether a caller names a file, and not a profile by its name."""
    return "/" in given or given.endswith(".md")


def find(given: str, cwd: Path, home: Path) -> Profile:
    """The profile of a name, or in a file that is named absolutely, by `~/` or relative to cwd. Reads files.

    Raises:
        ProfileNotFound: there is none; the message says where was looked, and the nearest names.
        InvalidArgument, LimitExceeded: the file is no profile; the message says what to mend.
    """
    if is_path(given):
        return _at(given, cwd, home)
    known = [_rows(source, folder) for source, folder in places(cwd, home)]
    named = (rows[given] for rows in known if given in rows)
    filed = (row for rows in known for row in rows.values() if row.path.stem == given)
    if (row := next(chain(named, filed), None)) is not None:
        if isinstance(row, Fault):
            raise row.why
        return row
    names = {name for rows in known for name in rows}
    looked = ", ".join(str(folder) for _, folder in places(cwd, home))
    raise ProfileNotFound(f"no profile {given[:80]!r} in {looked}{nearest(given, names)}")


def listed(cwd: Path, home: Path) -> list[Profile | Fault]:
    """Every profile that a name reaches, and every file that should be one and is not. Reads files."""
    found: dict[str, Profile | Fault] = {}
    for source, folder in places(cwd, home):
        found = {**_rows(source, folder), **found}
    return sorted(found.values(), key=lambda row: row.name)


def _at(given: str, cwd: Path, home: Path) -> Profile:
    path = cwd / os.path.expanduser(given)  # noqa: PTH111  a user that does not exist is no error yet
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"profile {given[:200]!r} cannot be read: {error}") from error
    if not there:
        names = {row.name for row in listed(cwd, home)}
        hint = f"; {path.stem!r} is the name of one" if path.stem in names else nearest(path.stem, names)
        raise ProfileNotFound(f"no profile at {str(path)[:300]}; give the path of a Markdown file, or a name{hint}")
    claudes = (".claude", "agents") in zip(path.parts, path.parts[1:], strict=False)
    return read(path, "claude" if claudes else "path")


def _rows(source: Source, folder: Path) -> dict[str, Profile | Fault]:
    """The files of one place by the names that they go by; of two that claim one, the first file has it."""
    found: dict[str, Profile | Fault] = {}
    for path in islice(_files(source, folder), MAX_FILES):
        try:
            row: Profile | Fault = read(path, source)
        except OrchestratorError as why:
            row = Fault(path.stem if NAME.fullmatch(path.stem) else "?", path, source, why)
        found.setdefault(row.name, row)
    return found


def _files(source: Source, folder: Path) -> Iterator[Path]:
    """Claude Code's are in folders too."""
    with suppress(OSError):
        paths = folder.rglob("*.md") if source == "claude" else folder.glob("*.md")
        yield from sorted(path for path in islice(paths, 10 * MAX_FILES) if path.name != "README.md")


def read(path: Path, source: Source) -> Profile:
    """Reads one file.

    Raises:
        InvalidArgument: it cannot be read, is empty, or has front matter that is wrong.
        LimitExceeded: it is over MAX_BYTES.
    """
    try:
        real = path.resolve(strict=True)
        facts = real.stat()
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidArgument(f"profile {path} cannot be read: {error}") from error
    if real.suffix != ".md":
        raise InvalidArgument(f"profile {path} is no Markdown file; its name has to end in .md")
    return _read(path, real, source, (facts.st_ino, facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=4 * MAX_FILES)
def _read(path: Path, real: Path, source: Source, _facts: tuple[int, int, int]) -> Profile:
    """Reads a file that is as it was when its facts were looked at, each time only once."""
    content = _content(path, real)
    try:
        parts = front_matter.read(content.decode("utf-8-sig"), claudes=source == "claude")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"profile {path} is no UTF-8 text ({error.reason} at byte {error.start})") from error
    except OrchestratorError as error:
        raise type(error)(f"profile {path}: {error}") from error
    text, fields = parts.text.strip(), dict(parts.fields)
    if not text:
        raise InvalidArgument(f"profile {path} is empty: write what the agent is to do, below the front matter")
    if "\0" in text:
        raise InvalidArgument(f"profile {path} holds a NUL, which no agent takes")
    name = fields.pop("name", path.stem)
    if not NAME.fullmatch(name):
        raise InvalidArgument(f"profile {path}: its name must be letters, digits, '.', '_' and '-', at most 64")
    return Profile(
        name=name,
        path=path,
        real=real,
        source=source,
        text=text,
        sha256=hashlib.sha256(content).hexdigest(),
        description=fields.pop("description", ""),
        fields=fields,
        notices=parts.notices,
    )


def _content(path: Path, real: Path) -> bytes:
    """What is in the file itself: no link that has taken its place, and no pipe, which would be waited for."""
    try:
        with os.fdopen(open_file(real, os.O_RDONLY), "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = "it is no file; give the path of a Markdown file" if error.errno == errno.EINVAL else error.strerror
        raise InvalidArgument(f"profile {path} cannot be read: {what}") from error
    if len(content) > MAX_BYTES:
        raise LimitExceeded(f"profile {path} has over {MAX_BYTES:,} bytes; shorten it")
    return content
