"""What a run of Codex is given: a schema, images and files, MCP servers, and keys of Codex's own configuration."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.models.codex_player import CodexPlayer
from tests.models.player import agent_environment
from tests.system.codex_desk import ECHO, configured, details, done, texts, tree
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> Iterator[CodexPlayer]:
    """The model of all runs here."""
    with CodexPlayer() as player:
        yield player


@pytest.fixture
async def codex(model: CodexPlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Codex works, and from which it reaches nobody else."""
    async with desk("codex", cwd, {**agent_environment(model, tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}) as place:
        yield place


def echo(**more: Any) -> JsonObject:
    """What is spawned with the MCP server `echo`."""
    return {"backend_config": {"mcp_servers": {"echo": {**ECHO, **more}}}}


def last_prompt(model: CodexPlayer) -> list[JsonObject]:
    """The parts of the last message of the user that the model was sent."""
    return [item for item in model.requests[-1]["input"] if item.get("role") == "user"][-1]["content"]


# ---- structured output


async def test_a_schema_reaches_the_model_and_its_answer_is_checked(codex: Desk, model: CodexPlayer) -> None:
    run = await done(codex, 'json {"a": 1}', output_schema=SCHEMA)
    assert run["result"]["structured_output"] == {"a": 1}
    asked = model.requests[-1]["text"]["format"]
    assert (asked["type"], asked["schema"]) == ("json_schema", SCHEMA)
    again = await codex.call("continue_run", run_id=run["run_id"], text='json {"a": 2}')
    assert (await codex.settled(again["run_id"]))["result"]["structured_output"] == {"a": 2}
    assert model.requests[-1]["text"]["format"]["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('json {"a": "x"}', "does not match"),
        ("say hello", "gave none"),
        ("usage 1 1", "gave none"),
        ("json []", "match"),
    ],
)
async def test_an_answer_that_does_not_match_is_a_failure_that_can_be_gone_on_with(
    codex: Desk, line: str, why: str
) -> None:
    run = await codex.finished(line, output_schema=SCHEMA)
    assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "invalid_output", True)
    assert why in run["error"]["message"]
    again = await codex.call("continue_run", run_id=run["run_id"], text='json {"a": 2}')
    assert (await codex.settled(again["run_id"]))["result"]["structured_output"] == {"a": 2}


# ---- images and files


async def test_images_and_files_reach_the_model_in_order(codex: Desk, model: CodexPlayer) -> None:
    picture, note = codex.cwd / "p q.png", codex.cwd / "note.txt"
    picture.write_bytes(base64.b64decode(PNG))
    parts: list[JsonObject] = [
        {"type": "file", "bytes_base64": PNG, "mime_type": "image/png"},
        {"type": "file", "uri": picture.as_uri(), "mime_type": "image/png"},
        {"type": "file", "bytes_base64": base64.b64encode("für dich".encode()).decode(), "mime_type": "text/plain",
         "name": "n.txt"},
        {"type": "file", "uri": note.as_uri(), "mime_type": "text/plain"},
        {"type": "data", "data": {"answer": 42}},
        {"type": "text", "text": "say seen"},
    ]  # fmt: skip
    run = await done(codex, input_message={"role": "user", "parts": parts})
    assert run["result"]["final_response"] == "seen"
    sent = last_prompt(model)
    images = [part["image_url"] for part in sent if part["type"] == "input_image"]
    assert images == [f"data:image/png;base64,{PNG}"] * 2
    words = "\n".join(part["text"] for part in sent if part["type"] == "input_text")
    assert all(text in words for text in ("für dich", "n.txt", str(note), '"answer": 42', "say seen"))


@pytest.mark.parametrize("content", [None, b"this is no image"])
async def test_an_image_that_cannot_be_read_is_named_to_the_model(
    codex: Desk, model: CodexPlayer, content: bytes | None
) -> None:
    """Codex itself sends a note instead, and goes on."""
    picture = codex.cwd / "p.png"
    if content is not None:
        picture.write_bytes(content)
    part = {"type": "file", "uri": picture.as_uri(), "mime_type": "image/png"}
    run = await done(codex, input_message={"role": "user", "parts": [part, {"type": "text", "text": "say seen"}]})
    assert run["result"]["final_response"] == "seen"
    assert not [part for part in last_prompt(model) if part["type"] == "input_image"]
    assert "p.png" in json.dumps(last_prompt(model))


