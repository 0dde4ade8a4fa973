"""From the arguments of `spawn_run` or a resuming `continue_run` to a `RunSpec`: every check that needs no agent.

Types and names of arguments were checked by the door against the tool's schema; here is what they mean together.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import orjson

from orchestrator.backend import Backend
from orchestrator.config import Settings
from orchestrator.engine.acceptance import acceptance_of
from orchestrator.engine.tree import Parent, ceiling_of, check_depth, check_place, check_programs, under
from orchestrator.errors import Conflict, InvalidArgument, LimitExceeded, SessionNotFound, Unsupported
from orchestrator.json_schema import schema_fault
from orchestrator.limits import KEPT_BY_BACKENDS, has_budget, limits_below, limits_of
from orchestrator.model import JsonObject, Message, ProfileRef, Role, RunSpec, SessionMode, as_object, new_id, now
from orchestrator.on_finish import on_finish_of
from orchestrator.store import sessions
from orchestrator.store.layout import AGENT_NAME, Workspace, checked
from orchestrator.store.reader import RunReader
from orchestrator.workspaces.asked import checks_of, workspace_of
from orchestrator.workspaces.git import top_of

CALLER = "caller"
"""The name of whoever spawned the root of a tree, among agents."""
METADATA_BYTES = 2_000
MESSAGE_BYTES = 4 * 2**20


class Request(NamedTuple):
    """A checked `spawn_run`: what becomes of the spec, and what only matters while it is made."""

    spec: RunSpec
    nickname: str | None
    idempotency_key: str | None
    asked: JsonObject | None = None
    """The call as it was made, where a profile has changed it: by that an idempotency key knows it again."""


def request_of(
    arguments: Mapping[str, Any],
    backend: Backend,
    client_cwd: Path,
    env: Mapping[str, str],
    settings: Settings,
    parent: Parent | None,
    profile: ProfileRef | None = None,
) -> Request:
    """Checks the arguments and makes the spec. Looks at the disk, so it is called in a thread.

    Args:
        env: that of the caller, in which git is asked.
        settings: those of the caller.
        parent: the run that spawns, if one does.
        profile: what the arguments were filled in from.

    Raises:
        InvalidArgument, Unsupported, SessionNotFound, Conflict, LimitExceeded: nothing was written.
    """
    check_depth(settings, parent)
    check_programs(arguments.get("backend_config") or {}, parent)
    permission, on_approval = under(
        ceiling_of(settings, parent), arguments.get("permission"), arguments.get("on_approval", "ask")
    )
    cwd = workspace_path(arguments["cwd"])
    check_place(cwd, permission, parent)
    message = message_of(arguments, required=True)
    assert message is not None
    if (nickname := arguments.get("nickname")) is not None:
        checked(nickname, AGENT_NAME, "nickname (letters, digits, '.', '_' and '-', at most 64)")
        if nickname == CALLER:
            raise InvalidArgument("'caller' is the name of whoever spawned a run; choose another nickname")
    mode: SessionMode = arguments.get("session_mode", "new")
    session = _session(cwd, mode, arguments.get("session_id"), backend)
    if session and nickname and mode == "resume":
        raise InvalidArgument(f"a resumed session keeps its agent's name, {session.agent_name!r}; leave out nickname")
    if (schema := arguments.get("output_schema")) is not None and (fault := schema_fault(schema)):
        raise InvalidArgument(f"output_schema is not a valid JSON Schema, at {fault}")
    resumed = session if mode == "resume" else None
    earlier = _earlier(cwd, session.session_id) if session and mode != "new" else None
    spec = RunSpec(
        run_id=new_id("run"),
        session_id=resumed.session_id if resumed else new_id("ses"),
        agent_name=resumed.agent_name if resumed else "",
        backend=backend.name,
        role=arguments.get("role", "worker"),
        cwd=cwd,
        message=message,
        created_at=now(),
        session_mode=mode,
        native_session_id=session.native_session_id if session and mode == "fork" else None,
        permission=permission,
        on_approval=on_approval,
        output_schema=schema,
        backend_config=arguments.get("backend_config") or {},
        metadata=_metadata(arguments.get("metadata")),
        priority=arguments.get("priority", 1),
        client_cwd=client_cwd,
        profile=profile,
        workspace=_workspace(arguments, mode, earlier, cwd, env, trusted=settings.trusts(cwd)),
        checks=checks_of(arguments.get("checks") or []),
        acceptance=acceptance_of(arguments.get("acceptance") or []),
        require_changes=arguments.get("require_changes", False),
        on_finish=on_finish_of(arguments.get("on_finish") or {}, None if parent else settings),
        **lineage(parent, limits_of(arguments.get("limits") or {})),
    )
    check_abilities(spec, backend, settings)
    return Request(spec, nickname, arguments.get("idempotency_key"))


def _earlier(cwd: Path, session_id: str) -> RunSpec | None:
    """The newest run of a session."""
    run_id = sessions.last_run(Workspace(cwd), session_id)
    return RunReader(Workspace(cwd).run(run_id)).spec() if run_id else None


def _workspace(
    arguments: Mapping[str, Any],
    mode: SessionMode,
    earlier: RunSpec | None,
    cwd: Path,
    env: Mapping[str, str],
    *,
    trusted: bool,
) -> JsonObject | None:
    if mode == "new":
        return workspace_of(arguments.get("workspace") or {}, cwd, env, trusted=trusted)
    if "workspace" in arguments:
        raise InvalidArgument(f"a session that is {mode}d stays where it was; leave out workspace")
    workspace = going_on(earlier) if earlier else None
    if workspace and mode == "fork":
        raise Unsupported("this session works in a workspace of its own, where two agents would meet; resume it, or "
                          "spawn a new run")  # fmt: skip
    return workspace


def going_on(earlier: RunSpec) -> JsonObject | None:
    """The workspace of a run that goes on where an earlier one of its session worked."""
    if earlier.workspace is None:
        return None
    return {**earlier.workspace, "of": earlier.workspace.get("of") or earlier.run_id}


def lineage(parent: Parent | None, limits: JsonObject) -> JsonObject:
    """What a spec says of the run's place in its tree, and of its limits, its own being given."""
    budgeted = has_budget(limits)
    if parent is None:
        return {"parent_run_id": None, "root_run_id": None, "depth": 0, "limits": limits, "budgeted": budgeted}
    spec = parent.spec
    place = {"parent_run_id": spec.run_id, "root_run_id": parent.root.run_id, "depth": spec.depth + 1}
    return {**place, "limits": limits_below(limits, spec.limits), "budgeted": budgeted or spec.budgeted}


