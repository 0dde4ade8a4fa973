"""Who owns a run: the lock, which decides, and `owner.json`, which tells others whom to ask."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator

from orchestrator.errors import Conflict, StoreError
from orchestrator.files import open_file
from orchestrator.model import JsonObject, as_object
from orchestrator.store.layout import RunDir, read_json


@contextlib.contextmanager
def locked(run_dir: RunDir) -> Generator[int]:
    """The run's lock, which stays held if the block succeeds.

    Raises:
        Conflict: another process holds it.
    """
    descriptor = open_file(run_dir.file("lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"{run_dir.run_id} is owned by another process") from None
    except BaseException:
        os.close(descriptor)
        raise


def read_owner(run_dir: RunDir) -> JsonObject:
    """What stands in `owner.json`; nothing if it is missing or damaged, for that keeps no run from being ended."""
    try:
        return read_json(run_dir.file("owner.json")) or {}
    except StoreError:
        return {}


def is_owned(run_dir: RunDir) -> bool:
    """Whether the process that owns the run is there, as far as `owner.json` tells: the lock alone decides."""
    return owner_alive(run_dir) is True


def owner_alive(run_dir: RunDir) -> bool | None:
    """The same; None if its owner is one of another machine or boot, of which nothing is known here."""
    from orchestrator.process import ProcessId  # it needs psutil; where nothing runs, nobody asks

    try:
        return ProcessId.from_json(read_owner(run_dir)).alive
    except TypeError:
        return False


def epoch_of(owner: JsonObject) -> int:
    """How many owners the run had."""
    epoch = owner.get("epoch")
    return epoch if isinstance(epoch, int) and 0 <= epoch < 2**53 else 0


def agent_of(owner: JsonObject) -> JsonObject | None:
    """The agent's process group, if it may still be there: not after a reboot, and not on another machine."""
    import socket

    from orchestrator.process import boot_id

    here = (owner.get("host"), owner.get("boot_id")) == (socket.gethostname(), boot_id())
    return as_object(owner.get("agent")) if here else None