async def test_a_part_that_cannot_be_shown_is_refused_before_anything_starts(codex: Desk) -> None:
    part = {"type": "file", "bytes_base64": PNG, "mime_type": "application/pdf"}
    with pytest.raises(InvalidArgument, match="part 1 is a file of type application/pdf"):
        await codex.spawn(input_message={"role": "user", "parts": [part]})
    assert not (codex.cwd / ".orchestrator").exists()


# ---- MCP servers


async def test_the_callers_mcp_server_is_used_where_it_is_approved_beforehand(codex: Desk) -> None:
    run = await done(codex, "tool echo -> back", "heard", **echo(default_tools_approval_mode="approve"))
    assert "back" in (await texts(codex, run))[0]
    (begun,) = await codex.events(run["run_id"], "tool_started")
    (ended,) = await codex.events(run["run_id"], "tool_finished")
    assert (begun["data"]["tool"], begun["data"]["server"], begun["data"]["arguments"]) == (
        "echo",
        "echo",
        {"text": "back"},
    )
    assert ended["data"]["result"] == "back"


@pytest.mark.parametrize("level", ["read_only", "workspace_write"])
async def test_an_mcp_tool_is_asked_for_otherwise(codex: Desk, level: str) -> None:
    run = await codex.finished(
        "tool echo -> first", "heard", "tool echo -> second", "heard", **echo(), permission=level
    )
    (request,) = run["pending"]
    assert request["kind"] == "approval"
    assert request["detail"] == {"tool": "echo", "server": "echo", "arguments": {"text": "first"}}
    run = await codex.answered(run["run_id"], decision="approve")
    assert run["pending"][0]["detail"]["arguments"] == {"text": "second"}
    assert run["pending"][0]["request_id"] != request["request_id"]
    run = await codex.answered(run["run_id"], decision="deny", text="once is enough")
    assert run["status"] == "completed", run
    ended = [event["data"] for event in await codex.events(run["run_id"], "tool_finished")]
    assert [data.get("result") or data["error"] for data in ended] == ["first", "user rejected MCP tool call"]


async def test_the_agent_hears_why_an_mcp_tool_was_denied(codex: Desk, model: CodexPlayer) -> None:
    run = await codex.finished("tool echo -> x", "say on", **echo())
    run = await codex.answered(run["run_id"], decision="deny", text="it is too early")
    assert run["status"] == "completed", run
    assert "it is too early" in json.dumps(model.requests[-1]["input"])


async def test_full_access_asks_for_mcp_tools_as_well(codex: Desk) -> None:
    """Codex itself asks for tools that do not say that they only read, whatever the sandbox."""
    run = await codex.finished("tool echo -> x", "say on", **echo(), permission="full_access")
    assert run["status"] in ("input_required", "completed")
    if run["status"] == "input_required":
        assert (await codex.answered(run["run_id"], decision="approve"))["status"] == "completed"


async def test_a_server_that_does_not_start_is_told_and_the_run_goes_on(codex: Desk) -> None:
    run = await done(codex, "run true", "say on", **echo(command="/nowhere"))
    assert any(detail.startswith("MCP server echo failed") for detail in await details(codex, run))


@pytest.fixture
def own_server(codex: Desk, tmp_path: Path) -> Path:
    """A file that the user's own MCP server makes when it is started."""
    trace, config = tmp_path / "served", Path(codex.env["CODEX_HOME"]) / "config.toml"
    code = json.dumps(["-c", f"touch {trace}; exec {ECHO['command']} {ECHO['args'][0]}"])
    config.write_text(config.read_text() + f'\n[mcp_servers."my.own"]\ncommand = "sh"\nargs = {code}\n')
    return trace


async def test_the_users_own_servers_are_not_started(codex: Desk, own_server: Path) -> None:
    await done(codex, "run true", "say on")
    assert not own_server.exists()


async def test_the_users_own_servers_are_not_started_beside_those_of_the_caller(codex: Desk, own_server: Path) -> None:
    await done(codex, "tool echo -> back", "say on", **echo(default_tools_approval_mode="approve"))
    assert not own_server.exists()


async def test_the_users_own_servers_are_started_where_they_are_wanted(codex: Desk, own_server: Path) -> None:
    run = await done(codex, "run true", "say on", backend_config={"own_mcp_servers": True})
    assert own_server.exists()
    assert await details(codex, run) == []


# ---- keys of Codex's own


