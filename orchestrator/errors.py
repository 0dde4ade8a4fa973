"""Why a call is refused: one class for each code, and one table of what each means at every door.

    OrchestratorError
    ├── InvalidArgument ── UnknownArgument
    ├── NotFound ── RunNotFound, AgentNotFound, SessionNotFound, ArtifactNotFound, ProfileNotFound
    ├── Conflict ── AlreadyAnswered
    ├── WrongState
    ├── Unsupported
    ├── LimitExceeded
    ├── PermissionCeiling
    ├── BackendUnavailable
    ├── NotOwner
    ├── HostRestarted
    ├── HostUnavailable
    ├── StoreVersion
    ├── StoreError
    └── Internal

    BackendError (raised by a backend inside a run: the run fails with its code, no call is refused)

A failed run is data, not one of these: `get_run` on it succeeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.ends import FailureCode


class OrchestratorError(Exception):
    """A call that was refused. The message says what is wrong and what to do next, in one sentence."""

    @property
    def code(self) -> str:
        """The stable word that a program checks."""
        return TABLE[type(self)].code

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return TABLE[type(self)].exit_code

    @property
    def sentence(self) -> str:
        """`code: message`, which is what an MCP client's model reads."""
        return f"{self.code}: {self}"


class InvalidArgument(OrchestratorError):
    """A value is missing, malformed or out of range."""


class UnknownArgument(InvalidArgument):
    """The tool has no argument of that name."""


class NotFound(OrchestratorError):
    """What was named does not exist."""


class RunNotFound(NotFound):
    """No run has that id."""


class AgentNotFound(NotFound):
    """No agent has that name in that workspace."""


class SessionNotFound(NotFound):
    """No session has that id, or it was never opened by its agent."""


class ArtifactNotFound(NotFound):
    """The event or the field is not there."""


class ProfileNotFound(NotFound):
    """No profile has that name or path."""


class Conflict(OrchestratorError):
    """The call contradicts an earlier one, or names several things at once."""


class GitError(Conflict):
    """git refused or failed; the sentence is git's own."""


class AlreadyAnswered(Conflict):
    """The request was resolved before; nothing was changed."""


class WrongState(OrchestratorError):
    """The run is in a state in which this cannot be done."""


class Unsupported(OrchestratorError):
    """The backend cannot do this."""


class LimitExceeded(OrchestratorError):
    """A cap on size, number or depth would be passed."""


class PermissionCeiling(OrchestratorError):
    """More permission was asked for than the caller may give."""


class BackendUnavailable(OrchestratorError):
    """The backend is not installed or cannot be loaded."""


class NotOwner(OrchestratorError):
    """Another live process owns the run, and the command has to go there.

    Args:
        socket: where that process takes commands; None if it takes none.
    """

    def __init__(self, message: str, *, socket: str | None = None) -> None:
        super().__init__(message)
        self.socket = socket


class HostRestarted(OrchestratorError):
    """The host went away while the command was under way."""


class HostUnavailable(OrchestratorError):
    """No host could be reached or started."""


class StoreVersion(OrchestratorError):
    """The store was written in a format that this version does not know."""


class StoreError(OrchestratorError):
    """The store cannot be read or written."""


class Internal(OrchestratorError):
    """A defect of the orchestrator itself."""


class Row(NamedTuple):
    """What an error is at the doors: its code everywhere, the exit code of a command."""

    code: str
    exit_code: int


TABLE: dict[type[OrchestratorError], Row] = {
    InvalidArgument: Row("invalid_argument", 2),
    UnknownArgument: Row("unknown_argument", 2),
    RunNotFound: Row("run_not_found", 4),
    AgentNotFound: Row("agent_not_found", 4),
    SessionNotFound: Row("session_not_found", 4),
    ArtifactNotFound: Row("artifact_not_found", 4),
    ProfileNotFound: Row("profile_not_found", 4),
    Conflict: Row("conflict", 3),
    GitError: Row("conflict", 3),
    AlreadyAnswered: Row("already_answered", 3),
    WrongState: Row("wrong_state", 5),
    Unsupported: Row("unsupported", 2),
    LimitExceeded: Row("limit_exceeded", 3),
    PermissionCeiling: Row("permission_ceiling", 3),
    BackendUnavailable: Row("backend_unavailable", 2),
    NotOwner: Row("not_owner", 6),
    HostRestarted: Row("host_restarted", 6),
    HostUnavailable: Row("host_unavailable", 6),
    StoreVersion: Row("store_version", 1),
    StoreError: Row("store_error", 1),
    Internal: Row("internal", 1),
}
"""Every class that is raised, once. At the MCP door all are a tool result with `isError` and the sentence as text."""


class BackendError(Exception):
    """Expected trouble inside a run. The run ends as `failed` with this code.

    Args:
        code: one of the codes of a run's error.
        message: what happened, for the caller to read; never a credential.
        resumable: whether `continue_run` can go on with the same session.
        next_step: what the caller can do; a default for the code is used when absent.
    """

    def __init__(
        self, code: FailureCode, message: str, *, resumable: bool = True, next_step: str | None = None
    ) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.resumable = resumable
        self.next_step = next_step


def nearest(wanted: str, known: Iterable[str]) -> str:
    """A hint to append to a message: the nearest known names, or all of them when few, or nothing."""
    if len(wanted) > 200:  # comparing takes its time
        return ""
    from difflib import get_close_matches  # only who errs needs it

    names = sorted(set(known))
    close = get_close_matches(wanted, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(name) for name in close)}?"
    if names and len(names) <= 8:
        return f"; known: {', '.join(names)}"
    return ""
