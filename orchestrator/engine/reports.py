"""Reports: Markdown files that agents write into `<cwd>/.orchestrator/reports/`, told with the result of their run."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FOLDER = ".orchestrator/reports"
MOST = 20
"""Reports that are told of one run at most, the newest of them."""


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
        """The reports with when they were last written, and their sizes. Links are not followed."""
        found: dict[str, tuple[int, int]] = {}
        for folder, _, names in os.walk(self._cwd / FOLDER):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):
                    facts = path.lstat()
                    if name.endswith(".md") and not path.is_symlink():
                        found[str(path.relative_to(self._cwd))] = (facts.st_mtime_ns, facts.st_size)
        return found
