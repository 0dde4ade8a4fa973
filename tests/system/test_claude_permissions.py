"""What Claude Code may do: each permission as it is kept, what is asked, and what an answer lets through.

What a run may not do leaves no file behind and is never asked, whatever `on_approval` says; what is asked shows the
whole of it. Nothing that a folder brings with it runs unless the user trusts the folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidArgument, PermissionCeiling
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

ASKS = "sh -c 'echo done > made'"
"""A command that Claude Code does not take for harmless."""
NOTEBOOK = """{"cells": [{"cell_type": "code", "id": "c", "metadata": {}, "outputs": [], "execution_count": null,
"source": "1"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}"""


@pytest.fixture(scope="module")
def model() -> Iterator[ClaudePlayer]:
    """The model of all runs here."""
    with ClaudePlayer() as player:
        yield player


@pytest.fixture
async def claude(model: ClaudePlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Claude Code works."""
    async with desk("claude_code", cwd, agent_environment(model, tmp_path)) as place:
        yield place


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the project."""
    path = tmp_path / "outside"
    path.mkdir()
    return path


def tree(cwd: Path) -> dict[str, bytes]:
    """All files of the project with what is in them, but for our own."""
    files = (path for path in cwd.rglob("*") if path.is_file() and ".orchestrator" not in path.parts)
    return {str(path.relative_to(cwd)): path.read_bytes() for path in files}


def call(tool: str, **arguments: Any) -> str:
    """A line of a script: a tool by its own name."""
    return f"call {tool} {json.dumps(arguments)}"


def helper(*script: str, **more: Any) -> str:
    """A line of a script: a sub-agent that plays one of its own, and is waited for."""
    prompt = "\n".join(script)
    kind: JsonObject = {"subagent_type": "general-purpose", "run_in_background": False, **more}
    return call("Agent", description="h", prompt=prompt, **kind)


def repository(cwd: Path) -> None:
    """Makes the project a git repository with one commit."""
    name = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for arguments in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=cwd, check=True)


async def done(claude: Desk, *script: str, **more: Any) -> JsonObject:
    """Runs a script to its end without being asked anything."""
    run = await claude.finished(*script, **more)
    assert run["status"] == "completed", run
    return run


async def texts(claude: Desk, run: JsonObject) -> list[str]:
    """What the agent said."""
    return [event["data"]["text"] for event in await claude.events(run["run_id"], "agent_message")]


async def statuses(claude: Desk, run: JsonObject) -> dict[str, str]:
    """How each command ended."""
    ended = await claude.events(run["run_id"], "command_finished")
    return {event["data"]["command"]: event["data"]["status"] for event in ended}


async def changed(claude: Desk, run: JsonObject) -> list[JsonObject]:
    """All file changes that were told."""
    events = await claude.events(run["run_id"], "file_changed")
    return [change for event in events for change in event["data"]["changes"]]


async def test_a_read_only_run_reads(claude: Desk) -> None:
    (claude.cwd / "a.txt").write_text("one\n")
    repository(claude.cwd)
    commands = ["cat a.txt", "ls", "git status", "git log --oneline", "grep -r one ."]
    script = ("read a.txt", "heard", *(f"run {command}" for command in commands), "say read")
    run = await done(claude, *script, permission="read_only")
    assert "1\tone" in (await texts(claude, run))[0]
    assert await statuses(claude, run) == dict.fromkeys(commands, "completed")
    assert await claude.events(run["run_id"], "input_required", "file_changed") == []


@pytest.mark.parametrize("policy", ["ask", "allow"])
async def test_a_read_only_run_writes_by_no_file_tool(claude: Desk, policy: str) -> None:
    (claude.cwd / "a.txt").write_text("one\n")
    book = claude.cwd / "n.ipynb"
    book.write_text(NOTEBOOK)
    before = tree(claude.cwd)
    change = call("NotebookEdit", notebook_path=str(book), cell_id="c", new_source="2")
    script = ("file new.txt x", "read a.txt", "edit a.txt one -> two", "heard", f"read {book}", change, "heard")
    run = await done(claude, *script, permission="read_only", on_approval=policy)
    said = await texts(claude, run)
    assert len(said) == 3
    assert all("this run is read_only" in text for text in said)
    assert tree(claude.cwd) == before
    assert await claude.events(run["run_id"], "input_required", "file_changed") == []


WRITING = r"""
touch new ;; echo x > new ;; echo x >> a.txt ;; printf x >| new ;; python3 -c "open('new', 'w')" ;; mkdir new
cp a.txt new ;; mv a.txt new ;; rm a.txt ;; ln -s / new ;; sed -i s/one/two/ a.txt ;; sed -n 'w new' a.txt
git init ;; git add a.txt ;; git commit -m x --allow-empty ;; git diff --output=new
git -c core.fsmonitor='touch new' status ;; git grep -O'touch new' one ;; find . -name a.txt -fprint new
find . -name a.txt -exec touch new ; ;; sort -o new a.txt ;; uniq a.txt new ;; awk 'BEGIN{system("touch new")}'
cat a.txt | tee new ;; ls $(touch new) ;; ls `touch new` ;; cat <(touch new) ;; X=$(touch new) ls
env touch new ;; rg --pre 'touch new' one ;; ls; touch new ;; ls && cp a.txt new ;; true & touch new
xargs touch < a.txt ;; sh -c 'touch new'"""
"""Commands that write a file, or change one."""


async def test_a_read_only_run_writes_by_no_command(claude: Desk) -> None:
    (claude.cwd / "a.txt").write_text("one\n")
    repository(claude.cwd)
    before = tree(claude.cwd)
    commands = re.split(" ;; |\n", WRITING.strip())
    script = (*(f"run {command}" for command in commands), "run+ touch new", "heard", "say read")
    run = await done(claude, *script, permission="read_only", on_approval="allow")
    assert await statuses(claude, run) == dict.fromkeys([*commands, "touch new"], "declined")
    assert "this run is read_only" in (await texts(claude, run))[0]
    assert tree(claude.cwd) == before
    assert await claude.events(run["run_id"], "input_required", "file_changed") == []


async def test_the_helpers_of_a_read_only_run_write_as_little(claude: Desk) -> None:
    flow = "export const meta = {name: 'w', description: 'd', phases: []}\nawait agent('file new x')"
    others = call("Workflow", script=flow), call("Monitor", command="touch new", description="m")
    script = (helper("file new x", "run touch new", "say helped"), *others, "say read")
    run = await done(claude, *script, permission="read_only", on_approval="allow")
    helped = [event["data"]["text"] for event in await claude.events(run["run_id"], "message_added")][1:]
    assert helped == ["new was not written: this run is read_only", "helped"]
    assert await statuses(claude, run) == {"touch new": "declined"}
    ended = {event["data"]["tool"]: event["data"] for event in await claude.events(run["run_id"], "tool_finished")}
    assert all("read_only" in ended[tool]["error"] for tool in ("Write", "Workflow", "Monitor"))
    assert tree(claude.cwd) == {}


async def test_a_helper_of_a_read_only_run_gets_no_worktree(claude: Desk) -> None:
    """Claude Code does not ask for the tool Agent, which would make a git worktree below cwd."""
    repository(claude.cwd)
    before = tree(claude.cwd)
    await done(claude, helper("say helped", isolation="worktree"), "say read", permission="read_only")
    assert tree(claude.cwd) == before


async def test_what_git_itself_is_configured_to_run_is_told_at_least(claude: Desk) -> None:
    """Claude Code takes `git status` for harmless, though a repository's own configuration names programs to run."""
    repository(claude.cwd)
    with (claude.cwd / ".git/config").open("a") as config:
        config.write('[core]\n\tfsmonitor = "touch ran; false"\n')
    run = await claude.finished("run git status", "say read", permission="read_only")
    assert await statuses(claude, run) == {"git status": "completed"}
    assert {change["path"] for change in await changed(claude, run)} >= {"ran"}


async def test_file_tools_work_unasked_where_the_run_works(claude: Desk) -> None:
    (claude.cwd / "old.txt").write_text("old\n")
    commands = ["mkdir sub", "touch sub/a", "mv sub/a sub/b", "cp old.txt sub/c", "rm sub/c", "echo x > e"]
    script = ("file new.txt new", "read old.txt", "edit old.txt old -> neu", *(f"run {line}" for line in commands))
    run = await done(claude, *script, "say written")
    assert await claude.events(run["run_id"], "input_required") == []
    assert tree(claude.cwd) == {"new.txt": b"new\n", "old.txt": b"neu\n", "sub/b": b"", "e": b"x\n"}
    told = [(change["path"], change["kind"]) for change in await changed(claude, run)]
    assert told == [("new.txt", "add"), ("old.txt", "update"), ("e", "add"), ("sub/b", "add")]


async def test_a_file_elsewhere_is_written_after_its_diff_was_approved(claude: Desk, outside: Path) -> None:
    new = outside / "new.txt"
    run = await claude.finished(f"file {new} hello", "say written")
    (request,) = run["pending"]
    assert request["kind"] == "approval"
    assert request["detail"] == {"changes": [{"path": str(new), "kind": "add", "diff": "+hello\n"}]}
    assert not new.exists()
    run = await claude.answered(run["run_id"], decision="approve")
    assert new.read_text() == "hello\n"
    assert run["status"] == "completed", run
    assert await changed(claude, run) == request["detail"]["changes"]


async def test_an_edit_elsewhere_shows_what_it_replaces(claude: Desk, outside: Path) -> None:
    path = outside / "a.txt"
    path.write_text("one\ntwo\n")
    run = await claude.finished(f"read {path}", f"edit {path} two -> zwei", "say edited")
    (request,) = run["pending"]
    assert request["detail"] == {"tool": "Read", "arguments": {"file_path": str(path)}}
    run = await claude.answered(run["run_id"], decision="approve")
    (request,) = run["pending"]
    assert request["detail"]["changes"] == [{"path": str(path), "kind": "update", "diff": "@@ -1 +1 @@\n-two\n+zwei\n"}]
    await claude.answered(run["run_id"], decision="deny")
    assert path.read_text() == "one\ntwo\n"
    assert await changed(claude, run) == []


@pytest.mark.parametrize("path", [".git/config", ".claude/settings.json", ".mcp.json", "link/a.txt"])
async def test_what_could_lead_out_of_the_project_is_asked(claude: Desk, outside: Path, path: str) -> None:
    (claude.cwd / "link").symlink_to(outside)
    run = await claude.finished(f"file {path} x", "say on")
    (request,) = run["pending"]
    assert request["detail"]["changes"] == [{"path": path, "kind": "add", "diff": "+x\n"}]
    run = await claude.answered(run["run_id"], decision="deny", text="leave that")
    assert await texts(claude, run) == [f"{path} was not written: leave that", "on"]
    assert not (claude.cwd / path).exists()
    assert await changed(claude, run) == []


@pytest.mark.parametrize("path", ["link/a.txt", "venv/a.txt"])
async def test_a_file_that_was_written_is_not_told_as_deleted(claude: Desk, outside: Path, path: str) -> None:
    (claude.cwd / "link").symlink_to(outside)
    run = await done(claude, f"file {path} x", "say written", on_approval="allow")
    assert (claude.cwd / path).read_text() == "x\n"
    assert await changed(claude, run) == [{"path": path, "kind": "add", "diff": "+x\n"}]


@pytest.mark.parametrize("command", [ASKS, "python3 -c 1", "touch ../made", "git init", "curl http://127.0.0.1:1"])
async def test_a_denied_command_leaves_no_trace(claude: Desk, command: str) -> None:
    run = await claude.finished(f"run {command}", "heard")
    (request,) = run["pending"]
    assert request["kind"] == "approval"
    assert request["detail"] == {"command": command, "cwd": str(claude.cwd)}
    assert {"approve", "deny"} <= {option["id"] for option in request["options"]}
    run = await claude.answered(run["run_id"], decision="deny", text="not on my watch")
    assert run["status"] == "completed", run
    assert await statuses(claude, run) == {command: "declined"}
    assert "not on my watch" in (await texts(claude, run))[0]
    assert tree(claude.cwd) == {}
    assert not (claude.cwd.parent / "made").exists()


async def test_an_approval_for_the_session_covers_the_like_in_this_run_alone(claude: Desk, outside: Path) -> None:
    script = (f"run {ASKS}", f"run {ASKS}", f"file {outside}/1 x", f"file {outside}/2 x", "say done")
    run = await claude.finished(*script)
    for _ in range(2):
        (request,) = run["pending"]
        assert "approve_session" in [option["id"] for option in request["options"]]
        run = await claude.answered(run["run_id"], decision="approve_session")
    assert run["status"] == "completed", run
    assert (claude.cwd / "made").read_text() == "done\n"
    assert sorted(path.name for path in outside.iterdir()) == ["1", "2"]
    assert len(await claude.events(run["run_id"], "input_required")) == 2
    assert not (claude.cwd / ".claude").exists()
    again = await claude.finished(f"run {ASKS}", session_mode="resume", session_id=run["session_id"])
    assert again["status"] == "input_required"


async def test_commands_of_one_answer_are_asked_one_after_the_other(claude: Desk) -> None:
    """Claude Code itself runs only what it takes for harmless at the same time."""
    run = await claude.finished("runs sh -c 'echo 1' // sh -c 'echo 2'", "heard")
    assert [request["detail"]["command"] for request in run["pending"]] == ["sh -c 'echo 1'"]
    run = await claude.answered(run["run_id"], decision="deny", text="no")
    assert [request["detail"]["command"] for request in run["pending"]] == ["sh -c 'echo 2'"]
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert await statuses(claude, run) == {"sh -c 'echo 1'": "declined", "sh -c 'echo 2'": "completed"}


async def test_approvals_that_are_pending_together_are_answered_in_any_order(claude: Desk) -> None:
    names = ["1", "2", "3"]
    helpers = " // ".join(helper(f"run sh -c 'touch {name}'", "say x").removeprefix("call ") for name in names)
    run_id = await claude.spawn(f"call {helpers}", "say all")
    last = 0
    for _ in names:
        last = (await claude.seen(run_id, "input_required", last))["seq"]
    pending = (await claude.call("get_run", run_id=run_id))["pending"]
    asked = {request["detail"]["command"][-2]: request["request_id"] for request in pending}
    assert sorted(asked) == names
    for left, name in enumerate(reversed(names)):
        decision = "deny" if name == "2" else "approve"
        await claude.call("continue_run", run_id=run_id, request_id=asked[name], decision=decision)
        run = await claude.call("get_run", run_id=run_id)
        assert len(run.get("pending", ())) == len(names) - left - 1
    run = await claude.settled(run_id)
    assert run["status"] == "completed", run
    assert sorted(tree(claude.cwd)) == ["1", "3"]
    told = [event["data"].get("resolved") for event in await claude.events(run_id, "status_changed")]
    resolved = [(answer["request_id"], answer["decision"]) for answer in told if answer]
    assert resolved == [(asked["3"], "approve"), (asked["2"], "deny"), (asked["1"], "approve")]


@pytest.mark.parametrize(("policy", "made"), [("allow", True), ("deny", False)])
async def test_a_policy_answers_what_would_be_asked(claude: Desk, policy: str, made: bool) -> None:
    run = await done(claude, f"run {ASKS}", "say on", on_approval=policy)
    assert await statuses(claude, run) == {ASKS: "completed" if made else "declined"}
    assert (claude.cwd / "made").exists() is made
    assert await claude.events(run["run_id"], "input_required") == []
    details = [event["data"].get("detail") for event in await claude.events(run["run_id"], "status_changed")]
    assert f"on_approval: {policy}" in details


# ---- full_access, and what the folder brings with it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
async def test_full_access_as_root_is_rejected_by_claude_code_itself(claude: Desk) -> None:
    run = await claude.finished(f"run {ASKS}", permission="full_access")
    assert run["status"] == "rejected"
    assert "refuses full_access (bypassPermissions) to root" in run["error"]["message"]
    assert not run["error"]["resumable"]
    assert [event["type"] for event in await claude.events(run["run_id"])] == ["rejected"]
    assert tree(claude.cwd) == {}


async def test_full_access_in_what_the_operator_calls_a_sandbox_asks_nothing(
    model: ClaudePlayer, cwd: Path, tmp_path: Path, outside: Path
) -> None:
    env = {**agent_environment(model, tmp_path), "IS_SANDBOX": "1"}
    async with desk("claude_code", cwd, env) as claude:
        run = await done(claude, f"run {ASKS}", f"file {outside}/a x", "say done", permission="full_access")
        assert await claude.events(run["run_id"], "input_required") == []
    assert tree(cwd) == {"made": b"done\n"}
    assert (outside / "a").read_text() == "x\n"


@pytest.fixture
def hostile(claude: Desk, outside: Path) -> Desk:
    """A desk in a folder with settings, a skill, a memory and an MCP server of its own, which all leave traces."""
    hook = {"hooks": [{"type": "command", "command": f"touch {outside}/hooked"}]}
    server = {"command": "touch", "args": [f"{outside}/served"]}
    (claude.cwd / ".claude/skills/theirs").mkdir(parents=True)
    skill = f"---\nname: theirs\ndescription: QUIXOTIC\nallowed-tools: Bash\n---\n!`touch {outside}/skilled`\n"
    (claude.cwd / ".claude/skills/theirs/SKILL.md").write_text(skill)
    (claude.cwd / ".claude/settings.json").write_text(json.dumps({"hooks": {"SessionStart": [hook]}}))
    (claude.cwd / ".mcp.json").write_text(json.dumps({"mcpServers": {"theirs": server}}))
    (claude.cwd / "CLAUDE.md").write_text("QUIXOTIC\n")
    return claude


@pytest.mark.parametrize("level", ["read_only", "workspace_write"])
async def test_nothing_that_a_folder_brings_is_used(
    hostile: Desk, outside: Path, model: ClaudePlayer, level: str
) -> None:
    await done(hostile, "run ls", 'call Skill {"skill": "theirs"}', "say done", permission=level)
    assert list(outside.iterdir()) == []
    assert "QUIXOTIC" not in json.dumps(model.requests[-1])


async def test_a_folders_settings_are_used_once_the_user_trusts_it(hostile: Desk, outside: Path, home: Home) -> None:
    wanted: JsonObject = {"backend_config": {"setting_sources": ["project"]}}
    with pytest.raises(PermissionCeiling, match="trusted_dirs"):
        await hostile.spawn("say done", **wanted)
    assert not (hostile.cwd / ".orchestrator").exists()
    (home.path / "config.toml").write_text(f'trusted_dirs = ["{hostile.cwd.parent}"]\n')
    await done(hostile, "say done", **wanted)
    assert [path.name for path in outside.iterdir()] == ["hooked"]
    with pytest.raises(InvalidArgument, match="read_only"):
        await hostile.spawn("say done", permission="read_only", **wanted)


async def test_the_users_own_rules_count_only_where_they_are_wanted(claude: Desk) -> None:
    own = Path(claude.env["CLAUDE_CONFIG_DIR"])
    own.mkdir(exist_ok=True)
    (own / "settings.json").write_text(json.dumps({"permissions": {"allow": ["Bash(sh:*)", "Write", "Bash"]}}))
    script = (f"run {ASKS}", "say on")
    assert (await claude.finished(*script, permission="read_only"))["status"] == "completed"
    assert not (claude.cwd / "made").exists()
    asked = await claude.finished(*script)
    assert asked["status"] == "input_required"
    wanted = await claude.finished(*script, backend_config={"setting_sources": ["user"]})
    assert wanted["status"] == "completed"
    assert (claude.cwd / "made").exists()
