"""What goes wrong with Claude Code, its model or its login, and how a run tells of it and ends.

The errors are those of the model's service as the scripted model gives them, the CLI's own end, and no answer at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

SOON_S = 5.0
"""What a run may take that ends at once: a process is started and ended, on a machine with other work."""


@pytest.fixture(scope="module")
def model() -> Iterator[ClaudePlayer]:
    """The model of all runs here."""
    with ClaudePlayer() as player:
        yield player


@pytest.fixture
def env(model: ClaudePlayer, tmp_path: Path) -> dict[str, str]:
    """The environment of the agent, which tries again only twice."""
    return {**agent_environment(model, tmp_path), "CLAUDE_CODE_MAX_RETRIES": "2"}


@pytest.fixture
async def claude(cwd: Path, env: dict[str, str]) -> AsyncGenerator[Desk]:
    """A desk at which Claude Code works."""
    async with desk("claude_code", cwd, env) as place:
        yield place


async def ended(claude: Desk, run_id: str) -> JsonObject:
    """The run once it is over, with no process of it left."""
    run = await claude.settled(run_id)
    assert run["completed_at"], run
    assert claude.processes() == []
    assert "pending" not in run
    return run


async def remembers(claude: Desk, run: JsonObject) -> str:
    """What the model says of the conversation, when the run's session is resumed without its limits."""
    again = await claude.finished("remember", session_mode="resume", session_id=run["session_id"])
    assert again["status"] == "completed", again
    return again["result"]["final_response"]


async def details(claude: Desk, run: JsonObject) -> list[str]:
    """What was told of the agent's state, but for what it used at the end."""
    told = [event["data"] for event in await claude.events(run["run_id"], "status_changed")]
    return [data["detail"] for data in told if "detail" in data and "usage" not in data]


async def texts(claude: Desk, run: JsonObject) -> list[str]:
    """What the agent said."""
    return [event["data"]["text"] for event in await claude.events(run["run_id"], "agent_message")]


def leader(claude: Desk) -> psutil.Process:
    """The process of Claude Code itself."""
    (process,) = (p for p in claude.processes() if os.getsid(p.pid) == p.pid and p.name() == "claude")
    return process


# ---- logins


@pytest.mark.parametrize("code", [401, 403])
async def test_refused_credentials_are_told_at_once(claude: Desk, model: ClaudePlayer, code: int) -> None:
    before = len(model.requests)
    async with asyncio.timeout(3 * SOON_S):  # by itself Claude Code tries for minutes
        run = await claude.finished(f"http {code} no entry", "say never")
    assert run["status"] == "auth_required"
    (request,) = run["pending"]
    assert request["kind"] == "auth"
    assert "cannot log in" in request["text"]
    assert str(code) in request["text"]
    assert len(model.requests) - before < 5
    assert claude.processes() == [], "nothing runs while the caller logs in"
    await claude.call("continue_run", run_id=run["run_id"], decision="deny")
    run = await ended(claude, run["run_id"])
    assert (run["status"], run["error"]["code"]) == ("failed", "auth_failed")
    assert "cannot log in" in run["error"]["message"]


async def test_a_run_goes_on_once_its_login_is_settled(claude: Desk) -> None:
    run = await claude.finished("file 1 x", "auth", "file 2 x", "say in")
    assert run["status"] == "auth_required"
    assert (claude.cwd / "1").exists()
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    changes = [event["data"]["changes"] for event in await claude.events(run["run_id"], "file_changed")]
    assert [change["path"] for some in changes for change in some] == ["1", "2"]
    assert await texts(claude, run) == ["in"]
    assert len(await claude.events(run["run_id"], "run_started")) == 1
    assert await remembers(claude, run) == "1 earlier prompts"


async def test_a_login_that_is_still_refused_is_asked_for_again(claude: Desk) -> None:
    run = await claude.finished("http 401 no entry")
    first = run["pending"][0]["request_id"]
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "auth_required"
    assert [request["request_id"] for request in run["pending"]] != [first]
    run = await claude.answered(run["run_id"], decision="deny")
    assert run["error"]["code"] == "auth_failed"


SUBSCRIPTION = {
    "accessToken": "sk-ant-oat01-x",
    "refreshToken": "sk-ant-ort01-x",
    "expiresAt": int(time.time() * 1000) + 10**8,
    "scopes": ["user:inference", "user:profile"],
    "subscriptionType": "max",
}


