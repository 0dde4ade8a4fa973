"""What a run is given before its agent begins: the session to go on with, and credentials that were lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.backend import Backend
from orchestrator.config import Settings
from orchestrator.engine.history import CREDENTIALS
from orchestrator.engine.requests import Requests
from orchestrator.errors import BackendError, InvalidArgument, StoreError
from orchestrator.model import InputRequest, JsonObject, RunSpec
from orchestrator.store import sessions
from orchestrator.store.layout import Workspace
from orchestrator.store.masking import renewed


def native_session(workspace: Workspace, session_id: str) -> str:
    """The agent's own id of a session. Blocks on the disk.

    Raises:
        BackendError: its agent never opened it.
    """
    session = sessions.load(workspace, session_id)
    if session.native_session_id is None:
        raise BackendError(
            "agent_error",
            f"session {session.session_id} was never opened by its agent, so there is nothing to resume",
            resumable=False,
            next_step="spawn a new run with session_mode 'new'",
        )
    return session.native_session_id


def bind_session(workspace: Workspace, spec: RunSpec, native_session_id: str) -> None:
    """Keeps the agent's own id of a run's session. Blocks on the disk.

    Raises:
        StoreError: it cannot be written.
    """
    bound = sessions.Session(
        session_id=spec.session_id,
        agent_name=spec.agent_name,
        backend=spec.backend,
        native_session_id=native_session_id,
    )
    try:
        sessions.save(workspace, bound, durable=True)
    except OSError as error:
        raise StoreError(f"cannot write the session of {spec.run_id}: {error.strerror}") from error


def credentials_of(
    spec: RunSpec, backend: Backend, settings: Settings, config: JsonObject, env: Mapping[str, str]
) -> JsonObject:
    """The credentials that came with an answer, with what `auth_token_env` names read from the caller's environment.

    Raises:
        InvalidArgument: the backend knows no such key, or the environment no such variable.
    """
    if other := config.keys() - {"auth_token", "auth_token_env", "headers"}:
        raise InvalidArgument(f"an answer takes only credentials in backend_config, not {min(other)!r}")
    renewed_spec = replace(spec, backend_config=renewed(spec.backend_config, config))
    backend.check(renewed_spec, settings)
    if (name := config.get("auth_token_env")) is None:
        return config
    if name not in env:
        raise InvalidArgument(f"auth_token_env names {name!r}, which your environment does not have")
    return {"auth_token": env[name], **{key: value for key, value in config.items() if key == "headers"}}


async def ask_for_credentials(requests: Requests, lost: list[str]) -> JsonObject:
    """Asks the caller for credentials that were lost with an earlier owner. The agent has no part in it.

    Args:
        lost: keys of `backend_config`.

    Raises:
        BackendError: they were not given, or cannot be.
    """
    if not set(lost) <= {"auth_token", "headers"}:
        raise BackendError("host_lost", f"the process that owned this run is gone, and with it {', '.join(lost)}")
    text = (
        f"The process that owned this run is gone, and with it what backend_config had as {', '.join(lost)}. "
        "Give it again: continue_run with this request_id and backend_config."
    )
    given: JsonObject = {}
    while not set(lost) <= given.keys():
        answer = await requests.ask(InputRequest(request_id=CREDENTIALS, kind="auth", text=text))
        if answer.decision == "deny":
            raise BackendError("auth_failed", "the credentials that were lost were not given again")
        given |= answer.backend_config
    return given
