"""The tools and resources that the suites bring tests for, played by our own server.

A request for one of the suite's names is rewritten into one that the product offers, about a real run of the scripted
agent, before it reaches the server's handlers; everything is answered by those. Only what the suites insist on is
adapted: a key, an address, the fields of an answer that keep to no form, the words of `greet`. What the product has no
mechanism for is not played: such a name reaches the server as it is, and is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import mcp_types as types
import orjson
from mcp.server.context import HandlerResult
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from orchestrator.doors.forms import KEY_SEPARATOR
from orchestrator.doors.mcp_tasks import Context
from orchestrator.doors.tools import Tools
from orchestrator.model import JsonObject, as_object

TEXT = "This is a simple text response for testing."
TASK_METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
NAME_KEY = "user_name"
"""The key under which a suite wants to be asked for a name."""

Next = Callable[[Context], Awaitable[HandlerResult]]


def play_fixtures(server: Server[Any], tools: Tools) -> None:
    """Lets a server that offers these tools answer to the suites' names as well."""
    server.middleware.append(_check_header)
    server.middleware.append(Fixtures(tools).serve)


class Fixtures:
    """The suites' names for one server. All clients of it share the runs that ask."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._asking: dict[str, str] = {}
        """The newest run that asked this."""

    async def serve(self, ctx: Context, call_next: Next) -> HandlerResult:
        """One request, as the server sees it and as the suite does."""
        params: JsonObject = {**(ctx.params or {})}
        name, uri = str(params.get("name")), str(params.get("uri"))
        match ctx.method:
            case "tools/call" if name in ("greet", "test_simple_text"):
                given = as_object(params.get("arguments")) or {}
                words = f"Hello, {given.get('name')}!" if name == "greet" else TEXT
                run = await self._run(f"final {words}")
                params |= _call("get_run", run_id=run["run_id"])
                return _final_response_of(await call_next(replace(ctx, params=params)))
            case "tools/call" if name == "test_input_required_result_elicitation":
                return await self._for_a_name(ctx, params, call_next)
            case "tools/call":
                params |= await self._called(name, as_object(params.get("arguments")) or {})
            case "tasks/update" if answers := as_object(params.get("inputResponses")):
                params["inputResponses"] = {key: _in_our_fields(answer) for key, answer in answers.items()}
            case "resources/read" | "resources/subscribe" | "resources/unsubscribe" if uri.startswith("test://"):
                params["uri"] = await self._address(uri)
                return _at(uri, await call_next(replace(ctx, params=params)))
            case _:
                return await call_next(ctx)
        return await call_next(replace(ctx, params=params))

    async def _called(self, name: str, given: JsonObject) -> JsonObject:
        """The call that a tool of the suite stands for."""
        match name:
            case "slow_compute":
                return self._spawned(f"sleep {given.get('seconds', 0)}\nfinal {given.get('label')}")
            case "failing_job" | "protocol_error_job":
                return self._spawned("sleep 0.2\nfail it does not work")
            case "confirm_delete":
                return self._spawned(f"approve rm {given.get('filename')}")
            case "multi_input":
                return self._spawned("asks What is your name? | And the other one?")
            case "test_error_handling":
                return _call("get_run", run_id="run_of_nobody")
            case "test_elicitation":
                run_id = await self._that_asks(str(given.get("message")))
                return _call("wait_runs", run_ids=[run_id], ask_person=True)
            case _:
                return {}

    async def _for_a_name(self, ctx: Context, params: JsonObject, call_next: Next) -> HandlerResult:
        """Asks the person at the client, in the way of an era without sessions; the suite chose the key."""
        run_id = await self._that_asks("What is your name?")
        run = await self._tools.call("get_run", {"run_id": run_id})
        key = f"{run_id}{KEY_SEPARATOR}{run['pending'][0]['request_id']}"
        params |= _call("wait_runs", run_ids=[run_id], ask_person=True)
        if answers := as_object(params.get("inputResponses")):
            ours = {key if name == NAME_KEY else name: _in_our_fields(said) for name, said in answers.items()}
            params["inputResponses"] = ours
        result = as_object(await call_next(replace(ctx, params=params))) or {}
        if asked := as_object(result.get("inputRequests")):
            theirs = {NAME_KEY if name == key else name: form for name, form in asked.items()}
            return {**result, "inputRequests": theirs}
        if (await self._tools.run(run_id)).status == "input_required":
            raise MCPError(types.INTERNAL_ERROR, "nobody heard the answer")  # which the suite itself does not look at
        return result

    async def _that_asks(self, question: str) -> str:
        """A run that waits for the answer to this; a new one if the last was answered."""
        if known := self._asking.get(question):
            run = await self._tools.call("get_run", {"run_id": known})
            if run["status"] == "input_required":
                return known
        run = await self._run(f"ask {question}")
        self._asking[question] = run["run_id"]
        return run["run_id"]

    async def _address(self, uri: str) -> str:
        """The address of the run that plays a resource; what the product has nothing like keeps its own."""
        match uri.removeprefix("test://").split("/"):
            case ["static-text"]:
                return f"run://{(await self._run(f'final {TEXT}'))['run_id']}"
            case ["template", value, "data"]:
                return f"run://{(await self._run(f'say Data for ID: {value}'))['run_id']}/events"
            case ["watched-resource"]:
                return f"run://{await self._that_asks('Is anybody watching?')}"
            case _:
                return uri

    async def _run(self, script: str) -> JsonObject:
        """A run of the script, once it is over or asks."""
        return await self._tools.call("spawn_run", self._arguments(script))

    def _spawned(self, script: str) -> JsonObject:
        return _call("spawn_run", **self._arguments(script))

    def _arguments(self, script: str) -> JsonObject:
        return {"backend": "scripted", "prompt": script, "cwd": str(self._tools.caller.cwd), "wait": True}


async def _check_header(ctx: Context, call_next: Next) -> HandlerResult:
    """Over HTTP a task's id stands in a header too. That is for who serves HTTP, and the product speaks stdio alone."""
    said, meant = ctx.request and ctx.request.headers.get("mcp-name"), (ctx.params or {}).get("taskId")
    if ctx.method in TASK_METHODS and said != meant:
        raise MCPError(types.HEADER_MISMATCH, "the header Mcp-Name does not say the taskId")
    return await call_next(ctx)


def _call(name: str, **arguments: Any) -> JsonObject:
    return {"name": name, "arguments": arguments}


def _in_our_fields(response: Any) -> Any:
    """An answer of a suite, which has the same fields whatever it was asked, with those of our forms."""
    answer = as_object(response) or {}
    match answer.get("content"):
        case {"name": str(text)}:
            return {**answer, "content": {"text": text}}
        case {"confirm": bool(yes)}:
            return {**answer, "content": {"decision": "approve" if yes else "deny"}}
        case _:
            return response


def _final_response_of(result: HandlerResult) -> HandlerResult:
    """A result of get_run with the words of the agent alone, which a suite compares."""
    shown = as_object(result) or {}
    run = orjson.loads(shown["content"][0]["text"])
    shown.pop("structuredContent", None)
    return {**shown, "content": [{"type": "text", "text": run["result"]["final_response"]}]}


def _at(uri: str, result: HandlerResult) -> HandlerResult:
    """What was read, at the address that was asked for."""
    shown = as_object(result) or {}
    contents = [{**content, "uri": uri} for content in shown.get("contents", ())]
    return {**shown, "contents": contents} if contents else result
