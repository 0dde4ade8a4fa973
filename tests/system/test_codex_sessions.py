"""Codex over several runs: what a session keeps, who may have it, and what becomes of one that is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.codex import turns
from backends.codex.backend import find_cli
from backends.codex.client import Client
from orchestrator.config import Settings
from orchestrator.line_process import line_process
from orchestrator.model import JsonObject, new_id
from tests.models.codex_player import CodexPlayer
from tests.models.player import agent_environment
from tests.system.codex_desk import done, escalated, kill, texts
from tests.system.desk import Desk, desk
from tests.unit.line_agents import Context

pytestmark = [pytest.mark.system]

GO = "run timeout 20 sh -c 'until test -e go; do sleep 0.05; done'"
"""A line of a script that lasts until the test makes the file `go`."""


@pytest.fixture(scope="module")
def model() -> Iterator[CodexPlayer]:
    """The model of all runs here."""
    with CodexPlayer() as player:
        yield player


@pytest.fixture
async def codex(model: CodexPlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Codex works."""
    async with desk("codex", cwd, agent_environment(model, tmp_path)) as place:
        yield place


def in_session(run: JsonObject, mode: str = "resume") -> JsonObject:
    """What is spawned to go on with a run's session."""
    return {"session_mode": mode, "session_id": run["session_id"]}


async def native(codex: Desk, run: JsonObject) -> str:
    """Codex's own id of the thread that a run is in."""
    (started,) = await codex.events(run["run_id"], "run_started")
    return started["data"]["native_session_id"]


# ---- going on


async def test_a_session_is_gone_on_with_in_the_same_thread(codex: Desk) -> None:
    first = await done(codex, "say one", "run touch a")
    second = await done(codex, "remember", **in_session(first))
    continued = await codex.call("continue_run", run_id=second["run_id"], text="remember")
    third = await codex.settled(continued["run_id"])
    assert (await texts(codex, second), await texts(codex, third)) == (["1 earlier prompts"], ["2 earlier prompts"])
    assert await native(codex, first) == await native(codex, second) == await native(codex, third)
    assert await codex.events(second["run_id"], "command_started", "file_changed") == []


async def test_a_fork_has_the_past_and_leaves_its_origin_alone(codex: Desk) -> None:
    first = await done(codex, "say one")
    fork = await done(codex, "remember", **in_session(first, "fork"))
    again = await done(codex, "remember", **in_session(fork))
    origin = await done(codex, "remember", **in_session(first))
    said = [(await texts(codex, run))[-1] for run in (fork, again, origin)]
    assert said == ["1 earlier prompts", "2 earlier prompts", "1 earlier prompts"]
    threads = [await native(codex, run) for run in (first, fork, again, origin)]
    assert (threads[1] == threads[2], threads[0] == threads[3], threads[0] == threads[1]) == (True, True, False)
    assert fork["session_id"] != first["session_id"]


async def test_a_run_that_failed_is_gone_on_with(codex: Desk) -> None:
    failed = await codex.finished("file kept.txt x", "http 500 down")
    assert (failed["status"], failed["error"]["resumable"]) == ("failed", True)
    run = await done(codex, "remember", "edit kept.txt x -> y", **in_session(failed))
    assert await texts(codex, run) == ["1 earlier prompts"]
    assert (codex.cwd / "kept.txt").read_text() == "y\n"


async def test_a_run_that_was_cancelled_is_gone_on_with(codex: Desk) -> None:
    run_id = await codex.spawn("say begun", "run sleep 60", "say never")
    await codex.seen(run_id, "command_started")
    cancelled = await codex.call("cancel_run", run_id=run_id)
    assert cancelled["status"] == "cancelled"
    continued = await codex.call("continue_run", run_id=run_id, text="remember")
    assert await texts(codex, await codex.settled(continued["run_id"])) == ["1 earlier prompts"]


async def test_a_run_that_died_with_its_process_is_gone_on_with(codex: Desk) -> None:
    run_id = await codex.spawn("run sleep 60", "say never")
    await codex.seen(run_id, "command_started")
    kill(codex)
    run = await codex.settled(run_id)
    assert run["error"]["code"] == "agent_exited"
    again = await done(codex, "remember", **in_session(run))
    assert await texts(codex, again) == ["1 earlier prompts"]


