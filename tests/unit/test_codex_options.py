"""What a caller may configure of Codex, what that is on its command line and in its threads, and its prompt's parts."""

from __future__ import annotations

import base64
import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.codex.options import (
    Options,
    codex_home,
    config_flags,
    flags,
    loosening_rules,
    project_of,
    provider_lines,
    read_options,
    thread_fields,
    toml,
    user_config,
)
from backends.codex.prompt import input_of, text_item
from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, Message, Permission, RunSpec

CWD = Path("/work/project")
SERVER: JsonObject = {"command": "probe", "args": ["-x"], "env": {"TOKEN": "a-secret-of-the-server"}}


def spec(**more: Any) -> RunSpec:
    fixed = {"run_id": "run_1", "session_id": "ses_1", "agent_name": "a", "backend": "codex", "role": "worker"}
    return RunSpec(**fixed, cwd=CWD, message=Message.of_text("go"), created_at="2026-01-01T00:00:00.000Z", **more)


def config_of(options: Options, **more: Any) -> JsonObject:
    """The configuration of a run's thread."""
    return thread_fields(spec(**more), options, {})["config"]


# ---- the caller's configuration


def test_without_a_configuration_nothing_is_widened() -> None:
    assert read_options({}) == Options()
    options = Options()
    assert (options.network, options.own_mcp_servers, options.isolated_home) == (False, False, False)
    assert (options.model, options.config, options.mcp_servers) == (None, {}, {})


TAKEN: list[tuple[str, Any]] = [
    ("model", "gpt-5.5"),
    *(("effort", word) for word in ("minimal", "low", "medium", "high", "xhigh")),
    ("append_system_prompt", "- be brief\n"),
    *((flag, value) for flag in ("network", "own_mcp_servers", "isolated_home") for value in (True, False)),
    ("config", {}),
    ("config", {"model_reasoning_summary": "concise", "tools": {"web_search": False}, "a.b.c": [1, 2.5, "x", {}]}),
    ("config", {"model_provider": "azure", "sandboxes": 1, "model_providers.azure.base_url": "https://x"}),
    ("mcp_servers", {}),
    ("mcp_servers", {"s": SERVER, "r": {"type": "http", "url": "https://x", "headers": {"a": "b"}}}),
]


@pytest.mark.parametrize(("key", "given"), TAKEN)
def test_what_a_key_takes(key: str, given: Any) -> None:
    assert getattr(read_options({key: given}), key) == given


@pytest.mark.parametrize(
    ("key", "given"),
    [
        *((key, value) for key in ("model", "effort", "append_system_prompt") for value in ("", " ", "a\0b", 1, None)),
        *((key, value) for key in ("network", "own_mcp_servers", "isolated_home") for value in ("true", 1, None)),
        ("config", []),
        ("config", "model=x"),
        ("config", {"": 1}),
        ("config", {"a=b": 1}),
        ("config", {"model": None}),
        ("config", {"tools": {"web_search": None}}),
        ("config", {"tools": [{"x": [None]}]}),
        ("mcp_servers", []),
        ("mcp_servers", {"s": "probe"}),
        ("mcp_servers", {"s": {}}),
        ("mcp_servers", {"s": {"command": ["probe"]}}),
        ("mcp_servers", {"s": {"url": 1}}),
    ],
)
def test_what_a_key_does_not_take_is_refused_by_its_name(key: str, given: Any) -> None:
    with pytest.raises(InvalidArgument, match=rf"^backend_config\.{key}"):
        read_options({key: given})


@pytest.mark.parametrize("key", ["--yolo", "-c", "--cd.x"])
def test_a_key_that_is_an_option_of_the_command_line_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^backend_config\.config has no key"):
        read_options({"config": {key: "x"}})


@pytest.mark.parametrize(("key", "near"), [("modle", "model"), ("mcp_server", "mcp_servers"), ("networks", "network")])
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, near: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"backend_config of codex has no key '{key}'; did you mean '{near}'"):
        read_options({key: "x"})


DECIDED = (
    "approval_policy sandbox_mode sandbox_workspace_write permissions default_permissions approvals_reviewer projects "
    "shell_environment_policy profile mcp_servers hooks notify developer_instructions model_instructions_file"
).split()


@pytest.mark.parametrize("key", DECIDED)
@pytest.mark.parametrize("shape", ["{}", "{}.x", "{}.x.y"])
def test_what_permission_decides_cannot_be_configured(key: str, shape: str) -> None:
    with pytest.raises(InvalidArgument, match=r"backend_config\.config\..* is decided by permission"):
        read_options({"config": {shape.format(key): "danger-full-access"}})


