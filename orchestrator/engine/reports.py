"""Reports: Markdown files that agents write into `<cwd>/.orchestrator/reports/`, told with the result of their run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from orchestrator.files import open_file

FOLDER = ".orchestrator/reports"
MOST = 20
"""Reports that are told of one run at most, the newest of them."""
MOST_SEEN = 2_000
MOST_BYTES = 4 * 2**20
DEEPEST = 3


class Reports:
    """The reports in a directory as they were when this was made. Blocks on the disk."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._before = self._seen()

    def written(self) -> list[str]:
        """The paths below cwd of those that were written since, oldest first."""
        now = self._seen()
        new = [path for path, facts in now.items() if self._before.get(path) != facts]
        return sorted(new, key=lambda path: now[path])[-MOST:]

    def _seen(self) -> dict[str, tuple[int, int]]:
        """The reports with when they were last written, and their sizes."""
        top = self._cwd / FOLDER
        if top.is_symlink() or top.parent.is_symlink():
            return {}
        return dict(islice(self._below(top, DEEPEST), MOST_SEEN))

    def _below(self, folder: Path, deep: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Links are not followed."""
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and deep:
                    yield from self._below(Path(entry.path), deep - 1)
                elif entry.name.endswith(".md") and entry.is_file(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    yield str(Path(entry.path).relative_to(self._cwd)), (facts.st_mtime_ns, facts.st_size)


def bring(cwd: Path, home: Path, name: str, run_id: str) -> str | None:
    """Copies a report to where the caller finds it, over nothing, and through no link: agents write at both ends.

    Returns:
        Its path below the caller's directory; None if it could not be brought.
    """
    source, folder = cwd / name, (home / name).parent
    if not source.resolve().is_relative_to(cwd.resolve()):
        return None
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(home.resolve()):
            return None
        content = _read(source)
        for target in (home / name, folder / f"{source.stem}-{run_id}{source.suffix}"):
            with suppress(FileExistsError):
                descriptor = open_file(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                return str(target.relative_to(home))
    return None


def _read(path: Path) -> bytes:
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read(MOST_BYTES)
