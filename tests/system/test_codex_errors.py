"""What goes wrong around Codex: logins, its model's service, its process, its home.

Each ends in bounded time, by a code that says what happened, and with a session that can be gone on with where that
makes sense.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from backends.codex.backend import find_cli
from orchestrator.config import Settings
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.models.codex_player import CodexPlayer
from tests.models.player import agent_environment
from tests.system.codex_desk import commands, configured, details, done, kill, texts, tree
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

NOBODY = {"HTTPS_PROXY": "http://127.0.0.1:9"}
"""An environment from which only this machine is reached."""


@pytest.fixture(scope="module")
def model() -> Iterator[CodexPlayer]:
    """The model of all runs here."""
    with CodexPlayer() as player:
        yield player


@pytest.fixture
async def codex(model: CodexPlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Codex works, and from which it reaches nobody else."""
    async with desk("codex", cwd, {**agent_environment(model, tmp_path), **NOBODY}) as place:
        yield place


async def failure(codex: Desk, *script: str, **more: object) -> JsonObject:
    """The error of a run that must fail, and must leave nothing behind."""
    run = await codex.finished(*script, **more)
    assert run["status"] == "failed", run
    assert codex.processes() == []
    return run["error"]


async def goes_on(codex: Desk, run_id: str) -> None:
    """The session of a run can be gone on with."""
    continued = await codex.call("continue_run", run_id=run_id, text="remember")
    run = await codex.settled(continued["run_id"])
    assert run["result"]["final_response"] == "1 earlier prompts"


# ---- logins


@pytest.mark.parametrize("code", [401, 403])
async def test_a_service_that_lets_nobody_in_is_a_login_at_once(codex: Desk, model: CodexPlayer, code: int) -> None:
    before = len(model.requests)
    run = await codex.finished("say never", f"http {code} who are you")
    assert run["status"] == "auth_required"
    (request,) = run["pending"]
    assert (request["kind"], request["request_id"]) == ("auth", "login-1")
    assert "codex login" in request["text"]
    assert f"{code}" in request["text"]
    assert len(model.requests) == before + 1
    assert codex.processes() == []
    run = await codex.answered(run["run_id"], decision="deny")
    assert (run["status"], run["error"]["code"]) == ("failed", "auth_failed")
    assert await texts(codex, run) == []


async def test_once_the_login_is_settled_the_same_run_goes_on(codex: Desk) -> None:
    run = await codex.finished("file made.txt x", "auth", "say in", "remember")
    assert run["status"] == "auth_required"
    run = await codex.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert await texts(codex, run) == ["in", "0 earlier prompts"]
    assert len(await codex.events(run["run_id"], "run_started")) == 1
    changes = await codex.events(run["run_id"], "file_changed")
    assert [event["data"]["changes"] for event in changes] == [[{"path": "made.txt", "kind": "add", "diff": "+x\n"}]]
    assert await details(codex, run) == []


async def test_a_login_that_does_not_help_is_asked_for_again(codex: Desk) -> None:
    run = await codex.finished("http 401 no")
    run = await codex.answered(run["run_id"], decision="approve")
    assert run["status"] == "auth_required"
    assert [request["request_id"] for request in run["pending"]] == ["login-2"]
    await codex.call("cancel_run", run_id=run["run_id"])


async def test_a_key_that_the_environment_does_not_have_is_a_login(
    model: CodexPlayer, cwd: Path, tmp_path: Path
) -> None:
    env = agent_environment(model, tmp_path)
    del env["PLAYER_KEY"]
    before = len(model.requests)
    async with desk("codex", cwd, env) as codex:
        run = await codex.finished("say never")
        assert run["status"] == "auth_required"
        assert "PLAYER_KEY" in run["pending"][0]["text"]
        run = await codex.answered(run["run_id"], decision="deny")
        assert (run["status"], run["error"]["code"]) == ("failed", "auth_failed")
    assert len(model.requests) == before


async def test_who_never_logged_in_is_asked_to_before_anything_is_sent(
    cwd: Path, tmp_path: Path, model: CodexPlayer
) -> None:
    env = {**agent_environment(model, tmp_path), **NOBODY}
    (Path(env["CODEX_HOME"]) / "config.toml").unlink()
    async with desk("codex", cwd, env) as codex:
        run = await codex.finished("say never")
        assert run["status"] == "auth_required"
        assert "not logged in" in run["pending"][0]["text"]
        (Path(env["CODEX_HOME"]) / "config.toml").write_text(model_config(model))
        run = await codex.answered(run["run_id"], decision="approve")
        assert run["result"]["final_response"] == "never"


def model_config(model: CodexPlayer) -> str:
    """A configuration of Codex by which it talks to the model without a key."""
    table = f'[model_providers.player]\nname = "player"\nbase_url = "{model.url}/v1"\nwire_api = "responses"\n'
    return f'model = "gpt-5.5"\nmodel_provider = "player"\n{table}'


# ---- the service


