"""The script of A2A's official compatibility kit: what a message does is said by the prefix of its messageId.

The kit sends such messages to see every state, artifact and message of the protocol. All other messages, and all
tasks that the script did not begin, go to the agent itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types import Part, Task, TaskState, TaskStatus

from backends.remote_a2a.updates import ENDED
from test_agents.work import data_part

Step = Callable[[TaskUpdater], Awaitable[None]]

HOLD_S = 4.0
"""How long the task of `test-resubscribe-message-id` works: twice the kit's own patience with a stream."""

ANSWER = "tck-message-response"
"""The one prefix that is answered with a message instead of a task."""


async def _work(updater: TaskUpdater) -> None:
    await updater.start_work()


async def _hold(_updater: TaskUpdater) -> None:
    await asyncio.sleep(HOLD_S)


async def _complete(updater: TaskUpdater) -> None:
    await updater.complete()


async def _greet(updater: TaskUpdater) -> None:
    await updater.complete(updater.new_agent_message([Part(text="Hello from TCK")]))


async def _require_input(updater: TaskUpdater) -> None:
    await updater.requires_input()


async def _reject(updater: TaskUpdater) -> None:
    await updater.reject(updater.new_agent_message([Part(text="rejected")]))


async def _stream_chunks(updater: TaskUpdater) -> None:
    await updater.add_artifact([Part(text="chunk-1 ")], artifact_id="chunked", append=False, last_chunk=False)
    await updater.add_artifact([Part(text="chunk-2")], artifact_id="chunked", append=True, last_chunk=True)


def _add(make_part: Callable[[], Part]) -> Step:
    async def step(updater: TaskUpdater) -> None:
        await updater.add_artifact([make_part()], last_chunk=True)

    return step


def _text(text: str) -> Step:
    return _add(lambda: Part(text=text))


_FILE = _add(lambda: Part(raw=b"tck", media_type="text/plain", filename="output.txt"))
_FILE_URL = _add(lambda: Part(url="https://example.com/output.txt", media_type="text/plain", filename="output.txt"))
_DATA = _add(lambda: data_part({"key": "value", "count": 42}))

SCRIPT: dict[str, tuple[Step, ...]] = {
    "tck-complete-task": (_greet,),
    "tck-input-required": (_require_input,),
    "tck-reject-task": (_reject,),
    "tck-artifact-text": (_text("Generated text content"), _complete),
    "tck-artifact-file": (_FILE, _complete),
    "tck-artifact-file-url": (_FILE_URL, _complete),
    "tck-artifact-data": (_DATA, _complete),
    "tck-stream-001": (_work, _text("Stream hello from TCK"), _complete),
    "tck-stream-002": (_complete,),
    "tck-stream-003": (_work, _text("Stream task lifecycle"), _complete),
    "tck-stream-ordering-001": (_work, _text("Ordered output"), _complete),
    "tck-stream-artifact-text": (_work, _text("Streamed text content"), _complete),
    "tck-stream-artifact-file": (_work, _FILE, _complete),
    "tck-stream-artifact-chunked": (_work, _stream_chunks, _complete),
    "test-resubscribe-message-id": (_work, _hold, _complete),
}


class TckExecutor(AgentExecutor):
    """Plays the script, and leaves what is not in it to another executor."""

    def __init__(self, other: AgentExecutor) -> None:
        self._other = other
        self._begun: set[str] = set()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor.execute`."""
        current = context.current_task
        message_id = context.message.message_id if context.message else ""
        steps = _steps(message_id)
        if current is not None and current.id in self._begun:
            if current.status.state not in ENDED:
                await _play(steps or (_greet,), TaskUpdater(event_queue, current.id, current.context_id))
        elif current is None and message_id.startswith(ANSWER):
            updater = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
            answer = updater.new_agent_message([Part(text="Direct message response")])
            answer.ClearField("task_id")  # there is no task
            await event_queue.enqueue_event(answer)
        elif current is None and steps:
            await self._begin(context, event_queue)
            await _play(steps, TaskUpdater(event_queue, context.task_id or "", context.context_id or ""))
        else:
            await self._other.execute(context, event_queue)

    async def _begin(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Announces the task: the SDK wants that before anything else is said of it."""
        task_id, context_id = context.task_id or "", context.context_id or ""
        self._begun.add(task_id)
        status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        history = [context.message] if context.message else []
        await event_queue.enqueue_event(Task(id=task_id, context_id=context_id, status=status, history=history))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor.cancel`."""
        await self._other.cancel(context, event_queue)


async def _play(steps: tuple[Step, ...], updater: TaskUpdater) -> None:
    for step in steps:
        await step(updater)


def _steps(message_id: str) -> tuple[Step, ...]:
    """What the longest prefix in the script says, if any fits."""
    prefix = max((prefix for prefix in SCRIPT if message_id.startswith(prefix)), key=len, default="")
    return SCRIPT.get(prefix, ())
