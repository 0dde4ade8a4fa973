"""Files of the user that git writes a patch into: as they were before, for when git fails halfway."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.errors import GitError
from orchestrator.workspaces import git as commands
from orchestrator.workspaces.git import Git, told

_Facts = tuple[str, bytes] | None


def apply_whole(git: Git, patch: Path, paths: Sequence[bytes], how: Sequence[str], scratch: Path) -> None:
    """Applies a patch to the working tree, or leaves it as it is. What was written is known from right before each
    attempt: while a lock is waited for, the user may go on.

    Args:
        paths: what the patch writes or removes.
        how: options of `git apply`, as `--index`.
        scratch: takes what is only needed for that.

    Raises:
        GitError: it does not apply. What git had written is written back; what somebody else wrote meanwhile stays.
    """
    deadline, pause = time.monotonic() + commands.LOCKED_S, 0.02
    while True:
        with TemporaryDirectory(prefix="saved-", dir=scratch) as folder:
            saved = _Saved(git, Path(folder), paths)
            try:
                done = git.attempt("apply", "--binary", *how, str(patch))
            except BaseException:
                saved.restore(patch, how)
                raise
            if not done.code:
                return
            if not done.locked:  # git takes its lock before it writes anything
                saved.restore(patch, how)
        if not done.locked or time.monotonic() > deadline:
            raise GitError(f"git apply failed: {told(done.err) or f'exit code {done.code}'}")
        time.sleep(pause)
        pause = min(pause * 2, 0.5)


class _Saved:
    """Files as they were."""

    def __init__(self, git: Git, folder: Path, paths: Sequence[bytes]) -> None:
        self._git = git
        self._before, self._after = folder / "before", folder / "after"
        self._paths = [os.fsdecode(path) for path in paths]
        for path in self._paths:
            _copy(git.where / path, self._before / path)

    def restore(self, patch: Path, how: Sequence[str]) -> None:
        """Writes back what git wrote or removed."""
        self._write_again(patch, how)
        chosen = [path for path in self._paths if self._is_gits(path)]
        for path in sorted(chosen, reverse=True):  # what is in a folder goes before the folder
            place = self._git.where / path
            with suppress(OSError):
                place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
        for path in chosen:
            if not os.path.lexists(self._git.where / path):
                _copy(self._before / path, self._git.where / path)

    def _write_again(self, patch: Path, how: Sequence[str]) -> None:
        """Has git write the same elsewhere, from the same files, as far as it comes."""
        for path in self._paths:
            _copy(self._before / path, self._after / path)
            for folder in Path(path).parents:
                rules = folder / ".gitattributes"
                if not os.path.lexists(self._after / rules):
                    _copy(self._git.where / rules, self._after / rules)
        self._after.mkdir(exist_ok=True)
        there = {"GIT_DIR": self._git.text("rev-parse", "--absolute-git-dir"), "GIT_WORK_TREE": str(self._after)}
        options = [option for option in how if option != "--index"]
        self._git.at(self._after, there).attempt("apply", "--binary", *options, str(patch))

    def _is_gits(self, path: str) -> bool:
        """Whether a file is another than before, and what git makes of it, or the beginning of that."""
        now, before, after = (_facts(top / path) for top in (self._git.where, self._before, self._after))
        if now == before:
            return False
        return now is None or now == after or bool(after and after[0] == now[0] and after[1].startswith(now[1]))


def _copy(path: Path, copy: Path) -> None:
    if path.is_symlink() or path.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)


def _facts(path: Path) -> _Facts:
    """What is at a path, but for its mode; None if nothing is."""
    try:
        if path.is_symlink():
            return "link", os.fsencode(path.readlink())
        return ("folder", b"") if path.is_dir() else ("file", path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
