"""What a remote agent says, as updates: one `Tracker` per run follows its task through streams and snapshots.

Pure: no I/O, no clock of its own. Streams may break and begin again with a snapshot, so everything is recognised by
its id and told once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from a2a.types import Artifact, Message, Part, Role, StreamResponse, Task, TaskState, TaskStatus

from backends.remote_a2a.agent import plain
from backends.remote_a2a.extension import (
    EVENTS_ARTIFACT,
    FINAL_ARTIFACT,
    TOOL_CALL,
    URI,
    ToolCall,
    call_of,
    request_of,
    update_of,
    usage_of,
    whole_numbers,
)
from backends.remote_a2a.parts import json_part, text_of
from orchestrator.ends import Cancelled, Completed, Failed, Outcome, Rejected
from orchestrator.model import Attachment, InputRequest, JsonObject, as_array, as_object
from orchestrator.updates import AgentMessage, ArtifactAdded, ArtifactChunk, Progress, Update

ENDED = frozenset(
    {
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_REJECTED,
    }
)
PAUSED = frozenset({TaskState.TASK_STATE_INPUT_REQUIRED, TaskState.TASK_STATE_AUTH_REQUIRED})

FALLBACK_BYTES = 64 * 1024
"""A text artifact up to this size stands in for the final response of an agent that names none."""
FINAL_BYTES = 16 * 2**20
PROGRESS_S = 1.0


@dataclass(slots=True)
class _Artifact:
    """What came of one artifact. Its text is kept only while it may become the final response."""

    parts: int = 0
    bytes: int = 0
    text: list[str] | None = field(default_factory=list[str])
    data: list[Any] = field(default_factory=list[Any])
    complete: bool = False
    name: str | None = None
    mime: str | None = None
    streamed: bool = False


class Tracker:
    """Follows one run's task.

    Args:
        attach: what an earlier owner of the run told already; it is taken in for the outcome, and not told again.

    Attributes:
        task_id: empty until the agent named one.
        state: the task's state, 0 before any is known. A terminal state that was streamed wins over a later snapshot.
    """

    def __init__(self, context_id: str, attach: Attachment | None = None) -> None:
        ref = (attach and attach.remote_ref) or {}
        self.context_id = ref.get("context_id") or context_id
        self.task_id = ref.get("task_id") or ""
        self.state = 0
        self._status = TaskStatus()
        self._metadata: JsonObject = {}
        self._seen: set[str] = set()
        self._told_before = attach.message_ids if attach else frozenset[str]()
        self._asked_before = attach.request_ids if attach else frozenset[str]()
        self._artifacts_before = attach.artifact_ids if attach else frozenset[str]()
        self._seqs = set(attach.remote_seqs) if attach else set[int]()
        self._artifacts: dict[str, _Artifact] = {}
        self._last_message = attach.last_message if attach else ""
        self._pauses = 0
        self._answered = ""
        self._data_bytes = 0
        self._told_at = self._progress_at = float("-inf")

    @property
    def ended(self) -> bool:
        """Whether the task is over."""
        return self.state in ENDED

    @property
    def paused(self) -> bool:
        """Whether the task waits for its client."""
        return self.state in PAUSED

    def begin_turn(self) -> None:
        """A message is about to be sent: what was paused is not any more, or an early failure would read as a pause.
        The same pause seen again afterwards, in a snapshot made before the answer arrived, is not a new one."""
        if self.paused:
            self._answered = self._status.message.message_id
        if not self.ended:
            self.state = 0

    def same_pause(self, status: TaskStatus) -> bool:
        """Whether a status shows the very pause that the task is in."""
        return status.state == self.state and status.message.message_id == self._status.message.message_id

    def has(self, message_id: str) -> bool:
        """Whether the task's history was seen to hold this message."""
        return message_id in self._seen

    def on_event(self, event: StreamResponse, clock: float) -> Iterator[Update]:
        """The updates in one event of a stream; none for kinds that a newer peer may have.

        Args:
            clock: seconds, only ever compared with each other, to tell of progress once a second.
        """
        match event.WhichOneof("payload"):
            case "task":
                yield from self.on_snapshot(event.task, clock)
            case "message":
                self.context_id = event.message.context_id or self.context_id
                yield from self._message(event.message)
                self._move(TaskState.TASK_STATE_COMPLETED, TaskStatus())
            case "status_update":
                update = event.status_update
                self._bind(update.task_id, update.context_id)
                yield from self._metadata_updates(update.metadata, clock)
                yield from self._status_updates(update.status)
            case "artifact_update":
                update = event.artifact_update
                self._bind(update.task_id, update.context_id)
                yield from self._chunk(update.artifact, update.append, update.last_chunk, clock)
            case _:
                pass

    def on_snapshot(self, task: Task, clock: float) -> Iterator[Update]:
        """The updates in a task's whole state: only what was not told before."""
        self._bind(task.id, task.context_id)
        for message in task.history:
            yield from self._message(message, snapshot=True)
        for artifact in task.artifacts:
            known = self._artifacts.get(artifact.artifact_id)
            have = known.parts if known else 0
            if len(artifact.parts) > have:
                missing = Artifact()
                missing.CopyFrom(artifact)
                del missing.parts[:have]
                yield from self._chunk(missing, have > 0, task.status.state in ENDED, clock)
        if task.HasField("metadata"):
            self._metadata = plain(task.metadata)
        yield from self._status_updates(task.status, snapshot=True)

    def _bind(self, task_id: str, context_id: str) -> None:
        self.task_id = task_id or self.task_id
        self.context_id = context_id or self.context_id

    def _status_updates(self, status: TaskStatus, *, snapshot: bool = False) -> Iterator[Update]:
        if self.ended:
            return
        if (
            status.HasField("message")
            and status.state not in PAUSED
            and status.state
            not in (
                TaskState.TASK_STATE_FAILED,
                TaskState.TASK_STATE_REJECTED,
                TaskState.TASK_STATE_CANCELED,
            )
        ):
            yield from self._message(status.message, snapshot=snapshot)
        elif status.HasField("message"):
            self._seen.add(status.message.message_id)  # told as the request, or as the reason of the end
        self._move(status.state, status)

    def _move(self, state: int, status: TaskStatus) -> None:
        if not state or self.ended:
            return
        if state in PAUSED:
            if self._answered and status.message.message_id == self._answered:
                return
            if state != self.state:
                self._pauses += 1
        self.state = state
        self._status = status

    def _message(self, message: Message, *, snapshot: bool = False) -> Iterator[Update]:
        # the id is required; of messages without one only repeated snapshots of the same words are recognised
        key = message.message_id or f"\0{text_of(message.parts)}"
        if key in self._seen and (message.message_id or snapshot):
            return
        self._seen.add(key)
        if message.role != Role.ROLE_AGENT or self._was_request(message):
            return
        text = text_of(message.parts)
        if not text and not message.parts:
            return
        self._last_message = text or self._last_message
        if message.message_id in self._told_before:
            return
        others = [json_part(part) for part in message.parts if not part.HasField("text")]
        yield AgentMessage(text=text, parts=others or None, message_id=message.message_id or None)

    def _was_request(self, message: Message) -> bool:
        """Whether a message in the history was a pause, which is told as a request and not as words."""
        if message.message_id in self._asked_before:
            return True
        carried = as_object(plain(message.metadata).get(URI)) if URI in message.metadata else None
        return carried is not None and carried.get("type") in ("input_required", "auth_required", TOOL_CALL)

    def _metadata_updates(self, metadata: Any, clock: float) -> Iterator[Update]:
        if URI not in metadata:
            return
        received = whole_numbers(plain(metadata)[URI])
        if isinstance(received, dict):
            self._metadata[URI] = received
            yield from self._carried(received, clock)

    def _carried(self, received: Any, clock: float) -> Iterator[Update]:
        seq = (as_object(received) or {}).get("seq")
        if not isinstance(seq, int) or seq in self._seqs:
            return
        self._seqs.add(seq)
        update = update_of(received)
        if isinstance(update, Progress) and update.progress is None:
            if clock - self._progress_at < PROGRESS_S:
                return
            self._progress_at = clock
        if update is not None:
            yield replace(update, remote_seq=seq)

    def _chunk(self, artifact: Artifact, append: bool, last: bool, clock: float) -> Iterator[Update]:
        if artifact.artifact_id == EVENTS_ARTIFACT:
            for part in artifact.parts:
                received = whole_numbers(plain(part.data)) if part.HasField("data") else None
                for item in as_array(received) or ():
                    yield from self._carried(item, clock)
            self._artifacts.setdefault(artifact.artifact_id, _Artifact()).parts += len(artifact.parts)
            return
        known = self._artifacts.get(artifact.artifact_id)
        if known is None or not append:
            known = self._artifacts[artifact.artifact_id] = _Artifact(name=artifact.name or None)
        fresh = not known.parts
        if fresh:
            self._told_at = clock
        known.parts += len(artifact.parts)
        final = artifact.artifact_id == FINAL_ARTIFACT
        for part in artifact.parts:
            known.mime = known.mime or part.media_type or None
            content = self._keep(known, part, FINAL_BYTES if final else FALLBACK_BYTES)
            if content is not None and not final and artifact.artifact_id not in self._artifacts_before:
                known.streamed = True
                yield ArtifactChunk(
                    artifact_id=artifact.artifact_id,
                    content=content,
                    name=known.name,
                    mime=known.mime,
                    append=not fresh,
                )
                fresh = False
        if last:
            yield from self._complete(artifact.artifact_id, known, final)
        elif clock - self._told_at >= PROGRESS_S:
            self._told_at = clock
            yield Progress(detail=f"receiving {known.name or artifact.artifact_id}: {known.bytes:,} bytes")

    def _complete(self, artifact_id: str, known: _Artifact, final: bool) -> Iterator[Update]:
        if known.complete or final or artifact_id in self._artifacts_before:
            return
        known.complete = True
        if known.streamed:
            yield ArtifactChunk(artifact_id=artifact_id, content="", last=True)
        if known.data:
            data = known.data[0] if len(known.data) == 1 else known.data
            yield ArtifactAdded(artifact_id=artifact_id, name=known.name, mime="application/json", data=data)

    def _keep(self, known: _Artifact, part: Part, limit: int) -> str | bytes | None:
        """Takes a part in. Returns what of it is streamed content; data parts are kept whole instead."""
        match part.WhichOneof("content"):
            case "text":
                known.bytes += len(part.text)
                if known.text is not None:
                    known.text.append(part.text)
                    if known.bytes > limit:
                        known.text = None
                return part.text
            case "raw":
                known.bytes += len(part.raw)
                known.text = None
                return part.raw
            case "data":
                size = part.data.ByteSize()
                self._data_bytes += size
                fits = self._data_bytes <= FINAL_BYTES
                known.data.append(whole_numbers(plain(part.data)) if fits else {"omitted_bytes": size})
                return None
            case "url":
                known.data.append({"url": part.url, "filename": part.filename or None})
                return None
            case _:
                return None

    def finish(self) -> Iterator[Update]:
        """Artifacts that the task never marked as complete: it is over, so they are."""
        for artifact_id, known in self._artifacts.items():
            if artifact_id != EVENTS_ARTIFACT:
                yield from self._complete(artifact_id, known, artifact_id == FINAL_ARTIFACT)

    def call(self) -> ToolCall | None:
        """The tool that the paused task calls, if that is what it waits for."""
        metadata = self._status.message.metadata
        if self.state != TaskState.TASK_STATE_INPUT_REQUIRED or URI not in metadata:
            return None
        return call_of(whole_numbers(plain(metadata)[URI]))

    def request(self) -> InputRequest:
        """What the paused task waits for. Its id is the same whenever this state of the task is read."""
        message = self._status.message
        auth = self.state == TaskState.TASK_STATE_AUTH_REQUIRED
        fallback = "the agent needs you to log in" if auth else "the agent needs your input"
        text = text_of(message.parts) or fallback
        request_id = message.message_id or f"{self.task_id}-{self._pauses}"
        data = [json_part(part) for part in message.parts if not part.HasField("text")]
        asked = InputRequest(
            request_id=request_id,
            kind="auth" if auth else "input",
            text=text,
            detail={"parts": data} if data else None,
        )
        if URI in message.metadata:
            return request_of(whole_numbers(plain(message.metadata)[URI]), asked)
        return asked

    def outcome(self) -> Outcome:
        """How the ended task ended."""
        words = text_of(self._status.message.parts)
        match self.state:
            case TaskState.TASK_STATE_REJECTED:
                return Rejected(message=words or "the agent rejected the task without a reason")
            case TaskState.TASK_STATE_FAILED:
                return Failed(code="agent_error", message=words or "the agent failed without a reason")
            case TaskState.TASK_STATE_CANCELED:
                return Cancelled(reason=words or "the agent cancelled the task")
            case _:
                usage = usage_of(whole_numbers(self._metadata.get(URI)))
                return Completed(
                    final_response=self._final_text(words), structured_output=self._structured(), usage=usage
                )

    def _final_text(self, words: str) -> str:
        final = self._artifacts.get(FINAL_ARTIFACT)
        if final and final.text is not None and (text := "".join(final.text)):
            return text
        for known in reversed(self._artifacts.values()):
            if known.text and not known.data:
                return "".join(known.text)
        if text := words or self._last_message:
            return text
        structured = self._structured()
        if structured is not None:
            return orjson.dumps(structured).decode()
        large = [known.name or key for key, known in self._artifacts.items() if known.bytes]
        return f"the agent's answer is in its artifacts: {', '.join(large)}" if large else ""

    def _structured(self) -> Any:
        final = self._artifacts.get(FINAL_ARTIFACT)
        if final and final.data:
            return final.data[-1]
        return next((known.data[-1] for known in reversed(self._artifacts.values()) if known.data), None)
