"""What a caller may configure of Claude Code, what it is told of a run, and what its prompt is made of."""

from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions

from backends.claude_code.options import IDLE_MS, UNSUITED, Options, agent_environment, check, read_options, sdk_options
from backends.claude_code.prompt import content_of
from backends.claude_code.transport import command_of
from orchestrator.config import Settings
from orchestrator.errors import InvalidArgument, PermissionCeiling
from orchestrator.model import JsonObject, Message, RunSpec

CWD = Path("/work/project")
SERVER: JsonObject = {"command": "probe", "env": {"TOKEN": "a-secret-of-the-server"}}


def spec(config: JsonObject | None = None, **more: Any) -> RunSpec:
    fixed = {"run_id": "run_1", "session_id": "ses_1", "agent_name": "a", "backend": "claude_code", "role": "worker"}
    message, created_at = Message.of_text("go"), "2026-01-01T00:00:00.000Z"
    return RunSpec(**fixed, cwd=CWD, message=message, created_at=created_at, backend_config=config or {}, **more)


# ---- the caller's configuration


def test_without_a_configuration_nothing_of_the_folder_is_loaded() -> None:
    options = read_options({})
    assert options == Options()
    assert (options.setting_sources, options.plan, options.mcp_servers) == ((), False, {})


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("model", "sonnet", "sonnet"),
        ("fallback_model", "claude-haiku-4-5", "claude-haiku-4-5"),
        *(("effort", word, word) for word in ("low", "medium", "high", "xhigh", "max")),
        ("append_system_prompt", "- be brief\n", "- be brief\n"),
        ("plan", True, True),
        ("plan", False, False),
        ("setting_sources", [], ()),
        ("setting_sources", ["user", "project", "local"], ("user", "project", "local")),
        ("disallowed_tools", ["Bash(rm:*)", "mcp__s"], ("Bash(rm:*)", "mcp__s")),
        ("mcp_servers", {}, {}),
        ("mcp_servers", {"s": SERVER}, {"s": SERVER}),
        ("mcp_servers", {"s": {"type": "stdio", "command": "x"}}, {"s": {"type": "stdio", "command": "x"}}),
        ("mcp_servers", {"s": {"type": "http", "url": "u"}}, {"s": {"type": "http", "url": "u"}}),
        ("mcp_servers", {"s": {"type": "sse", "url": "u"}}, {"s": {"type": "sse", "url": "u"}}),
        ("background_wait_s", 0, 0),
        ("background_wait_s", 1.5, 1.5),
    ],
)
def test_what_a_key_takes(key: str, given: Any, read: Any) -> None:
    assert getattr(read_options({key: given}), key) == read


WRONG: dict[str, list[Any]] = {
    "model": ["", " ", "-p", "a\0b", 5, None, ["x"]],
    "fallback_model": ["", " ", "-p", "a\0b", 5, None, ["x"]],
    "effort": ["", "huge", "LOW", 1, None, ["low"], {}],
    "append_system_prompt": ["", " \n", "a\0b", None, 5, ["x"]],
    "plan": ["true", 1, 0, None],
    "setting_sources": ["user", None, ["managed"], ["user", 1], [""], {"user": True}],
    "disallowed_tools": ["Bash", None, ["-x"], [""], [None], ["a\0"], {}],
    "mcp_servers": [
        None, [], "x", {"s": None}, {"s": []}, {"s": "npx"}, {"s": {}}, {"s": {"command": 5}}, {"s": {"type": "http"}},
        {"s": {"type": "sse", "command": "x"}}, {"s": {"type": "sdk"}}, {"s": {"type": None, "url": "u"}},
        {"s": {"type": ["http"]}},
    ],
    "background_wait_s": [-1, "5", None, True, float("nan"), float("inf"), 1e9],
}  # fmt: skip


@pytest.mark.parametrize(("key", "given"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key: str, given: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"backend_config.{key}"):
        read_options({key: given})


def test_the_server_that_is_wrong_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"backend_config\.mcp_servers\.second must have a command"):
        read_options({"mcp_servers": {"first": SERVER, "second": {}}})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("modle", "did you mean 'model'?"),
        ("append_systemprompt", "did you mean 'append_system_prompt'?"),
        ("background_wait", "did you mean 'background_wait_s'?"),
        ("permission_mode", ""),
        ("cli_path", ""),
        ("env", ""),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, hint: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        read_options({"plan": True, key: "x"})
    assert str(refusal.value).startswith(f"backend_config of claude_code has no key {key!r}")
    assert hint in str(refusal.value)


def test_what_servers_are_told_is_not_shown_by_the_options() -> None:
    assert "a-secret-of-the-server" not in repr(read_options({"mcp_servers": {"s": SERVER}}))


# ---- whose settings are loaded


