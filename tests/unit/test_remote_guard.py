"""Hostile and broken agents: what they send is bounded, what they get is theirs, and the run says what was wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doors.tools import Tools
from orchestrator.errors import InvalidArgument
from tests.fake_agent import FakeAgent, Reply, fake_agent, said, task
from tests.unit.test_remote_streams import run


async def greet(reply: Reply) -> None:
    await reply.stream({"message": said("hi", "m1")})


async def test_a_card_of_200_mb_is_not_read(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    sent = 0

    async def flood(reply: Reply) -> None:
        nonlocal sent
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200000000\r\n\r\n")
        for _ in range(200):
            await reply.raw(b" " * 1_000_000)
            sent += 1_000_000

    agent.on["GET"] = flood
    result = await run(tools, agent, cwd)
    assert result["error"]["code"] == "agent_protocol"
    assert "over 16,777,216 bytes" in result["error"]["message"]
    assert sent < 40_000_000


async def test_an_endless_line_ends_the_run(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def endless(reply: Reply) -> None:
        await reply.begin_stream()
        await reply.raw(b"data: ")
        while True:
            await reply.raw(b"x" * 100_000)

    agent.on["SendStreamingMessage"] = endless
    result = await run(tools, agent, cwd)
    assert result["error"]["code"] == "agent_protocol"
    assert "8,388,608 bytes" in result["error"]["message"]


async def test_many_events_below_the_cap_are_no_flood(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.begin_stream()
        for number in range(30):
            state = task("WORKING", metadata={"pad": "x" * 10_000, "n": number})
            message = {"jsonrpc": "2.0", "id": 1, "result": {"task": state}}
            await reply.raw(b"data: " + json.dumps(message).encode() + b"\r\n")
            await reply.raw(b"\r\n")
        await reply.event({"message": said("hi", "m1")})

    agent.on["SendStreamingMessage"] = send
    assert (await run(tools, agent, cwd, max_event_bytes=50_000))["status"] == "completed"


async def test_a_redirect_is_not_followed(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async with fake_agent() as elsewhere:

        async def redirect(reply: Reply) -> None:
            await reply.body("307 Temporary Redirect", b"", f"location: {elsewhere.base}/rpc")

        agent.on["SendStreamingMessage"] = redirect
        result = await run(tools, agent, cwd, auth_token="a-secret-token-77")
        assert result["error"]["code"] == "agent_protocol"
        assert "redirects" in result["error"]["message"]
        assert elsewhere.seen == []


async def test_an_interface_on_another_origin_is_not_called(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async with fake_agent() as elsewhere:
        agent.card["supportedInterfaces"][0]["url"] = f"{elsewhere.base}/rpc"
        result = await run(tools, agent, cwd, auth_token="a-secret-token-77")
        assert result["error"]["code"] == "agent_protocol"
        assert "allowed_origins" in result["error"]["next_step"]
        assert elsewhere.seen == []


async def test_an_allowed_origin_is_called_without_the_credentials(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async with fake_agent() as elsewhere:
        agent.card["supportedInterfaces"][0]["url"] = f"{elsewhere.base}/rpc"
        elsewhere.on["SendStreamingMessage"] = greet
        config = {"auth_token": "a-secret-token-77", "headers": {"X-Key": "another-secret"}}
        result = await run(tools, agent, cwd, allowed_origins=[elsewhere.base], **config)
        assert result["status"] == "completed"
        assert agent.seen[0]["headers"]["authorization"] == "Bearer a-secret-token-77"
        assert agent.seen[0]["headers"]["x-key"] == "another-secret"
        assert not {"authorization", "x-key"} & set(elsewhere.seen[0]["headers"])


@pytest.mark.parametrize(
    ("status", "content", "code"),
    [
        ("200 OK", b"<html>hello</html>", "agent_protocol"),
        ("200 OK", b"[]", "agent_protocol"),
        ("200 OK", b"{}", "agent_protocol"),
        ("200 OK", b"\xff\xfe", "agent_protocol"),
        ("404 Not Found", b"{}", "backend_unavailable"),
        ("401 Unauthorized", b"{}", "auth_failed"),
        ("500 Internal Server Error", b"{}", "backend_unavailable"),
    ],
)
async def test_what_is_no_card_is_told(
    tools: Tools, agent: FakeAgent, cwd: Path, status: str, content: bytes, code: str
) -> None:
    async def card(reply: Reply) -> None:
        await reply.body(status, content)

    agent.on["GET"] = card
    result = await run(tools, agent, cwd)
    assert result["error"]["code"] == code
    assert not result["error"]["resumable"]


async def test_a_card_that_fails_once_is_asked_for_again(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    serve = agent.on["GET"]

    async def shaky(reply: Reply) -> None:
        if len(agent.seen) == 1:
            await reply.body("503 Service Unavailable", b"")
        else:
            await serve(reply)

    agent.on |= {"GET": shaky, "SendStreamingMessage": greet}
    assert (await run(tools, agent, cwd))["status"] == "completed"


async def test_an_agent_of_another_kind_is_told(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    agent.card["supportedInterfaces"][0]["protocolBinding"] = "GRPC"
    assert "GRPC" in (await run(tools, agent, cwd))["error"]["message"]


async def test_refused_credentials_are_told_as_such(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def refuse(reply: Reply) -> None:
        await reply.body("401 Unauthorized", b"{}")

    agent.on["SendStreamingMessage"] = refuse
    assert (await run(tools, agent, cwd))["error"]["code"] == "auth_failed"


async def test_a_refusal_of_the_protocol_is_the_agents_word(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def refuse(reply: Reply) -> None:
        await reply.error(-32602, "cwd must be absolute")

    agent.on["SendStreamingMessage"] = refuse
    result = await run(tools, agent, cwd)
    assert result["error"]["code"] == "agent_error"
    assert "cwd must be absolute" in result["error"]["message"]


async def test_read_only_needs_an_agent_that_can_be_told(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    agent.on["SendStreamingMessage"] = greet
    config = {"agent_url": agent.base}
    arguments = {"backend": "remote_a2a", "cwd": str(cwd), "prompt": "go", "backend_config": config}
    spawned = await tools.call("spawn_run", {**arguments, "permission": "read_only"})
    await tools.call("wait_runs", {"run_ids": [spawned["run_id"]]})
    refused = await tools.call("get_run", {"run_id": spawned["run_id"]})
    assert refused["error"]["code"] == "unsupported"
    assert agent.methods() == []
    assert (await run(tools, agent, cwd))["permission_enforced"] is False


async def test_the_directory_is_told_only_to_cards_that_know_the_extension(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    agent.on["SendStreamingMessage"] = greet
    await run(tools, agent, cwd)
    assert str(cwd) not in json.dumps(agent.seen)
    await run(tools, agent, cwd, metadata_mode="legacy")
    about = agent.seen[-1]["params"]["message"]["metadata"]["nanobot_orchestrator"]
    assert about["cwd"] == str(cwd)


async def test_a_local_defect_is_not_taken_for_a_lost_stream(
    tools: Tools, agent: FakeAgent, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.remote_a2a.updates import Tracker

    def broken(*_: object) -> Any:
        raise LookupError("a defect")

    monkeypatch.setattr(Tracker, "_message", broken)
    agent.on["SendStreamingMessage"] = greet
    assert (await run(tools, agent, cwd))["error"]["code"] == "internal"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "agent_url"),
        ({"agent_url": "ftp://127.0.0.1/x"}, "http or https"),
        ({"agent_url": "127.0.0.1:80"}, "http or https"),
        ({"agent_url": "http://169.254.169.254/latest"}, "link-local"),
        ({"agent_url": "http://[fe80::1]/"}, "link-local"),
        ({"agent_url": "http://[::ffff:169.254.169.254]/"}, "link-local"),
        ({"agent_url": "https://[2002:a9fe:a9fe::1]/"}, "link-local"),
        ({"agent_url": "https://2852039166/"}, "link-local"),
        ({"agent_url": "http://0.0.0.0/"}, "special address"),
        ({"agent_url": "http://example.com"}, "use https"),
        ({"agent_url": "http://user:pass@127.0.0.1"}, "credentials"),
        ({"agent_url": "http://127.0.0.1:99999"}, "valid URL"),
        ({"agent_url": "http://127.0.0.1", "auth_tokn": "x"}, "did you mean 'auth_token'"),
        ({"agent_url": "http://127.0.0.1", "auth_token": 7}, "auth_token must be a string"),
        ({"agent_url": "http://127.0.0.1", "auth_token": "a", "auth_token_env": "B"}, "not both"),
        ({"agent_url": "http://127.0.0.1", "headers": {"X": "a\nb"}}, "printable"),
        ({"agent_url": "http://127.0.0.1", "read_timeout_s": -1}, "positive"),
        ({"agent_url": "http://127.0.0.1", "metadata_mode": "loud"}, "auto, legacy or off"),
    ],
)
async def test_a_wrong_configuration_is_refused_before_anything_starts(
    tools: Tools, cwd: Path, config: dict[str, Any], words: str
) -> None:
    arguments = {"backend": "remote_a2a", "cwd": str(cwd), "prompt": "x", "backend_config": config}
    with pytest.raises(InvalidArgument, match=words):
        await tools.call("spawn_run", arguments)
    assert not (cwd / ".orchestrator").exists()


async def test_nobody_at_the_address_is_told(tools: Tools, cwd: Path) -> None:
    async def ignore(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...

    listener = await asyncio.start_server(ignore, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    await listener.wait_closed()
    result = await run(tools, FakeAgent(base), cwd)
    assert result["error"]["code"] == "backend_unavailable"
    assert base in result["error"]["message"]
