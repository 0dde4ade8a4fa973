"""Waits that a client was given as tasks: one small file each in the home, so that any later process knows them."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from pathlib import Path

import orjson

from orchestrator.errors import StoreError
from orchestrator.home import make_directory
from orchestrator.model import JsonObject, as_object
from orchestrator.store.layout import Home, replace_file

TTL_S = 30 * 86_400
"""How long a wait is remembered after it was last changed."""
TASK_ID = re.compile(r"wait_[0-9a-f]{24}|run_[0-9a-z]{1,22}")
"""Of a wait; a run is its own task, of which is kept only that it ended before its run."""


def new_task(home: Home, wanted: JsonObject) -> str:
    """Remembers a wait. Returns its id, which nobody can guess. Durable when this returns; blocks on the disk.

    Raises:
        StoreError: it cannot be written.
    """
    task_id = f"wait_{secrets.token_hex(12)}"
    _prune(home.path / "tasks")
    save_task(home, task_id, wanted)
    return task_id


def save_task(home: Home, task_id: str, wanted: JsonObject) -> None:
    """Replaces what is known of a wait; see `new_task`."""
    path = home.path / "tasks" / task_id
    try:
        make_directory(path.parent)
        replace_file(str(path), orjson.dumps(wanted), durable=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def find_task(home: Home, task_id: str) -> JsonObject | None:
    """What is known of a wait; None if that is nothing. Blocks on the disk."""
    if not TASK_ID.fullmatch(task_id):
        return None
    with contextlib.suppress(OSError, ValueError):
        return as_object(orjson.loads((home.path / "tasks" / task_id).read_bytes()))
    return None


def _prune(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - TTL_S:
                path.unlink(missing_ok=True)
