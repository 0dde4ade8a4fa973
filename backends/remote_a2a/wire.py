"""Our side of the conversation as A2A messages: the first message of a run, and the answers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from a2a.types import Message, Part, Role

from backends.remote_a2a.extension import LEGACY_KEY, URI, ToolCall
from backends.remote_a2a.options import Options
from backends.remote_a2a.parts import part_of
from orchestrator.backend import AgentTools
from orchestrator.model import Answer, InputRequest, JsonObject, RunSpec
from orchestrator.model import Message as OurMessage

if TYPE_CHECKING:
    from backends.remote_a2a.updates import Tracker


class Envelope:
    """Addresses the messages of one run.

    Args:
        knows_extension: whether the card declares it; the directory is told to nobody else.
        tools: what the agent may call.
    """

    def __init__(self, spec: RunSpec, options: Options, knows_extension: bool, tools: AgentTools | None = None) -> None:
        self._spec = spec
        self._tools = tools
        self._legacy = options.metadata_mode == "legacy"
        self._extended = knows_extension and options.metadata_mode != "off"

    def first(self, context_id: str) -> Message:
        """The prompt."""
        message = self._message(context_id, "", f"{self._spec.run_id}:{self._spec.attempt}", self._spec.message)
        spec = self._spec
        if self._extended:
            about = {
                "cwd": str(spec.cwd),
                "runId": spec.run_id,
                "sessionId": spec.session_id,
                "permission": spec.level,
                "onApproval": spec.on_approval,
                "outputSchema": spec.output_schema,
                "events": "v1",
                "tools": self._tools.listed() if self._tools else None,
            }
            self._add(message, URI, {key: value for key, value in about.items() if value is not None})
        if self._legacy:
            self._add(message, LEGACY_KEY, {"cwd": str(spec.cwd), "run_id": spec.run_id, "session_id": spec.session_id})
        return message

    def answer(self, tracker: Tracker, request: InputRequest, answer: Answer) -> Message:
        """The caller's answer, on the same task and context."""
        said = answer.message or OurMessage.of_text(answer.decision or "continue")
        message_id = f"{self._spec.run_id}:{request.request_id}"
        message = self._message(tracker.context_id, tracker.task_id, message_id, said)
        if self._extended:
            reply = {"requestId": request.request_id, "decision": answer.decision}
            self._add(message, URI, {"answer": {key: value for key, value in reply.items() if value is not None}})
        elif request.kind == "approval" and answer.message and answer.decision:
            message.parts.insert(0, Part(text=answer.decision))
        return message

    def result(self, tracker: Tracker, call: ToolCall, result: JsonObject) -> Message:
        """What a called tool gave, on the same task and context."""
        text = "\n".join(part["text"] for part in result["content"] if part.get("type") == "text")
        said = OurMessage.of_text(text)
        message = self._message(tracker.context_id, tracker.task_id, self.result_id(call), said)
        reply = {"requestId": call.call_id, "isError": bool(result.get("isError"))}
        self._add(message, URI, {"answer": reply})
        return message

    def result_id(self, call: ToolCall) -> str:
        """The id of that message: the same whenever the call is answered."""
        return f"{self._spec.run_id}:call:{call.call_id}"

    def _message(self, context_id: str, task_id: str, message_id: str, ours: OurMessage) -> Message:
        message = Message(
            message_id=message_id,
            role=Role.ROLE_AGENT if ours.role == "agent" else Role.ROLE_USER,
            context_id=context_id,
            task_id=task_id,
            parts=[part_of(part) for part in ours.parts],
        )
        if ours.metadata:
            message.metadata.update(ours.metadata)
        if self._extended:
            message.extensions.append(URI)
        return message

    def _add(self, message: Message, key: str, value: JsonObject) -> None:
        message.metadata.update({key: value})