def check_abilities(spec: RunSpec, backend: Backend, settings: Settings) -> None:
    """Refuses what the backend does not support."""
    if spec.session_mode in ("resume", "fork") and spec.session_mode not in backend.abilities:
        raise Unsupported(f"backend {backend.name!r} cannot {spec.session_mode} sessions; use session_mode 'new'")
    if spec.require_changes and spec.workspace is None and ("attach" in backend.abilities or top_of(spec.cwd) is None):
        raise InvalidArgument("require_changes needs a git repository to see them in; use workspace mode 'worktree'")
    if spec.limits.get("fix_attempts") and "resume" not in backend.abilities:
        raise Unsupported(
            f"backend {backend.name!r} cannot resume sessions, so it mends nothing; leave out fix_attempts"
        )
    for name in KEPT_BY_BACKENDS:
        if name in spec.limits and name not in backend.abilities:
            raise Unsupported(
                f"backend {backend.name!r} does not say what its agent uses, so it cannot keep limits.{name}; "
                "use limits.timeout_s or limits.max_events"
            )
    backend.check(spec, settings)


def workspace_path(given: str) -> Path:
    """The directory that a run works in.

    Raises:
        InvalidArgument: it is relative, missing or no directory.
    """
    path = Path(given)
    try:
        if not path.is_absolute():
            raise InvalidArgument(f"cwd {given[:200]!r} is relative; give the absolute path of an existing directory")
        resolved = path.resolve()
        if not resolved.is_dir():
            what = "is not a directory" if resolved.exists() else "does not exist"
            raise InvalidArgument(f"cwd {given[:200]!r} {what}; give the absolute path of an existing directory")
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"cwd {given[:200]!r} cannot be used: {error}") from error
    return resolved