@pytest.mark.parametrize(
    "key", [" sandbox_mode", "\tnotify", "sandbox_mode ", " sandbox_workspace_write.network_access"]
)
def test_a_blank_does_not_hide_what_permission_decides(key: str) -> None:
    with pytest.raises(InvalidArgument):
        read_options({"config": {key: "danger-full-access"}})


@pytest.mark.parametrize(
    "config",
    [
        {"model_providers": {"x": {"experimental_bearer_token": "abc"}}},
        {"model_providers.x.http_headers": {"authorization": "abc"}},
        {"model_providers.x.api_key": "abc"},
        {"some.Client_Secret": "abc"},
    ],
)
def test_credentials_are_named_and_not_given(config: JsonObject) -> None:
    with pytest.raises(InvalidArgument, match=r"looks like a credential; name a variable .* by env_key"):
        read_options({"config": config})
    named: JsonObject = {"env_key": "X_API_KEY", "env_http_headers": {"authorization": "X_AUTH"}}
    read_options({"config": {"model_providers.x": named, "model_auto_compact_token_limit": 1000}})


def test_credentials_of_servers_are_in_no_repr() -> None:
    assert "a-secret-of-the-server" not in repr(read_options({"mcp_servers": {"s": SERVER}}))


# ---- the command line


def pairs(words: list[str]) -> dict[str, Any]:
    """The keys that a command line sets, with their values as Codex reads them."""
    assert words[::2] == ["-c"] * (len(words) // 2)
    given = [word.partition("=") for word in words[1::2]]
    return {key: tomllib.loads(f"x = {value}")["x"] for key, _, value in given}


QUIET = {
    "features.plugins": False,
    "features.apps": False,
    "features.unbounded_connection_retries": False,
    "check_for_update_on_startup": False,
}


ALWAYS: JsonObject = {"tools.update_plan.enabled": True, "projects": {}}


def test_codex_calls_nobody_and_gives_up_in_time() -> None:
    assert pairs(flags(Options(), {}, [])) == {**QUIET, **ALWAYS}


@pytest.mark.parametrize(
    ("user", "theirs"),
    [
        ({"features": {"plugins": True}}, "features.plugins"),
        ({"features": {"plugins": False, "other": True}}, "features.plugins"),
        ({"features": {"unbounded_connection_retries": True}}, "features.unbounded_connection_retries"),
        ({"check_for_update_on_startup": True}, "check_for_update_on_startup"),
    ],
)
def test_what_the_user_says_of_it_stays_theirs(user: JsonObject, theirs: str) -> None:
    assert pairs(flags(Options(), user, [])).keys() == QUIET.keys() - {theirs} | ALWAYS.keys()


def test_an_odd_configuration_of_the_user_changes_nothing() -> None:
    assert pairs(flags(Options(), {"features": 3, "mcp_servers": []}, [])) == {**QUIET, **ALWAYS}


def test_the_users_own_mcp_servers_are_switched_off_unless_they_are_wanted() -> None:
    user: JsonObject = {"mcp_servers": {"files": SERVER, "my.own server": SERVER}}
    off = {"files": {"enabled": False}, "my.own server": {"enabled": False}}
    theirs = {"files": {"enabled": True, **SERVER}}
    assert thread_fields(spec(), Options(), user)["config"]["mcp_servers"] == off
    assert thread_fields(spec(), Options(mcp_servers={"files": SERVER}), user)["config"]["mcp_servers"] == off | theirs
    assert "mcp_servers" not in thread_fields(spec(), Options(own_mcp_servers=True), user)["config"]


def test_no_folder_is_trusted_for_the_runs_sake() -> None:
    folders = [Path("/work/a.b"), Path('/work/"c"')]
    for trusted, level in ((False, "untrusted"), (True, "trusted")):
        told = {str(folder): {"trust_level": level} for folder in folders}
        for known in ({}, {"/elsewhere": {"trust_level": "trusted"}}, {"/work/a.b": {"trust_level": "untrusted"}}, 3):
            assert pairs(flags(Options(), {"projects": known}, folders, trusted=trusted))["projects"] == told


def test_a_folder_that_the_user_trusts_is_left_to_codex() -> None:
    user: JsonObject = {"projects": {"/work": {"trust_level": "trusted"}}}
    assert "projects" not in pairs(flags(Options(), user, [Path("/work/sub"), Path("/work")]))


def test_a_project_is_its_folder_its_repository_and_that_of_its_worktree(tmp_path: Path) -> None:
    plain, main, tree = tmp_path / "plain/sub", tmp_path / "main", tmp_path / "tree"
    for folder in (plain, main / ".git/worktrees/tree", main / "sub", tree / "sub"):
        folder.mkdir(parents=True)
    (tree / ".git").write_text(f"gitdir: {main}/.git/worktrees/tree\n")
    assert project_of(plain) == [plain]
    assert project_of(main) == [main]
    assert project_of(main / "sub") == [main / "sub", main]
    assert project_of(tree / "sub") == [tree / "sub", tree, main]
    (tree / ".git").write_text("nonsense")
    assert project_of(tree / "sub")[:2] == [tree / "sub", tree]


def test_the_callers_keys_come_last_and_as_codex_would_read_them() -> None:
    config: JsonObject = {"model_reasoning_summary": "concise", "tools": {"web_search": False}, "a.b": [1, "x"]}
    assert pairs(config_flags(Options(config=config))) == config
    assert config_flags(Options()) == []
    whole = flags(Options(config=config), {}, [])
    assert whole[-6:] == config_flags(Options(config=config))


def test_only_the_users_providers_are_lent_to_the_check_of_the_callers_keys() -> None:
    providers = {"x y": {"name": "x", "base_url": "https://x"}}
    user: JsonObject = {
        "model": "m",
        "model_provider": "x y",
        "model_providers": providers,
        "mcp_servers": {"s": SERVER},
    }
    assert tomllib.loads(provider_lines(user)) == {"model_provider": "x y", "model_providers": providers}
    assert provider_lines({}) == ""


@pytest.mark.parametrize(
    ("rules", "loose"),
    [
        ('prefix_rule(pattern=["git"], decision="allow")', True),
        ('prefix_rule(pattern=["git"])', True),
        ('prefix_rule(pattern=["git"], decision="prompt")\nprefix_rule(pattern=["ls"], decision="allow")', True),
        ('prefix_rule(pattern=["git"], decision="allow")  # not decision="prompt"', True),
        ('prefix_rule(pattern=["git"], decision="prompt")', False),
        ("prefix_rule(pattern=['git'],\n    decision='forbidden')\n", False),
        ('# prefix_rule(pattern=["git"], decision="allow")\n', False),
        ("", False),
    ],
)
def test_rules_of_the_user_that_open_the_sandbox_are_found(tmp_path: Path, rules: str, loose: bool) -> None:
    assert loosening_rules(tmp_path) is None
    (tmp_path / "rules").mkdir()
    path = tmp_path / "rules/default.rules"
    path.write_text(rules)
    assert loosening_rules(tmp_path) == (path if loose else None)


words = st.text(st.characters(max_codepoint=0xFFFF, exclude_characters="\x7f", exclude_categories=["Cs"]))
json_values = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_json_without_null_is_written_as_the_same_toml(value: Any) -> None:
    assert tomllib.loads(f"x = {toml(value)}")["x"] == value


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}", "\x7f"])
def test_any_text_is_written_as_the_same_toml(text: str) -> None:
    assert tomllib.loads(f"x = {toml({text: [text]})}")["x"] == {text: [text]}


