"""Facts about processes, all through psutil: who we are, and whether somebody named in a file is still there.

A process is named by boot id, pid and start time together, so that a reused pid or a restarted machine is never taken
for the process that wrote the file.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from orchestrator.model import Document

_SAME_START_S = 0.02
"""psutil computes start times from clock ticks; two readings of one process differ by less than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId(Document):
    """One process on one boot of one machine. `start_time` is seconds since 1970."""

    host: str
    boot_id: str
    pid: int
    start_time: float

    @classmethod
    def own(cls) -> ProcessId:
        """This process."""
        return _own(os.getpid())

    @property
    def alive(self) -> bool | None:
        """Whether it runs still; None when it belongs to another machine or boot, of which nothing is known here."""
        if (self.host, self.boot_id) != (socket.gethostname(), boot_id()):
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.start_time) < _SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@cache
def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(int(psutil.boot_time()))


@cache
def _own(pid: int) -> ProcessId:
    start = psutil.Process(pid).create_time()
    return ProcessId(host=socket.gethostname(), boot_id=boot_id(), pid=pid, start_time=start)
