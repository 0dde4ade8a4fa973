"""Our own tools in the hands of agents, over every backend and both doors: they say how far they are, ask their caller,
write to each other within their tree, and spawn within its caps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.engine.face import PASS, SOCKET
from orchestrator.host import place
from orchestrator.model import JsonObject
from test_agents.scripted import call_tool
from tests.contract.conftest import Subject


async def said(subject: Subject, run_id: str) -> list[str]:
    events = await subject.events(run_id, "agent_message")
    return [event["data"]["text"].partition("\n<system-reminder>")[0].rstrip() for event in events]


def documents(texts: list[str]) -> list[JsonObject]:
    """The results among what an agent said: each says what it heard, some with words before it."""
    return [json.loads(text[text.index('{"') :]) for text in texts if '{"' in text]


async def over(subject: Subject, run_id: str) -> JsonObject:
    """The run once it is completed."""
    digest = await subject.settled(run_id)
    assert digest["status"] == "completed", (digest, await said(subject, run_id))
    return await subject.call("get_run", run_id=run_id)


def hand_of(subject: Subject) -> Subject:
    """What an agent spawns: of its own kind, but for remote ones, by which what it knows could leave a sandbox."""
    return subject if subject.local else replace(subject, kind="local", config={})


def child(subject: Subject, *script: str, **more: object) -> str:
    """The line by which an agent spawns one of its own."""
    prompt = {"backend": hand_of(subject).backend, "cwd": str(subject.cwd), "prompt": "\n".join(script)}
    return subject.ours("spawn_run", **prompt, **more)


def delegating(subject: Subject) -> JsonObject:
    return {"backend_config": {**subject.config, "delegate": True}}


async def test_progress_is_seen_while_the_agent_works(subject: Subject) -> None:
    run_id = await subject.spawn(
        subject.ours("report_progress", text="half of it", percent=50), "ask Well?", "final done"
    )
    digest = await subject.settled(run_id)
    assert digest["progress"] == {"text": "half of it", "percent": 50}
    page = await subject.events(run_id, "status_changed")
    assert any(event["data"].get("progress") == digest["progress"] for event in page)
    await subject.call("continue_run", run_id=run_id, text="go on")
    assert (await over(subject, run_id))["progress"] == digest["progress"]


async def test_the_agent_asks_its_caller_and_gets_the_answer(subject: Subject) -> None:
    ours = subject.ours("ask_caller", question="Which colour?", options=["red", "blue"], context="for the door")
    if subject.kind.endswith("codex"):  # it has one of the same name that works where MCP servers do not
        ours = ours.replace("mcp__orchestrator.", "")
    run_id = await subject.spawn(ours, "final done")
    digest = await subject.settled(run_id)
    assert digest["status"] == "input_required"
    (request,) = digest["pending"]
    assert request["kind"] == "question"
    assert request["text"] == "Which colour?\n\nfor the door"
    assert [option["id"] for option in request["options"]] == ["red", "blue"]
    await subject.call("continue_run", run_id=run_id, decision="blue")
    await over(subject, run_id)
    assert any("blue" in text for text in await said(subject, run_id))


async def test_agents_of_one_tree_write_to_each_other(subject: Subject) -> None:
    hand = hand_of(subject)
    run_id = await subject.spawn(
        child(subject, hand.ours("send_message", to="boss", text="I am here"), "final sent", nickname="hand"),
        subject.ours("fetch_messages", wait_ms=40_000),
        subject.ours("list_agents"),
        subject.ours("send_message", to="caller", text="the hand is here"),
        "final done",
        nickname="boss",
        **delegating(subject),
    )
    await over(subject, run_id)
    spawned, fetched, listed, *_ = documents(await said(subject, run_id))
    (letter,) = fetched["messages"]
    assert letter["parts"] == [{"type": "text", "text": "I am here"}]
    assert letter["from"] == {"agent_name": "hand", "run_id": spawned["run_id"]}
    assert {agent["agent_name"]: agent.get("you") for agent in listed["agents"]} == {"boss": True, "hand": None}
    await subject.settled(spawned["run_id"])


async def test_an_agent_sees_its_own_tree_alone(subject: Subject) -> None:
    stranger = await subject.finished("say secret", nickname="stranger")
    run_id = await subject.spawn(
        subject.ours("send_message", to="stranger", text="hello"),
        subject.ours("send_message", to=stranger["run_id"], text="hello"),
        subject.ours("get_run", run_id=stranger["run_id"]),
        subject.ours("poll_events", run_id=stranger["run_id"]),
        subject.ours("list_runs", cwd="*"),
        "final done",
        **delegating(subject),
    )
    await over(subject, run_id)
    texts = await said(subject, run_id)
    (listed,) = documents([text for text in texts if '{"runs"' in text])
    texts = [text for text in texts if '{"runs"' not in text]
    assert sum("agent_not_found: no agent 'stranger'" in text for text in texts) == 1, texts
    assert sum(f"run_not_found: no run '{stranger['run_id']}'" in text for text in texts) == 3, texts
    assert [run["run_id"] for run in listed["runs"]] == [run_id]
    assert not any("secret" in text for text in texts)


async def test_without_delegate_an_agent_spawns_nothing(subject: Subject) -> None:
    run_id = await subject.spawn(child(subject, "final done"), "final done")
    await over(subject, run_id)
    assert len((await subject.call("list_runs"))["runs"]) == 1


async def test_delegation_stays_within_depth_and_permission(subject: Subject) -> None:
    grandchild = child(hand_of(subject), "final never")
    run_id = await subject.spawn(
        child(subject, grandchild, "final done", permission="full_access"),
        child(subject, grandchild, "final done", nickname="hand", backend_config={"delegate": True}),
        "final done",
        permission="workspace_write",
        **delegating(subject),
    )
    await over(subject, run_id)
    refused, spawned = [text for text in await said(subject, run_id) if text != "done"][:2]
    assert "permission_ceiling" in refused
    (hand,) = (document["run_id"] for document in documents([spawned]))
    await over(subject, hand)
    run = await subject.call("get_run", run_id=hand)
    assert (run["depth"], run["parent_run_id"]) == (1, run_id)


@pytest.mark.local
async def test_a_pass_is_worth_nothing_without_its_live_run(subject: Subject) -> None:
    run_id = await subject.spawn("ask Well?", "final done")
    await subject.settled(run_id)
    life = subject.engine.lives.get(run_id)
    assert life is not None
    assert life.agent_tools is not None
    server = life.agent_tools.server
    assert '"you":true' in await call_tool(server, "list_agents", {})
    other = {**server, "env": {**server["env"], PASS: "guessed"}}
    assert "the server ended" in await call_tool(other, "list_agents", {})
    assert "orchestrator mcp" in await call_tool(server, "list_profiles", {}), "it is no tool of agents"
    await subject.call("continue_run", run_id=run_id, text="go on")
    await over(subject, run_id)
    assert "the server ended" in await call_tool(server, "list_agents", {})


@pytest.mark.local
async def test_the_pass_is_in_no_file(subject: Subject) -> None:
    run_id = await subject.spawn(f"env {PASS}" if subject.kind == "local" else f"run echo ${PASS}", "ask Well?")
    await subject.settled(run_id)
    life = subject.engine.lives.get(run_id)
    assert life is not None
    assert life.face is not None
    key = life.face.key.encode()
    await subject.call("cancel_run", run_id=run_id)
    files = [path for path in (subject.cwd / ".orchestrator").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if key in path.read_bytes()]


async def test_a_run_without_our_tools_has_none(subject: Subject) -> None:
    config = {**subject.config, "agent_tools": False}
    run_id = await subject.spawn("ask Well?", backend_config=config)
    await subject.settled(run_id)
    life = subject.engine.lives.get(run_id)
    assert life is not None
    assert life.agent_tools is None
    assert PASS not in life.env
    await subject.call("cancel_run", run_id=run_id)


def test_the_bridge_knows_the_variable_by_the_same_name() -> None:
    assert place.SOCKET_VARIABLE == SOCKET
