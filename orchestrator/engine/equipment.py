"""What a run is given before its agent begins: the session to go on with, and credentials that were lost."""

from __future__ import annotations

from orchestrator.engine.history import CREDENTIALS
from orchestrator.engine.requests import Requests
from orchestrator.errors import BackendError
from orchestrator.model import InputRequest, JsonObject
from orchestrator.store import sessions
from orchestrator.store.layout import Workspace


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