@pytest.mark.parametrize(
    ("value", "written"),
    [(True, "true"), (3, "3"), (1.5, "1.5"), ('a "b"\n', r'"a \"b\"\n"'), ([], "[]"), ([1, "x"], '[1, "x"]'),
     ({}, "{}"), ({"a b": {"c": [True]}}, '{"a b" = {"c" = [true]}}')],
)  # fmt: skip
def test_values_are_written_as_toml(value: Any, written: str) -> None:
    assert toml(value) == written


def test_the_users_configuration_is_read_where_codex_has_it(tmp_path: Path) -> None:
    assert codex_home({"HOME": "/home/x"}) == Path("/home/x/.codex")
    assert codex_home({"HOME": "/home/x", "CODEX_HOME": "/other"}) == Path("/other")
    assert codex_home({"HOME": "/home/x", "CODEX_HOME": ""}) == Path("/home/x/.codex")
    env = {"HOME": "/nowhere", "CODEX_HOME": str(tmp_path)}
    assert user_config(env) == {}
    (tmp_path / "config.toml").write_text('model = "x"\n[features]\nplugins = true\n')
    assert user_config(env) == {"model": "x", "features": {"plugins": True}}
    for wrong in (b"model = ", b"\xff\xfe"):
        (tmp_path / "config.toml").write_bytes(wrong)
        assert user_config(env) == {}


# ---- the thread


