"""Arbitrary input at every door: no crash, no hang, no lie. What may be refused is refused with a code."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from a2a.types import StreamResponse
from google.protobuf.json_format import ParseDict, ParseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.remote_a2a.extension import request_of, update_of
from backends.remote_a2a.updates import Tracker
from orchestrator.doors.schemas import TOOLS
from orchestrator.doors.tools import Tools
from orchestrator.ends import Completed
from orchestrator.errors import OrchestratorError
from orchestrator.model import TERMINAL, InputRequest, JsonObject
from orchestrator.updates import Update
from tests.conftest import open_tools
from tests.fake_agent import Reply, chunk, fake_agent, said, task, update

SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(sorted({name for tool in TOOLS for name in tool.properties}))
arguments = st.dictionaries(names | st.text(max_size=8), json_values, max_size=6)
plausible = st.fixed_dictionaries(
    {},
    optional={
        "run_id": st.sampled_from(["run_0", "run_../x", ""]) | st.text(max_size=10),
        "agent_name": st.text(max_size=10),
        "run_ids": st.lists(st.text(max_size=8), max_size=3),
        "seq": st.integers(-5, 10**6),
        "field_path": st.text(max_size=10),
        "limit": st.integers(-5, 10**6),
        "text": st.text(max_size=20),
        "backend": st.sampled_from(["scripted", "remote_a2a", "x"]),
        "prompt": st.text(max_size=20).map(lambda text: f"say {text}"),
        "backend_config": json_values,
        "limits": json_values,
        "output_schema": json_values,
        "input_message": json_values,
        "cwd": st.sampled_from(["/", "/no/where", "relative", "\0"]),
    },
)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


@QUICK
@given(st.sampled_from([tool.name for tool in TOOLS]), arguments | plausible)
def test_any_call_gives_a_document_or_a_refusal(tool: str, given_arguments: JsonObject) -> None:
    async def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with open_tools(Path(folder)) as tools:
                if "cwd" not in given_arguments and tool == "spawn_run":
                    given_arguments["cwd"] = folder
                await _refused_or_answered(tools, tool, {**given_arguments} | _patience(tool))

    run(call())


def _patience(tool: str) -> JsonObject:
    return {"wait_ms": 0} if tool in ("poll_events", "wait_runs") else {}


async def _refused_or_answered(tools: Tools, tool: str, given_arguments: JsonObject) -> None:
    refusal: OrchestratorError | None = None
    try:
        json.dumps(await tools.call(tool, given_arguments))
    except OrchestratorError as error:
        refusal = error
    if refusal is not None:
        assert refusal.sentence.startswith(f"{refusal.code}: ")
        assert len(refusal.sentence) < 5_000


STATES = "SUBMITTED WORKING INPUT_REQUIRED AUTH_REQUIRED COMPLETED FAILED CANCELED REJECTED NEW_ONE"
states = st.sampled_from(STATES.split())
messages = st.builds(said, st.text(max_size=20), st.sampled_from(["m1", "m2", "m3", ""]))


def in_task(state: str, message: JsonObject | None) -> JsonObject:
    return {"task": task(state, message=message)}


def as_reply(message: JsonObject) -> JsonObject:
    return {"message": message}


artifact_ids = st.sampled_from(["a", "b", "final-response", "orchestration-events"])
chunks = st.builds(chunk, artifact_ids, st.text(max_size=30), append=st.booleans(), last=st.booleans())
results: st.SearchStrategy[Any] = st.one_of(
    st.builds(in_task, states, messages),
    st.builds(update, states, st.none() | messages),
    chunks,
    st.builds(as_reply, messages),
    json_values,
)


@QUICK
@given(st.lists(results, max_size=12))
def test_the_tracker_follows_any_stream(stream: list[Any]) -> None:
    tracker = Tracker("context")
    ended_as: int | None = None
    seen: set[str] = set()
    for number, result in enumerate(stream):
        try:
            event = ParseDict(cast(JsonObject, result), StreamResponse(), ignore_unknown_fields=True)
        except (ParseError, TypeError, AttributeError):
            continue
        for told in tracker.on_event(event, float(number)):
            assert isinstance(told, Update)
            json.dumps({k: str(v) for k, v in told.payload().items()})
            if (message_id := getattr(told, "message_id", None)) is not None:
                assert message_id not in seen
                seen.add(message_id)
        if ended_as is not None:
            assert tracker.state == ended_as  # what is over stays as it ended
        if tracker.ended:
            ended_as = tracker.state
            assert tracker.outcome()
        elif tracker.paused:
            assert tracker.request().request_id
    list(tracker.finish())


@SLOW
@given(st.lists(results, max_size=6), st.lists(results, max_size=3), st.binary(max_size=60))
def test_a_run_ends_truly_whatever_the_agent_streams(first: list[Any], then: list[Any], junk: bytes) -> None:
    async def drive() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with fake_agent() as agent, open_tools(Path(folder)) as tools:

                async def send(reply: Reply) -> None:
                    await reply.stream(*first)
                    await reply.raw(b"data: " + junk + b"\n\n")

                async def subscribe(reply: Reply) -> None:
                    await reply.stream(*then)

                async def get(reply: Reply) -> None:
                    await reply.result(task("COMPLETED", message=said("the end", "m9")))

                async def find(reply: Reply) -> None:
                    await reply.result({"tasks": []})

                agent.on |= {"SendStreamingMessage": send, "SubscribeToTask": subscribe}
                agent.on |= {"GetTask": get, "ListTasks": find}
                config = {"agent_url": agent.base, "lost_contact_s": 0.2}
                spawn = {"backend": "remote_a2a", "cwd": folder, "prompt": "go", "backend_config": config}
                run_id = (await tools.call("spawn_run", spawn))["run_id"]
                while True:
                    digest = await tools.call("wait_runs", {"run_ids": [run_id]})
                    status = digest["runs"][0]["status"]
                    if status in TERMINAL:
                        break
                    await tools.call("cancel_run", {"run_id": run_id})
                events = await tools.call("poll_events", {"run_id": run_id, "limit": 1000, "max_chars": 200_000})
                assert [event["seq"] for event in events["events"]] == list(range(1, len(events["events"]) + 1))

    run(drive())


@QUICK
@given(json_values)
def test_any_envelope_is_an_update_or_nothing(value: Any) -> None:
    for received in (value, {"type": "file_changed", "data": value}, {"type": value, "data": {"changes": value}}):
        told = update_of(received)
        assert told is None or told.payload() is not None
        fallback = InputRequest(request_id="r", kind="input", text="t")
        assert request_of({"data": {"request": received}}, fallback).request_id


def test_a_tracker_without_events_has_an_outcome_to_tell() -> None:
    assert isinstance(Tracker("context").outcome(), Completed)
