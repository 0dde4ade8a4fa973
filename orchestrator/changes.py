"""Which files below a directory changed, found by looking at it twice: what an agent's shell commands did.

Above: the drivers of local agents, which tell what their own tools changed and ask here for the rest. Looks at names,
sizes and times alone, runs no program (a repository's configuration can name programs), and leaves out what is nobody's
work. All but `tell_changes` blocks on the disk, and is to be called in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.backend import RunContext
from orchestrator.model import JsonObject
from orchestrator.updates import FileChanged

LEFT_OUT = frozenset(
    (".git", ".hg", ".orchestrator", "node_modules", ".venv", "venv", "__pycache__", ".pytest_cache", ".mypy_cache",
     ".ruff_cache", ".tox")
)  # fmt: skip
"""Directories that are not looked into."""
MOST_FILES = 20_000
"""A directory with more files is not watched: looking would cost more than it tells."""
DIFF_BYTES = 64 * 1024
"""Larger new files are told without their content."""

_Facts = tuple[int, int, int]


class Watch:
    """The files below a directory as they were when this was made, and as they were told to be since.

    Args:
        cwd: the directory.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._known: dict[str, _Facts] | None = _look(cwd)

    def note(self, paths: Iterable[Path]) -> None:
        """These files were changed and that was told: as they are now they are known."""
        if self._known is None:
            return
        for path in paths:
            if (name := self._seen(path)) is None:
                continue
            facts = _facts(path)
            if facts is None:
                self._known.pop(name, None)
            else:
                self._known[name] = facts

    def _seen(self, path: Path) -> str | None:
        """The name by which a look finds a file; None if it does not come there."""
        whole = located(path, self._cwd)
        if not whole.is_relative_to(self._cwd) or Path(os.path.realpath(whole.parent)) != whole.parent:
            return None
        name = whole.relative_to(self._cwd)
        return None if LEFT_OUT & set(name.parts[:-1]) else str(name)

    def changes(self) -> list[JsonObject]:
        """What is not as it was known to be, as `file_changed` has it; from now on it is known."""
        if self._known is None:
            return []
        before, now = self._known, _look(self._cwd)
        if now is None:
            return []
        self._known = now
        return [
            *(
                {"path": name, "kind": "add", **_content(self._cwd / name)}
                for name in sorted(now)
                if name not in before
            ),
            *({"path": name, "kind": "update"} for name in sorted(now) if name in before and now[name] != before[name]),
            *({"path": name, "kind": "delete"} for name in sorted(before) if name not in now),
        ]


async def tell_changes(watch: Watch, ctx: RunContext) -> None:
    """Tells what nobody told, once the agent's processes are gone."""
    if changes := await asyncio.to_thread(watch.changes):
        await ctx.emit(FileChanged(changes=changes))


def _look(cwd: Path) -> dict[str, _Facts] | None:
    """The files by name, relative to the directory; None if there are too many."""
    found: dict[str, _Facts] = {}
    for name, facts in _walk(str(cwd)):
        found[name] = facts
        if len(found) > MOST_FILES:
            return None
    return found


def _walk(top: str) -> Iterator[tuple[str, _Facts]]:
    """Every file with its name, folder by folder."""
    folders = [(top, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # gone meanwhile, or not ours to read
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in LEFT_OUT:
                        folders.append((entry.path, f"{prefix}{entry.name}/"))
                elif facts := _of(entry.stat(follow_symlinks=False)):
                    yield f"{prefix}{entry.name}", facts


def _facts(path: Path) -> _Facts | None:
    try:
        return _of(path.lstat())
    except OSError:
        return None


def _of(found: os.stat_result) -> _Facts | None:
    kept = stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)
    return (found.st_size, found.st_mtime_ns, found.st_ino) if kept else None


def _content(path: Path) -> JsonObject:
    """The diff of a new file, if it is short and text."""
    try:
        if path.is_symlink() or path.stat().st_size > DIFF_BYTES:
            return {}
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return {}
    return {} if "\0" in text else {"diff": added(text)}


def located(path: str | Path, cwd: Path) -> Path:
    """Where a path leads that an agent wrote down, which works in `cwd`. By its words alone."""
    return Path(os.path.normpath(cwd / path))


def shown(path: str | Path, cwd: Path) -> str:
    """A path as events have it: relative to where the agent works, if it is there."""
    path = located(path, cwd)
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def added(text: str) -> str:
    """The diff of a new file, as every backend tells it."""
    return "".join(f"+{line}" for line in text.splitlines(keepends=True))