@pytest.mark.parametrize(
    ("file", "login"),
    [
        (".claude.json", {"primaryApiKey": "sk-ant-api03-x"}),
        (".credentials.json", {"claudeAiOauth": SUBSCRIPTION}),
    ],
)
async def test_without_any_credentials_a_login_is_asked_for(
    model: ClaudePlayer, cwd: Path, env: dict[str, str], file: str, login: JsonObject
) -> None:
    del env["ANTHROPIC_API_KEY"]
    before = len(model.requests)
    async with desk("claude_code", cwd, env) as claude:
        run = await claude.finished("say in")
        assert run["status"] == "auth_required"
        assert "not logged in" in run["pending"][0]["text"]
        assert len(model.requests) == before
        (Path(env["CLAUDE_CONFIG_DIR"]) / file).write_text(json.dumps(login))
        run = await claude.answered(run["run_id"], decision="approve")
        assert run["status"] == "completed", run
        assert await texts(claude, run) == ["in"]
        other = await claude.finished("remember", session_mode="resume", session_id=run["session_id"])
        assert other["result"]["final_response"] == "1 earlier prompts"


async def test_without_any_credentials_a_login_can_be_denied(cwd: Path, env: dict[str, str]) -> None:
    del env["ANTHROPIC_API_KEY"]
    async with desk("claude_code", cwd, env) as claude:
        run = await claude.finished("say in")
        await claude.call("continue_run", run_id=run["run_id"], decision="deny")
        run = await ended(claude, run["run_id"])
        assert (run["status"], run["error"]["code"]) == ("failed", "auth_failed")


# ---- the model's service


@pytest.mark.parametrize(
    ("line", "words", "next_step", "told"),
    [
        ("http 404 no such model", "model_not_found", "backend_config.model", []),
        ("http 400 the image is upside down", "the image is upside down", "continue_run", []),
        ("http 400 Your credit balance is too low to access the Anthropic API.", "billing_error", "add credit", []),
        ("http 413 too much", "too large", "continue_run", ["compacting"]),
    ],
)
async def test_an_error_that_stays_ends_the_run_at_once(
    claude: Desk, line: str, words: str, next_step: str, told: list[str]
) -> None:
    run = await ended(claude, await claude.spawn("file a x", line, "say never"))
    assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")
    assert words in run["error"]["message"]
    assert next_step in run["error"]["next_step"]
    assert await details(claude, run) == told
    assert await texts(claude, run) == []
    assert (claude.cwd / "a").exists()
    assert run["error"]["resumable"]
    assert await remembers(claude, run) == "1 earlier prompts"


@pytest.mark.parametrize(
    ("count", "code", "name"), [(1, 429, "rate_limit"), (2, 529, "overloaded"), (1, 500, "server_error")]
)
async def test_an_error_that_passes_is_told_and_the_run_goes_on(claude: Desk, count: int, code: int, name: str) -> None:
    run = await claude.finished("run true", f"flaky {count} {code} busy", "say on")
    assert run["status"] == "completed", run
    told = await details(claude, run)
    tries = [re.sub(r"^rate_limited until \S+: ", "", text).partition(", in ")[0] for text in told]
    assert [text for number, text in enumerate(tries) if text not in tries[:number]] == [
        f"{name} ({code}): try {number} of 2" for number in range(1, count + 1)
    ]
    assert await texts(claude, run) == ["on"]
    assert len(await claude.events(run["run_id"], "command_finished")) == 1


