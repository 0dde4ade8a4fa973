"""The place of a host on disk and the first line that is said at its socket. Standard library only.

hosts/<key>/   0700    one host for each version, Python environment and home
  lock                 flock held by the host for its life: whoever has it is the host
  sock         0600    where it listens
  json                 who it is: pid, start time, versions, the socket to use
  log                  what it logged, rotated
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import sys
import zlib
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from orchestrator import __version__
from orchestrator.home import default_home, make_directory
from orchestrator.host.lines import parsed

API = 1
"""Version of what is said at the socket. Peers of another one do not talk to each other."""
PATH_BYTES = 100
"""Longer socket paths are refused by the kernel (104 to 108 bytes) and are reached through a short link."""


class HostError(Exception):
    """No host can be reached or started; the message says why and what to do."""


class HostDefect(HostError):
    """A host that works otherwise met a defect with this client; the message says where to read of it."""


class NoHostPossible(HostError):
    """No host can be had here at all, as in a sandbox; waiting would not help."""


class Place(NamedTuple):
    """The directory of one host."""

    directory: str

    @classmethod
    def own(cls) -> Place:
        """That of the host which serves this version in this Python environment."""
        prefix = os.fsencode(sys.prefix)
        digest = f"{zlib.crc32(prefix):08x}{zlib.crc32(prefix[::-1]):08x}"
        return cls(os.path.join(default_home(), "hosts", f"{API}-{__version__}-{digest}"))

    @property
    def key(self) -> str:
        """API version, distribution version and Python environment in one name."""
        return os.path.basename(self.directory)

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return self.file("sock")

    @property
    def log(self) -> str:
        """The path of the log."""
        return self.file("log")

    def file(self, name: str) -> str:
        """The path of `sock`, `lock`, `json` or `log`."""
        return os.path.join(self.directory, name)

    def make(self) -> None:
        """Makes the directory, for the user alone.

        Raises:
            NoHostPossible: it cannot be made, or is open to others.
        """
        try:
            make_directory(self.directory)
            facts = os.stat(self.directory)
        except OSError as error:
            raise NoHostPossible(f"cannot write {self.directory}: {error.strerror}; set ORCHESTRATOR_HOME") from error
        if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise NoHostPossible(
                f"{self.directory} is not yours alone; make it so (chmod 700), or set ORCHESTRATOR_HOME"
            )

    def take(self) -> int | None:
        """The lock's descriptor, if no host holds it. Never waits; the lock goes with the last copy of it.

        Raises:
            NoHostPossible: the lock file cannot be used.
        """
        path = self.file("lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NoHostPossible(f"cannot use {path}: {error.strerror}; remove it if it is not ours") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise NoHostPossible(
                f"cannot lock {path}: {error.strerror}; choose an ORCHESTRATOR_HOME on a local disk"
            ) from error
        return descriptor

    def about(self) -> dict[str, Any]:
        """What `json` says of the last host here; nothing when it cannot be read."""
        with contextlib.suppress(OSError), open(self.file("json"), "rb") as file:
            return parsed(file.read())
        return {}

    def describe(self, about: Mapping[str, Any]) -> None:
        """Replaces `json`."""
        temporary = self.file(f"json.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dict(about), file)
        os.replace(temporary, self.file("json"))


def dial(path: str, timeout_s: float) -> socket.socket | None:
    """A connection to the socket at the path; None where nobody listens.

    Raises:
        HostError: what listens there belongs to another user.
        NoHostPossible: this process may not connect to it, as in the sandboxes of agents.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with within_reach(path) as short:
            connection.connect(short)
    except PermissionError as error:
        connection.close()
        raise NoHostPossible(f"no connection to {path} is permitted here ({error.strerror})") from error
    except OSError:
        connection.close()
        return None
    if peer_uid(connection) != os.getuid():
        connection.close()
        raise HostError(f"{path} is served by another user; set ORCHESTRATOR_HOME to a directory of your own")
    return connection


@contextlib.contextmanager
def within_reach(path: str) -> Generator[str]:
    """The path itself, or for a long one a short way to it that exists inside the block."""
    if len(os.fsencode(path)) <= PATH_BYTES:
        yield path
        return
    import tempfile

    directory, name = os.path.split(path)
    for root in (tempfile.gettempdir(), "/tmp"):
        with tempfile.TemporaryDirectory(prefix="orc-", dir=root) as folder:
            link = os.path.join(folder, "d")
            if len(os.fsencode(link)) + len(name) + 1 <= PATH_BYTES:
                os.symlink(directory, link)
                yield os.path.join(link, name)
                return
    raise OSError(f"no temporary directory has a path short enough to reach {path}")


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket, as the kernel knows it."""
    if sys.platform == "linux":
        return _credentials(connection)[1]
    local_peercred, size = 1, struct.calcsize("IIh16I")  # struct xucred: version, uid, number of groups, groups
    return struct.unpack("IIh16I", connection.getsockopt(0, local_peercred, size))[1]


def peer_pid(connection: socket.socket) -> int | None:
    """The process at the other end, where the kernel tells it."""
    return _credentials(connection)[0] if sys.platform == "linux" else None


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end, on Linux (struct ucred)."""
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))


SOCKET_VARIABLE = "ORCHESTRATOR_RUN_SOCKET"
"""Where the agent of a run is heard, in its environment."""
TOOLSETS = ("agent", "team", "workspace")
"""The sets of tools that a client may want: `team` beside the usual ones, `agent` for the agent of a run, which gets no
others. `doors/schemas.py` says what is in them."""


def hello(**more: Any) -> dict[str, Any]:
    """The first line that a client says, as JSON: who it is, and where. The environment stays in the host's memory."""
    return {"orchestrator": API, "build": __version__, "cwd": os.getcwd(), "env": dict(os.environ), **more}