@pytest.mark.parametrize(
    ("permission", "sandbox"),
    [("read_only", "read-only"), ("workspace_write", "workspace-write"), ("full_access", "danger-full-access"),
     (None, "workspace-write")],
)  # fmt: skip
def test_each_permission_is_a_sandbox_in_which_codex_asks(permission: Permission | None, sandbox: str) -> None:
    assert thread_fields(spec(permission=permission), Options(), {}) == {
        "cwd": "/work/project",
        "approvalPolicy": "on-request",
        "sandbox": sandbox,
        "config": {
            "shell_environment_policy.ignore_default_excludes": False,
            "shell_environment_policy.set.ORCHESTRATOR_RUN_ID": "run_1",
            "sandbox_workspace_write.writable_roots": [],
            "sandbox_workspace_write.exclude_slash_tmp": True,
            "sandbox_workspace_write.network_access": False,
        },
    }


def test_what_the_caller_configured_is_in_the_thread() -> None:
    remote = {"type": "http", "url": "https://x", "headers": {"authorization": "b"}, "startup_timeout_sec": 3}
    options = read_options(
        {
            "model": "gpt-5.5",
            "effort": "high",
            "network": True,
            "mcp_servers": {"s": {"type": "stdio", **SERVER}, "r": remote},
        }
    )
    assert thread_fields(spec(), options, {})["model"] == "gpt-5.5"
    config = config_of(options)
    assert config["model_reasoning_effort"] == "high"
    assert config["sandbox_workspace_write.network_access"] is True
    http = {"enabled": True, "url": "https://x", "http_headers": {"authorization": "b"}, "startup_timeout_sec": 3}
    assert config["mcp_servers"] == {"s": {"enabled": True, **SERVER}, "r": http}


# ---- the prompt

PNG = base64.b64encode(b"\x89PNG").decode()


@pytest.mark.parametrize(
    ("part", "item"),
    [
        ({"type": "text", "text": "hello"}, text_item("hello")),
        ({"type": "data", "data": {"a": [1]}}, text_item('```json\n{\n  "a": [\n    1\n  ]\n}\n```')),
        ({"type": "file", "uri": "file:///a/b.png", "mime_type": "image/png"},
         {"type": "localImage", "path": "/a/b.png"}),
        ({"type": "file", "uri": "file:///a/b.txt", "mime_type": "text/plain"},
         text_item("File: /a/b.txt (text/plain)")),
        ({"type": "file", "uri": "file:///a/b.txt"}, text_item("File: /a/b.txt")),
        ({"type": "file", "uri": "https://x/b.png", "mime_type": "image/png"},
         text_item("File: https://x/b.png (image/png)")),
        ({"type": "file", "bytes_base64": PNG, "mime_type": "image/png"},
         {"type": "image", "url": f"data:image/png;base64,{PNG}"}),
        ({"type": "file", "bytes_base64": base64.b64encode("ä".encode()).decode(), "mime_type": "text/plain",
          "name": "a.txt"}, text_item("File a.txt:\n```\nä\n```")),
        ({"type": "file", "bytes_base64": base64.b64encode(b"{}").decode(), "mime_type": "application/json"},
         text_item("File :\n```\n{}\n```")),
    ],
)  # fmt: skip
def test_each_part_of_a_message_is_an_item_of_input(part: JsonObject, item: JsonObject) -> None:
    assert input_of(Message(parts=[part, {"type": "text", "text": "end"}])) == [item, text_item("end")]


@pytest.mark.parametrize("mime", ["image/png", "text/plain"])
def test_a_file_is_named_by_its_path_and_not_by_its_uri(mime: str) -> None:
    uri = Path("/a b/ü.png").as_uri()
    (item,) = input_of(Message(parts=[{"type": "file", "uri": uri, "mime_type": mime}]))
    assert "/a b/ü.png" in json.dumps(item, ensure_ascii=False)


@pytest.mark.parametrize(
    ("mime", "data", "why"),
    [("application/pdf", b"%PDF", "application/pdf"), (None, b"x", "unknown"), ("text/plain", b"\xff", "no UTF-8"),
     ("audio/wav", b"", "audio/wav")],
)  # fmt: skip
def test_a_part_that_no_model_can_be_shown_is_refused_by_its_number(mime: str | None, data: bytes, why: str) -> None:
    wrong = {"type": "file", "bytes_base64": base64.b64encode(data).decode(), **({"mime_type": mime} if mime else {})}
    with pytest.raises(InvalidArgument, match=rf"^part 2 .*{why}"):
        input_of(Message(parts=[{"type": "text", "text": "see"}, wrong]))


def test_flags_come_in_pairs() -> None:
    assert all(a != "-c" or b != "-c" for a, b in pairwise(flags(Options(), {}, [])))
