"""Runs that need their caller, and sessions that go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from orchestrator.errors import Conflict, OrchestratorError
from tests.fundamentals.conftest import Call

Spawn = Callable[..., Awaitable[str]]


async def test_a_question_waits_for_its_answer(call: Call, spawn: Spawn) -> None:
    """A run that needs something is input_required; pending says what; continue_run answers."""
    run_id = await spawn("ask Which colour? | red | blue")
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["runs"][0]["status"] == "input_required"
    assert digest["runs"][0]["pending"][0]["text"] == "Which colour?"
    await call("continue_run", run_id=run_id, decision="red")
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["runs"][0]["summary"] == "the answer is: red"


async def test_an_approval_is_asked_for(call: Call, spawn: Spawn) -> None:
    """By default nothing is approved by anybody but the caller; a denial may carry a reason for the agent."""
    run_id = await spawn("approve rm -rf build")
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["runs"][0]["pending"][0]["detail"]["command"] == "rm -rf build"
    await call("continue_run", run_id=run_id, decision="deny", text="keep the build")
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["runs"][0]["summary"] == "denied: keep the build"


async def test_with_several_requests_one_is_named(call: Call, spawn: Spawn) -> None:
    """When several requests are pending the caller says which one it answers."""
    run_id = await spawn("asks First? | Second?")
    page = await call("poll_events", run_id=run_id, types=["input_required"], limit=2)
    while len(page["pending"]) < 2:
        page = await call("poll_events", run_id=run_id, after_seq=page["next_after_seq"])
    with pytest.raises(Conflict, match="several requests are pending"):
        await call("continue_run", run_id=run_id, text="x")
    for number, request in enumerate(page["pending"]):
        await call("continue_run", run_id=run_id, request_id=request["request_id"], text=str(number))
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["runs"][0]["summary"] == "the answers are: 0, 1"


async def test_a_running_agent_is_steered(call: Call, spawn: Spawn) -> None:
    """Text for a running run reaches the agent while it works, where the agent can take it."""
    run_id = await spawn("say ready", "listen")
    await call("poll_events", run_id=run_id, types=["agent_message"])
    assert (await call("continue_run", run_id=run_id, text="turn left"))["mode"] == "steer"
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["runs"][0]["summary"] == "heard: turn left"


async def test_a_finished_run_is_resumed(call: Call, spawn: Spawn) -> None:
    """Text for a finished run starts a new one in the same session: the agent remembers."""
    run_id = await spawn("say one")
    await call("wait_runs", run_ids=[run_id])
    resumed = await call("continue_run", run_id=run_id, text="remember")
    assert resumed["mode"] == "resume"
    assert resumed["run_id"] != run_id
    digest = await call("wait_runs", run_ids=[resumed["run_id"]])
    assert digest["runs"][0]["summary"] == "1 earlier prompts"


async def test_a_refusal_says_what_to_do(call: Call) -> None:
    """A call that cannot be done is refused with a code and a sentence, and changes nothing."""
    with pytest.raises(OrchestratorError) as refused:
        await call("get_run", run_idd="x")
    assert refused.value.sentence == "unknown_argument: get_run has no argument 'run_idd'; did you mean 'run_id'?"