def message_of(arguments: Mapping[str, Any], *, required: bool, text: str = "prompt") -> Message | None:
    """The message of a call: its text argument or its `input_message`, never both."""
    plain, structured = arguments.get(text), arguments.get("input_message")
    if plain is not None and structured is not None:
        raise InvalidArgument(f"give {text} or input_message, not both")
    if structured is not None:
        message = _structured(structured)
    elif plain is not None and (plain.strip() or not required):
        message = Message.of_text(plain)
    elif required:
        raise InvalidArgument(f"there is nothing to do; give {text} or input_message")
    else:
        return None
    if _size("the message", message.parts) > MESSAGE_BYTES:
        raise LimitExceeded(f"the message is over {MESSAGE_BYTES:,} bytes; put large material into files in cwd")
    return message


def _session(cwd: Path, mode: SessionMode, session_id: str | None, backend: Backend) -> sessions.Session | None:
    if mode == "new":
        if session_id is not None:
            raise InvalidArgument(
                "session_id goes with session_mode 'resume' or 'fork'; leave it out for a new session"
            )
        return None
    if session_id is None:
        raise InvalidArgument(f"session_mode {mode!r} needs the session_id; get_run names it for each run")
    session = sessions.load(Workspace(cwd), session_id)
    if session.backend != backend.name:
        raise Conflict(f"session {session_id} belongs to backend {session.backend!r}; resume it with that backend")
    if mode == "fork" and session.native_session_id is None:
        raise SessionNotFound(f"session {session_id} was not opened by its agent yet, so there is nothing to fork")
    return session


_PARTS: dict[str, tuple[set[str], set[str]]] = {
    "text": ({"text"}, set()),
    "data": ({"data"}, set()),
    "file": (set(), {"uri", "bytes_base64", "mime_type", "name"}),
}
"""Each type of part: the keys it needs and those it may have."""


def _structured(given: JsonObject) -> Message:
    if unknown := set(given) - {"role", "parts", "metadata"}:
        raise InvalidArgument(f"input_message has no key {unknown.pop()!r}; known: role, parts, metadata")
    role, parts, metadata = given.get("role", "user"), given.get("parts"), given.get("metadata")
    if role not in get_args(Role):
        raise InvalidArgument(f"input_message.role is {role!r}; known: {', '.join(get_args(Role))}")
    if not isinstance(parts, list) or not parts:
        raise InvalidArgument("input_message.parts must be an array of at least one part")
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidArgument("input_message.metadata must be an object")
    for index, part in enumerate(cast(list[Any], parts)):
        _check_part(f"input_message.parts[{index}]", part)
    return Message(role=role, parts=cast(list[JsonObject], parts), metadata=cast("JsonObject | None", metadata))


def _check_part(place: str, given: Any) -> None:
    part = as_object(given) or {}
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise InvalidArgument(f"{place} must be an object with type text, data or file")
    needed, allowed = _PARTS[kind]
    keys = set(part) - {"type"}
    if not needed <= keys or keys - needed - allowed:
        raise InvalidArgument(f"{place} of type {kind} takes {', '.join(sorted(needed | allowed))}")
    texts = {key: value for key, value in part.items() if key != "data"}
    if wrong := [key for key, value in texts.items() if not isinstance(value, str)]:
        raise InvalidArgument(f"{place}.{wrong[0]} must be a string")
    if kind == "file" and ("uri" in part) == ("bytes_base64" in part):
        raise InvalidArgument(f"{place} is a file and needs uri or bytes_base64, one of them")
    if "bytes_base64" in part and not _is_base64(part["bytes_base64"]):
        raise InvalidArgument(f"{place}.bytes_base64 is not valid base64")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _metadata(metadata: JsonObject | None) -> JsonObject | None:
    if metadata and _size("metadata", metadata) > METADATA_BYTES:
        raise LimitExceeded(
            f"metadata is over {METADATA_BYTES:,} bytes; it is for labels, put material into the prompt"
        )
    return metadata or None


def _size(what: str, value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        raise InvalidArgument(f"{what} holds what cannot be kept: {error}; write it as a string") from error