async def test_another_engine_goes_on_with_a_session(codex: Desk) -> None:
    first = await done(codex, "say one")
    async with desk("codex", codex.cwd, codex.env) as other:
        second = await done(other, "remember", **in_session(first))
        assert await texts(other, second) == ["1 earlier prompts"]
    third = await done(codex, "remember", **in_session(first))
    assert await texts(codex, third) == ["2 earlier prompts"]


# ---- one at a time


async def test_a_second_run_of_a_session_waits_for_the_first(codex: Desk) -> None:
    origin = await done(codex, "say one")
    first = await codex.spawn("remember", GO, "say first", **in_session(origin))
    await codex.seen(first, "command_started")
    second = await codex.spawn("remember", "say second", **in_session(origin))
    assert (await codex.call("get_run", run_id=second))["status"] == "queued"
    (codex.cwd / "go").touch()
    ends = [await codex.settled(run_id) for run_id in (first, second)]
    assert [run["status"] for run in ends] == ["completed", "completed"]
    assert [(await texts(codex, run))[0] for run in ends] == ["1 earlier prompts", "2 earlier prompts"]
    (started,) = await codex.events(second, "run_started")
    assert started["ts"] > ends[0]["completed_at"]


@asynccontextmanager
async def held(codex: Desk, thread: str) -> AsyncGenerator[None]:
    """Another Codex, of nobody's run, has the thread open while the block lasts."""
    command = [find_cli(Settings(), codex.env).path, "app-server"]
    async with line_process(command, cwd=codex.cwd, env=codex.env, run_id=new_id("run"), ctx=Context()) as process:
        client = Client(process)

        async def read() -> None:
            async for _ in client.messages():
                pass

        reading = asyncio.create_task(read())
        await client.introduce()
        await client.request("thread/resume", threadId=thread, cwd=str(codex.cwd))
        yield
        reading.cancel()


async def test_a_thread_that_another_codex_has_open_is_waited_for(codex: Desk) -> None:
    first = await done(codex, "say one")
    async with held(codex, await native(codex, first)):
        run_id = await codex.spawn("remember", **in_session(first))
        page = await codex.call("poll_events", run_id=run_id, wait_ms=1000)
        assert page["events"] == []
    assert await texts(codex, await codex.settled(run_id)) == ["1 earlier prompts"]


async def test_a_thread_that_another_codex_keeps_is_a_conflict(codex: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BUSY_S", 0.3)
    first = await done(codex, "say one")
    async with held(codex, await native(codex, first)):
        run = await codex.finished("remember", **in_session(first))
        assert run["status"] == "failed"
        assert run["error"]["code"] == "conflict"
        assert run["error"]["resumable"]
        assert "end the other Codex" in run["error"]["next_step"]
    assert await texts(codex, await done(codex, "remember", **in_session(first))) == ["1 earlier prompts"]


@pytest.mark.parametrize("mode", ["resume", "fork"])
async def test_a_session_that_codex_lost_is_told_and_cannot_be_resumed(codex: Desk, mode: str) -> None:
    first = await done(codex, "say one")
    shutil.rmtree(Path(codex.env["CODEX_HOME"]) / "sessions")
    run = await codex.finished("remember", **in_session(first, mode))
    assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "agent_error", False)
    assert "does not have the session any more" in run["error"]["message"]
    assert "CODEX_HOME" in run["error"]["next_step"]
    assert await codex.events(run["run_id"], "agent_message") == []
    assert (await done(codex, "say new"))["status"] == "completed"


async def test_a_session_of_another_home_is_lost_too(codex: Desk, tmp_path: Path, model: CodexPlayer) -> None:
    first = await done(codex, "say one")
    (tmp_path / "other").mkdir()
    async with desk("codex", codex.cwd, agent_environment(model, tmp_path / "other")) as other:
        run = await other.finished("remember", **in_session(first))
        assert (run["status"], run["error"]["resumable"]) == ("failed", False)
    assert await texts(codex, await done(codex, "remember", **in_session(first))) == ["1 earlier prompts"]


# ---- what goes along


