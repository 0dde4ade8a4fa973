"""Bringing a run into being: all that must be on disk before its id is returned, or nothing at all."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from orchestrator.errors import Conflict, InvalidArgument, StoreError
from orchestrator.model import JsonObject, RunSpec, compact
from orchestrator.store import sessions
from orchestrator.store.layout import Home, RunDir, Workspace, sync_directory
from orchestrator.store.log import RunLog
from orchestrator.store.masking import Mask, without_credentials
from orchestrator.store.reader import seal_of
from orchestrator.store.serial import serialisable, well_formed

logger = logging.getLogger(__name__)


class Created(NamedTuple):
    """A new run, owned by us, or the run that the same idempotency key made before."""

    spec: RunSpec
    log: RunLog | None
    existing: RunDir | None = None


def create_run(
    home: Home,
    spec: RunSpec,
    mask: Mask,
    *,
    nickname: str | None,
    idempotency_key: str | None,
    asked: JsonObject | None = None,
    socket: str | None = None,
) -> Created:
    """Writes a run to disk and takes its lock. Blocks on the disk; leaves nothing behind when it fails.

    Args:
        spec: without an agent name if it begins a session; the name is given here.
        nickname: the name wished for a new agent.
        idempotency_key: the same key with the same arguments gives the run that it gave before.
        asked: the arguments, without credentials, where the spec does not say them all as they were given.
        socket: where this process takes commands for its runs from others.

    Raises:
        Conflict: the key was used with other arguments.
        InvalidArgument: the name of the directory is no Unicode, so that no JSON could hold it.
        StoreError, StoreVersion: the workspace cannot be used.
    """
    workspace = Workspace(spec.cwd)
    if well_formed(str(spec.cwd)) != str(spec.cwd):
        raise InvalidArgument(f"the name of {str(spec.cwd)!r} is not UTF-8; choose a cwd whose name is")
    digest = sessions.key_digest(idempotency_key) if idempotency_key else None
    document = {**spec.to_json(), "backend_config": without_credentials(spec.backend_config)}
    document = compact({**serialisable(document), "key_digest": digest})
    lost = any(mask.value(document.get(key)) != document.get(key) for key in ("message", "checks", "acceptance"))
    masked = {"masked": True} if lost else {}
    kept = {key: document[key] for key in _KEPT if key in document}
    document = {**mask.value(document), **{key: str(getattr(spec, key)) for key in _NAMES}, **kept, **masked}
    entry = {"run_id": spec.run_id, "fingerprint": _digest(asked) if asked else _fingerprint(document, nickname)}
    workspace.open()
    if digest and (known := sessions.find_key(workspace, digest)):
        return Created(spec, None, _same(workspace, known, entry))
    try:
        with ExitStack() as undo:
            log, spec = _write(home, workspace, spec, document, mask, nickname, socket, undo.callback)
            if digest and not sessions.take_key(workspace, digest, entry):
                known = sessions.find_key(workspace, digest)
                assert known is not None, "a key that is taken has an entry"
                return Created(spec, None, _same(workspace, known, entry))
            sessions.add_run(workspace, spec.session_id, spec.run_id)
            undo.pop_all()
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or workspace.root}: {error.strerror}") from error
    return Created(spec, log)


def find_run(cwd: str, idempotency_key: str | None, asked: JsonObject) -> RunDir | None:
    """The run that the same key and arguments made before, see `create_run`. Blocks on the disk.

    Raises:
        Conflict: the key was used with other arguments.
    """
    if idempotency_key is None:
        return None
    workspace = Workspace(Path(cwd).resolve())
    known = sessions.find_key(workspace, sessions.key_digest(idempotency_key))
    return _same(workspace, known, {"fingerprint": _digest(asked)}) if known else None


def was_answered(run_dir: RunDir, spec: RunSpec) -> bool:
    """Whether the spawn of a run may have been answered: not if it died before its idempotency key named it."""
    if spec.key_digest is None:
        return True
    entry = sessions.find_key(run_dir.workspace, spec.key_digest)
    return entry is not None and entry.get("run_id") == spec.run_id


def discard(home: Home, run_dir: RunDir, spec: RunSpec) -> None:
    """Takes back a run that was never answered to anybody and had not begun. Only for who holds its lock."""
    home.forget(spec.run_id)
    shutil.rmtree(run_dir.path, ignore_errors=True)
    if spec.session_mode != "resume":
        sessions.remove(run_dir.workspace, spec.session_id)
        sessions.release_name(run_dir.workspace, spec.agent_name)


def _write(
    home: Home,
    workspace: Workspace,
    spec: RunSpec,
    document: JsonObject,
    mask: Mask,
    nickname: str | None,
    socket: str | None,
    undo: Callable[..., object],
) -> tuple[RunLog, RunSpec]:
    run_dir = workspace.run(spec.run_id)
    if not spec.agent_name:
        name = sessions.reserve_name(workspace, nickname, spec.session_id)
        undo(sessions.release_name, workspace, name)
        spec = replace(spec, agent_name=name)
        document = {**document, "agent_name": name}
        undo(sessions.remove, workspace, spec.session_id)
        session = sessions.Session(session_id=spec.session_id, agent_name=name, backend=spec.backend)
        sessions.save(workspace, session, durable=False)
    undo(shutil.rmtree, run_dir.path, ignore_errors=True)
    written = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    log = RunLog.create(run_dir, written, mask, socket)
    undo(log.close)
    undo(home.forget, spec.run_id)
    try:
        home.add(run_dir, live=True, seal=seal_of(written), owing=spec.on_finish is not None)
    except OSError as error:
        if socket is not None or spec.on_finish:
            raise
        # where no host can be had the home may be out of reach as well: this process finds its runs without an index
        logger.warning("run %s is not in the index: %s", spec.run_id, error)
    sync_directory(str(run_dir.path.parent))
    return log, spec


def _same(workspace: Workspace, known: JsonObject, entry: JsonObject) -> RunDir:
    if known["fingerprint"] != entry["fingerprint"]:
        raise Conflict(
            f"this idempotency_key made {known['run_id']} with other arguments; use another key for another run"
        )
    return workspace.run(known["run_id"])


_NAMES = ("run_id", "session_id", "agent_name", "backend", "cwd")
"""What is never masked: by these the run, its session and its place are found again."""
_KEPT = ("on_finish",)
"""Nor is this: the next owner of the run has to know where to go."""
_MADE_UP = (
    "run_id",
    "session_id",
    "agent_name",
    "created_at",
    "native_session_id",
    "client_cwd",
    "masked",
    "key_digest",
    "on_finish",  # of which the user's settings may be a part
    "budgeted",
)


def _fingerprint(document: JsonObject, nickname: str | None) -> str:
    """What was asked, without what we made up ourselves; credentials may be renewed between two attempts."""
    asked = {key: value for key, value in document.items() if key not in _MADE_UP}
    if document.get("session_mode") != "new":
        asked["session_id"] = document["session_id"]
    return _digest([asked, nickname])


def _digest(asked: Any) -> str:
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
