"""Facts about processes, all through psutil: who we are, whether somebody named in a file is still there, and what a
dead owner of runs left behind.

A process is named by boot id, pid and start time together, so that a reused pid or a restarted machine is never taken
for the process that wrote the file.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from orchestrator.model import Document, JsonObject

logger = logging.getLogger(__name__)

MARKER = "ORCHESTRATOR_RUN_ID"
"""In the environment of every process of a local agent: the run that it belongs to."""
FILES_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)
"""The limits on open files as they were when this process began: agents get these."""
REAP_S = 2.0
"""How long a process may take to end before it is killed."""

_ROUNDS = 4
_SAME_START_S = 0.02
"""psutil computes start times from clock ticks; two readings of one process differ by less than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId(Document):
    """One process on one boot of one machine. `start_time` is as `start_of` has it."""

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
            same = abs(start_of(self.pid) - self.start_time) < _SAME_START_S
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@cache
def boot_id() -> str:
    """Changes with every start of the machine, and differs between containers, whose pids mean nothing to others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    except OSError:
        return str(int(psutil.boot_time()))


@cache
def _own(pid: int) -> ProcessId:
    return ProcessId(host=socket.gethostname(), boot_id=boot_id(), pid=pid, start_time=start_of(pid))


def start_of(pid: int) -> float:
    """Seconds from the machine's start to that of a process: what no clock that is set changes.

    Raises:
        psutil.Error: there is no such process.
    """
    while True:  # psutil adds the boot's time of day, which is another one after the clock was set
        boot = psutil.boot_time()
        start = psutil.Process(pid).create_time() - boot
        if psutil.boot_time() == boot:
            return start


def ancestor_among(pid: int, known: Collection[int]) -> int | None:
    """The nearest ancestor of a process, or the process itself, that is one of the known ones."""
    try:
        process = psutil.Process(pid)
        return next((p.pid for p in (process, *process.parents()) if p.pid in known), None)
    except psutil.Error:
        return None


def reap(
    runs: Mapping[str, JsonObject | None], family: Collection[psutil.Process] = (), *, at_once: bool = False
) -> int:
    """Ends what is left of the agents of these runs. Blocks for twice REAP_S at the most, if nothing new is started.

    Args:
        runs: by run id, the agent's process group as `owner.json` has it, if it has one.
        family: further processes that are known to be of them.
        at_once: kill, without asking first.

    Returns:
        How many processes there were.
    """
    ended: list[int] = []
    for _ in range(_ROUNDS):  # what was just being started when we looked is found the next time
        found = [process for process in psutil.process_iter() if process in family or _is_left_of(process, runs)]
        found = [process for process in found if not _has_ended(process)]
        if not found:
            break
        ended += [process.pid for process in found]
        _end(found, at_once=at_once)
    if ended:
        logger.info("ended %d processes that were left behind: %s", len(ended), ended)
    return len(ended)


def _end(processes: list[psutil.Process], *, at_once: bool) -> None:
    for kill in (psutil.Process.kill,) if at_once else (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                kill(process)
            except psutil.Error:
                continue
        if _all_end(processes, REAP_S):
            return


def _all_end(processes: list[psutil.Process], within_s: float) -> bool:
    """Waits until all have ended. A zombie has: whoever should collect it may never do so, as in many containers."""
    deadline = time.monotonic() + within_s
    while not all(map(_has_ended, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _is_left_of(process: psutil.Process, runs: Mapping[str, JsonObject | None]) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        if process.environ().get(MARKER) in runs:
            return True
        group = os.getpgid(process.pid)
        return any(agent and _in_group(process, group, agent) for agent in runs.values())
    except (psutil.Error, OSError):  # another user's, or gone
        return False


def _in_group(process: psutil.Process, group: int, agent: JsonObject) -> bool:
    """Whether a process is of the agent's group. One that has the leader's pid must be the leader: pids are reused."""
    since = agent.get("start_time")
    if group != agent.get("pgid") or not isinstance(since, (int, float)):
        return False
    started = start_of(process.pid)
    if process.pid == agent.get("pid"):
        return abs(started - since) < _SAME_START_S
    return started >= since - _SAME_START_S and not _is_taken(agent, since)


def _is_taken(agent: JsonObject, since: float) -> bool:
    """Whether the group's number now belongs to somebody else's process."""
    try:
        return abs(start_of(agent["pid"]) - since) >= _SAME_START_S
    except (psutil.Error, KeyError, TypeError):
        return False
