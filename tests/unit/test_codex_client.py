"""JSON-RPC with an app-server, over a small real process that plays one: a `scene`, a program in a few lines.

A scene has `get()` for what we say, `put(**members)` for what it says, and `raw(text)` for what no app-server would.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from backends.codex import client as client_module
from backends.codex.client import Client, Notification, ProcessEnded, Request, RpcError
from orchestrator import __version__
from orchestrator.errors import BackendError
from orchestrator.line_process import LineProcess, line_process
from orchestrator.model import JsonObject, new_id
from orchestrator.updates import AgentProcess
from tests.unit.line_agents import Context

SERVER = """
import json, sys

def get():
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    return json.loads(line)

def raw(text):
    sys.stdout.write(text)
    sys.stdout.flush()

def put(**members):
    raw(json.dumps(members) + "\\n")

"""


@dataclass
class Link:
    """A client with its process, and what came from it so far."""

    client: Client
    process: LineProcess
    context: Context
    heard: list[Notification | Request]
    reading: asyncio.Task[None]

    async def until(self, count: int) -> list[Notification | Request]:
        """All that was heard once there are so many."""
        while len(self.heard) < count and not self.reading.done():  # noqa: ASYNC110  another task changes it
            await asyncio.sleep(0.005)
        assert len(self.heard) >= count, self.heard
        return self.heard

    async def over(self) -> list[Notification | Request]:
        """All that was heard, once the process said all."""
        await self.reading
        return self.heard


@asynccontextmanager
async def playing(scene: str) -> AsyncGenerator[Link]:
    """A client of a process that plays the scene."""
    context, heard = Context(), list[Notification | Request]()
    command = [sys.executable, "-I", "-S", "-c", SERVER + dedent(scene)]
    async with line_process(command, cwd=Path("/"), env={}, run_id=new_id("run"), ctx=context) as process:
        client = Client(process)

        async def read() -> None:
            async for message in client.messages():
                heard.append(message)

        link = Link(client, process, context, heard, asyncio.create_task(read()))
        try:
            yield link
        finally:
            link.reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, BackendError):
                await link.reading


def asked(link: Link, count: int) -> list[asyncio.Task[JsonObject]]:
    """So many requests of ours, in order."""
    return [asyncio.create_task(link.client.request(f"our/{n}", n=n)) for n in range(1, count + 1)]


async def test_a_request_is_answered_by_its_result() -> None:
    async with playing("put(id=get()['id'], result={'thread': {'id': 't'}})") as link:
        assert await link.client.request("thread/start", cwd="/x") == {"thread": {"id": "t"}}
        assert await link.over() == []
        assert [type(update) for update in link.context.told] == [AgentProcess]


async def test_what_we_say_is_one_object_a_line_without_the_member_jsonrpc() -> None:
    async with playing("raw(json.dumps({'method': 'said', 'params': {'line': sys.stdin.readline()}}) + '\\n')") as link:
        asking = asyncio.create_task(link.client.request("turn/start", input=[{"type": "text", "text": "a\nb"}]))
        (said,) = await link.until(1)
        line = '{"id":1,"method":"turn/start","params":{"input":[{"type":"text","text":"a\\nb"}]}}\n'
        assert said == Notification("said", {"line": line})
        with pytest.raises(ProcessEnded):
            await asking


async def test_the_handshake_says_who_we_are_and_then_that_we_are_ready() -> None:
    scene = """
    first = get()
    put(id=first["id"], result={"userAgent": "x"})
    put(method="heard", params={"first": first, "second": get()})
    """
    async with playing(scene) as link:
        await link.client.introduce()
        (heard,) = await link.over()
    client = {"name": "orchestrator", "title": "Orchestrator", "version": __version__}
    params = {"clientInfo": client, "capabilities": {"experimentalApi": True}}
    assert heard.params["first"] == {"id": 1, "method": "initialize", "params": params}
    assert heard.params["second"] == {"method": "initialized"}


async def test_answers_find_their_requests_in_whatever_order_they_come() -> None:
    scene = """
    asked = [get() for _ in range(4)]
    for request in (asked[2], asked[0], asked[3], asked[1]):
        put(id=request["id"], result={"n": request["params"]["n"]})
    """
    async with playing(scene) as link:
        assert [answer["n"] for answer in await asyncio.gather(*asked(link, 4))] == [1, 2, 3, 4]


async def test_both_sides_number_their_requests_by_themselves() -> None:
    scene = """
    first = get()
    put(id=first["id"], method="their/first", params={"a": 1})
    put(id="x", method="their/second")
    put(id=0, method="their/third", params={})
    put(id=first["id"], result={"ours": True})
    put(method="answers", params={"all": [get(), get(), get()]})
    """
    async with playing(scene) as link:
        (ours,) = asked(link, 1)
        assert await ours == {"ours": True}
        first, second, third = [message for message in await link.until(3) if isinstance(message, Request)]
        assert (first, second, third) == (
            Request(1, "their/first", {"a": 1}),
            Request("x", "their/second", {}),
            Request(0, "their/third", {}),
        )
        await link.client.answer(third, {"decision": "accept"})
        await link.client.refuse(second)
        await link.client.answer(first, {})
        *_, last = await link.over()
        assert last.params["all"] == [
            {"id": 0, "result": {"decision": "accept"}},
            {"id": "x", "error": {"code": -32601, "message": "not supported: their/second"}},
            {"id": 1, "result": {}},
        ]


async def test_a_request_of_theirs_is_answered_late_while_all_else_goes_on() -> None:
    scene = """
    put(id=0, method="item/tool/call", params={"tool": "t"})
    for n in range(50):
        request = get()
        put(method="told", params={"n": n})
        put(id=request["id"], result={"n": n})
    put(method="answered", params=get())
    """
    async with playing(scene) as link:
        for n in range(50):
            assert await link.client.request("more") == {"n": n}
        request = link.heard[0]
        assert isinstance(request, Request)
        await link.client.answer(request, {"late": True})
        heard = await link.over()
    assert [message.params["n"] for message in heard[1:-1]] == list(range(50))
    assert heard[-1] == Notification("answered", {"id": 0, "result": {"late": True}})


async def test_a_refusal_of_theirs_is_an_error_in_their_own_words() -> None:
    scene = """
    for _ in range(3):
        request = get()
        if request["params"]["n"] == 1:
            put(id=request["id"], error={"code": -32600, "message": "no rollout found for thread id x"})
        elif request["params"]["n"] == 2:
            put(id=request["id"], error={"code": -1})
        else:
            put(id=request["id"], result={"fine": True})
    """
    async with playing(scene) as link:
        refused, wordless, fine = asked(link, 3)
        with pytest.raises(RpcError, match=r"^no rollout found for thread id x$"):
            await refused
        with pytest.raises(RpcError, match="-1"):
            await wordless
        assert await fine == {"fine": True}


@pytest.mark.parametrize("result", ["null", "[]", "7", '"done"', "{}"])
async def test_a_result_that_says_nothing_is_an_empty_one(result: str) -> None:
    async with playing(f"raw('{{\"id\": %d, \"result\": {result}}}\\n' % get()['id'])") as link:
        assert await link.client.request("turn/interrupt") == {}


async def test_all_that_is_asked_when_it_ends_is_told_so() -> None:
    async with playing("get(), get(), get(); put(method='told', params={}); sys.exit(3)") as link:
        ends = await asyncio.gather(*asked(link, 3), return_exceptions=True)
        assert [type(end) for end in ends] == [ProcessEnded] * 3
        assert await link.over() == [Notification("told", {})]
        assert link.process.exit_code == 3


async def test_half_a_line_at_the_end_is_the_end() -> None:
    """A process that is killed while it writes leaves half a line."""
    scene = """
    get()
    put(method="told", params={})
    raw('{"id": 1, "result": {"cut')
    sys.exit(3)
    """
    async with playing(scene) as link:
        (waiting,) = asked(link, 1)
        assert await link.over() == [Notification("told", {})]
        with pytest.raises(ProcessEnded):
            await waiting
        assert link.process.exit_code == 3


async def test_a_process_that_ends_without_a_word_leaves_nobody_waiting() -> None:
    async with playing("get(); sys.exit()") as link:
        with pytest.raises(ProcessEnded):
            await link.client.request("account/read")
        assert await link.over() == []
        assert link.process.exit_code == 0


async def test_what_is_asked_after_the_end_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 1.0)
    async with playing("sys.exit()") as link:
        await link.over()
        with pytest.raises(ProcessEnded):
            await link.client.request("turn/interrupt")


async def test_saying_something_to_a_process_that_is_gone_harms_nobody() -> None:
    async with playing("put(id=0, method='m'); sys.exit()") as link:
        (request,) = await link.over()
        assert isinstance(request, Request)
        await link.client.answer(request, {"decision": "accept"})
        await link.client.refuse(request)


async def test_an_answer_that_does_not_come_in_time_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 0.2)
    async with playing("first = get(); second = get(); put(id=first['id'], result={}); get()") as link:
        with pytest.raises(BackendError, match="does not answer thread/start within") as raised:
            await link.client.request("thread/start")
        assert raised.value.code == "agent_protocol"
        with pytest.raises(BackendError):  # the late answer to the first is not taken for one to the second
            await link.client.request("turn/start")
        assert link.heard == []


async def test_the_answer_to_what_nobody_waits_for_any_more_is_left_alone() -> None:
    scene = """
    given_up = get()
    put(method="asked", params={})
    asked = get()
    put(id=given_up["id"], result={"late": True})
    put(id=asked["id"], result={"n": asked["params"]["n"]})
    put(id=asked["id"], result={"twice": True})
    put(id=999, result={})
    put(id=None, error={"code": -32700, "message": "parse error"})
    put(method="end", params={})
    """
    async with playing(scene) as link:
        given_up = asyncio.create_task(link.client.request("slow"))
        await link.until(1)
        given_up.cancel()
        assert await link.client.request("next", n=2) == {"n": 2}
        assert [message.method for message in await link.over()] == ["asked", "end"]


@pytest.mark.parametrize(
    "line", ["panicked at src/main.rs", "", "{", "[]", '"text"', "null", "7", '{"a": 1}}', "\\xff"]
)
async def test_a_line_that_is_no_message_ends_the_conversation(line: str) -> None:
    scene = f"""
    get()
    put(method="told", params={{}})
    sys.stdout.buffer.write({line!r}.replace("\\\\xff", "\\xff").encode("latin-1") + b"\\n")
    sys.stdout.flush()
    put(method="never told", params={{}})
    get()
    """
    async with playing(scene) as link:
        (waiting,) = asked(link, 1)
        with pytest.raises(BackendError, match="a line that is no") as raised:
            await link.over()
        assert raised.value.code == "agent_protocol"
        assert link.heard == [Notification("told", {})]
        with pytest.raises(ProcessEnded):
            await waiting


@pytest.mark.parametrize(
    "message",
    ["{}", '{"id": 5}', '{"method": 7}', '{"method": null, "id": 77}', '{"result": {}}', '{"id": "1", "result": {}}',
     '{"id": {}, "result": {}}', '{"id": [1], "error": {}}'],
)  # fmt: skip
async def test_an_object_that_is_neither_request_nor_answer_is_passed_over(message: str) -> None:
    scene = (
        f"asked = get(); raw('{message}\\n'); put(method='told', params=[1]); put(id=asked['id'], result={{'n': 1}})"
    )
    async with playing(scene) as link:
        (asking,) = asked(link, 1)
        assert await link.over() == [Notification("told", {})]
        assert await asking == {"n": 1}


async def test_members_that_are_no_objects_are_taken_for_empty_ones() -> None:
    async with playing("put(id=3, method='m', params=None); put(method='n', params='x'); put(method='o')") as link:
        assert await link.over() == [Request(3, "m", {}), Notification("n", {}), Notification("o", {})]


async def test_a_line_of_several_megabytes_is_one_message_in_both_directions() -> None:
    size = 5 * 2**20
    scene = f"""
    request = get()
    put(method="item/completed", params={{"output": "ä" * {size}}})
    put(id=request["id"], result={{"length": len(request["params"]["text"])}})
    """
    async with playing(scene) as link:
        assert await link.client.request("turn/start", text="ö" * size) == {"length": size}
        (told,) = await link.over()
    assert told == Notification("item/completed", {"output": "ä" * size})


async def test_what_it_says_on_stderr_is_kept_for_when_it_ends() -> None:
    scene = """
    sys.stderr.write("first\\n" * 200 + "Error: failed to initialize the state runtime\\n")
    sys.exit(1)
    """
    async with playing(scene) as link:
        assert await link.over() == []
        assert link.process.exit_code == 1
        assert len(link.process.errors) == 50
        assert link.process.errors[-1] == "Error: failed to initialize the state runtime"


async def test_many_ask_at_once_without_their_lines_being_mixed() -> None:
    scene = """
    for _ in range(40):
        request = get()
        put(id=request["id"], result={"n": request["params"]["n"], "length": len(request["params"]["text"])})
    """
    async with playing(scene) as link:
        texts: list[Any] = ["x" * (n * 10_000) for n in range(40)]
        answers = [link.client.request("turn/steer", n=n, text=text) for n, text in enumerate(texts)]
        assert await asyncio.gather(*answers) == [{"n": n, "length": n * 10_000} for n in range(40)]
