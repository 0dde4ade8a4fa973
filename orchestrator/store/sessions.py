"""Sessions, the names of their agents, and idempotency keys: what has to hold across processes.

A session is a conversation with one agent; its runs come one after the other. `sessions/<id>.json` is written by the
process that holds `<id>.lock`, so nobody loses an update; `<id>.runs` is append-only, one run id a line, so any
process can add to it. Names and keys are files created exclusively: the file system decides who came first.

A session without a run on disk may be removed, by who holds both `<id>.lock` and `<id>.runs`. A run that is added is
on disk already and waits for `<id>.runs`: it is seen by who removes, or finds the session gone and is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import re
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import orjson

from orchestrator.errors import AgentNotFound, InvalidArgument, SessionNotFound, StoreError, nearest
from orchestrator.files import open_file, read_file
from orchestrator.model import Document, JsonObject
from orchestrator.store.layout import Workspace, read_json, replace_file, sync_directory, write_all, write_new

_FIRST = ("amber bold brisk calm clear deft eager fair fleet gentle keen kind lively lucid merry mild nimble noble "
          "patient plain quick quiet ready sharp spry steady sunny swift tidy warm wise witty").split()  # fmt: skip
_SECOND = ("alder badger beech bison cedar crane dove elm falcon finch fox heron ibis jay kestrel lark linden lynx "
           "maple marten otter owl pine plover raven robin rowan seal stork swan thrush wren").split()  # fmt: skip

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Document):
    """One conversation with one agent."""

    session_id: str
    agent_name: str
    backend: str
    native_session_id: str | None = None


def load(workspace: Workspace, session_id: str) -> Session:
    """The session.

    Raises:
        SessionNotFound: there is none of that id in this workspace.
    """
    document = read_json(workspace.session(session_id))
    if document is None:
        raise SessionNotFound(
            f"no session {session_id!r} in {workspace.root}; get_run names the session of each run, and sessions "
            "can only be resumed with the cwd that they were made with"
        )
    try:
        return Session.from_json(document)
    except TypeError as error:
        raise StoreError(f"{workspace.session(session_id)} is damaged: {error}") from error


def save(workspace: Workspace, session: Session, *, durable: bool) -> None:
    """Writes the session. Only for who made it just now or holds its lock."""
    replace_file(str(workspace.session(session.session_id)), orjson.dumps(session.to_json()), durable=durable)


def add_run(workspace: Workspace, session_id: str, run_id: str) -> None:
    """Notes that a run, which is on disk, belongs to the session; the last one noted is the agent's newest.

    Raises:
        SessionNotFound: the session was removed meanwhile.
    """
    path = workspace.session(session_id).with_suffix(".runs")
    with _exclusive(path) as descriptor:
        if not workspace.session(session_id).exists():
            path.unlink(missing_ok=True)  # it may be made anew just now
            raise SessionNotFound(f"session {session_id!r} was just removed with its last run; spawn a new run")
        write_all(descriptor, f"{run_id}\n".encode())


def last_run(workspace: Workspace, session_id: str) -> str | None:
    """The id of the newest run of a session, if it has any that can be read."""
    with contextlib.suppress(OSError, IndexError, UnicodeDecodeError):
        return read_file(workspace.session(session_id).with_suffix(".runs")).decode("ascii").split()[-1]
    return None


def remove(workspace: Workspace, session_id: str) -> None:
    """Takes back a session that has no run: one that was made a moment ago, or one that `retire` looked at."""
    for suffix in (".json", ".inbox.jsonl", ".inbox.seq", ".runs", ".lock"):
        workspace.session(session_id).with_suffix(suffix).unlink(missing_ok=True)


def retire(workspace: Workspace, session_id: str) -> bool:
    """Removes a session of which no run is on disk, with its inbox and the name of its agent.

    Returns:
        False, with all left as it is, if there is a run of it or somebody uses it, or if none was ever noted.
    """
    if not _is_bereft(workspace, session_id):
        return False
    lock = SessionLock(workspace, session_id)
    if not lock.acquire():
        return False
    try:
        document = read_json(workspace.session(session_id))
        if document is None:  # somebody was faster; no run can be added now
            remove(workspace, session_id)
            return False
        with _exclusive(workspace.session(session_id).with_suffix(".runs")):
            if not _is_bereft(workspace, session_id):
                return False
            remove(workspace, session_id)
            with contextlib.suppress(OSError, InvalidArgument):  # what is no name of this session stays
                name = workspace.name(str(document.get("agent_name")))
                if read_file(name, 100) == session_id.encode():
                    name.unlink()
    finally:
        lock.release()
    return True


def _is_bereft(workspace: Workspace, session_id: str) -> bool:
    """Whether runs of a session were noted and all of them are gone, as far as can be seen."""
    try:
        noted = read_file(workspace.session(session_id).with_suffix(".runs")).decode("ascii").split()
        return bool(noted) and all(_is_gone(workspace.run(run_id).path) for run_id in noted)
    except (OSError, UnicodeDecodeError, InvalidArgument):
        return False


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    return False


def newest_run(workspace: Workspace, agent_name: str) -> str:
    """The id of the newest run of the agent.

    Raises:
        AgentNotFound: nobody has that name in this workspace.
    """
    entry = workspace.name(agent_name)
    with contextlib.suppress(OSError, UnicodeDecodeError, InvalidArgument):
        session_id = read_file(entry, 100).decode("ascii")  # empty for a moment, or for ever after a crash
        if (run_id := last_run(workspace, session_id)) is not None:
            return run_id
    names = os.listdir(workspace.root / "names") if workspace.root.is_dir() else []  # noqa: PTH208
    raise AgentNotFound(f"no agent {agent_name!r} in {workspace.cwd}{nearest(agent_name, names) or '; call list_runs'}")


def reserve_name(workspace: Workspace, wanted: str | None, session_id: str) -> str:
    """Takes a name for a new agent: the wanted one, or with a random ending if that is taken. Takes constant time."""
    stem = wanted or f"{random.choice(_FIRST)}-{random.choice(_SECOND)}"
    name = stem
    for _ in range(100):
        if write_new(str(workspace.name(name)), session_id.encode(), exist_ok=True):
            return name
        name = f"{stem[:56]}-{secrets.token_hex(3)}"
    raise StoreError(f"could not find a free name like {stem!r}")


def release_name(workspace: Workspace, name: str) -> None:
    """Gives a name back that was taken a moment ago."""
    workspace.name(name).unlink(missing_ok=True)


def key_digest(key: str) -> str:
    """The file name of an idempotency key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def find_key(workspace: Workspace, digest: str) -> JsonObject | None:
    """What stands under an idempotency key: `{run_id, fingerprint}`; None if nobody used it or the run is gone."""
    entry = read_json(workspace.key(digest))
    if entry is None or workspace.run(entry["run_id"]).path.is_dir():
        return entry
    with _exclusive(workspace.root / "keys" / ".lock"):  # or two would remove it, the second what the first then put
        entry = read_json(workspace.key(digest))
        if entry is None or workspace.run(entry["run_id"]).path.is_dir():
            return entry
        workspace.key(digest).unlink()
        return None


