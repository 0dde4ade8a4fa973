"""Which files below a directory changed, found by looking at it twice: what an agent's shell commands did.

Above: the drivers of local agents, which tell what their own tools changed and ask here for the rest. Looks at names,
sizes and times alone, runs no program (a repository's configuration can name programs), and leaves out what is nobody's
work. Blocks on the disk: to be called in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.model import JsonObject

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
            if path.is_relative_to(self._cwd):
                name, facts = str(path.relative_to(self._cwd)), _facts(path)
                if facts is None:
                    self._known.pop(name, None)
                else:
                    self._known[name] = facts

    def changes(self) -> list[JsonObject]:
        """What is not as it was known to be, as `file_changed` has it; from now on it is known."""
        if self._known is None:
            return []
        before, now = self._known, _look(self._cwd)
        if now is None:
            return []
        self._known = now
        return [
            *({"path": name, "kind": "add", **_content(self._cwd / name)} for name in now if name not in before),
            *({"path": name, "kind": "update"} for name in now if name in before and now[name] != before[name]),
            *({"path": name, "kind": "delete"} for name in before if name not in now),
        ]


def _look(cwd: Path) -> dict[str, _Facts] | None:
    """The files by name, relative to the directory; None if there are too many."""
    found: dict[str, _Facts] = {}
    for name, facts in _walk(str(cwd), ""):
        found[name] = facts
        if len(found) > MOST_FILES:
            return None
    return found


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, _Facts]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # gone meanwhile, or not ours to read
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in LEFT_OUT:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif facts := _of(entry.stat(follow_symlinks=False)):
                yield f"{prefix}{entry.name}", facts
        except OSError:
            continue


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


def shown(path: Path, cwd: Path) -> str:
    """A path as events have it: relative to where the agent works, if it is there."""
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def added(text: str) -> str:
    """The diff of a new file, as every backend tells it."""
    return "".join(f"+{line}" for line in text.splitlines(keepends=True))