@pytest.mark.parametrize(
    ("line", "message", "next_step", "requests"),
    [
        ("http 400 so wrong", "so wrong", "continue_run", 1),
        ("http 404 no such model", "404", "check backend_config.model", 3),
        ("http 429 usage_limit_reached", "usage limit", "limit is reached", 1),
        ("http 500 down", "internalServerError", "wait", 3),
        ("http 503 server_is_overloaded", "serverOverloaded", "wait", 1),
        ("breaks 99", "stream disconnected", "continue_run", 3),
        ("breaks 99 server_error boom", "boom", "continue_run", 3),
        ("breaks 99 insufficient_quota", "Quota", "limit is reached", 1),
        ("breaks 99 context_length_exceeded", "contextWindowExceeded", "smaller task", 1),
    ],
)
async def test_what_the_service_refuses_is_told_and_can_be_gone_on_with(
    codex: Desk, model: CodexPlayer, line: str, message: str, next_step: str, requests: int
) -> None:
    before = len(model.requests)
    error = await failure(codex, line)
    assert (error["code"], error["resumable"]) == ("agent_error", True)
    assert message in error["message"]
    assert next_step in error["next_step"]
    assert len(model.requests) - before == requests


async def test_a_limit_of_the_service_is_waited_out(codex: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_RATE_LIMIT_WAIT_S", "0.3")
    run = await done(codex, "file a x", "limited 429 rate_limit_exceeded", "say on")
    assert any(text.startswith("rate_limited until 20") for text in await details(codex, run))
    assert await texts(codex, run) == ["on"]
    assert len(await codex.events(run["run_id"], "file_changed")) == 1


async def test_a_run_that_failed_in_the_middle_keeps_what_it_did(codex: Desk) -> None:
    run = await codex.finished("usage 7 3", "file made.txt x", "run touch other.txt", "http 400 so wrong")
    assert run["status"] == "failed"
    assert tree(codex.cwd) == {"made.txt": b"x\n", "other.txt": b""}
    told = [c["path"] for e in await codex.events(run["run_id"], "file_changed") for c in e["data"]["changes"]]
    assert told == ["made.txt", "other.txt"]
    used = [event["data"].get("usage") for event in await codex.events(run["run_id"], "status_changed")]
    assert used[-1]["input_tokens"] == 14
    await goes_on(codex, run["run_id"])


@pytest.mark.parametrize("line", ["flaky 1 500 hiccup", "flaky 1 503 hiccup", "flaky 2 502 hiccup"])
async def test_an_error_that_passes_is_told_in_a_line(codex: Desk, line: str) -> None:
    run = await done(codex, line, "say end")
    assert await texts(codex, run) == ["end"]
    assert all(detail.startswith("Reconnecting...") for detail in await details(codex, run))


async def test_an_answer_that_breaks_off_is_made_again_and_told_once(codex: Desk, model: CodexPlayer) -> None:
    before = len(model.requests)
    script = ("think hm", "say one", "say two", "breaks 1", "run echo x >> f", "say end")
    run = await done(codex, *script)
    assert await texts(codex, run) == ["one", "two", "end"]
    assert len(await codex.events(run["run_id"], "reasoning")) == 1
    assert await commands(codex, run) == [("echo x >> f", "completed")]
    assert (codex.cwd / "f").read_text() == "x\n"
    assert [detail.split(" stream")[0] for detail in await details(codex, run)] == ["Reconnecting... 1/2"]
    assert len(model.requests) - before == 3


async def test_an_answer_that_breaks_off_after_a_command_runs_it_once(codex: Desk) -> None:
    run = await done(codex, "run echo x >> f", "breaks 1", "say end")
    assert await commands(codex, run) == [("echo x >> f", "completed")]
    assert (codex.cwd / "f").read_text() == "x\n"


async def test_an_empty_answer_is_an_empty_answer(codex: Desk) -> None:
    run = await done(codex, "usage 3 4")
    assert run["result"]["final_response"] == ""
    assert (run["result"]["usage"]["input_tokens"], run["result"]["usage"]["output_tokens"]) == (3, 4)
    await goes_on(codex, run["run_id"])


async def test_a_service_that_is_not_there_ends_the_run_in_time(cwd: Path, tmp_path: Path) -> None:
    with CodexPlayer() as gone:
        env = agent_environment(gone, tmp_path)
    async with desk("codex", cwd, env) as codex:
        before = time.monotonic()
        error = await failure(codex, "say never")
        assert time.monotonic() - before < 15
        assert (error["code"], error["resumable"]) == ("agent_error", True)
        assert "wait" in error["next_step"]


# ---- answers that never end


async def test_a_service_that_hangs_is_ended_by_the_runs_limit(codex: Desk) -> None:
    before = time.monotonic()
    error = await failure(codex, "say one", "hang", limits={"timeout_s": 1.0})
    assert time.monotonic() - before < 1 + 5
    assert (error["code"], error["resumable"]) == ("timeout", True)


async def test_a_service_that_hangs_is_ended_by_cancelling(codex: Desk, model: CodexPlayer) -> None:
    count = len(model.requests)
    run_id = await codex.spawn("hang")
    while len(model.requests) == count:  # noqa: ASYNC110  the model is in a thread
        await asyncio.sleep(0.01)
    before = time.monotonic()
    answer = await codex.call("cancel_run", run_id=run_id)
    assert time.monotonic() - before < 5
    assert answer["status"] == "cancelled"
    assert codex.processes() == []
    await goes_on(codex, run_id)


# ---- the process


async def test_a_codex_that_is_killed_ends_its_run(codex: Desk) -> None:
    run_id = await codex.spawn("file made.txt x", "run sleep 60", "say never")
    await codex.seen(run_id, "command_started")
    killed = next(process for process in codex.processes() if "app-server" in process.cmdline())
    killed.kill()
    run = await codex.settled(run_id)
    assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "agent_exited", True)
    assert "signal 9" in run["error"]["message"]
    assert await commands(codex, run) == [("sleep 60", "interrupted")]
    assert codex.processes() == []
    await goes_on(codex, run_id)


