"""Calls that a client waits for without waiting: MCP's tasks, and questions to the person at the client, in the SDK's
types. What they say stands in `tasks` and `forms`.

A client that declares the extension gets its waits as tasks; to all others nothing changes. A person is asked in the
way of the client's era: in 2026-07-28 the call returns with what is asked and is made again with the answers, before
that the server asks while the call is under way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from orchestrator.doors.forms import Form, answer_of, forms_of, requests_of
from orchestrator.doors.mcp_offers import as_protocol_errors
from orchestrator.doors.tasks import EXTENSION, Tasks, result_of
from orchestrator.doors.tools import Tools
from orchestrator.errors import OrchestratorError
from orchestrator.model import JsonObject, as_object

Context = ServerRequestContext[Any, Any]
Call = Callable[[str, dict[str, Any]], Awaitable[types.CallToolResult]]
AGENT_NOTE = "com.anthropic/agent-task"
"""The key by which Claude Code lets a server say something to the model when a task begins."""


class TaskId(types.RequestParams):
    """Which task."""

    task_id: str


class TaskUpdate(TaskId):
    """Answers to what a task asks, by its keys."""

    input_responses: dict[str, Any]


def told(document: JsonObject) -> types.CallToolResult:
    """What a tool returned, as the result of its call."""
    return types.CallToolResult.model_validate(result_of(document))


def refused(error: OrchestratorError) -> types.CallToolResult:
    """Why a tool was not called: text alone, for known clients read different channels of a result that has both."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=error.sentence)], is_error=True)


def is_modern(ctx: Context) -> bool:
    """Whether the request is of the era without sessions."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def declares_tasks(ctx: Context) -> bool:
    """Whether a client takes a task for an answer. In the older era the word had another meaning."""
    client = ctx.session.client_capabilities
    return is_modern(ctx) and client is not None and EXTENSION in (client.extensions or {})


def declares_forms(ctx: Context) -> bool:
    """Whether a client shows forms to its person. One that only says `elicitation` means forms."""
    client = ctx.session.client_capabilities
    elicitation = client.elicitation if client else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


class Waiting:
    """The handlers for one client.

    Args:
        call: makes a tool call as if nothing of this were known.
    """

    def __init__(self, tools: Tools, call: Call) -> None:
        self._tasks = Tasks(tools)
        self._call = call

    def offer(self, server: Server[Any]) -> None:
        """Lets a server speak of tasks."""
        server.extensions = {**server.extensions, EXTENSION: {}}
        server.add_request_handler("tasks/get", TaskId, self._get)
        server.add_request_handler("tasks/update", TaskUpdate, self._update)
        server.add_request_handler("tasks/cancel", TaskId, self._cancel)

    async def call(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        """A tool call: as a task, with questions to a person, or as it is."""
        name, arguments = params.name, params.arguments or {}
        if declares_tasks(ctx) and self._tasks.wants(name, arguments):
            return await self._as_task(ctx, name, arguments)
        if name == "wait_runs" and arguments.get("ask_person") is True and declares_forms(ctx):
            return await self._asking(ctx, params, arguments)
        return await self._call(name, arguments)

    # ---- tasks

    async def _as_task(self, ctx: Context, name: str, arguments: dict[str, Any]) -> Any:
        try:
            task = await self._tasks.begin(name, arguments, asks=declares_forms(ctx))
        except OrchestratorError as error:
            return refused(error)
        if "document" in task:
            return told(task["document"])
        shown = {key: value for key, value in task.items() if key not in ("note", "result", "inputRequests")}
        note = {"_meta": {AGENT_NOTE: {"modelImmediateResponse": task["note"]}}} if "note" in task else {}
        # what is over already is told by the first question: a task begins as one that works
        return {**shown, "status": "working", "resultType": "task", **note}

    async def _get(self, ctx: Context, params: TaskId) -> JsonObject:
        _check(ctx)
        with as_protocol_errors():
            return await self._tasks.get(params.task_id, asks=declares_forms(ctx))

    async def _update(self, ctx: Context, params: TaskUpdate) -> JsonObject:
        _check(ctx)
        with as_protocol_errors():
            await self._tasks.update(params.task_id, params.input_responses)
        return {}

    async def _cancel(self, ctx: Context, params: TaskId) -> JsonObject:
        _check(ctx)
        with as_protocol_errors():
            await self._tasks.cancel(params.task_id)
        return {}

    # ---- a person

    async def _asking(self, ctx: Context, params: types.CallToolRequestParams, arguments: dict[str, Any]) -> Any:
        unsaid = await self._given(params)
        while True:
            result = await self._call("wait_runs", arguments)
            runs: list[JsonObject] = (as_object(result.structured_content) or {}).get("runs", [])
            forms = [form for form in forms_of(runs) if form.key not in unsaid]
            if not forms:
                return result
            if is_modern(ctx):
                return types.InputRequiredResult.model_validate({"inputRequests": requests_of(forms)})
            for form in forms:
                if not await self._ask(ctx, form):
                    unsaid.add(form.key)

    async def _given(self, params: types.CallToolRequestParams) -> set[str]:
        """Takes the answers that came with a call made again. Returns the keys of those who said nothing."""
        unsaid: set[str] = set()
        for key, response in (params.input_responses or {}).items():
            said = isinstance(response, types.ElicitResult)
            if not said or not await self._answered(key, response.action, response.content):
                unsaid.add(key)
        return unsaid

    async def _ask(self, ctx: Context, form: Form) -> bool:
        """Asks while the call is under way. False if nothing was said."""
        try:
            answer = await ctx.session.elicit_form(form.message, form.schema, related_request_id=ctx.request_id)
        except MCPError:  # it cannot after all
            return False
        return await self._answered(form.key, answer.action, answer.content)

    async def _answered(self, key: str, action: str, content: Any) -> bool:
        answer = answer_of(key, action, content)
        if answer is None:
            return False
        with contextlib.suppress(OrchestratorError):  # what is wrong with it the caller finds out by what still waits
            await self._tasks.answer(answer)
            return True
        return False


def _check(ctx: Context) -> None:
    """Refuses questions about tasks from who knows none.

    Raises:
        MCPError: the method is none of its era, or the extension was not declared.
    """
    if not is_modern(ctx):
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", ctx.method)
    if not declares_tasks(ctx):
        needed: JsonObject = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, f"this needs the extension {EXTENSION}", needed)
