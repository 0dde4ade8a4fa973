"""The conversation with one process of Claude Code: what is said, what comes, what it asks, and when it is over.

Above: `Drive`, which starts the process. Below: the SDK's client over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    HookContext,
    HookInput,
    HookJSONOutput,
    HookMatcher,
    Message,
    PermissionResultAllow,
    RateLimitEvent,
    ResultMessage,
    SystemMessage,
    ToolPermissionContext,
)

from backends.claude_code import requests
from backends.claude_code.prompt import content_of
from backends.claude_code.sessions import Spent, config_of
from backends.claude_code.transport import ProcessTransport, spent_now
from backends.claude_code.updates import SYNTHETIC, Stored, Translation
from orchestrator.backend import RunContext, denial
from orchestrator.changes import Watch
from orchestrator.errors import BackendError, OrchestratorError
from orchestrator.line_process import HURRY_S, LineProcess
from orchestrator.logins import LoginNeeded
from orchestrator.model import JsonObject, RunSpec, as_object
from orchestrator.updates import Progress, Update
from orchestrator.values import OURS

CONNECT_S = 60.0
INTERRUPT_S = 1.0
"""How long an interrupted turn may take to end; after that the process is ended as it is."""
SETTLE_S = 2.0
"""How long the CLI may take to begin a turn of its own after work in the background is over."""
UNANSWERED_S = 30.0
"""How long an idle agent may take to begin a turn for something that was said to it."""
_FOOTER = re.compile(r"\n?\[exited with code -?\d+\]\n?\Z")
"""The CLI's own last line in the file of a command that went on in the background."""
OUTPUT_BYTES = 8 * 2**20
"""Of a larger output that the CLI put into a file the beginning is told."""


_COMMANDING = ("__spawn_run", "__continue_run")
"""Of our tools: by these other agents would work before a plan is approved."""