def test_a_read_only_run_loads_no_settings_of_anybody() -> None:
    for source in ("user", "project", "local"):
        with pytest.raises(InvalidArgument, match="read_only"):
            check(spec({"setting_sources": [source]}, permission="read_only"), Settings(trusted_dirs=(str(CWD),)))
    check(spec({"setting_sources": []}, permission="read_only"), Settings())


@pytest.mark.parametrize("source", ["project", "local"])
@pytest.mark.parametrize("trusted", [(), ("/work/project/sub",), ("/work/proj",), ("/work/projects",), ("project",)])
def test_the_settings_of_a_folder_that_is_not_trusted_are_not_loaded(source: str, trusted: tuple[str, ...]) -> None:
    with pytest.raises(PermissionCeiling, match="trusted_dirs"):
        check(spec({"setting_sources": ["user", source]}), Settings(trusted_dirs=trusted))


@pytest.mark.parametrize("trusted", [("/work/project",), ("/elsewhere", "/work/"), ("/",)])
def test_the_settings_of_a_trusted_folder_are_loaded(trusted: tuple[str, ...]) -> None:
    check(spec({"setting_sources": ["project", "local"]}), Settings(trusted_dirs=trusted))


def test_a_trusted_folder_may_be_given_from_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/work")
    check(spec({"setting_sources": ["project"]}), Settings(trusted_dirs=("~/project",)))


def test_a_trusted_folder_of_nobody_is_nobodys() -> None:
    with pytest.raises(PermissionCeiling):
        check(spec({"setting_sources": ["project"]}), Settings(trusted_dirs=("~no-such-user/x",)))


def test_the_users_own_settings_need_no_trust_in_the_folder() -> None:
    check(spec({"setting_sources": ["user"]}), Settings())


# ---- what Claude Code is told


@pytest.mark.parametrize(
    ("permission", "mode"),
    [("read_only", "default"), ("workspace_write", "acceptEdits"), ("full_access", "bypassPermissions"),
     (None, "acceptEdits")],
)  # fmt: skip
def test_a_permission_is_a_mode_unless_a_plan_comes_first(permission: Any, mode: str) -> None:
    fields = sdk_options(spec(permission=permission), Options(), cli="/bin/claude")
    assert fields["permission_mode"] == mode
    assert sdk_options(spec(permission=permission), Options(plan=True), cli="c")["permission_mode"] == "plan"


def test_what_is_unsafe_by_default_is_set() -> None:
    fields = sdk_options(spec(), Options(), cli="/bin/claude")
    assert fields["setting_sources"] == []
    assert fields["strict_mcp_config"] is fields["verbatim_prompts"] is True
    assert fields["system_prompt"] == {"type": "preset", "preset": "claude_code", "snapshot": False}
    assert set(UNSUITED) <= set(fields["disallowed_tools"])
    assert not {"allowed_tools", "settings", "env", "output_format", "extra_args"} & set(fields)


def test_what_the_caller_wants_is_passed_on() -> None:
    config: JsonObject = {
        "model": "m", "fallback_model": "f", "effort": "high", "append_system_prompt": "be brief", "plan": True,
        "setting_sources": ["user"], "tools": ["Read"], "disallowed_tools": ["WebFetch"], "mcp_servers": {"s": SERVER},
    }  # fmt: skip
    schema: JsonObject = {"type": "object"}
    run = spec(config, limits={"max_turns": 7, "max_cost_usd": 0.5}, output_schema=schema)
    fields = sdk_options(run, read_options(config), cli="/bin/claude")
    assert fields.items() >= {
        "model": "m", "fallback_model": "f", "effort": "high", "setting_sources": ["user"], "max_turns": 7,
        "max_budget_usd": 0.5, "mcp_servers": {"s": SERVER}, "cwd": "/work/project", "cli_path": "/bin/claude",
        "output_format": {"type": "json_schema", "schema": schema},
    }.items()  # fmt: skip
    assert "be brief" not in str(fields), "it may be long, and goes another way"
    assert fields["tools"] == ["Read"]
    assert fields["disallowed_tools"] == [*UNSUITED, "WebFetch"]
    ClaudeAgentOptions(**fields)


def test_the_clients_environment_wins_but_for_what_the_host_must_know() -> None:
    client = {"PATH": "/bin", "DISABLE_AUTOUPDATER": "0", "PWD": "/elsewhere", "CLAUDE_CODE_ENTRYPOINT": "cli"}
    env = agent_environment(client, CWD, "9.9")
    assert env == {
        "PATH": "/bin",
        "DISABLE_AUTOUPDATER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_AGENT_SDK_VERSION": "9.9",
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        "CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT": str(IDLE_MS),
        "PWD": "/work/project",
    }
    assert client["PWD"] == "/elsewhere"


# ---- the command line, which the SDK makes


