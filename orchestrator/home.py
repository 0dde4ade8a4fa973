"""Where the user's own directory is. For the bridge too, which every client starts: pathlib alone would take 4 ms."""

from __future__ import annotations

import os
import sys


def default_home() -> str:
    """`$ORCHESTRATOR_HOME`, otherwise the platform's user state directory, as platformdirs has it."""
    if given := os.environ.get("ORCHESTRATOR_HOME"):
        return given if os.path.isabs(given) else os.path.abspath(given)
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/orchestrator")
    state = os.environ.get("XDG_STATE_HOME", "").strip() or "~/.local/state"
    return os.path.join(os.path.abspath(os.path.expanduser(state)), "orchestrator")


def make_directory(path: str | os.PathLike[str]) -> None:
    """Makes a directory, and what is missing above it, for the user alone: `os.makedirs` opens the parents."""
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        make_directory(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
