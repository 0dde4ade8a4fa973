"""The folders that Codex's sandbox protects in a project, made before they are needed and gone when no run needs them.

For each command the sandbox makes those that are missing, as mount points, and takes them away afterwards: commands of
another run in the same project then fail, and of a command that is killed they stay. Where they are there beforehand
the sandbox makes none.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

NAMES = (".agents", ".aws", ".codex", ".git")


@dataclass(slots=True)
class _Project:
    """The runs that are at work in a project, and the folders that were made for them."""

    runs: int = 0
    made: list[Path] = field(default_factory=list[Path])


_projects: dict[Path, _Project] = {}
_changing = threading.Lock()


@asynccontextmanager
async def mount_points(cwd: Path) -> AsyncGenerator[None]:
    """Has the folders in cwd for as long as the block lasts. Those that have a use of their own by then are left."""
    await asyncio.to_thread(_come, cwd)
    try:
        yield
    finally:
        await asyncio.to_thread(_leave, cwd)


def _come(cwd: Path) -> None:
    with _changing:
        project = _projects.setdefault(cwd, _Project())
        project.runs += 1
        inside = any((folder / ".git").exists() for folder in cwd.parents)  # of a repository, which stays the root
        for path in (cwd / name for name in NAMES if not (inside and name == ".git")):
            with suppress(OSError):  # it is there, or Codex will say what is wrong
                path.mkdir()
                project.made.append(path)


def _leave(cwd: Path) -> None:
    with _changing:
        project = _projects[cwd]
        project.runs -= 1
        if project.runs:
            return
        del _projects[cwd]
        for path in project.made:
            with suppress(OSError):  # it is not empty, or gone
                path.rmdir()