def test_the_sdk_still_makes_the_command_line() -> None:
    config: JsonObject = {"tools": ["Read", "Bash"], "disallowed_tools": ["WebFetch"], "effort": "low"}
    fields = sdk_options(spec(config, limits={"max_turns": 7}), read_options(config), cli="/bin/claude")
    servers = fields.pop("mcp_servers")
    assert servers == {}
    command = command_of(ClaudeAgentOptions(**fields, session_id="the-session", mcp_servers="/dev/fd/9"))
    assert command[0] == "/bin/claude"
    pairs = list(pairwise(command))
    for pair in (
        ("--permission-prompt-tool", "stdio"), ("--permission-mode", "acceptEdits"), ("--input-format", "stream-json"),
        ("--output-format", "stream-json"), ("--max-turns", "7"), ("--tools", "Read,Bash"),
        ("--effort", "low"), ("--mcp-config", "/dev/fd/9"), ("--disallowedTools", ",".join((*UNSUITED, "WebFetch"))),
    ):  # fmt: skip
        assert pair in pairs
    assert {"--strict-mcp-config", "--setting-sources=", "--session-id=the-session"} <= set(command)
    assert "--allowedTools" not in command


def test_a_session_to_go_on_with_is_bound_to_its_flag() -> None:
    command = command_of(ClaudeAgentOptions(cli_path="c", resume="--session", fork_session=True, session_id="new"))
    assert {"--resume=--session", "--fork-session", "--session-id=new"} <= set(command)


def test_the_asking_for_permission_leaves_the_given_options_alone() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    options = ClaudeAgentOptions(cli_path="/bin/claude", can_use_tool=never)
    assert "stdio" in command_of(options)
    assert (options.can_use_tool, options.permission_prompt_tool_name) == (never, None)


def test_credentials_of_a_run_are_not_on_the_command_line() -> None:
    config: JsonObject = {"mcp_servers": {"s": SERVER}}
    fields = sdk_options(spec(config), read_options(config), cli="/bin/claude")
    assert fields.pop("mcp_servers") == {"s": SERVER}, "it is told apart, through a pipe"
    assert "a-secret-of-the-server" not in " ".join(command_of(ClaudeAgentOptions(**fields)))


# ---- the prompt


def part(**given: Any) -> JsonObject:
    (block,) = content_of(Message(parts=[given]))
    return block


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def text(words: str) -> JsonObject:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("given", "block"),
    [
        ({"type": "text", "text": "@note.txt /context"}, text("@note.txt /context")),
        ({"type": "data", "data": {"a": [1]}}, text('```json\n{\n  "a": [\n    1\n  ]\n}\n```')),
        ({"type": "data", "data": None}, text("```json\nnull\n```")),
        ({"type": "file", "uri": "file:///work/a.txt"}, text("File: /work/a.txt")),
        ({"type": "file", "uri": "file:///a.png", "mime_type": "image/png"}, text("File: /a.png (image/png)")),
        ({"type": "file", "uri": "https://x/a.pdf", "mime_type": "application/pdf"},
         text("File: https://x/a.pdf (application/pdf)")),
        ({"type": "file", "uri": "http://x/a.png", "mime_type": "image/png"}, text("File: http://x/a.png (image/png)")),
        ({"type": "file", "uri": "https://x/a.png", "mime_type": "image/png"},
         {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}),
        ({"type": "file", "bytes_base64": "AAAA", "mime_type": "image/webp", "name": "p"},
         {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "AAAA"}}),
        ({"type": "file", "bytes_base64": "AAAA", "mime_type": "application/pdf", "name": "p"},
         {"type": "document", "title": "p",
          "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}),
        ({"type": "file", "bytes_base64": encoded("é\n".encode()), "mime_type": "text/markdown"},
         {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é\n"}}),
        ({"type": "file", "bytes_base64": encoded(b"{}"), "mime_type": "application/json", "name": "j"},
         {"type": "document", "title": "j", "source": {"type": "text", "media_type": "text/plain", "data": "{}"}}),
    ],
)  # fmt: skip
def test_each_part_of_a_message_is_a_block(given: JsonObject, block: JsonObject) -> None:
    assert part(**given) == block


def test_a_file_is_named_as_it_is_called_on_the_disk() -> None:
    assert part(type="file", uri="file:///work/my%20notes.txt") == text("File: /work/my notes.txt")


def test_the_parts_stay_in_their_order() -> None:
    parts: list[JsonObject] = [{"type": "text", "text": word} for word in "abc"]
    assert [block["text"] for block in content_of(Message(parts=parts))] == ["a", "b", "c"]


@pytest.mark.parametrize("mime", ["", "application/zip", "image/tiff", "audio/mpeg"])
def test_a_file_that_the_model_cannot_be_shown_is_refused(mime: str) -> None:
    kind = {"mime_type": mime} if mime else {}
    with pytest.raises(InvalidArgument, match=f"part 2 is a file of type {mime or 'unknown'}, which"):
        content_of(Message(parts=[{"type": "text", "text": "x"}, {"type": "file", "bytes_base64": "AAAA", **kind}]))


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="part 1 says that it is text/plain"):
        part(type="file", bytes_base64=encoded(b"\xff\xfe"), mime_type="text/plain")