async def test_the_callers_instructions_are_heard_at_first_and_when_gone_on_with(codex: Desk) -> None:
    words = ("system QUIXOTIC", "system SANGUINE")
    first = await done(codex, *words, backend_config={"append_system_prompt": "be QUIXOTIC"})
    same = await done(codex, *words, **in_session(first), backend_config={"append_system_prompt": "be QUIXOTIC"})
    none = await done(codex, *words, **in_session(first))
    other = await done(codex, *words, **in_session(first), backend_config={"append_system_prompt": "be SANGUINE"})
    fork = await done(
        codex, *words, **in_session(first, "fork"), backend_config={"append_system_prompt": "be SANGUINE"}
    )
    for run in (first, same, none):
        assert await texts(codex, run) == ["QUIXOTIC is there", "SANGUINE is not there"]
    for run in (other, fork):
        assert await texts(codex, run) == ["QUIXOTIC is there", "SANGUINE is there"]


async def test_a_run_without_instructions_has_none(codex: Desk) -> None:
    first = await done(codex, "system QUIXOTIC")
    later = await done(
        codex, "system QUIXOTIC", **in_session(first), backend_config={"append_system_prompt": "QUIXOTIC"}
    )
    assert [await texts(codex, run) for run in (first, later)] == [["QUIXOTIC is not there"], ["QUIXOTIC is there"]]


async def test_the_agent_can_ask_its_caller_whenever_it_is_gone_on_with(codex: Desk) -> None:
    first = await done(codex, "say one")
    runs = [await codex.finished("ask Which? | a | b", **in_session(first, mode)) for mode in ("resume", "fork")]
    for run in runs:
        assert [request["text"] for request in run["pending"]] == ["Which?"]
        run = await codex.answered(run["run_id"], decision="b")
        assert run["result"]["final_response"] == "the answer is: b"
    continued = await codex.call("continue_run", run_id=runs[1]["run_id"], text="ask And now?")
    run = await codex.settled(continued["run_id"])
    assert (await codex.answered(run["run_id"], text="stop"))["result"]["final_response"] == "the answer is: stop"


async def test_a_runs_permission_is_its_own_and_not_its_sessions(codex: Desk, tmp_path: Path) -> None:
    first = await done(codex, "run touch a", permission="full_access")
    second = await done(codex, f"run touch {tmp_path}/b; touch c; true", permission="read_only", **in_session(first))
    third = await done(codex, f"run touch {tmp_path}/d; touch e; true", **in_session(second))
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "d").exists()
    assert sorted(path.name for path in codex.cwd.iterdir() if path.is_file()) == ["a", "e"]
    fourth = await codex.finished(escalated("true"), **in_session(third))
    assert fourth["status"] == "input_required"


async def test_usage_is_each_runs_own(codex: Desk) -> None:
    first = await done(codex, "usage 100 10", "run true", "say one")
    second = await done(codex, "usage 7 3", "run true", "say two", **in_session(first))
    fork = await done(codex, "usage 5 1", "say three", **in_session(second, "fork"))
    used = [run["result"]["usage"] for run in (first, second, fork)]
    assert [(usage["input_tokens"], usage["output_tokens"], usage["turns"]) for usage in used] == [
        (200, 20, 2),
        (14, 6, 2),
        (5, 1, 1),
    ]


async def test_usage_is_the_runs_own_where_its_first_answer_breaks_off(codex: Desk) -> None:
    """Codex tells of the thread's usage then as it was, with the last call of the run before."""
    first = await done(codex, "usage 100 10", "say one")
    second = await done(codex, "usage 7 3", "say a", "say b", "breaks 1", "say two", **in_session(first))
    usage = second["result"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (7, 3)


async def test_a_working_agent_is_told_something(codex: Desk) -> None:
    run_id = await codex.spawn("listen", "say end")
    await codex.seen(run_id, "command_finished")
    await codex.call("continue_run", run_id=run_id, text="turn left")
    run = await codex.settled(run_id)
    assert run["status"] == "completed", run
    assert await texts(codex, run) == ["heard: turn left", "end"]
    said = [event["data"]["text"] for event in await codex.events(run_id, "message_added")]
    assert said == ["listen\nsay end", "turn left"]
    later = await done(codex, "remember", **in_session(run))
    assert await texts(codex, later) == ["1 earlier prompts"]
