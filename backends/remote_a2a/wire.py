"""Our side of the conversation as A2A messages: the first message of a run, and the answers. Pure."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from a2a.types import Message, Part, Role
from google.protobuf.json_format import ParseDict

from backends.remote_a2a.extension import LEGACY_KEY, URI
from backends.remote_a2a.options import Options
from orchestrator.model import Answer, InputRequest, JsonObject, RunSpec
from orchestrator.model import Message as OurMessage

if TYPE_CHECKING:
    from backends.remote_a2a.updates import Tracker


class Envelope:
    """Addresses the messages of one run.

    Args:
        knows_extension: whether the card declares it; the directory is told to nobody else.
    """

    def __init__(self, spec: RunSpec, options: Options, knows_extension: bool) -> None:
        self._spec = spec
        self._legacy = options.metadata_mode == "legacy"
        self._extended = knows_extension and options.metadata_mode != "off"

    def first(self, context_id: str) -> Message:
        """The prompt."""
        message = self._message(context_id, "", f"{self._spec.run_id}:0", self._spec.message)
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

    def _message(self, context_id: str, task_id: str, message_id: str, ours: OurMessage) -> Message:
        message = Message(
            message_id=message_id,
            role=Role.ROLE_AGENT if ours.role == "agent" else Role.ROLE_USER,
            context_id=context_id,
            task_id=task_id,
            parts=[_part(part) for part in ours.parts],
        )
        if ours.metadata:
            message.metadata.update(ours.metadata)
        if self._extended:
            message.extensions.append(URI)
        return message

    def _add(self, message: Message, key: str, value: JsonObject) -> None:
        message.metadata.update({key: value})


def _part(part: JsonObject) -> Part:
    if part["type"] == "text":
        return Part(text=part["text"])
    if part["type"] == "data":
        data: Part = Part(media_type="application/json")
        ParseDict(part["data"], data.data)
        return data
    names: dict[str, Any] = {"media_type": part.get("mime_type", ""), "filename": part.get("name", "")}
    if "uri" in part:
        return Part(url=part["uri"], **names)
    return Part(raw=base64.b64decode(part["bytes_base64"]), **names)
