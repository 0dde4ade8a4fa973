"""What the shell completes: run ids and agents' names of this directory."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.store.layout import RUN_ID, Workspace


def names(incomplete: str) -> list[str]:
    """Agents' names, and the newest runs."""
    root = Workspace(Path.cwd()).root
    agents = _list(root / "names")
    runs = sorted((name for name in _list(root / "runs") if RUN_ID.fullmatch(name)), reverse=True)[:50]
    return [name for name in (*sorted(agents), *runs) if name.startswith(incomplete)]


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