class Talk:
    """A conversation with one process. To be entered: connects, and interrupts what still works at the end.

    Args:
        may_go_on: asked before each use of a tool, of a run with budgets, with what the session used so far.
    """

    def __init__(
        self,
        spec: RunSpec,
        ctx: RunContext,
        told: Translation,
        options: ClaudeAgentOptions,
        process: LineProcess,
        may_go_on: Callable[[Spent], Awaitable[bool]],
    ) -> None:
        self._spec = spec
        self._may_go_on = may_go_on
        self._ctx = ctx
        self._told = told
        self._planning = options.permission_mode == "plan"
        # the command line is made; of the mode the SDK would only say that it makes the callback needless
        asking = replace(options, can_use_tool=self._may_use, permission_mode=None, hooks={**self._hooks()})
        self._client = ClaudeSDKClient(asking, transport=ProcessTransport(process))
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()
        self._idle = False
        self._turn_over = False
        self._asking = 0
        self._tells_states = False
        """Whether the CLI says when it is idle; of one that does not the result is all there is to go by."""
        self._background: set[str] = set()
        self._unanswered: set[str] = set()
        self.about: JsonObject = {}
        """What the CLI said of itself."""
        self.results: list[ResultMessage] = []
        """One for each turn."""
        self.error: AssistantMessage | None = None
        """The message of the last turn by which the CLI told of an error."""
        self.limited_until: int | None = None
        """When the provider's limit is over, in seconds since 1970, as far as the CLI said so."""

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._client.connect()
            self.about = await self._client.get_server_info() or {}
        except TimeoutError as error:
            raise BackendError("agent_exited", f"Claude Code does not answer within {CONNECT_S:g} s") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError, ClaudeSDKError):
            async with asyncio.timeout(INTERRUPT_S):
                await self._client.disconnect()

    # ---- the conversation

    async def converse(self, content: list[JsonObject], watch: Watch, background_wait_s: float) -> ResultMessage:
        """Says the prompt and follows the conversation until nothing more is to come. Returns the last turn's result.

        Raises:
            LoginNeeded: the model's service refuses the agent.
            BackendError: nobody answered a question in time.
            ClaudeSDKError: the process ended, or makes no sense.
        """
        await self._say(content)
        reading = asyncio.create_task(self._read(watch), name=f"messages of {self._spec.run_id}")
        steering = asyncio.create_task(self._steer(), name=f"steering of {self._spec.run_id}")
        ending = asyncio.create_task(self._over(background_wait_s), name=f"end of {self._spec.run_id}")
        try:
            await asyncio.wait({reading, steering, ending, self._fault}, return_when=asyncio.FIRST_COMPLETED)
            if self._fault.done():
                self._fault.result()
            failed = bool(self.results) and self.results[-1].is_error  # after which the process may end
            for done in (ending,) if ending.done() else () if failed else (reading, steering):
                if done.done():
                    done.result()
            return self.results[-1]
        except asyncio.CancelledError:
            await self._interrupt(reading)
            raise
        finally:
            for task in (reading, steering, ending):
                task.cancel()
            await asyncio.wait({reading, steering, ending}, timeout=HURRY_S)

    async def _interrupt(self, reading: asyncio.Task[None]) -> None:
        """Ends the turn that is under way, so that its commands end and are told as ended."""
        if self._ctx.grace_s <= HURRY_S or reading.done() or self._idle:
            return
        turns = len(self.results)
        with contextlib.suppress(TimeoutError, ClaudeSDKError):
            async with asyncio.timeout(INTERRUPT_S):
                await self._client.interrupt()
                while len(self.results) == turns and not reading.done():
                    await self._next_change()

    async def _say(self, content: list[JsonObject]) -> None:
        message_id = str(uuid.uuid4())
        self._unanswered.add(message_id)
        self._idle = self._turn_over = False
        message = {"role": "user", "content": content}

        async def one() -> AsyncIterator[dict[str, Any]]:
            yield {"type": "user", "message": message, "parent_tool_use_id": None, "uuid": message_id}

        await self._client.query(one())

    async def _steer(self) -> None:
        async for message in self._ctx.steering():
            if not self._ctx.metered or await self._has_budget():
                await self._say(content_of(message))

    async def _read(self, watch: Watch) -> None:
        """Tells what comes, for as long as something comes."""
        async for message in self._client.receive_messages():
            await self._take(message)
            for told in self._told.updates(message):
                await self._ctx.emit(await _with_output(told) if isinstance(told, Stored) else told)
            if self._told.touched:
                await asyncio.to_thread(watch.note, self._told.touched)
                self._told.touched = set()
            self._changed.set()
        raise ClaudeSDKError("Claude Code closed its output")

    async def _take(self, message: Message) -> None:
        """What a message means for the course of the conversation."""
        match message:
            case ResultMessage():
                self.results.append(message)
                self._turn_over = True
                self._idle = self._idle or not self._tells_states
                self._unanswered -= set(message.user_message_uuids or ())
                if message.is_error:
                    self._unanswered.clear()
            case AssistantMessage():
                self._turn_over = self._turn_over and message.parent_tool_use_id is not None
                self.error = message if message.model == SYNTHETIC and message.error else None
                if message.error == "authentication_failed":
                    raise LoginNeeded(_words_of(message))
            case SystemMessage(subtype="api_retry") if message.data.get("error") == "authentication_failed":
                raise LoginNeeded(f"the service answered {message.data.get('error_status', 'nothing')}")
            case SystemMessage(subtype="session_state_changed"):
                self._tells_states = True
                self._idle = message.data.get("state") == "idle"
            case RateLimitEvent() if message.rate_limit_info.status == "rejected":
                self.limited_until = message.rate_limit_info.resets_at
            case SystemMessage(subtype="background_tasks_changed"):
                self._background = {str(task.get("task_id")) for task in message.data.get("tasks") or ()}
            case SystemMessage(subtype="status") if mode := message.data.get("permissionMode"):
                self._planning = mode == "plan"
            case _:
                pass

    # ---- the end of the conversation

    async def _over(self, background_wait_s: float) -> None:
        """Returns when nothing more is to come: the last turn is over, and nothing works in the background."""
        while True:
            while not self._resting:
                await self._next_change()
            if self._unanswered:
                patience = UNANSWERED_S
            elif self._background:
                patience = background_wait_s
                await self._ctx.emit(Progress(detail="waits for commands in the background"))
            elif self.results[-1].is_error or await self._ctx.end_steering(lambda: self._idle and not self._unanswered):
                return
            else:
                continue
            if not await self._goes_on(patience):
                return

    async def _goes_on(self, patience: float) -> bool:
        """Whether a new turn begins in time, now that the agent is idle."""
        turns = len(self.results)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while self._resting and len(self.results) == turns and loop.time() < deadline:
            waits_for_work = bool(self._background)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._next_change()
            if waits_for_work and not self._background:  # it is over; a turn about it may follow
                deadline = min(deadline, loop.time() + SETTLE_S)
        return not self._resting or len(self.results) > turns

    @property
    def _resting(self) -> bool:
        """Whether no turn is under way. With a sub-agent in the background the CLI does not say that it is idle."""
        beside = self._turn_over and bool(self._background) and not self._asking
        return bool(self.results) and (self._idle or beside)

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # ---- what it asks

    def _hooks(self) -> dict[Literal["PreToolUse"], list[HookMatcher]]:
        """What a run must not do unasked is caught before Claude Code permits it: it does not ask for all tools. So is
        what it has no budget for."""
        if self._spec.level == "full_access" and not self._ctx.metered:
            return {}
        return {"PreToolUse": [HookMatcher(hooks=[self._before_use], on_failure="block")]}

    async def _before_use(self, given: HookInput, _id: str | None, _context: HookContext) -> HookJSONOutput:
        call = as_object(given) or {}
        tool, wanted = str(call.get("tool_name")), as_object(call.get("tool_input")) or {}
        if self._ctx.metered and not await self._has_budget():
            return {"continue_": False, "stopReason": "the budget is used up"}
        if self._spec.level == "full_access":
            return {}
        if self._spec.level == "read_only":
            if requests.writes(tool, wanted):
                return _decided("deny", denial("this run is read_only"))
        elif await asyncio.to_thread(requests.writes_own_file, tool, wanted, self._spec.cwd, config_of(self._ctx.env)):
            return _decided("ask", "the file is Claude Code's own")
        return {}

    async def _has_budget(self) -> bool:
        try:
            return await self._may_go_on(await spent_now(self._client))
        except ClaudeSDKError as error:  # what cannot be counted cannot be kept
            self._give_up(BackendError("unsupported", str(error), next_step="leave out budgets, or update Claude Code"))
            return False

    def _give_up(self, error: Exception) -> None:
        """Ends the conversation by an error that the SDK would tell the agent, and go on."""
        if not self._fault.done():
            self._fault.set_exception(error)
            self._fault.exception()  # nobody may be waiting any more

    async def _may_use(self, tool: str, given: dict[str, Any], context: ToolPermissionContext) -> requests.Verdict:
        """Whether it may use a tool. Called for several at once; cancelled when it does not want to know any more."""
        ours = self._ctx.agent_tools is not None and tool.startswith(f"mcp__{OURS}__")
        if ours and not (self._planning and tool.endswith(_COMMANDING)):
            return PermissionResultAllow()
        if reason := requests.forbidden(tool, self._spec.level, planning=self._planning):
            return requests.denied(reason)
        call_id = context.tool_use_id or str(uuid.uuid4())
        wish = requests.Wish(tool, given, call_id, context.decision_reason, context.suggestions)
        before = None
        if path := requests.written_file(wish, self._spec.cwd):
            before = await asyncio.to_thread(_content_of, path)
        self._asking += 1
        self._changed.set()
        try:
            answer = await self._ctx.ask(requests.request_of(wish, self._spec.cwd, plan=self._told.plan, before=before))
        except (BackendError, OrchestratorError) as error:
            self._give_up(error)
            return requests.denied("the run is over")
        finally:
            self._asking -= 1
            self._changed.set()
        return requests.in_its_mode(wish, requests.verdict_of(wish, answer), self._spec.level)


def _decided(decision: Literal["deny", "ask"], reason: str) -> HookJSONOutput:
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": decision,
            "permissionDecisionReason": reason,
        }
    }


async def _with_output(stored: Stored) -> Update:
    output = await asyncio.to_thread(_content_of, stored.path)
    return stored.update if output is None else replace(stored.update, output=_FOOTER.sub("", output))


def _content_of(path: Path) -> str | None:
    """The text of a file; None if there is none, or it is no text."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            return file.read(OUTPUT_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return None


def _words_of(message: AssistantMessage) -> str:
    return " ".join(text for block in message.content if (text := getattr(block, "text", ""))) or str(message.error)
