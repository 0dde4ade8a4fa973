"""Where the user's own directory is. Standard library only, for the bridge looks here too."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_home() -> Path:
    """`$ORCHESTRATOR_HOME`, otherwise the platform's user state directory, as platformdirs has it."""
    if given := os.environ.get("ORCHESTRATOR_HOME"):
        return Path(given).absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/orchestrator").expanduser()
    state = os.environ.get("XDG_STATE_HOME", "").strip() or "~/.local/state"
    return Path(state).expanduser() / "orchestrator"


def make_directory(path: Path) -> None:
    """Makes a directory, and what is missing above it, for the user alone: `mkdir(parents=True)` opens the parents."""
    if not path.parent.is_dir():
        make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
