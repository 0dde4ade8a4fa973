"""What a backend says of a run, by `ctx.emit`: typed, without number or time. Pure: imports the model alone.

The engine makes an `Event` of it, which is what the log holds. Apart from `orchestrator.events`, because who only reads
runs needs none of these, and making so many classes takes longer than most reading.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from orchestrator.model import JsonObject, Role, Status, compact


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a backend reports by `ctx.emit`. Field names are those of the event's data."""

    type: ClassVar[str] = ""
    remote_seq: int | None = None
    """The number that a remote agent gave to it, kept with the event: by it the next owner knows what was told."""

    def payload(self) -> JsonObject:
        """The event's data, without absent values."""
        return {name: value for name in _names(type(self)) if (value := getattr(self, name)) is not None}


_NAMES: dict[type[Update], tuple[str, ...]] = {}


def _names(kind: type[Update]) -> tuple[str, ...]:
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Update):
    """The agent is reached and about to get the prompt.

    The first update of every run, before anything with side effects: a run whose log lacks it may be started again.
    """

    type: ClassVar[str] = "run_started"
    agent: str | None = None
    model: str | None = None
    native_session_id: str | None = None
    agent_url: str | None = None
    protocol: str | None = None
    permission_enforced: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMessage(Update):
    """One whole message of the agent."""

    type: ClassVar[str] = "agent_message"
    text: str
    parts: list[JsonObject] | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded(Update):
    """A message in the conversation that is neither the agent's answer nor its caller's: a sub-agent's, for example."""

    type: ClassVar[str] = "message_added"
    role: Role
    text: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning(Update):
    """What the agent let be seen of its thinking."""

    type: ClassVar[str] = "reasoning"
    text: str
    parts: list[JsonObject] | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStarted(Update):
    """The agent runs a shell command."""

    type: ClassVar[str] = "command_started"
    command_id: str
    command: str
    cwd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandUpdated(Update):
    """More output of a running command."""

    type: ClassVar[str] = "command_updated"
    command_id: str
    command: str
    output: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFinished(Update):
    """A command ended; `output` is the whole output."""

    type: ClassVar[str] = "command_finished"
    command_id: str
    command: str
    cwd: str | None = None
    output: str | None = None
    exit_code: int | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanged(Update):
    """Files changed: `changes` holds `{path, kind: add|update|delete, diff?}`."""

    type: ClassVar[str] = "file_changed"
    changes: list[JsonObject]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(Update):
    """The agent calls a tool that is neither a shell command nor a file change."""

    type: ClassVar[str] = "tool_started"
    tool_id: str
    tool: str
    server: str | None = None
    arguments: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished(Update):
    """A tool call ended, with a result or an error."""

    type: ClassVar[str] = "tool_finished"
    tool_id: str
    tool: str
    server: str | None = None
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TodoUpdated(Update):
    """The agent's whole todo list: `{text, status: pending|in_progress|completed}`."""

    type: ClassVar[str] = "todo_updated"
    items: list[JsonObject]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactAdded(Update):
    """A whole artifact that is small, or structured."""

    type: ClassVar[str] = "artifact_added"
    artifact_id: str
    name: str | None = None
    mime: str | None = None
    text: str | None = None
    data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Update):
    """One line on what the agent is doing; `status_changed` with a detail."""

    type: ClassVar[str] = "status_changed"
    detail: str
    progress: JsonObject | None = None
    """How far the agent says it is: `{text, percent?}`."""

    def payload(self) -> JsonObject:
        """See `Update.payload`."""
        return compact({"status": Status.RUNNING, "detail": self.detail, "progress": self.progress})


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited(Update):
    """The provider of the agent's model takes no more requests for now. Until it does, no run of the backend begins."""

    type: ClassVar[str] = "status_changed"
    words: str
    """What the provider said."""
    retry_s: float | None = None
    """Seconds until it takes some again; None if it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRef(Update):
    """Where a remote run lives; durable before `emit` returns, so that a later owner can find it again."""

    type: ClassVar[str] = "status_changed"
    ref: JsonObject

    def payload(self) -> JsonObject:
        """See `Update.payload`."""
        return {"status": Status.RUNNING, "remote_ref": self.ref}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactChunk(Update):
    """A piece of an artifact. No event: the store joins the pieces and writes one `artifact_added` when `last`.

    A chunk that does not `append` begins the artifact anew.
    """

    artifact_id: str
    content: str | bytes
    name: str | None = None
    mime: str | None = None
    append: bool = True
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBound(Update):
    """The agent's own id of the session. No event: kept with the session, durable before `emit` returns."""

    native_session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProcess(Update):
    """The agent's process. No event: kept with the owner, durable before `emit` returns."""

    pid: int
    pgid: int
    start_time: float
