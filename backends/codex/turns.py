"""The conversation with one process of Codex: its thread, its turns, what it asks, and when it is over.

Above: `Drive`, which starts the process. Below: `client`, the protocol. One task reads; requests of Codex are answered
by tasks of their own, for an answer may take hours.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Self

from backends.codex import requests
from backends.codex.client import Client, Notification, ProcessEnded, Request, RpcError
from backends.codex.ends import BUSY, login_words
from backends.codex.prompt import input_of, text_item
from backends.codex.updates import Translation, limit_of
from orchestrator.backend import RunContext
from orchestrator.changes import Watch
from orchestrator.errors import BackendError
from orchestrator.line_process import HURRY_S
from orchestrator.logins import LoginNeeded
from orchestrator.model import JsonObject, RunSpec, as_object
from orchestrator.updates import AgentMessage, Progress, Reasoning

INTERRUPT_S = 1.0
"""How long an interrupted turn may take to end, and its commands after that."""
BUSY_S = 10.0
"""How long another process of Codex may take to give the thread free."""
STEER_S = 5.0
DEFAULTS = "using defaults"
_WARNING = ("summary", "details", "path")
_WORDS = (AgentMessage, Reasoning, Progress)
"""What an agent may say and be done."""


class Conversation:
    """One thread in one process. To be entered; leaving it stops what still works."""

    def __init__(self, spec: RunSpec, ctx: RunContext, told: Translation, client: Client) -> None:
        self._spec = spec
        self._ctx = ctx
        self._told = told
        self._client = client
        self._watch: Watch | None = None
        self._turn_id: str | None = None
        self._ended: JsonObject | None = None
        self._unsent: list[list[JsonObject]] = []
        self._asked: dict[Any, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.thread_id = ""
        self._early: list[Notification] = []
        """What Codex told of its thread before it said which one that is."""
        self.broken_config = ""
        """What Codex said of a configuration that it cannot read, and does not use."""
        self.limited_until: float | None = None
        """When the provider takes requests again, in seconds since 1970; None while it does."""
        self._acted = False
        """Since the model last said what it used it did something: what comes of that it will be told."""
        self.stopped = False
        """The caller stopped the turn instead of approving something."""

    async def __aenter__(self) -> Self:
        self._own(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=HURRY_S)

    def _own(self, work: Any) -> asyncio.Task[None]:
        """A task that ends with the conversation, and ends it if it fails."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._fault.done():
            self._fault.set_exception(error)
            self._fault.exception()  # nobody may be waiting any more

    async def _unless_faulty(self, work: Awaitable[Any]) -> Any:
        """Waits for something, unless the conversation fails meanwhile."""
        waiting = asyncio.ensure_future(work)
        try:
            await asyncio.wait({waiting, self._fault}, return_when=asyncio.FIRST_COMPLETED)
            if self._fault.done():
                self._fault.result()
            return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting}, timeout=HURRY_S)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # the fault says more

    # ---- the thread

    async def begin(self) -> JsonObject:
        """The handshake. Returns what Codex says of the account that it uses."""
        return await self._unless_faulty(self._introduced())

    async def _introduced(self) -> JsonObject:
        await self._client.introduce()
        return await self._client.request("account/read")

    async def open_thread(self, fields: JsonObject, *, resume: str | None, fork: bool) -> JsonObject:
        """Begins, resumes or forks the thread. Returns what Codex says of it.

        Raises:
            RpcError: Codex does not have it, or does not take the parameters.
        """
        return await self._unless_faulty(self._opened(fields, resume, fork=fork))

    async def _opened(self, fields: JsonObject, resume: str | None, *, fork: bool) -> JsonObject:
        deadline = asyncio.get_running_loop().time() + BUSY_S
        while True:
            try:
                if resume is None:
                    answer = await self._client.request("thread/start", dynamicTools=[requests.ASK_CALLER], **fields)
                else:
                    method = "thread/fork" if fork else "thread/resume"
                    answer = await self._client.request(method, threadId=resume, excludeTurns=True, **fields)
                break
            except RpcError as error:  # its last process is just ending
                if BUSY not in str(error) or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.1)
        self.thread_id = str((as_object(answer.get("thread")) or {}).get("id"))
        return answer

    # ---- turns

    async def converse(self, given: list[JsonObject], fields: JsonObject, watch: Watch) -> JsonObject:
        """Says the prompt and follows the turn, and those that were said for meanwhile. Returns the last one's end.

        Args:
            fields: further parameters of each turn.

        Raises:
            LoginNeeded: the model's service refuses the agent.
            BackendError: nobody answered a question in time.
            ProcessEnded: Codex went away.
        """
        self._watch = watch
        for message in self._early:
            await self._take(message)
        self._early.clear()
        await self._unless_faulty(self._start(given, fields))
        self._own(self._steer())
        try:
            while True:
                turn = await self._unless_faulty(self._turn_over())
                if turn.get("status") != "completed":
                    break
                if await self._unless_faulty(self._ctx.end_steering(lambda: not self._unsent)):
                    break
                given = [item for items in self._unsent for item in items]
                self._unsent.clear()
                await self._unless_faulty(self._start(given, fields))
            await self._close_commands()
            return turn
        except asyncio.CancelledError:
            await self._interrupt()
            raise

    async def _start(self, given: list[JsonObject], fields: JsonObject) -> None:
        self._ended = None
        answer = await self._client.request("turn/start", threadId=self.thread_id, input=given, **fields)
        self._turn_id = str((as_object(answer.get("turn")) or {}).get("id"))

    async def _turn_over(self) -> JsonObject:
        while self._ended is None:
            await self._next_change()
        return self._ended

    async def _close_commands(self) -> None:
        """Commands that outlived their turn are ended, and Codex tells of their ends."""
        if not self._told.open_commands:
            return
        with contextlib.suppress(TimeoutError, RpcError, ProcessEnded, BackendError):
            async with asyncio.timeout(INTERRUPT_S):
                await self._client.request("thread/backgroundTerminals/clean", threadId=self.thread_id)
                while self._told.open_commands:
                    await self._next_change()

    async def _interrupt(self) -> None:
        """Ends the turn that is under way, and its commands, which Codex would leave running."""
        if self._ctx.grace_s <= HURRY_S or self._fault.done():
            return
        with contextlib.suppress(TimeoutError, RpcError, ProcessEnded, BackendError):
            async with asyncio.timeout(INTERRUPT_S):
                if self._ended is None:
                    await self._client.request("turn/interrupt", threadId=self.thread_id, turnId=self._turn_id)
                    await self._turn_over()
            await self._close_commands()

    async def _steer(self) -> None:
        async for message in self._ctx.steering():
            given = input_of(message)
            if not await self._say(given):
                self._unsent.append(given)
                self._changed.set()

    async def _say(self, given: list[JsonObject]) -> bool:
        """Says something to the turn that is under way; False if there is none."""
        if self._ended is not None:
            return False
        try:
            async with asyncio.timeout(STEER_S):
                await self._client.request(
                    "turn/steer", threadId=self.thread_id, expectedTurnId=self._turn_id, input=given
                )
        except (RpcError, TimeoutError):
            return False
        return True

    # ---- what comes

    async def _read(self) -> None:
        async for message in self._client.messages():
            if isinstance(message, Request):
                self._asked[message.request_id] = self._own(self._serve(message))
            else:
                await self._take(message)
                self._changed.set()
        raise ProcessEnded("Codex closed its output")

    async def _take(self, message: Notification) -> None:
        method, params = message
        if not self.thread_id and "threadId" in params:
            self._early.append(message)
            return
        if params.get("threadId", self.thread_id) != self.thread_id:
            await self._heed_helper(method, params)
            return
        turn = as_object(params.get("turn")) or {}
        match method:
            case "turn/started":
                self._turn_id = str(turn.get("id"))
            case "turn/completed":
                await self._turn_ended(turn)
            case "serverRequest/resolved":
                if task := self._asked.get(params.get("requestId")):
                    task.cancel()  # Codex does not want to know any more
            case "error" if words := login_words(as_object(params.get("error")) or {}):
                raise LoginNeeded(words)
            case "thread/tokenUsage/updated" | "account/rateLimits/updated":
                await self._count(method, params)
            case "configWarning" if DEFAULTS in (words := " ".join(str(params.get(key)) for key in _WARNING)):
                self.broken_config = words
            case _:
                await self._tell(method, params)

    async def _heed_helper(self, method: str, params: JsonObject) -> None:
        self._told.of_helper(method, params)
        if method == "thread/tokenUsage/updated":
            await self._ctx.spend(self._told.usage, more=True)

    async def _count(self, method: str, params: JsonObject) -> None:
        """What the model used for an answer comes after what the answer had it do."""
        if limits := as_object(params.get("rateLimits")):
            self.limited_until = limit_of(limits)
            return
        if params.get("turnId") != self._turn_id:
            self._told.used_before(as_object(params.get("tokenUsage")) or {})
            return
        await self._tell(method, params)
        more, self._acted = self._acted, False
        await self._ctx.spend(self._told.usage, more=more)

    async def _tell(self, method: str, params: JsonObject) -> None:
        for update in self._told.updates(method, params):
            self._acted = self._acted or not isinstance(update, _WORDS)
            await self._ctx.emit(update)
        if self._told.touched and self._watch:
            await asyncio.to_thread(self._watch.note, self._told.touched)
            self._told.touched = set()

    async def _turn_ended(self, turn: JsonObject) -> None:
        if patch := self._told.patch(str(turn.get("id"))):
            await self._ctx.emit(patch)
        if (error := as_object(turn.get("error"))) and (words := login_words(error)):
            raise LoginNeeded(words)
        self._ended = turn

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # ---- what it asks

    async def _serve(self, request: Request) -> None:
        """Answers a request of Codex by what the caller says. Cancelled when Codex does not want to know any more."""
        self._acted = True
        try:
            reply = requests.forbidden(request, self._spec.level)
            if reply is None:
                changes = self._told.changes.get(str(request.params.get("itemId")))
                asked = requests.request_of(request, changes)
                if asked is None:
                    await self._client.refuse(request)
                    return
                answer = await self._ctx.ask(asked)
                self.stopped = self.stopped or answer.decision == requests.STOP
                reply = requests.reply_to(request, answer)
            if reply.say:  # first, so that the agent reads it together with the refusal
                await self._say([text_item(reply.say)])
            self._asked.pop(request.request_id, None)
            await self._client.answer(request, reply.result)
        finally:
            self._asked.pop(request.request_id, None)
