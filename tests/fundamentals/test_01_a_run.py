"""A run from spawn to result. Read these files in order: each test states one idea."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.fundamentals.conftest import Call

Spawn = Callable[..., Awaitable[str]]


async def test_spawn_returns_at_once(call: Call, spawn: Spawn) -> None:
    """A run works in the background: spawn_run gives its id and does not wait for it."""
    run_id = await spawn("sleep 1000")
    run = await call("get_run", run_id=run_id)
    assert run["status"] in ("queued", "running")


async def test_wait_until_a_run_is_over(call: Call, spawn: Spawn) -> None:
    """wait_runs waits for runs to be over, or to need their caller, and gives a short digest."""
    run_id = await spawn("say hello")
    digest = await call("wait_runs", run_ids=[run_id])
    assert digest["done"]
    assert digest["runs"][0]["status"] == "completed"


async def test_the_result_is_in_get_run(call: Call, spawn: Spawn) -> None:
    """A completed run has a result; its final response is what the agent said last, or said to be final."""
    run_id = await spawn("say hello", "final all done")
    await call("wait_runs", run_ids=[run_id])
    run = await call("get_run", run_id=run_id)
    assert run["result"]["final_response"] == "all done"


async def test_a_failed_run_is_data(call: Call, spawn: Spawn) -> None:
    """A run that failed is no error of the call: it has a code, a message, and what to do next."""
    run_id = await spawn("fail the disk is on fire")
    await call("wait_runs", run_ids=[run_id])
    run = await call("get_run", run_id=run_id)
    assert run["status"] == "failed"
    assert run["error"]["code"] == "agent_error"
    assert run["error"]["message"] == "the disk is on fire"
    assert run["error"]["next_step"]


async def test_an_agent_has_a_name(call: Call, spawn: Spawn) -> None:
    """Wherever a run id goes, the agent's name goes too; it means the agent's newest run."""
    run_id = await spawn("say hello", nickname="ada")
    assert (await call("get_run", agent_name="ada"))["run_id"] == run_id


async def test_a_run_can_be_cancelled(call: Call, spawn: Spawn) -> None:
    """cancel_run returns when the agent is gone; cancelling twice changes nothing."""
    run_id = await spawn("sleep 1000")
    first = await call("cancel_run", run_id=run_id, reason="not needed")
    assert first["status"] == "cancelled"
    assert await call("cancel_run", run_id=run_id) == first


async def test_runs_are_found_again(call: Call, spawn: Spawn) -> None:
    """list_runs shows the runs at or below the caller's directory, newest first."""
    older, newer = await spawn("say one"), await spawn("say two")
    listed = await call("list_runs")
    assert [run["run_id"] for run in listed["runs"]] == [newer, older]


async def test_several_runs_work_at_the_same_time(call: Call, spawn: Spawn) -> None:
    """Spawn all, then wait for all: the caller does other work meanwhile, or none."""
    runs = [await spawn("sleep 0.1", f"say {number}") for number in range(5)]
    digest = await call("wait_runs", run_ids=runs, until="all")
    assert [run["summary"] for run in digest["runs"]] == ["0", "1", "2", "3", "4"]


async def test_a_retry_with_the_same_key_is_the_same_run(call: Call, spawn: Spawn) -> None:
    """A caller that does not know whether its spawn arrived calls again with the same idempotency_key."""
    assert await spawn("say once", idempotency_key="k") == await spawn("say once", idempotency_key="k")
