"""What a repository ignores in a place of a run's own. It is no work, as a rule, and goes with the place: so it is
named. What an agent may have hidden there keeps the place: other repositories, and what only its own rules ignore.

Blocks; called in threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.model import JsonObject
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.snapshots import digest_of, shown

_TOOLS = frozenset((
    *(b"node_modules", b"bower_components", b".venv", b"venv", b"__pycache__", b"target", b"build", b"dist", b"_build"),
    *(b".pytest_cache", b".mypy_cache", b".ruff_cache", b".hypothesis", b".tox", b".nox", b".eggs", b".gradle"),
    *(b".next", b".nuxt", b".turbo", b".cache", b".parcel-cache", b".terraform", b"coverage", b"htmlcov"),
    *(b".orchestrator", b".coverage", b".DS_Store"),
))  # fmt: skip
"""Folders and files that tools make again."""
_OF_TOOLS = (b".pyc", b".pyo", b".egg-info")


class Ignored(NamedTuple):
    """What is ignored, without what tools make again.

    Attributes:
        named: all of it; a folder that is ignored as a whole ends with a slash.
        kept: of that, what keeps the place.
    """

    named: tuple[str, ...]
    kept: tuple[str, ...]


def rules_of(git: Git) -> JsonObject:
    """The rules that lie outside of the working tree, to be compared later."""
    file = git.asks("config", "--type=path", "core.excludesFile")
    own = git.path_of("info/exclude")
    return {"file": file, "own": digest_of(own) if own.is_file() else None}


def ignored_in(git: Git, base: str, rules: JsonObject) -> Ignored:
    """What is ignored in a working tree.

    Args:
        git: at its top, with an index that knows its files.
        base: the commit or tree that the run began with.
        rules: as `rules_of` found them then.

    Raises:
        GitError: it cannot be read.
    """
    listed = set(_listed(git, b":/", "--directory"))
    paths = sorted(path for path in listed if listed.isdisjoint(_above(path)))
    sources = _sources(git, paths)
    # a folder that no rule names is listed if all that is in it is ignored
    inner = [path for folder in paths if folder not in sources and folder.endswith(b"/")
             for path in _listed(git, b":(top,literal)" + folder)]  # fmt: skip
    sources |= _sources(git, inner)
    old, same = _Rules(git, base), rules == rules_of(git)
    hidden = [path for path, source in sources.items() if not old.had(source, same=same)]
    repositories = [path for path in paths if path.endswith(b"/") and _holds_repository(git.where, path)]
    return Ignored(tuple(map(shown, paths)), tuple(map(shown, dict.fromkeys((*repositories, *hidden)))))


def _listed(git: Git, where: bytes, *how: str) -> Iterator[bytes]:
    listed = git.run("ls-files", "-o", "-i", "--exclude-standard", "-z", *how, "--", os.fsdecode(where))
    return (path for path in listed.split(b"\0") if path and not _is_of_tools(path))


def _above(path: bytes) -> list[bytes]:
    """The folders that a path is in."""
    names = path.rstrip(b"/").split(b"/")
    return [b"/".join(names[:count]) + b"/" for count in range(1, len(names))]


def _is_of_tools(path: bytes) -> bool:
    names = path.rstrip(b"/").split(b"/")
    return any(name in _TOOLS or name.endswith(_OF_TOOLS) for name in names)


def _sources(git: Git, paths: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    """For what a rule names: the file with the rule, and the rule."""
    if not paths:
        return {}
    asked = b"".join(path + b"\0" for path in paths)
    fields = git.run("check-ignore", "--no-index", "-v", "-z", "--stdin", input=asked, ok=(0, 1)).split(b"\0")
    return {path: (file, rule) for file, _, rule, path in zip(*(fields[n::4] for n in range(4)), strict=False)}


class _Rules:
    """The rules as they were when the run began."""

    def __init__(self, git: Git, base: str) -> None:
        self._git = git
        self._base = base
        self._known: dict[bytes, list[bytes]] = {}

    def had(self, source: tuple[bytes, bytes], *, same: bool) -> bool:
        """Whether there was this rule.

        Args:
            same: the rules outside of the working tree are those of then.
        """
        file, rule = source
        path = Path(os.fsdecode(file))
        if path.is_absolute() or path.name != ".gitignore":
            return same
        if file not in self._known:
            done = self._git.attempt("cat-file", "blob", f"{self._base}:{path}")
            self._known[file] = [line.strip() for line in done.out.splitlines()]
        return rule.strip() in self._known[file]


def _holds_repository(top: Path, folder: bytes) -> bool:
    for _, folders, files in os.walk(os.fsencode(top) + b"/" + folder):
        if b".git" in folders or b".git" in files:
            return True
        folders[:] = [name for name in folders if not _is_of_tools(name)]
    return False
