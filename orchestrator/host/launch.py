"""Finding the host, or starting it. Standard library only.

Whoever wants a host and finds none takes the host's lock first and passes the descriptor on to the process that it
starts: at no moment can two starters make two hosts. The new process says through a pipe that it listens, or why not.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.home import default_home
from orchestrator.host.lines import parsed
from orchestrator.host.place import API, HostDefect, HostError, NoHostPossible, Place, dial

CONNECT_S = 2.0
START_S = 15.0
_PAUSE_S = 0.02
MOST_STARTS = 3

KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV"),
    "ORCHESTRATOR_HOST_IDLE_S",
    "ORCHESTRATOR_LOG_LEVEL",
    "ORCHESTRATOR_MAX_CONCURRENT_RUNS_LOCAL",
    "ORCHESTRATOR_MAX_CONCURRENT_RUNS_REMOTE",
    "ORCHESTRATOR_RATE_LIMIT_WAIT_S",
    "ORCHESTRATOR_DELIVERY_RETRY_S",
)
KEPT_PREFIXES = ("LC_", "XDG_", "PYTHON", "LD_", "DYLD_", "SSL_CERT_")
"""Never ORCHESTRATOR_RUN_ID: a host that an agent happened to start is not part of that agent's run."""


def connect(place: Place, first_line: Mapping[str, Any], within_s: float = START_S) -> tuple[socket.socket, bytes]:
    """A connection at which the host has said yes to the first line; the host is started if there is none.

    Returns:
        The connection, and what the host may have said behind its yes.

    Raises:
        HostError: there is no host and none can be started, or it refuses this client.
    """
    deadline = time.monotonic() + within_s
    place.make()
    redirected, starts = None, 0
    while time.monotonic() < deadline:
        connection = find(place, redirected)
        redirected = None
        if connection is None:
            if (lock := place.take()) is not None:
                starts += 1
                try:
                    if starts > MOST_STARTS:
                        raise NoHostPossible(f"the host ends as soon as it has started; see {place.log}")
                    start(place, lock, deadline)
                finally:
                    os.close(lock)
                continue
        else:
            try:
                answer, rest = greet(connection, first_line, deadline)
            except HostError:
                connection.close()
                raise
            if answer.get("ok"):
                connection.settimeout(None)
                return connection, rest
            connection.close()
            if "socket" in answer:  # it makes room for another one
                redirected = str(answer["socket"])
            elif "error" in answer:
                raise (HostDefect if answer.get("code") == "internal" else HostError)(str(answer["error"]))
        time.sleep(_PAUSE_S)  # it is just being started, or went away while we spoke
    pid = place.about().get("pid", "?")
    raise HostError(
        f"the host does not answer; see {place.log}, or end it with `kill -KILL {pid}`: its runs are found again"
    )


def find(place: Place, redirected: str | None = None) -> socket.socket | None:
    """A connection to the host, if there is one: at its socket, or where another one says it is to be found."""
    for path in (redirected, place.socket, place.about().get("socket")):
        if path and (connection := dial(str(path), CONNECT_S)):
            return connection
    return None


def greet(connection: socket.socket, first_line: Mapping[str, Any], deadline: float) -> tuple[dict[str, Any], bytes]:
    """Says the first line and reads the answer. An empty one means that the host is slow, or went away.

    Raises:
        HostError: what answers is no host of ours.
    """
    heard = b""
    try:
        connection.settimeout(max(deadline - time.monotonic(), 0.1))
        connection.sendall(json.dumps(first_line).encode() + b"\n")
        while b"\n" not in heard:
            if not (piece := connection.recv(65536)):
                return {}, b""
            heard += piece
    except OSError:
        return {}, b""
    line, _, rest = heard.partition(b"\n")
    answer = parsed(line)
    if answer.get("orchestrator") == API:
        return answer, rest
    raise HostError("what listens at the host's socket speaks another version; restart this client")


def connect_to(path: str, first_line: Mapping[str, Any]) -> tuple[socket.socket, bytes]:
    """A connection to one socket, for a client that no other one serves. See `connect`.

    Raises:
        NoHostPossible: nobody listens there, or refuses this client.
    """
    connection = dial(path, START_S) if path else None
    if connection is None:
        raise NoHostPossible("nobody listens there; its run is over")
    answer, rest = greet(connection, first_line, time.monotonic() + START_S)
    if not answer.get("ok"):
        connection.close()
        raise NoHostPossible(str(answer.get("error", "it is about to end")))
    connection.settimeout(None)
    return connection, rest


def start(place: Place, lock: int, deadline: float) -> None:
    """Starts the host as a process of its own, which inherits the lock. Returns once it listens.

    Raises:
        NoHostPossible: it ended before it listened, with its reason.
        HostError: it takes too long.
    """
    import subprocess

    reader, writer = os.pipe()
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    command = [sys.executable, "-P", "-m", "orchestrator", "host", "serve", "--detach"]
    numbers = ["--key", place.key, "--lock", str(lock), "--status", str(writer)]
    try:
        process = subprocess.Popen(
            [*command, *numbers],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,  # until it can log by itself
            cwd="/",
            env=host_environment(os.environ),
            start_new_session=True,
            pass_fds=(lock, writer),
        )
    except OSError as error:
        os.close(reader)
        raise NoHostPossible(f"cannot start the host: {error}") from error
    finally:
        os.close(writer)
        os.close(log)
    try:
        said = _read_all(reader, deadline)
    finally:
        os.close(reader)
    if said is None:
        process.kill()
        raise HostError(f"the host takes too long to start; see {place.log}")
    process.wait()  # it forks and ends at once; the host is nobody's child
    if said != b"listening":
        raise NoHostPossible(said.decode(errors="replace") or f"the host ended as it started; see {place.log}")


def host_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What the host keeps of its starter's environment. Agents get that of the client that spawned them."""
    kept = {name: value for name, value in env.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    return {**kept, "ORCHESTRATOR_HOME": default_home()}  # which may be relative to where the starter is


def _read_all(descriptor: int, deadline: float) -> bytes | None:
    said = b""
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
        if not (piece := os.read(descriptor, 4096)):
            return said
        said += piece
    return None
