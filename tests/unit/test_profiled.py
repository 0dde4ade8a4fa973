"""What a profile does to a run: it fills in what the call leaves open, and out of the workspace it raises nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backend import Ability
from orchestrator.config import Settings
from orchestrator.engine.profiled import Profiled, instructed, is_trusted, profiled
from orchestrator.engine.tree import Ceiling
from orchestrator.errors import Conflict, PermissionCeiling, ProfileNotFound
from orchestrator.model import JsonObject, Message, OnApproval, Permission, ProfileRef, RunSpec
from orchestrator.profiles import Profile, Source, find
from orchestrator.store.layout import Home
from tests.unit.agents import Agent, desk
from tests.unit.test_config import user
from tests.unit.test_profiles import write
from tests.unit.test_tree import child_of, opened, wait

BOLD = "---\npermission: full_access\non_approval: allow\nchecks: [make test]\ntools: [Read]\n---\nYou help.\n"
NATIVE: frozenset[Ability] = frozenset({"instructions", "model", "effort", "tools", "disallowed_tools", "max_turns"})


def ceiling(permission: Permission = "full_access", on_approval: OnApproval = "allow") -> Ceiling:
    return Ceiling(permission, "a test", on_approval, "a test")


def a_profile(text: str = "You help.", source: Source = "path", **fields: Any) -> Profile:
    path = Path("/p/helper.md")
    return Profile(name="helper", path=path, real=path, source=source, text=text, sha256="0", fields=fields)


def filled(
    profile: Profile,
    arguments: JsonObject | None = None,
    *,
    trusted: bool = True,
    at_most: Ceiling | None = None,
    abilities: frozenset[Ability] = NATIVE,
) -> Profiled:
    """The arguments of a call with that profile, for a backend `scripted` with these abilities."""
    return profiled(arguments or {}, profile, Agent(abilities=abilities), at_most or ceiling(), trusted=trusted)


def told(text: str, message: Message, *abilities: Ability, **config: Any) -> RunSpec:
    """The spec of a run with a profile of that text, as its backend gets it."""
    spec = RunSpec(
        run_id="run_1",
        session_id="ses_1",
        agent_name="a",
        backend="scripted",
        role="worker",
        cwd=Path("/"),
        message=message,
        created_at="",
        backend_config=config,
        profile=ProfileRef(name="helper", path="/p/helper.md", sha256="0", text=text),
    )
    return instructed(spec, Agent(abilities=frozenset(abilities)))


def trusts(path: Path, cwd: Path, *dirs: Path, given: str | None = None) -> bool:
    """Whether a profile that a run in cwd names by its path counts as the word of the user."""
    settings = Settings(trusted_dirs=tuple(map(str, dirs)))
    return is_trusted(find(given or str(path), cwd, cwd / "no-home"), settings)


# ---- filling in ----


def test_what_the_call_leaves_open_is_filled_in() -> None:
    schema = {"type": "object"}
    fields: JsonObject = {
        "role": "r",
        "output_schema": schema,
        "limits": {"timeout_s": 5},
        "model": "m",
        "effort": "high",
    }
    arguments, ref = filled(a_profile(**fields, permission="read_only", on_approval="deny", tools=("Read",)))
    assert arguments == {
        "role": "r",
        "nickname": "helper",
        "output_schema": schema,
        "permission": "read_only",
        "on_approval": "deny",
        "limits": {"timeout_s": 5},
        "backend_config": {"model": "m", "effort": "high", "tools": ["Read"]},
    }
    assert (ref.name, ref.path, ref.sha256, ref.text) == ("helper", "/p/helper.md", "0", "You help.")
    assert ref.notices is None


@pytest.mark.parametrize("trusted", [True, False])
def test_explicit_words_of_the_call_win(trusted: bool) -> None:
    words: JsonObject = {
        "role": "mine",
        "nickname": "tom",
        "output_schema": {},
        "permission": "full_access",
        "on_approval": "allow",
        "limits": {"timeout_s": 1},
        "backend_config": {"model": "mine"},
    }
    fields: JsonObject = {"role": "r", "output_schema": {"type": "array"}, "permission": "read_only"}
    own = a_profile(**fields, on_approval="deny", limits={"timeout_s": 9, "max_turns": 2}, model="m", effort="low")
    arguments, ref = filled(own, words, trusted=trusted)
    expected = {"limits": {"timeout_s": 1, "max_turns": 2}, "backend_config": {"model": "mine", "effort": "low"}}
    assert arguments == {**words, **expected}
    assert ref.notices is None
    assert words["limits"] == {"timeout_s": 1}, "the call itself is not changed"


def test_a_profile_that_says_nothing_changes_no_permission() -> None:
    arguments, _ = filled(a_profile(), trusted=False)
    assert not {"permission", "on_approval", "role", "output_schema"} & arguments.keys()


def test_a_resumed_session_keeps_the_name_of_its_agent_and_a_fork_has_its_own() -> None:
    assert "nickname" not in filled(a_profile(), {"session_mode": "resume"}).arguments
    assert filled(a_profile(), {"session_mode": "fork"}).arguments["nickname"] == "helper"


@pytest.mark.parametrize(
    ("wanted", "trusted", "at_most", "permission"),
    [
        ("full_access", True, "full_access", "full_access"),
        ("full_access", True, "workspace_write", "workspace_write"),
        ("full_access", True, "read_only", "read_only"),
        ("full_access", False, "full_access", "workspace_write"),
        ("workspace_write", False, "full_access", "workspace_write"),
        ("workspace_write", False, "read_only", "read_only"),
        ("read_only", False, "full_access", "read_only"),
        ("read_only", True, "workspace_write", "read_only"),
    ],
)
def test_permission_is_lowered_to_what_may_be_had(
    wanted: Permission, trusted: bool, at_most: Permission, permission: Permission
) -> None:
    arguments, ref = filled(a_profile(permission=wanted), trusted=trusted, at_most=ceiling(at_most))
    assert arguments["permission"] == permission
    lowered = [f"permission {wanted} is lowered to {permission}"] if wanted != permission else None
    assert ref.notices == lowered


@pytest.mark.parametrize(
    ("wanted", "trusted", "at_most", "on_approval"),
    [
        ("allow", True, "allow", "allow"),
        ("allow", True, "ask", "ask"),
        ("allow", False, "allow", "ask"),
        ("allow", False, "deny", "deny"),
        ("ask", False, "deny", "deny"),
        ("deny", False, "allow", "deny"),
        ("deny", True, "ask", "deny"),
    ],
)
def test_on_approval_is_tightened_to_what_may_be_had(
    wanted: OnApproval, trusted: bool, at_most: OnApproval, on_approval: OnApproval
) -> None:
    arguments, ref = filled(a_profile(on_approval=wanted), trusted=trusted, at_most=ceiling(on_approval=at_most))
    assert arguments["on_approval"] == on_approval
    lowered = [f"on_approval {wanted} is lowered to {on_approval}"] if wanted != on_approval else None
    assert ref.notices == lowered


def test_commands_and_tools_of_an_untrusted_file_are_not_used_and_told_of() -> None:
    own = a_profile(checks=("rm -rf /",), tools=("Bash",), disallowed_tools=("Write",))
    arguments, ref = filled(own, trusted=False)
    assert arguments["backend_config"] == {"disallowed_tools": ["Write"]}
    assert ref.text == "You help."
    assert ref.notices == ["checks and tools of a folder that is not in trusted_dirs are not used"]


def test_the_checks_of_a_trusted_file_are_told_to_the_agent() -> None:
    ref = filled(a_profile(checks=("make test", "make lint"))).profile
    assert ref.text.startswith("You help.\n\n## Checks\n")
    assert ref.text.endswith("\n```sh\nmake test\nmake lint\n```")


def test_a_limit_that_the_backend_cannot_keep_is_left_out_and_told_of() -> None:
    own = a_profile(limits={"timeout_s": 5, "max_turns": 3, "max_cost_usd": 1})
    arguments, ref = filled(own)
    assert arguments["limits"] == {"timeout_s": 5, "max_turns": 3}
    assert ref.notices == ["scripted cannot keep limits.max_cost_usd"]
    assert filled(own, abilities=frozenset()).arguments["limits"] == {"timeout_s": 5}


@pytest.mark.parametrize("for_another", [True, False])
def test_what_only_another_agent_understands_is_left_out_and_told_of(for_another: bool) -> None:
    other: JsonObject = {"backend": "other"} if for_another else {}
    own = a_profile(model="m", tools=("Read",), effort="high", **other)
    abilities = NATIVE if for_another else frozenset[Ability]({"instructions"})
    arguments, ref = filled(own, abilities=abilities)
    assert arguments["backend_config"] == {}
    assert ref.notices == ["effort, model, tools are not used with scripted"]


def test_an_empty_list_of_tools_does_not_mean_all_of_them() -> None:
    assert filled(a_profile(tools=())).arguments["backend_config"] == {"tools": []}


def test_notices_stay_short_however_much_of_a_file_is_not_used(cwd: Path) -> None:
    keys = "".join(f"key_{n}: 1\n" for n in range(2_000)) + "x" * 900 + ": 1\n"
    path = write(cwd / ".claude" / "agents" / "many.md", f"---\n{keys}---\nx")
    ref = filled(find(str(path), cwd, cwd), trusted=False).profile
    assert len(str(ref.notices)) < 5_000


# ---- what the agent is told ----


def test_a_backend_with_instructions_of_its_own_gets_them_before_those_of_the_call() -> None:
    message = Message.of_text("do it")
    spec = told("You help.", message, "instructions", append_system_prompt="Be brief.", model="m")
    assert spec.backend_config == {"append_system_prompt": "You help.\n\nBe brief.", "model": "m"}
    assert spec.message == message
    assert told("You help.", message, "instructions").backend_config == {"append_system_prompt": "You help."}


def test_any_other_gets_them_before_the_task_in_one_text() -> None:
    parts = [{"type": "text", "text": "do it"}, {"type": "file", "uri": "file:///a"}]
    spec = told("You help.", Message(parts=parts, metadata={"a": 1}))
    head, text = spec.message.parts[0]["text"].split("You help.")
    assert "Your job description (helper)" in head
    assert text.endswith("\ndo it")
    assert spec.message.parts[1:] == parts[1:]
    assert (spec.message.metadata, spec.backend_config) == ({"a": 1}, {})


def test_a_message_that_begins_with_a_file_gets_a_text_before_it() -> None:
    parts = [{"type": "file", "uri": "file:///a"}, {"type": "text", "text": "do it"}]
    spec = told("You help.", Message(parts=parts))
    assert "You help." in spec.message.parts[0]["text"]
    assert spec.message.parts[1:] == parts


@given(st.text("=\n Yourtask", max_size=60) | st.integers(0, 40).map(lambda n: "=" * n))
def test_the_text_cannot_close_its_fence(text: str) -> None:
    said = told(text, Message.of_text("do it")).message.parts[0]["text"]
    assert said.endswith("\ndo it")
    fence = said.partition(" Your job")[0]
    assert fence not in text
    assert said.count(f"\n{fence} ") == 1, "only the line before the task begins like that"
    assert said.count(fence) == 2


def test_a_text_full_of_fences_does_not_grow_the_message() -> None:
    text = "=" * 5_000
    assert len(told(text, Message.of_text("do it")).message.parts[0]["text"]) < 2 * len(text)


# ---- trust ----


@pytest.mark.parametrize("source", ["user", "packaged"])
def test_what_is_the_users_own_is_trusted(source: Source) -> None:
    assert is_trusted(a_profile(source=source), Settings())


def test_a_file_elsewhere_is_trusted_only_in_a_folder_that_the_user_lists(cwd: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "elsewhere" / "one.md")
    assert not trusts(path, cwd)
    assert trusts(path, cwd, path.parent)


@pytest.mark.parametrize("place", ["profiles/one.md", ".claude/agents/one.md", "one.md"])
def test_a_file_of_the_workspace_is_trusted_only_in_a_folder_that_the_user_lists(cwd: Path, place: str) -> None:
    path = write(cwd / place)
    assert not trusts(path, cwd)
    assert not trusts(path, cwd, given=place)
    assert not trusts(path, cwd, cwd / "pro", cwd / "other")
    assert trusts(path, cwd, path.parent)
    assert trusts(path, cwd, cwd.parent)


def test_a_link_out_of_the_workspace_and_one_into_it_are_of_the_workspace(cwd: Path, tmp_path: Path) -> None:
    outside, inside = write(tmp_path / "elsewhere" / "one.md"), write(cwd / "texts" / "two.md")
    out, into = cwd / "profiles" / "one.md", outside.parent / "two.md"
    out.parent.mkdir()
    out.symlink_to(outside)
    into.symlink_to(inside)
    assert not trusts(out, cwd)
    assert not trusts(into, cwd)
    (tmp_path / "folder").symlink_to(inside.parent)
    assert not trusts(tmp_path / "folder" / "two.md", cwd)
    assert not trusts(inside, cwd, given=f"{outside.parent}/../project/texts/two.md")


def test_a_link_of_the_workspace_borrows_no_trust_from_where_it_leads(cwd: Path, tmp_path: Path) -> None:
    trusted = write(tmp_path / "trusted" / "deploy.md", BOLD)
    link = cwd / "profiles" / "planner.md"
    link.parent.mkdir()
    link.symlink_to(trusted)
    assert not trusts(link, cwd, trusted.parent)


def test_trust_is_of_the_file_that_was_read_and_not_of_what_took_its_place(cwd: Path, tmp_path: Path) -> None:
    trusted = write(tmp_path / "trusted" / "deploy.md")
    path = write(cwd / "profiles" / "mine.md", BOLD)
    profile = find("mine", cwd, cwd / "no-home")
    path.unlink()
    path.symlink_to(trusted)
    assert not is_trusted(profile, Settings(trusted_dirs=(str(trusted.parent),)))


def test_a_folder_that_is_listed_by_a_link_is_trusted(cwd: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(cwd)
    assert trusts(write(cwd / "profiles" / "one.md"), cwd, tmp_path / "link")


# ---- whole runs ----


async def test_a_bold_file_of_the_workspace_gets_no_more_than_a_call_without_one(cwd: Path, home: Home) -> None:
    await asyncio.to_thread(write, cwd / "profiles" / "bold.md", BOLD)
    agent = Agent(abilities=frozenset({"permission", "tools"}))
    async with desk(cwd, agent) as tools:
        await tools.finished(profile="bold")
        await asyncio.to_thread(user, home, f'trusted_dirs = ["{cwd}"]\nmax_permission = "workspace_write"')
        await tools.finished(profile="bold")
        await asyncio.to_thread(user, home, f'trusted_dirs = ["{cwd}"]')
        await tools.finished(profile="bold")
    assert [(spec.level, spec.on_approval) for spec in agent.specs] == [
        ("workspace_write", "ask"),
        ("workspace_write", "allow"),
        ("full_access", "allow"),
    ]
    assert [spec.backend_config.get("tools") for spec in agent.specs] == [None, ["Read"], ["Read"]]


async def test_an_agent_gains_nothing_by_the_profile_of_its_child(cwd: Path, home: Home, tmp_path: Path) -> None:
    for path in (home.path / "profiles" / "bold.md", tmp_path / "elsewhere" / "bold.md"):
        await asyncio.to_thread(write, path, BOLD)
    agent = Agent(wait, opened, abilities=frozenset({"permission"}))
    async with desk(cwd, agent) as tools:
        child = child_of(tools, await tools.spawn(permission="read_only", on_approval="deny"))
        await child.finished(profile="bold")
        with pytest.raises(PermissionCeiling, match="lies outside of what"):
            await child.spawn(profile=str(tmp_path / "elsewhere" / "bold.md"))
        with pytest.raises(PermissionCeiling):
            await child.spawn(profile="bold", permission="full_access")
        await tools.finished(profile="bold")
    levels = [(spec.level, spec.on_approval) for spec in agent.specs[1:]]
    assert levels == [("read_only", "deny"), ("full_access", "allow")]


async def test_what_an_agent_may_have_written_is_not_trusted_in_a_child_of_full_access(
    cwd: Path, tmp_path: Path
) -> None:
    path = await asyncio.to_thread(write, tmp_path / "elsewhere" / "bold.md", BOLD)
    agent = Agent(wait, opened, abilities=frozenset({"permission"}))
    async with desk(cwd, agent) as tools:
        child = child_of(tools, await tools.spawn(permission="full_access", on_approval="allow"))
        answer = await child.call("spawn_run", backend="scripted", cwd=str(cwd), prompt="x", profile=str(path))
        await tools.settled(answer["run_id"])
    assert (agent.specs[1].level, agent.specs[1].on_approval) == ("workspace_write", "ask")
    assert "checks and tools of a folder that is not in trusted_dirs are not used" in answer["notices"]


async def test_the_same_key_and_arguments_give_the_same_run_whatever_became_of_the_file(cwd: Path) -> None:
    path = await asyncio.to_thread(write, cwd / "profiles" / "mine.md")
    async with desk(cwd, Agent()) as tools:
        first = await tools.spawn(profile="mine", idempotency_key="k")
        assert await tools.spawn(profile="mine", idempotency_key="k") == first
        with pytest.raises((Conflict, ProfileNotFound)):
            await tools.spawn(profile="other", idempotency_key="k")
        await asyncio.to_thread(path.write_text, "You help more.")
        assert await tools.spawn(profile="mine", idempotency_key="k") == first


@pytest.mark.parametrize("mode", ["resume", "fork"])
async def test_a_session_that_is_spawned_on_keeps_its_profile(cwd: Path, mode: str) -> None:
    await asyncio.to_thread(write, cwd / "profiles" / "mine.md")
    agent = Agent(opened)
    async with desk(cwd, agent) as tools:
        run = await tools.finished(profile="mine")
        await tools.finished(session_mode=mode, session_id=run["session_id"])
    assert agent.specs[1].profile == agent.specs[0].profile
