"""The nouns: a run, what was asked for, what it waits for, how it ended.

Everything above reads and returns these values; this module imports nothing of ours and does no I/O. All of them are
frozen, and all turn into the JSON documents of the store by `to_json` (absent rather than null) and back by
`from_json` (unknown keys are ignored, so that old code reads what newer code wrote).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

JsonObject = dict[str, Any]


class Status(StrEnum):
    """The state of a run. `queued -> running <-> input_required | auth_required -> one of TERMINAL`."""

    QUEUED = "queued"
    RUNNING = "running"
    INPUT_REQUIRED = "input_required"
    AUTH_REQUIRED = "auth_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.REJECTED})
WAITING = frozenset({Status.INPUT_REQUIRED, Status.AUTH_REQUIRED})

Permission = Literal["read_only", "workspace_write", "full_access"]
OnApproval = Literal["ask", "deny", "allow"]
SessionMode = Literal["new", "resume", "fork"]
RequestKind = Literal["approval", "question", "input", "auth"]
Role = Literal["user", "agent", "system"]
Decision = Literal["approve", "deny"]
Resolution = Literal["answered", "denied", "expired", "withdrawn"]
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
ON_APPROVAL: tuple[OnApproval, ...] = get_args(OnApproval)
ON_APPROVAL_ORDER: tuple[OnApproval, ...] = ("deny", "ask", "allow")
"""From the least to the most, as PERMISSIONS are."""
SESSION_MODES: tuple[SessionMode, ...] = get_args(SessionMode)


def now(later_s: float = 0.0) -> str:
    """The current time, or one in so many seconds, as every file and result shows it: UTC, milliseconds, `Z`."""
    when = datetime.now(UTC) + timedelta(seconds=later_s)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: Literal["run", "ses"]) -> str:
    """A path-safe id of 26 characters: microseconds since 1970 first, so that ids sort by age, then 55 random bits."""
    import secrets  # with the digests behind it, it loads longer than this module; only who spawns needs it

    number = (time.time_ns() // 1000) << 55 | secrets.randbits(55)
    return prefix + "_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(105, -5, -5))


def compact(document: Mapping[str, Any]) -> JsonObject:
    """The same document without its nulls (top level only: below, nulls are somebody's data)."""
    return {key: value for key, value in document.items() if value is not None}


def as_object(value: Any) -> JsonObject | None:
    """The value, if it is a JSON object."""
    return cast(JsonObject, value) if isinstance(value, dict) else None


def as_array(value: Any) -> list[Any] | None:
    """The value, if it is a JSON array."""
    return cast(list[Any], value) if isinstance(value, list) else None


class Document:
    """Gives a frozen dataclass its JSON form. Field names are the JSON names."""

    __slots__ = ()

    def to_json(self) -> JsonObject:
        """This value as a JSON object, without nulls."""
        return {f.name: plain for f in fields(self) if (plain := _plain(getattr(self, f.name))) is not None}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Rebuilds the value.

        Raises:
            TypeError: a required key is missing.
        """
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in document.items() if key in names})


def _plain(value: Any) -> Any:
    if isinstance(value, Document):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Path):
        return str(value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Document):
    """What is said to an agent or by it.

    `parts` are `{type: text, text}`, `{type: data, data}` or `{type: file, uri | bytes_base64, mime_type?, name?}`.
    """

    role: Role = "user"
    parts: list[JsonObject] = field(default_factory=list[JsonObject])
    metadata: JsonObject | None = None

    @classmethod
    def of_text(cls, text: str, role: Role = "user") -> Message:
        """A message with one text part."""
        return cls(role=role, parts=[{"type": "text", "text": text}])

    @property
    def text(self) -> str:
        """The text parts, joined by blank lines."""
        return "\n\n".join(part["text"] for part in self.parts if part.get("type") == "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequest(Document):
    """What a waiting run waits for. An approval, a question, missing input or a login: the same thing to the caller."""

    request_id: str
    kind: RequestKind
    text: str
    options: list[JsonObject] | None = None
    questions: list[JsonObject] | None = None
    detail: JsonObject | None = None
    expires_at: str | None = None
    seq: int | None = None
    """Set by the fold: the number of the event that holds this request whole."""
    clipped: list[str] | None = None
    """Set by the fold: JSON Pointers of what is only a preview here. Nobody should approve what they saw a part of."""

    @property
    def waiting(self) -> Status:
        """The status of a run that waits for this; the event that announces it has the same name."""
        return Status.AUTH_REQUIRED if self.kind == "auth" else Status.INPUT_REQUIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the caller said to an `InputRequest`. Held in memory only: `backend_config` may carry credentials."""

    decision: str | None = None
    message: Message | None = None
    backend_config: JsonObject = field(default_factory=dict[str, Any])

    @property
    def approved(self) -> bool:
        """Whether an approval was given; only an explicit `approve` is one."""
        return self.decision == "approve"

    @property
    def text(self) -> str:
        """The answer in words: the message's text, otherwise the decision."""
        return (self.message.text if self.message else "") or self.decision or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Document):
    """What a run used, the same for all backends. Costs in US dollars as the backend reports them."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    cost_usd: float | None = None
    turns: int | None = None

    def plus(self, other: Usage | None) -> Usage:
        """Both together; a number that only one of them knows is that."""
        if other is None:
            return self
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        known = {name: [number for number in pair if number is not None] for name, pair in pairs.items()}
        return Usage(**{name: sum(numbers) for name, numbers in known.items() if numbers})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Document):
    """Why a run failed or was rejected, and what the caller can do next."""

    code: str
    message: str
    resumable: bool
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What the next owner of a run that had begun knows of it, from its log: how to find it, and what was told."""

    remote_ref: JsonObject | None
    pending: tuple[InputRequest, ...] = ()
    message_ids: frozenset[str] = frozenset()
    request_ids: frozenset[str] = frozenset()
    last_message: str = ""
    artifact_ids: frozenset[str] = frozenset()
    remote_seqs: frozenset[int] = frozenset()
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])
    """By request id: what the caller said, which may have reached the agent or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRef(Document):
    """The profile that a run was spawned with, as it was then."""

    name: str
    path: str
    sha256: str
    """Of the file."""
    text: str
    """The job description, which the run uses whatever becomes of the file."""
    notices: list[str] | None = None
    """What of the file was left out or lowered, for the caller to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec(Document):
    """What the caller asked for. Written once to `spec.json` (credentials masked) and never changed."""

    run_id: str
    session_id: str
    agent_name: str
    backend: str
    role: str
    cwd: Path
    message: Message
    created_at: str
    session_mode: SessionMode = "new"
    native_session_id: str | None = None
    """The agent's own id of the session to go on with; set when the run starts, never by the caller."""
    permission: Permission | None = None
    """As the caller gave it; `level` is what counts."""
    on_approval: OnApproval = "ask"
    output_schema: JsonObject | None = None
    limits: JsonObject = field(default_factory=dict[str, Any])
    backend_config: JsonObject = field(default_factory=dict[str, Any])
    metadata: JsonObject | None = None
    resumed_from_run_id: str | None = None
    key_digest: str | None = None
    """Of the idempotency key. A run that its key does not name was never answered to anybody."""
    masked: bool = False
    """A secret in the message was masked when the spec was written: what stands there is not what was said."""
    priority: int = 1
    """0 to 3; of the runs that are queued the lowest number goes first."""
    parent_run_id: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    """How many ancestors the run has; the root is the topmost of them."""
    client_cwd: Path | None = None
    """Where the client was that asked; after a crash, one at the same place lends its environment again."""
    profile: ProfileRef | None = None
    workspace: JsonObject | None = None
    """Where it works, exact: see `workspaces.asked`; None for `cwd` itself. Of a session that goes on, `of` names the
    run that made the place."""
    checks: list[JsonObject] | None = None
    """What the host runs in the end: `{name, run, timeout_s, required}`."""
    acceptance: list[str] | None = None
    """What must hold; the agent answers each."""
    require_changes: bool = False
    on_finish: JsonObject | None = None
    """Who is told when the run is over, and how: see `orchestrator.on_finish`."""
    budgeted: bool = False
    """A budget holds for it: one of its own, or of a run above it."""
    attempt: int = 0
    """How often the agent was asked to mend what checks found; 0 in what is written."""
    attach: Attachment | None = None
    """Set when the run goes on under another owner: find it again, and do not send the prompt. Never written."""

    @property
    def level(self) -> Permission:
        """The permission in force."""
        return self.permission or "workspace_write"

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunSpec:
        """See `Document.from_json`; the path and the message get their types back."""
        names = ("run_id", "session_id", "agent_name", "backend", "role", "created_at")
        if not all(isinstance(document[name], str) for name in names):  # agents can write where this lies
            raise TypeError(f"one of {', '.join(names)} is no text")
        typed = {**document, "cwd": Path(document["cwd"]), "message": Message.from_json(document["message"])}
        client_cwd, profile = document.get("client_cwd"), document.get("profile")
        typed["client_cwd"] = Path(client_cwd) if client_cwd else None
        typed["profile"] = ProfileRef.from_json(profile) if profile else None
        return super(RunSpec, cls).from_json(typed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Document):
    """A run as its events tell it: the fold of `events.jsonl` over `spec.json`. Never changed in place."""

    run_id: str
    session_id: str
    agent_name: str
    backend: str
    role: str
    cwd: Path
    status: Status
    started_at: str
    updated_at: str
    summary: str = ""
    completed_at: str | None = None
    last_seq: int = 0
    pending: tuple[InputRequest, ...] = ()
    result: JsonObject | None = None
    error: Failure | None = None
    detail: str | None = None
    metadata: JsonObject | None = None
    remote_ref: JsonObject | None = None
    native_session_id: str | None = None
    permission_enforced: bool | None = None
    resumed_from_run_id: str | None = None
    parent_run_id: str | None = None
    depth: int = 0
    profile: JsonObject | None = None
    progress: JsonObject | None = None
    workspace: JsonObject | None = None
    usage: Usage | None = None
    created_at: str | None = None
    """When it was spawned; `started_at` is that too, until its agent has begun."""

    @classmethod
    def queued(cls, spec: RunSpec) -> Run:
        """The run before its first event."""
        return cls(
            run_id=spec.run_id,
            session_id=spec.session_id,
            agent_name=spec.agent_name,
            backend=spec.backend,
            role=spec.role,
            cwd=spec.cwd,
            status=Status.QUEUED,
            started_at=spec.created_at,
            updated_at=spec.created_at,
            metadata=spec.metadata,
            resumed_from_run_id=spec.resumed_from_run_id,
            parent_run_id=spec.parent_run_id,
            depth=spec.depth,
            profile=_without_text(spec.profile),
            created_at=spec.created_at,
        )

    @property
    def terminal(self) -> bool:
        """Whether the run is over."""
        return self.status in TERMINAL

    @property
    def settled(self) -> bool:
        """Whether only the caller can move the run: it is over, or it waits."""
        return self.status in TERMINAL or self.status in WAITING

    def evolve(self, **changes: Any) -> Run:
        """The same run with other values."""
        return replace(self, **changes)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Run:
        """See `Document.from_json`; nested values get their types back."""
        error, usage = document.get("error"), document.get("usage")
        return super(Run, cls).from_json(
            {
                **document,
                "cwd": Path(document["cwd"]),
                "status": Status(document["status"]),
                "pending": tuple(InputRequest.from_json(request) for request in document.get("pending", ())),
                "error": Failure.from_json(error) if error else None,
                "usage": Usage.from_json(usage) if usage else None,
            }
        )


def _without_text(profile: ProfileRef | None) -> JsonObject | None:
    return {key: value for key, value in profile.to_json().items() if key != "text"} if profile else None