def release_key(workspace: Workspace, digest: str, run_id: str) -> None:
    """Gives a key back whose run is gone."""
    if not _DIGEST.fullmatch(digest):  # it comes from a file that agents can write
        return
    with _exclusive(workspace.root / "keys" / ".lock"):
        if (read_json(workspace.key(digest)) or {}).get("run_id") == run_id:
            workspace.key(digest).unlink()


@contextlib.contextmanager
def _exclusive(path: Path) -> Generator[int]:
    """A file of which one process at a time has the lock; what is written to it is appended."""
    descriptor = open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def take_key(workspace: Workspace, digest: str, entry: JsonObject) -> bool:
    """Puts an entry under a key, whole and durable. Returns False if somebody was faster."""
    temporary = workspace.root / "keys" / f".{secrets.token_hex(8)}"
    try:
        write_new(str(temporary), orjson.dumps(entry))
        os.link(temporary, workspace.key(digest))
        sync_directory(str(temporary.parent))
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


class SessionLock:
    """The right to be the session's live owner, held by one run at a time in all processes."""

    def __init__(self, workspace: Workspace, session_id: str) -> None:
        self._path = workspace.session(session_id).with_suffix(".lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock if it is free; never waits."""
        descriptor = open_file(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not os.fstat(descriptor).st_nlink:  # it was removed with its session: it keeps nobody else out
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Gives the lock back; harmless without it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
