"""One A2A task's work: a backend's run whose updates are published as A2A events.

Above: the executor of `a2a_agent`, which starts it, pumps it until it pauses or ends, and brings answers. Below: any
backend of ours, for which this is the `RunContext`. A task outlives the requests that feed it: while it waits for an
answer the run is parked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2a.server.tasks import TaskUpdater
from a2a.types import Part, TaskState
from google.protobuf.json_format import ParseDict

from backends.remote_a2a.extension import (
    DURABLE,
    EVENTS_ARTIFACT,
    FINAL_ARTIFACT,
    TOOL_CALL,
    URI,
    ToolCall,
    carried,
    envelope,
)
from orchestrator.backend import Backend
from orchestrator.config import Settings, load
from orchestrator.ends import Cancelled, Completed, Failed, Outcome, Rejected
from orchestrator.errors import BackendError, OrchestratorError
from orchestrator.home import default_home
from orchestrator.model import Answer, InputRequest, JsonObject, Message, RunSpec, Usage
from orchestrator.updates import AgentMessage, ArtifactAdded, ArtifactChunk, SessionBound, Started, Update
from test_agents.tool_server import ToolResult, ToolServer

logger = logging.getLogger(__name__)

WORKING = TaskState.TASK_STATE_WORKING
OUTBOX = 64
DURABLE_EVENTS = 500
STOP_S = 10.0
REST_S = 30.0


class Work:
    """A run behind an A2A task.

    Args:
        rich: whether the client activated the extension; without it, it gets plain A2A.
        tools: those of the client, which the agent may call.
    """

    def __init__(
        self,
        backend: Backend,
        spec: RunSpec,
        env: Mapping[str, str],
        *,
        rich: bool,
        tools: Sequence[JsonObject] = (),
    ) -> None:
        self.spec = spec
        self.env = env
        self.settings = Settings()
        """See `RunContext.settings`; read when the work begins."""
        self._backend = backend
        self._rich = rich
        self._tools = ToolServer(tools, self) if rich and tools else None
        self._outbox: asyncio.Queue[Update | InputRequest | ToolCall | Outcome] = asyncio.Queue(OUTBOX)
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._asked: InputRequest | ToolCall | None = None
        self._seq = 0
        self._durable: list[JsonObject] = []
        self.native_session_id: str | None = None
        """The agent's own id of the session, once it said so: what a later task of the context resumes."""
        self._task = asyncio.create_task(self._run(), name=f"work {spec.run_id}")

    # ---- what the backend may do: RunContext ----

    @property
    def agent_tools(self) -> ToolServer | None:
        """See `RunContext.agent_tools`: those of the client, on the other side of A2A."""
        return self._tools

    @property
    def grace_s(self) -> float:
        """See `RunContext.grace_s`."""
        return STOP_S

    @property
    def leaving(self) -> bool:
        """See `RunContext.leaving`: this work has no other owner to go to."""
        return False

    async def emit(self, update: Update) -> None:
        """See `RunContext.emit`. Waits while the client does not keep up."""
        if isinstance(update, (Started, SessionBound)) and update.native_session_id is not None:
            self.native_session_id = update.native_session_id
        await self._outbox.put(update)

    @property
    def metered(self) -> bool:
        """See `RunContext.metered`: the client keeps its own budgets."""
        return False

    async def spend(self, usage: Usage, *, more: bool) -> bool:
        """See `RunContext.spend`: what the work used stands beside its end."""
        return True

    async def rest(self) -> None:
        """See `RunContext.rest`. Nobody is held here, so it is a pause."""
        await asyncio.sleep(REST_S)

    async def ask(self, request: InputRequest) -> Answer:
        """See `RunContext.ask`. A2A knows one pause at a time, so further requests wait for their turn."""
        return await self._asks(request.request_id, request)

    async def call(self, call: ToolCall) -> ToolResult:
        """Has the client call one of its tools. It waits for its turn among the requests."""
        return await self._asks(call.call_id, call)

    async def _asks(self, name: str, item: InputRequest | ToolCall) -> Any:
        future = self._answers[name] = asyncio.get_running_loop().create_future()
        try:
            await self._outbox.put(item)
            return await future
        finally:
            self._answers.pop(name, None)

    async def end_steering(self, over: Callable[[], bool]) -> bool:
        """See `RunContext.end_steering`."""
        return over()

    async def steering(self) -> AsyncIterator[Message]:
        """See `RunContext.steering`. A2A cannot steer: nothing ever comes."""
        await asyncio.get_running_loop().create_future()
        yield Message()

    async def _run(self) -> None:
        try:
            home = Path(default_home())
            self.settings = (await asyncio.to_thread(load, home, None, self.env)).settings
            async with self._tools or contextlib.nullcontext():
                outcome = await self._backend.run(self.spec, self)
        except BackendError as error:
            outcome = Failed(code=error.code, message=str(error))
        except OrchestratorError as error:
            outcome = Rejected(message=str(error))
        except Exception:
            logger.exception("the backend has a defect")
            outcome = Failed(code="internal", message="the agent met an internal error")
        await self._outbox.put(outcome)

    # ---- what the executor does with it ----

    @property
    def parked(self) -> InputRequest | ToolCall | None:
        """What the client was shown and has not answered."""
        return self._asked

    def answer(self, text: str, about: JsonObject) -> None:
        """Gives the client's answer to what is parked.

        Args:
            about: what the extension says of the answer, which is nobody's word but the client's.
        """
        assert self._asked is not None
        decision = about.get("decision") if isinstance(about.get("decision"), str) else None
        if isinstance(self._asked, ToolCall):
            called, self._asked = self._answers.get(self._asked.call_id), None
            if called and not called.done():
                called.set_result(ToolResult(text, is_error=about.get("isError") is True))
            return
        future = self._answers.get(self._asked.request_id)
        if self._asked.kind == "approval" and decision is None:
            word, _, text = text.partition("\n")
            decision = word.strip().lower() if word.strip().lower() in ("approve", "deny") else "deny"
        self._asked = None
        if future and not future.done():
            said = Message.of_text(text) if text and text != decision else None
            future.set_result(Answer(decision=decision, message=said))

    async def pump(self, updater: TaskUpdater) -> bool:
        """Publishes until the run pauses (False) or is over (True)."""
        while True:
            item = await self._outbox.get()
            if isinstance(item, (InputRequest, ToolCall)):
                self._asked = item
                await self._pause(updater, item)
                return False
            if isinstance(item, (Completed, Failed, Rejected, Cancelled)):
                await self._finish(updater, item)
                return True
            await self._publish(updater, item)

    async def stop(self) -> None:
        """Ends the run; bounded."""
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=STOP_S)

    async def _publish(self, updater: TaskUpdater, update: Update) -> None:
        match update:
            case AgentMessage():
                await updater.update_status(WORKING, updater.new_agent_message([Part(text=update.text)]))
            case ArtifactChunk():
                content = update.content
                part = Part(text=content) if isinstance(content, str) else Part(raw=content, filename=update.name or "")
                await updater.add_artifact(
                    [part],
                    artifact_id=update.artifact_id,
                    name=update.name,
                    append=update.append,
                    last_chunk=update.last,
                )
            case ArtifactAdded():
                part = Part(text=update.text) if update.text is not None else data_part(update.data)
                await updater.add_artifact([part], artifact_id=update.artifact_id, name=update.name, last_chunk=True)
            case _ if self._rich and carried(update):
                event = self._envelope(update.type, update.payload())
                if update.type in DURABLE and len(self._durable) < DURABLE_EVENTS:
                    self._durable.append(event)
                await updater.update_status(WORKING, metadata={URI: event})
            case _:
                pass

    def _envelope(self, event_type: str, data: JsonObject) -> JsonObject:
        self._seq += 1
        return envelope(self._seq, event_type, data)

    async def _pause(self, updater: TaskUpdater, request: InputRequest | ToolCall) -> None:
        if isinstance(request, ToolCall):
            message = updater.new_agent_message([Part(text=f"calls {request.name}")])
            call = {"id": request.call_id, "name": request.name, "arguments": request.arguments}
            message.metadata.update({URI: self._envelope(TOOL_CALL, {"call": call})})
            await updater.requires_input(message)
            return
        message = updater.new_agent_message([Part(text=request.text)])
        auth = request.kind == "auth"
        if self._rich:
            event_type = "auth_required" if auth else "input_required"
            message.metadata.update({URI: self._envelope(event_type, {"request": request.to_json()})})
        await (updater.requires_auth(message) if auth else updater.requires_input(message))

    async def _finish(self, updater: TaskUpdater, outcome: Outcome) -> None:
        if self._durable:
            await updater.add_artifact(
                [data_part(self._durable)], artifact_id=EVENTS_ARTIFACT, extensions=[URI], last_chunk=True
            )
        match outcome:
            case Completed():
                parts = [Part(text=outcome.final_response)]
                if outcome.structured_output is not None:
                    parts.append(data_part(outcome.structured_output))
                await updater.add_artifact(parts, artifact_id=FINAL_ARTIFACT, name=FINAL_ARTIFACT, last_chunk=True)
                usage = {URI: {"v": 1, "usage": outcome.usage.to_json()}} if self._rich and outcome.usage else None
                await updater.update_status(TaskState.TASK_STATE_COMPLETED, metadata=usage)
            case Failed():
                await updater.failed(updater.new_agent_message([Part(text=outcome.message)]))
            case Rejected():
                await updater.reject(updater.new_agent_message([Part(text=outcome.message)]))
            case Cancelled():
                await updater.cancel(updater.new_agent_message([Part(text=outcome.reason or "cancelled")]))


def data_part(value: Any) -> Part:
    """A structured part."""
    part = Part(media_type="application/json")
    ParseDict(value, part.data)
    return part
