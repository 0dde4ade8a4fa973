"""Where everything lies, and the few ways in which files are made, replaced and named.

All paths of the store are built here, and all names that come from outside are checked here before they become part
of a path. Directories are 0700 and files 0600 from the moment they exist.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from orchestrator.errors import InvalidArgument, StoreError, StoreVersion
from orchestrator.files import read_file
from orchestrator.home import default_home, make_directory
from orchestrator.model import JsonObject

FORMAT = "1"
"""The store format that this code writes. `VERSION` of a store holds it."""

RUN_ID = re.compile(r"run_[0-9a-z]{1,22}")
SESSION_ID = re.compile(r"ses_[0-9a-z]{1,22}")
AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_NETWORK = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs afs afpfs 9p drvfs vboxsf prl_fs webdav davfs fuse.davfs ceph fuse.ceph lustre "
    "glusterfs fuse.glusterfs beegfs gpfs fuse.sshfs fuse.rclone fuse.s3fs".split()
)


@dataclass(frozen=True, slots=True)
class RunDir:
    """The directory of one run and the names in it."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id, which is the directory's name."""
        return self.path.name

    @property
    def workspace(self) -> Workspace:
        """The store that holds the run."""
        return Workspace(self.path.parent.parent.parent)

    def file(self, name: str) -> str:
        """The path of `spec.json`, `events.jsonl`, `run.json`, `result.json`, `owner.json`, `lock` or `reserve`."""
        return os.path.join(self.path, name)  # noqa: PTH118  joins on a hot path

    def artifact_dir(self, seq: int, event_type: str) -> Path:
        """Where the oversize fields of one event lie."""
        return self.path / "artifacts" / f"{seq:06d}-{event_type}"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The store of one directory: `<cwd>/.orchestrator`."""

    cwd: Path

    @property
    def root(self) -> Path:
        """`<cwd>/.orchestrator`."""
        return self.cwd / ".orchestrator"

    def run(self, run_id: str) -> RunDir:
        """The directory of a run, whether it exists or not; the id is checked."""
        return RunDir(self.root / "runs" / checked(run_id, RUN_ID, "run_id"))

    def session(self, session_id: str) -> Path:
        """The file of a session."""
        return self.root / "sessions" / f"{checked(session_id, SESSION_ID, 'session_id')}.json"

    def name(self, agent_name: str) -> Path:
        """The file that reserves an agent's name and holds its session id."""
        return self.root / "names" / checked(agent_name, AGENT_NAME, "agent_name")

    def key(self, digest: str) -> Path:
        """The file that reserves an idempotency key."""
        return self.root / "keys" / digest

    def agent_names(self) -> list[str]:
        """The agents' names, in order."""
        return sorted(_names_in(self.root / "names"))

    def run_ids(self) -> list[str]:
        """The ids of its runs, newest first."""
        return sorted(filter(RUN_ID.fullmatch, _names_in(self.root / "runs")), reverse=True)

    def open(self) -> None:
        """Makes the store if it is missing and refuses one that this code cannot use.

        Raises:
            StoreVersion: another version wrote it.
            StoreError: it cannot be written, or lies on a network file system.
        """
        try:
            self.check_version()
            _refuse_network(self.cwd)
            if (self.root / "VERSION").exists():
                return
            for name in ("", "runs", "sessions", "names", "keys"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
            replace_file(str(self.root / ".gitignore"), b"*\n")
            replace_file(str(self.root / "VERSION"), f"{FORMAT}\n".encode())
        except OSError as error:
            raise StoreError(
                f"cannot write {self.root}: {error.strerror}; choose a cwd that you can write to"
            ) from error

    def check_version(self) -> None:
        """Refuses a store in a format that this code does not know. A missing store is none of its business."""
        try:
            version = (self.root / "VERSION").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot read {self.root / 'VERSION'}: {error.strerror}") from error
        if version != FORMAT:
            raise StoreVersion(
                f"{self.root} has store format {version[:20]!r}, this version knows {FORMAT!r}; "
                "upgrade orchestrator-mcp, or move the directory away"
            )


@dataclass(frozen=True, slots=True)
class Home:
    """The user's own directory: an index of runs, which is a cache, and the hosts.

    An entry is the path of a run's directory and, behind a null byte, the seal of its spec: agents may write to their
    workspace, and so to the runs in it, but not here.
    """

    path: Path

    @classmethod
    def default(cls) -> Home:
        """`$ORCHESTRATOR_HOME`, otherwise the platform's user state directory."""
        return cls(Path(default_home()))

    @property
    def runs(self) -> Path:
        """One file per run: the path of its directory."""
        return self.path / "runs"

    @property
    def live(self) -> Path:
        """The same for runs that are not over."""
        return self.path / "live"

    @property
    def outbox(self) -> Path:
        """The same for runs of whose end somebody is still to be told."""
        return self.path / "outbox"

    def add(self, run: RunDir, *, live: bool, seal: bytes = b"", owing: bool = False) -> None:
        """Enters a run into the index; a seal that is known stays.

        Args:
            owing: somebody is to be told when it is over.
        """
        content = os.fsencode(run.path)
        if seal := seal or self.seal(run):
            content += b"\0" + seal
        make_directory(self.runs)
        replace_file(str(self.runs / run.run_id), content)
        for folder in (*((self.live,) if live else ()), *((self.outbox,) if owing else ())):
            make_directory(folder)
            try:
                (folder / run.run_id).hardlink_to(self.runs / run.run_id)  # a name costs less than a file
            except OSError:
                replace_file(str(folder / run.run_id), content)

    def seal(self, run: RunDir) -> bytes:
        """The seal of a run's spec, as `add` got it; empty if the index never had it."""
        try:
            path, _, seal = (self.runs / run.run_id).read_bytes().partition(b"\0")
        except OSError:
            return b""
        return seal if path == os.fsencode(run.path) else b""

    def settle(self, run_id: str) -> None:
        """Takes a run that is over out of `live`."""
        (self.live / run_id).unlink(missing_ok=True)

    def forget(self, run_id: str) -> None:
        """Takes a run out of the index altogether: its directory is gone, or about to go."""
        for folder in (self.runs, self.live, self.outbox):
            (folder / run_id).unlink(missing_ok=True)
        self.deliveries(run_id).unlink(missing_ok=True)

    def delivered(self, run_id: str) -> None:
        """Everybody was told of the end of a run, or given up."""
        (self.outbox / run_id).unlink(missing_ok=True)

    def owed_seal(self, run_id: str) -> bytes:
        """The seal of the spec that says who is owed the end of a run; empty if nobody is, or it has none."""
        with contextlib.suppress(OSError):
            return (self.outbox / run_id).read_bytes().partition(b"\0")[2]
        return b""

    def deliveries(self, run_id: str) -> Path:
        """The file on who was told of the end of a run: here, where agents do not write."""
        return self.path / "deliveries" / f"{run_id}.jsonl"

    def living(self) -> list[RunDir]:
        """The runs that were not over when somebody last looked, oldest first; dead entries are pruned."""
        return self._in(self.live)

    def owing(self) -> list[RunDir]:
        """The runs of whose end somebody is still to be told, oldest first; dead entries are pruned."""
        return self._in(self.outbox)

    def _in(self, folder: Path) -> list[RunDir]:
        try:
            names = sorted(name for name in os.listdir(folder) if RUN_ID.fullmatch(name))  # noqa: PTH208
        except OSError:
            return []
        found: list[RunDir] = []
        for run_id in names:
            run = self.find(run_id) or self._pointer(folder / run_id)
            if run is not None:
                found.append(run)
            else:
                with contextlib.suppress(OSError):
                    (folder / run_id).unlink(missing_ok=True)
                self.find(run_id)  # which prunes what nothing else names now
        return found

    def webhook_secret(self, new: Callable[[], str]) -> str:
        """What webhooks are signed with: from a file that is the user's to read and to replace; made when missing."""
        path = self.path / "webhook_secret"
        if not path.exists():
            make_directory(self.path)
            whole = self.path / f".webhook_secret.{os.urandom(6).hex()}"
            write_new(str(whole), new().encode() + b"\n")
            with contextlib.suppress(FileExistsError):  # somebody else's is as good
                path.hardlink_to(whole)
            whole.unlink()
        return path.read_text(encoding="utf-8", errors="replace").strip()

    def find(self, run_id: str) -> RunDir | None:
        """The directory that the index names, if it still exists; a dead entry is pruned."""
        return self._pointer(self.runs / checked(run_id, RUN_ID, "run_id"))

    def _pointer(self, entry: Path) -> RunDir | None:
        try:
            run = RunDir(Path(os.fsdecode(entry.read_bytes().partition(b"\0")[0])))
            if run.run_id == entry.name and run.path.is_dir():
                return run
        except (OSError, ValueError):
            return None
        if not any((folder / entry.name).exists() for folder in (self.live, self.outbox) if folder != entry.parent):
            with contextlib.suppress(OSError):  # with it the seal of its spec goes, which live and owed runs need
                entry.unlink()
        return None


def checked(value: str, pattern: re.Pattern[str], what: str) -> str:
    """The value, if it is safe as a file name.

    Raises:
        InvalidArgument: it is not of the form that we give out ourselves.
    """
    if not pattern.fullmatch(value):
        raise InvalidArgument(f"{value[:80]!r} is not a valid {what}; use one that spawn_run or list_runs returned")
    return value


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def write_new(path: str, content: bytes, *, exist_ok: bool = False) -> bool:
    """Creates a file that must not exist yet. Returns False, and changes nothing, where it does and may."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if exist_ok:
            return False
        raise
    try:
        write_all(descriptor, content)
    except OSError:
        os.unlink(path)  # noqa: PTH108  a file that exists means something, even an empty one
        raise
    finally:
        os.close(descriptor)
    return True


def replace_file(path: str, content: bytes, *, durable: bool = False) -> None:
    """Writes a file so that every reader sees the old content or the new, never a part.

    Args:
        durable: fsync before the rename, and the directory after it.
    """
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"  # threads and processes may replace the same file
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, content)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)  # noqa: PTH104
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    if durable:
        sync_directory(os.path.dirname(path))  # noqa: PTH120


def write_all(descriptor: int, content: bytes) -> None:
    """`write(2)` until everything is written; a full disk shows as a short write first."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def write_from(descriptor: int, offset: int, content: bytes) -> None:
    """Replaces what a file has from an offset on; durable when it returns."""
    os.ftruncate(descriptor, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    write_all(descriptor, content)
    os.fsync(descriptor)


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str | Path) -> JsonObject | None:
    """A JSON object from a file; None where the file is missing.

    Raises:
        StoreError: it cannot be read or is no JSON object.
    """
    try:
        document: Any = orjson.loads(read_file(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise StoreError(f"{path} does not hold a JSON object")
    return document  # pyright: ignore[reportUnknownVariableType]


@lru_cache(maxsize=256)
def _file_system(device: int, path: str) -> str:
    """The type of the file system under a path. Mounts are matched by their longest prefix."""
    import psutil  # only who opens a store needs it

    best = ("", "")
    for mount in psutil.disk_partitions(all=True):
        inside = path == mount.mountpoint or path.startswith(mount.mountpoint.rstrip("/") + "/")
        if inside and len(mount.mountpoint) >= len(best[0]):
            best = (mount.mountpoint, mount.fstype)
    return best[1]


def _refuse_network(cwd: Path) -> None:
    kind = _file_system(cwd.stat().st_dev, str(cwd.resolve()))
    if kind.lower() in _NETWORK:
        raise StoreError(
            f"{cwd} lies on a network file system ({kind}), where locks do not hold; choose a cwd on a local disk"
        )