async def test_a_limit_of_the_service_is_waited_out(claude: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_RATE_LIMIT_WAIT_S", "0.3")
    run = await claude.finished("file a x", "limited 429 too much", "say on")
    assert run["status"] == "completed", run
    told = await details(claude, run)
    assert all(text.startswith("rate_limited until 20") for text in told if "too much" in text or "429" in text)
    assert any("too much" in text for text in told), told
    assert await texts(claude, run) == ["on"]
    assert len(await claude.events(run["run_id"], "file_changed")) == 1


async def test_an_error_that_never_passes_ends_the_run(claude: Desk) -> None:
    run = await ended(claude, await claude.spawn("http 500 out of order", "say never"))
    assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")
    assert "500" in run["error"]["message"]
    assert "server_error" in run["error"]["message"]
    assert run["error"]["next_step"].startswith("wait")
    assert len(await details(claude, run)) == 2
    assert await remembers(claude, run) == "1 earlier prompts"


async def test_a_service_that_is_not_there_ends_the_run(cwd: Path, env: dict[str, str]) -> None:
    env["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:1"
    async with desk("claude_code", cwd, env) as claude:
        run = await ended(claude, await claude.spawn("say never"))
        assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")
        assert "refused" in run["error"]["message"]
        assert run["error"]["next_step"].startswith("wait")


async def test_an_answer_that_never_comes_is_ended_by_the_timeout(claude: Desk) -> None:
    run = await ended(claude, await claude.spawn("say before", "run true", "hang", limits={"timeout_s": 6}))
    assert (run["status"], run["error"]["code"]) == ("failed", "timeout")
    assert run["error"]["resumable"]
    assert await texts(claude, run) == ["before"]
    assert await remembers(claude, run) == "1 earlier prompts"


async def test_an_answer_that_never_comes_is_cancelled_soon(claude: Desk) -> None:
    run_id = await claude.spawn("say before", "run true", "hang")
    await claude.seen(run_id, "command_finished")
    async with asyncio.timeout(SOON_S):
        answer = await claude.call("cancel_run", run_id=run_id)
    assert answer["status"] == "cancelled"
    run = await ended(claude, run_id)
    assert await remembers(claude, run) == "1 earlier prompts"


# ---- the CLI itself

WORKS = "run touch made; tail -f /dev/null"


@pytest.mark.parametrize(("number", "how"), [(signal.SIGKILL, "by signal 9"), (signal.SIGTERM, "143")])
async def test_a_cli_that_is_ended_from_outside_ends_its_run(claude: Desk, number: signal.Signals, how: str) -> None:
    run_id = await claude.spawn("say before", WORKS, "say never", on_approval="allow")
    await claude.seen(run_id, "command_started")
    await asyncio.to_thread(_wait_for, claude.cwd / "made")
    leader(claude).send_signal(number)
    run = await ended(claude, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "agent_exited")
    assert how in run["error"]["message"]
    (over,) = await claude.events(run_id, "command_finished")
    assert over["data"]["status"] in ("interrupted", "failed")
    assert run["error"]["resumable"]
    assert await remembers(claude, run) == "1 earlier prompts"


async def test_what_was_done_before_the_cli_was_killed_is_told(claude: Desk) -> None:
    run_id = await claude.spawn(WORKS, on_approval="allow")
    await asyncio.to_thread(_wait_for, claude.cwd / "made")
    leader(claude).kill()
    await ended(claude, run_id)
    changes = [event["data"]["changes"] for event in await claude.events(run_id, "file_changed")]
    assert changes == [[{"path": "made", "kind": "add", "diff": ""}]]


async def test_a_cli_that_is_killed_while_it_asks_takes_its_questions_back(claude: Desk) -> None:
    run = await claude.finished("asks Which? | Where?")
    leader(claude).kill()
    await claude.seen(run["run_id"], "run_failed")
    run = await ended(claude, run["run_id"])
    assert run["error"]["code"] == "agent_exited"
    assert await remembers(claude, run) == "1 earlier prompts"


async def test_a_cli_that_is_nowhere_is_told_with_the_setting(claude: Desk, home: Home) -> None:
    (home.path / "config.toml").write_text('claude_cli = "/nowhere/claude"\n')
    run = await ended(claude, await claude.spawn("say never"))
    assert (run["status"], run["error"]["code"]) == ("failed", "backend_unavailable")
    assert "claude_cli names /nowhere/claude" in run["error"]["message"]
    assert not run["error"]["resumable"]
    assert [event["type"] for event in await claude.events(run["run_id"])] == ["run_failed"]


async def spawn_with_cli(claude: Desk, home: Home, body: str, mode: int) -> tuple[str, Path]:
    """Spawns a run whose Claude Code is another program. Returns its id and the program."""
    fake = claude.cwd.parent / "claude"
    fake.write_text(body)
    fake.chmod(mode)
    (home.path / "config.toml").write_text(f'claude_cli = "{fake}"\n')
    return await claude.spawn("say never"), fake


async def test_a_cli_that_does_not_start_is_told_with_what_it_says(claude: Desk, home: Home) -> None:
    run_id, _ = await spawn_with_cli(claude, home, "#!/bin/sh\necho too old >&2\nexit 3\n", 0o755)
    run = await ended(claude, run_id)
    assert run["status"] == "rejected"
    assert "too old" in run["error"]["message"]
    assert "exit code 3" in run["error"]["message"]
    assert not run["error"]["resumable"]


async def test_a_cli_that_is_no_program_is_unavailable(claude: Desk, home: Home) -> None:
    run_id, fake = await spawn_with_cli(claude, home, "too old", 0o644)
    run = await ended(claude, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "backend_unavailable")
    assert f"cannot start {fake}" in run["error"]["message"]


async def test_a_cli_that_ends_without_a_word_is_noticed_soon(claude: Desk, home: Home) -> None:
    run_id, _ = await spawn_with_cli(claude, home, "#!/bin/sh\necho too old >&2\n", 0o755)
    page = await claude.call("poll_events", run_id=run_id, types=["run_failed", "rejected"], wait_ms=10_000)
    assert [event["data"]["code"] for event in page["events"]] == ["agent_exited"]
    assert "too old" in page["events"][0]["data"]["message"]


def _wait_for(path: Path) -> None:
    """Waits for a file."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)