async def test_a_codex_that_is_killed_while_it_asks_takes_its_request_along(codex: Desk) -> None:
    run = await codex.finished("approve touch /work/never", "say on")
    kill(codex)
    await codex.seen(run["run_id"], "run_failed")
    ended = await codex.call("get_run", run_id=run["run_id"])
    assert (ended["status"], ended["error"]["code"]) == ("failed", "agent_exited")
    assert "pending" not in ended
    await goes_on(codex, run["run_id"])


def fake_cli(home: Home, tmp_path: Path, text: str | None) -> Path:
    """Makes the user's settings name another Codex: a script, or a file that is not there."""
    path = tmp_path / "other-codex"
    if text is not None:
        path.write_text(text)
        path.chmod(0o755)
    (home.path / "config.toml").write_text(f'codex_cli = "{path}"\n')
    return path


async def test_a_setting_that_names_no_file_is_told(codex: Desk, home: Home, tmp_path: Path) -> None:
    path = fake_cli(home, tmp_path, None)
    error = await failure(codex, "say never")
    assert (error["code"], error["resumable"]) == ("backend_unavailable", False)
    assert str(path) in error["message"]
    assert "codex_cli" in error["message"]


async def test_a_file_that_cannot_be_run_is_told(codex: Desk, home: Home, tmp_path: Path) -> None:
    fake_cli(home, tmp_path, "no program").chmod(0o644)
    error = await failure(codex, "say never")
    assert error["code"] == "backend_unavailable"
    assert "cannot start" in error["message"]


@pytest.mark.parametrize(
    ("script", "status", "code", "words"),
    [
        ("echo 'I am no app-server'", "failed", "agent_protocol", "I am no app-server"),
        ("echo 'broken library' >&2; exit 127", "rejected", "agent_error", "broken library"),
        ("exit 0", "failed", "agent_exited", "exit code 0"),
        ("kill -9 $$", "failed", "agent_exited", "signal 9"),
    ],
)
async def test_another_program_than_codex_is_told_by_what_it_says(
    codex: Desk, home: Home, tmp_path: Path, script: str, status: str, code: str, words: str
) -> None:
    fake_cli(home, tmp_path, f"#!/bin/sh\n{script}\n")
    run = await codex.finished("say never")
    assert (run["status"], run["error"]["code"]) == (status, code)
    assert words in run["error"]["message"]
    assert codex.processes() == []


async def test_the_codex_that_the_users_settings_name_is_used(codex: Desk, home: Home, tmp_path: Path) -> None:
    real, used = find_cli(Settings(), codex.env).path, tmp_path / "used"
    fake_cli(home, tmp_path, f'#!/bin/sh\ntouch {used}\nexec {real} "$@"\n')
    assert (await done(codex, "run echo hi", "say end"))["result"]["final_response"] == "end"
    assert used.exists()


# ---- the home


@pytest.mark.parametrize("logged_in", [True, False])
async def test_a_configuration_of_the_user_that_is_broken_is_told(codex: Desk, logged_in: bool) -> None:
    """Codex itself takes its defaults then, by which it may be logged in or not."""
    own = Path(codex.env["CODEX_HOME"])
    (own / "config.toml").write_text("model = [")
    if logged_in:
        (own / "auth.json").write_text('{"OPENAI_API_KEY": "sk-own"}')
    run = await codex.finished("say never")
    assert run["status"] in ("failed", "rejected")
    assert "config.toml" in run["error"]["message"]


async def test_a_new_home_is_made_by_several_runs_at_once(codex: Desk) -> None:
    home = Path(codex.env["CODEX_HOME"])
    assert [path.name for path in home.iterdir()] == ["config.toml"]
    ids = [await codex.spawn(f"run echo {n}", f"say {n}") for n in range(4)]
    runs = [await codex.settled(run_id) for run_id in ids]
    assert [(run["status"], run["result"]["final_response"]) for run in runs] == [
        ("completed", str(n)) for n in range(4)
    ]
    for run in runs:
        assert len(await codex.events(run["run_id"], "run_started")) == 1


async def test_the_keys_of_a_caller_do_not_make_a_home_of_the_users(codex: Desk) -> None:
    run = await codex.finished("say never", **configured(nonsense=1))
    assert run["status"] == "rejected"
    assert [path.name for path in Path(codex.env["CODEX_HOME"]).iterdir()] == ["config.toml"]