async def test_the_model_and_its_effort_are_those_that_were_asked_for(codex: Desk, model: CodexPlayer) -> None:
    run = await done(codex, "say on", backend_config={"model": "gpt-5.4", "effort": "high"})
    assert (model.requests[-1]["model"], model.requests[-1]["reasoning"]["effort"]) == ("gpt-5.4", "high")
    (started,) = await codex.events(run["run_id"], "run_started")
    assert started["data"]["model"] == "gpt-5.4"


async def test_a_right_key_is_in_force(codex: Desk, model: CodexPlayer) -> None:
    await done(codex, "say on", **configured(model_reasoning_summary="concise", tools={"web_search": False}))
    assert model.requests[-1]["reasoning"]["summary"] == "concise"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_reasoning_summery": "concise"}, "model_reasoning_summery"),
        ({"tools": {"no_such_tool": True}}, "no_such_tool"),
        ({"model_reasoning_effort": 5}, "model_reasoning_effort"),
        ({"model_provider": "nowhere"}, "nowhere"),
    ],
)
async def test_a_wrong_key_is_rejected_before_the_agent_starts(
    codex: Desk, model: CodexPlayer, config: JsonObject, why: str
) -> None:
    before, seen = tree(Path(codex.env["CODEX_HOME"])), len(model.requests)
    run = await codex.finished("say never", backend_config={"config": config})
    assert run["status"] == "rejected"
    assert run["error"]["message"].startswith("backend_config.config is not what Codex takes: ")
    assert why in run["error"]["message"]
    assert [event["type"] for event in await codex.events(run["run_id"])] == ["rejected"]
    assert (tree(Path(codex.env["CODEX_HOME"])), len(model.requests)) == (before, seen)


async def test_what_permission_decides_is_refused_at_once(codex: Desk) -> None:
    with pytest.raises(InvalidArgument, match="decided by permission"):
        await codex.spawn("say never", **configured(sandbox_mode="danger-full-access"))


@pytest.mark.parametrize("config", [{"model_provider": "player"}, {"model_providers.player.stream_max_retries": 1}])
async def test_a_key_may_name_what_the_user_configured(codex: Desk, config: JsonObject) -> None:
    await done(codex, "say on", backend_config={"config": config})


async def test_what_a_folder_says_to_agents_is_heard_where_the_user_trusts_it(codex: Desk, model: CodexPlayer) -> None:
    config = Path(codex.env["CODEX_HOME"]) / "config.toml"
    config.write_text(config.read_text() + f'[projects."{codex.cwd}"]\ntrust_level = "trusted"\n')
    (codex.cwd / "AGENTS.md").write_text("be QUIXOTIC\n")
    await done(codex, "say on")
    assert "QUIXOTIC" in json.dumps(model.requests[-1]["input"])


async def test_what_the_user_says_to_all_agents_is_heard(codex: Desk, model: CodexPlayer) -> None:
    (Path(codex.env["CODEX_HOME"]) / "AGENTS.md").write_text("be SANGUINE\n")
    await done(codex, "say on")
    assert "SANGUINE" in json.dumps(model.requests[-1]["input"])


# ---- a home of our own


def player(model: CodexPlayer) -> JsonObject:
    """What is spawned to reach the model from a home that knows nothing of it."""
    table = {"name": "player", "base_url": f"{model.url}/v1", "wire_api": "responses", "env_key": "PLAYER_KEY"}
    config: JsonObject = {"model_provider": "player", "model": "gpt-5.5", "model_providers": {"player": table}}
    return {"backend_config": {"isolated_home": True, "config": config}}


@pytest.mark.parametrize("logged_in", [True, False])
async def test_a_home_of_our_own_leaves_the_users_alone(
    codex: Desk, model: CodexPlayer, home: Home, logged_in: bool
) -> None:
    """Whether it is logged in counts for the provider that the caller configured."""
    own = Path(codex.env["CODEX_HOME"])
    (own / "config.toml").write_text('model_provider = "nowhere"\n')
    if logged_in:
        (own / "auth.json").write_text('{"OPENAI_API_KEY": "sk-own"}')
    before = tree(own)
    run = await done(codex, "run echo hi", "say isolated", **player(model))
    again = await done(codex, "remember", session_mode="resume", session_id=run["session_id"], **player(model))
    assert again["result"]["final_response"] == "1 earlier prompts"
    assert tree(own) == before
    (folder,) = (home.path / "codex").iterdir()
    assert (folder / "auth.json").readlink() == own / "auth.json"
    assert ("auth.json" in tree(folder)) is logged_in
