"""Drives one run on a remote A2A agent: turns of sending a message and following the task until it is over.

The stream is only a hint: its clean end does not mean completion and its loss does not mean failure. Whenever it ends
without a state that settles the matter, the task itself is asked (`get_task`) and followed again (`subscribe`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import httpx
from a2a.types import Message, StreamResponse

from backends.remote_a2a.agent import Agent, http_status, refused_for_good, told
from backends.remote_a2a.extension import ToolCall
from backends.remote_a2a.options import Options
from backends.remote_a2a.transport import Refused
from backends.remote_a2a.updates import Tracker
from backends.remote_a2a.wire import Envelope
from orchestrator.backend import RunContext
from orchestrator.ends import Outcome
from orchestrator.errors import BackendError, OrchestratorError
from orchestrator.model import Answer, Attachment, InputRequest, RunSpec
from orchestrator.races import unless
from orchestrator.updates import Progress, RemoteRef, SessionBound, Started

logger = logging.getLogger(__name__)

WATCHDOG_S = 60.0
"""Silence after which the task is asked how it is, whatever the stream looks like."""
POLL_S = 2.0
"""Between two looks at a task that cannot be streamed, or that waits for a login elsewhere."""
FIRST_EVENT_S = 3.0
CANCEL_S = 5.0
_FIRST_PAUSE_S = 0.2


class Drive:
    """One run: turns of sending a message and following the task until it is over."""

    def __init__(
        self, spec: RunSpec, ctx: RunContext, options: Options, agent: Agent, tracker: Tracker, envelope: Envelope
    ) -> None:
        self._spec = spec
        self._ctx = ctx
        self._options = options
        self._agent = agent
        self._tracker = tracker
        self._envelope = envelope
        self._bound_to = ("", "")
        self._missed = False
        """Whether something may have happened at the agent while nobody followed it."""
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> Outcome:
        """Sends the prompt, or finds the task of an earlier owner, and follows it to its end."""
        spec, agent = self._spec, self._agent
        if spec.permission == "read_only" and not agent.extended:
            raise BackendError(
                "unsupported",
                "read_only cannot be enforced: this agent is not told of permissions, for its card does not declare "
                "the orchestration extension, or metadata_mode is off",
                resumable=False,
                next_step="spawn again without permission if you trust the agent",
            )
        started = Started(
            agent=agent.name or None,
            agent_url=agent.url,
            protocol=agent.protocol,
            native_session_id=self._tracker.context_id,
            permission_enforced=None if agent.extended else False,
        )
        await self._ctx.emit(started)
        message: Message | None = self._envelope.first(self._tracker.context_id)
        try:
            if spec.attach is not None:
                message = await self._attach(message, spec.attach)
            while not self._tracker.ended:
                await self._turn(message)
                if self._tracker.ended:
                    break
                message = await self._answered()
            for update in self._tracker.finish():
                await self._ctx.emit(update)
            return self._tracker.outcome()
        finally:
            if not self._tracker.ended and not self._ctx.leaving:
                await self.cancel()

    async def _attach(self, prompt: Message | None, attach: Attachment) -> Message | None:
        """Finds the task of a run that had begun under another owner, and tells what was missed.

        Returns:
            What is to be said next: an answer that had been given and may not have arrived, or nothing.
        """
        tracker = self._tracker
        self._bound_to = (tracker.task_id, tracker.context_id)
        self._missed = True
        await self._patiently(lambda: self._reconcile(prompt, bool(tracker.task_id), None))
        call = tracker.call()
        request = tracker.request() if tracker.paused and call is None else None
        for pending in attach.pending:
            if request is None or pending.request_id != request.request_id:
                await self._withdraw(pending)
        if call is not None:  # it may have had its effect, and its result was not heard
            return None if tracker.has(self._envelope.result_id(call)) else await self._call(call)
        if request is None:
            return None
        answer = attach.answers.get(request.request_id)
        if answer is None:
            return await self._ask()
        said = self._envelope.answer(tracker, request, answer)
        return None if tracker.has(said.message_id) else said

    async def _withdraw(self, request: InputRequest) -> None:
        """The agent does not wait for this any more: joined, and given up again."""
        asking = asyncio.ensure_future(self._ctx.ask(request))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})

    # ---- following ----

    async def _turn(self, message: Message | None) -> None:
        """Sends a message and follows the task until it is over or paused; only follows without a message."""
        tracker = self._tracker
        tracker.begin_turn()
        delivered = message is None
        stream = self._agent.send(message) if message is not None else None
        pause = _FIRST_PAUSE_S
        while True:
            heard, error = await self._read(stream) if stream is not None else (False, None)
            if tracker.ended or tracker.paused:
                return
            if error is not None and not tracker.task_id:
                self._give_up_early(error)
            await self._patiently(lambda known=delivered or heard, why=error: self._reconcile(message, known, why))
            if tracker.ended or tracker.paused:
                return
            delivered = True
            pause = _FIRST_PAUSE_S if heard else min(pause * 2, POLL_S)
            await asyncio.sleep(pause)
            stream = self._agent.subscribe(tracker.task_id) if self._agent.streaming else None

    async def _patiently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Tries until the agent answers, or was silent for too long."""
        lost_at = self._clock()
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except (BackendError, OrchestratorError):
                raise
            except Exception as unreachable:
                self._give_up_on(unreachable)
                if self._clock() - lost_at > self._options.lost_contact_s:
                    raise self._lost(unreachable) from unreachable
                logger.info("%s: %s; trying again", self._spec.run_id, unreachable)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _read(self, stream: AsyncGenerator[StreamResponse]) -> tuple[bool, BaseException | None]:
        """Takes in a stream until it ends, breaks, falls silent, or settles the turn.

        Returns:
            Whether anything came, and what broke the stream. The SDK does not wrap all that can break one, so any
            exception of the stream itself counts; what it means is for the task to tell.
        """
        heard = False
        try:
            async with asyncio.timeout(WATCHDOG_S) as watchdog, aclosing(stream) as events:
                while True:
                    try:
                        event = await self._next(events)
                    except StopAsyncIteration:
                        return heard, None
                    except Exception as error:  # noqa: BLE001
                        return heard, error
                    heard = True
                    await self._take(event)
                    if self._tracker.ended or self._tracker.paused:
                        return heard, None
                    watchdog.reschedule(self._clock() + WATCHDOG_S)
        except TimeoutError as silence:
            return heard, silence

    async def _next(self, events: AsyncGenerator[StreamResponse]) -> StreamResponse:
        """The next event. The one that names the task is awaited even when the run is being cancelled, for a bounded
        time: a task whose id nobody learned could not be cancelled, and would go on at the agent."""
        if self._tracker.task_id:
            return await anext(events)
        first = asyncio.ensure_future(anext(events))
        try:
            return await asyncio.shield(first)
        except asyncio.CancelledError:
            await asyncio.wait({first}, timeout=FIRST_EVENT_S)
            if not first.done():
                first.cancel()
                await asyncio.wait({first})
            elif not first.cancelled() and first.exception() is None:
                list(self._tracker.on_event(first.result(), self._clock()))
            raise

    async def _take(self, event: StreamResponse) -> None:
        for update in self._tracker.on_event(event, self._clock()):
            await self._ctx.emit(update)
        await self._remember()

    async def _remember(self) -> None:
        """Keeps the remote reference as soon as it is known, and the session where the agent chose another."""
        tracker = self._tracker
        here = (tracker.task_id, tracker.context_id)
        if here == self._bound_to:
            return
        if tracker.context_id != (self._bound_to[1] or self._spec.native_session_id or self._spec.session_id):
            await self._ctx.emit(SessionBound(native_session_id=tracker.context_id))
        self._bound_to = here
        if not tracker.task_id:
            return
        ref = {
            "task_id": tracker.task_id,
            "context_id": tracker.context_id,
            "agent_url": self._options.agent_url,
            "interface_url": self._agent.url,
            "protocol": self._agent.protocol,
        }
        await self._ctx.emit(RemoteRef(ref=ref))

    async def _reconcile(self, message: Message | None, delivered: bool, error: BaseException | None) -> None:
        """Reads the task and tells what was missed.

        Args:
            delivered: whether the message is known to have arrived; otherwise the task's history must show it.
        """
        tracker, agent = self._tracker, self._agent
        if not tracker.task_id:
            found = await self._find_task()
            if found is None:
                raise self._undelivered(error)
            tracker.task_id = found
        task = await agent.get_task(tracker.task_id)
        if self._missed:
            self._missed = False
            await self._ctx.emit(Progress(detail="reattached"))
        arrived = delivered or message is None or any(m.message_id == message.message_id for m in task.history)
        if not arrived:
            raise self._undelivered(error)
        for update in tracker.on_snapshot(task, self._clock()):
            await self._ctx.emit(update)
        await self._remember()

    async def _find_task(self) -> str | None:
        try:
            return await self._agent.find_task(self._tracker.context_id)
        except Exception as error:
            if refused_for_good(error):  # an agent that does not list tasks
                return None
            raise

    def _give_up_on(self, error: BaseException) -> None:
        """An answer is not silence: what the agent refuses now it will refuse again."""
        if http_status(error) in (401, 403):
            raise BackendError("auth_failed", f"the agent refused the credentials: {told(error)}") from error
        if refused_for_good(error):
            raise BackendError("agent_error", f"the agent does not tell of its task any more: {told(error)}") from error

    def _give_up_early(self, error: BaseException) -> None:
        """Without a task there is nothing to reconcile with when the agent itself said no, or was never reached."""
        if http_status(error) in (401, 403):
            self._give_up_on(error)
        if _is_refusal(error):
            raise BackendError("agent_protocol", f"refused what the agent sent: {told(error)}") from error
        if refused_for_good(error):
            raise BackendError("agent_error", f"the agent refused the message: {told(error)}") from error
        if _never_sent(error):
            raise BackendError("backend_unavailable", f"the agent cannot be reached: {told(error)}") from error

    def _undelivered(self, error: BaseException | None) -> BackendError:
        why = f": {told(error)}" if error else ""
        return BackendError(
            "lost_contact",
            f"contact was lost before the agent confirmed the message, and it was not sent again{why}",
            next_step="call continue_run with the text again; the agent may or may not have seen it",
        )

    def _lost(self, error: BaseException) -> BackendError:
        return BackendError(
            "lost_contact",
            f"no contact for {self._options.lost_contact_s:g} s with task {self._tracker.task_id}: {told(error)}",
            next_step="when the agent is back, call continue_run with text to go on in the same context",
        )

    # ---- what a paused task waits for ----

    async def _answered(self) -> Message | None:
        """What the paused task waits for, as a message; None if it went on without."""
        call = self._tracker.call()
        return await (self._ask() if call is None else self._call(call))

    async def _call(self, call: ToolCall) -> Message | None:
        """Calls one of our tools for the agent. Returns the message with what it gave, or None if the task went on
        without it. Each call is an event, so that `limits.max_events` bounds them."""
        await self._ctx.emit(Progress(detail=f"calls {call.name}"))
        if (tools := self._ctx.agent_tools) is not None and self._agent.extended:
            result = await unless(self._went_on(WATCHDOG_S), tools.call(call.call_id, call.name, call.arguments))
        else:
            words = "no tools are offered to you; go on without"
            result = {"content": [{"type": "text", "text": words}], "isError": True}
        return self._envelope.result(self._tracker, call, result) if result is not None else None

    async def _ask(self) -> Message | None:
        """Brings the task's request to the caller. Returns the message that answers it, or None if the task went on
        without one, as after a login elsewhere."""
        request = self._tracker.request()
        every_s = POLL_S if request.kind == "auth" else WATCHDOG_S
        answer = await unless(self._went_on(every_s), self._ctx.ask(request))
        if answer is None:
            return None
        self._log_in(answer)
        return self._envelope.answer(self._tracker, request, answer)

    async def _went_on(self, every_s: float) -> None:
        """Returns when the task does not wait for the same any more: it went on, ended, or asks for something else."""
        while True:
            await asyncio.sleep(every_s)
            try:
                task = await self._agent.get_task(self._tracker.task_id)
            except Exception as error:  # noqa: BLE001  the caller's answer will show whether the agent is there
                logger.info("%s: %s", self._spec.run_id, error)
                continue
            if not self._tracker.same_pause(task.status):
                return

    def _log_in(self, answer: Answer) -> None:
        token: Any = answer.backend_config.get("auth_token")
        headers: Any = answer.backend_config.get("headers") or {}
        if token or headers:
            self._agent.log_in(token, headers)

    async def cancel(self) -> None:
        """Cancels the task at the agent, as far as that goes in bounded time; the run ends here in any case."""
        try:
            async with asyncio.timeout(CANCEL_S):
                task_id = self._tracker.task_id or await self._agent.find_task(self._tracker.context_id)
                if task_id:
                    await self._agent.cancel_task(task_id)
        except Exception as error:  # noqa: BLE001  it may be over, gone or deaf
            logger.info("%s: the agent did not confirm the cancellation: %s", self._spec.run_id, error)


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error.__cause__ or error, Refused)


def _never_sent(error: BaseException) -> bool:
    return isinstance(error.__cause__ or error, (httpx.ConnectError, httpx.ConnectTimeout))
