"""What Codex may do: each permission as it is kept, what is asked, and what an answer lets through.

What a run may not do leaves no file behind and is never asked, whatever `on_approval` says. Codex itself does not tell
of a command that its sandbox refused at once (no item in its protocol), so what the agent heard is the witness.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from orchestrator.model import JsonObject
from tests.models.codex_player import CodexPlayer
from tests.models.player import agent_environment
from tests.system.codex_desk import (
    call,
    calls,
    changed,
    commands,
    configured,
    details,
    done,
    escalated,
    helper,
    repository,
    texts,
    tree,
)
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

SECRETS = {"OPENAI_API_KEY": "sk-1", "GITHUB_TOKEN": "ghp-1", "DB_SECRET": "s-1", "PLAIN": "plain"}


@pytest.fixture(scope="module")
def model() -> Iterator[CodexPlayer]:
    """The model of all runs here."""
    with CodexPlayer() as player:
        yield player


@pytest.fixture
async def codex(model: CodexPlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Codex works, with credentials in its environment."""
    async with desk("codex", cwd, {**agent_environment(model, tmp_path), **SECRETS}) as place:
        yield place


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the project."""
    path = tmp_path / "outside"
    path.mkdir()
    return path


async def asked(codex: Desk, run: JsonObject) -> list[JsonObject]:
    """The requests that the run made so far."""
    return [event["data"]["request"] for event in await codex.events(run["run_id"], "input_required")]


# ---- read_only


async def test_a_read_only_run_reads(codex: Desk) -> None:
    (codex.cwd / "a.txt").write_text("one\n")
    run = await done(codex, "run cat a.txt", "run ls", "run grep -r one .", "say read", permission="read_only")
    assert await commands(codex, run) == [(line, "completed") for line in ("cat a.txt", "ls", "grep -r one .")]
    assert await codex.events(run["run_id"], "input_required", "file_changed") == []


WRITING = r"""
touch new ;; echo x > new ;; echo x >> a.txt ;; python3 -c "open('new', 'w')" ;; mkdir new ;; cp a.txt new
mv a.txt new ;; rm a.txt ;; ln -s / new ;; sed -i s/one/two/ a.txt ;; git init ;; cat a.txt | tee new
chmod 777 a.txt ;; truncate -s 0 a.txt ;; sh -c 'cd .. && touch new' ;; touch /tmp/orc-written ;; touch ~/written
touch $TMPDIR/written ;; touch $CODEX_HOME/config.toml.new ;; touch .git/x ;; unshare -r touch new"""
"""Commands that write a file, or change one."""


@pytest.mark.parametrize("policy", ["ask", "allow"])
async def test_a_read_only_run_writes_by_no_command(codex: Desk, policy: str) -> None:
    (codex.cwd / "a.txt").write_text("one\n")
    before = tree(codex.cwd.parent / "home"), tree(codex.cwd)
    lines = re.split(" ;; |\n", WRITING.strip())
    all_of_them = "; ".join(f"({line}) || echo failed" for line in lines)
    run = await done(codex, f"run {all_of_them}", "heard", permission="read_only", on_approval=policy)
    assert (await texts(codex, run))[0].count("failed\n") == len(lines)
    assert tree(codex.cwd) == before[1]
    assert not Path("/tmp/orc-written").exists()
    home = codex.cwd.parent / "home"
    assert not {name for name in tree(home).keys() - before[0].keys() if not name.startswith(".codex/")}
    assert not (home / ".codex/config.toml.new").exists()
    assert await codex.events(run["run_id"], "input_required", "file_changed") == []


@pytest.mark.parametrize("policy", ["ask", "allow"])
async def test_a_read_only_run_writes_by_no_patch_and_hears_why(codex: Desk, policy: str) -> None:
    (codex.cwd / "a.txt").write_text("one\n")
    script = ("file new.txt x", "edit a.txt one -> two", "say read")
    run = await done(codex, *script, permission="read_only", on_approval=policy)
    assert await texts(codex, run) == ["new.txt was not written: this run is read_only", "read"]
    assert tree(codex.cwd) == {"a.txt": b"one\n"}
    assert await codex.events(run["run_id"], "input_required", "file_changed", "artifact_added") == []
    ended = [event["data"] for event in await codex.events(run["run_id"], "tool_finished")]
    assert [(data["tool"], data["error"]) for data in ended] == [("apply_patch", "declined")] * 2


@pytest.mark.parametrize("policy", ["ask", "allow"])
async def test_a_read_only_run_leaves_its_sandbox_by_no_wish_and_hears_why(codex: Desk, policy: str) -> None:
    run = await done(codex, "approve touch new", "say read", permission="read_only", on_approval=policy)
    assert await texts(codex, run) == ["denied: this run is read_only", "read"]
    assert await commands(codex, run) == [("touch new", "declined")]
    assert await asked(codex, run) == []
    assert tree(codex.cwd) == {}


async def test_a_read_only_run_is_given_no_more_permissions(codex: Desk) -> None:
    wish = call("request_permissions", reason="why not", permissions={"file_system": {"write": [str(codex.cwd)]}})
    feature = configured(**{"features.request_permissions_tool": True})
    run = await done(codex, wish, "run touch new", "heard", "say read", permission="read_only", **feature)
    assert "Read-only file system" in (await texts(codex, run))[0]
    assert await asked(codex, run) == []
    assert tree(codex.cwd) == {}


async def test_the_helpers_of_a_read_only_run_write_as_little(codex: Desk, model: CodexPlayer) -> None:
    script = ("file new x", "run touch new", "approve touch new", "say helped")
    more: JsonObject = {"permission": "read_only", "on_approval": "allow"}
    run = await done(codex, helper(*script), "sleep 2", "run true", "say read", **more)
    assert any("helped" in str(request["input"][-1]) or "new was not" in str(request) for request in model.requests)
    assert tree(codex.cwd) == {}
    assert await asked(codex, run) == []


# ---- workspace_write


async def test_a_run_writes_where_it_works_and_where_its_own_temporary_files_are(codex: Desk, outside: Path) -> None:
    (codex.cwd / ".git").mkdir()
    (codex.cwd / ".git/config").write_text("[core]\n")
    where = f"sub/a $TMPDIR/a /tmp/orc-written ~/written {outside}/a ../a .git/a .git/config .codex/a .agents/a"
    line = f'mkdir sub; for f in {where}; do touch "$f" 2> /dev/null && echo "wrote $f"; done; echo $TMPDIR'
    run = await done(codex, f"run {line}", "heard")
    said = (await texts(codex, run))[0].splitlines()
    folder = Path(said[-1])
    assert [text for text in said if text.startswith("wrote")] == ["wrote sub/a", f"wrote {folder}/a"]
    assert folder.name.startswith("orc-")
    assert not folder.exists()
    assert tree(codex.cwd) == {"sub/a": b"", ".git/config": b"[core]\n"}
    assert list(outside.iterdir()) == []
    assert not Path("/tmp/orc-written").exists()
    assert await asked(codex, run) == []
    assert [(change["path"], change["kind"]) for change in await changed(codex, run)] == [("sub/a", "add")]


async def test_a_patch_in_the_project_is_made_unasked_and_elsewhere_shown_first(codex: Desk, outside: Path) -> None:
    new = outside / "new.txt"
    run = await codex.finished("file in.txt x", f"file {new} hello", f"file {new}.2 never", "say written")
    (request,) = run["pending"]
    assert (request["kind"], request["text"]) == ("approval", f"Codex asks to write {new}")
    assert request["detail"] == {"changes": [{"path": str(new), "kind": "add", "diff": "+hello\n"}]}
    assert not new.exists()
    run = await codex.answered(run["run_id"], decision="approve")
    run = await codex.answered(run["run_id"], decision="deny", text="one is enough")
    assert run["status"] == "completed", run
    assert await texts(codex, run) == [f"{new}.2 was not written: one is enough", "written"]
    assert [path.name for path in outside.iterdir()] == ["new.txt"]
    assert [change["path"] for change in await changed(codex, run)] == ["in.txt", str(new)]


@pytest.mark.parametrize("path", [".git/config", ".codex/config.toml", "link/a.txt"])
async def test_what_could_lead_out_of_the_project_is_asked(codex: Desk, outside: Path, path: str) -> None:
    (codex.cwd / "link").symlink_to(outside)
    run = await codex.finished(f"file {path} x", "say on")
    (request,) = run["pending"]
    assert [change["path"] for change in request["detail"]["changes"]] == [path]
    run = await codex.answered(run["run_id"], decision="deny", text="leave that")
    assert await texts(codex, run) == [f"{path} was not written: leave that", "on"]
    assert tree(codex.cwd) == {}
    assert list(outside.iterdir()) == []


async def test_what_a_helper_would_write_elsewhere_is_shown_before_it_is_approved(codex: Desk, outside: Path) -> None:
    """Codex asks without the changes, which its items had told."""
    waits = "run timeout 20 sh -c 'until test -e stop; do sleep 0.05; done'"
    run = await codex.finished(helper(f"file {outside}/a hello"), waits, "say end")
    (request,) = run["pending"]
    assert request["detail"]["changes"] == [{"path": f"{outside}/a", "kind": "add", "diff": "+hello\n"}]
    await codex.call("continue_run", run_id=run["run_id"], decision="deny")
    (codex.cwd / "stop").touch()
    assert (await codex.settled(run["run_id"]))["status"] == "completed"
    assert list(outside.iterdir()) == []


async def test_no_network_is_there_unless_it_is_wanted(codex: Desk, model: CodexPlayer) -> None:
    port = model.url.rpartition(":")[2]
    script = (f"run bash -c ': > /dev/tcp/127.0.0.1/{port}' && echo reached || echo not reached", "heard")
    for more, reached in (
        ({}, False),
        ({"backend_config": {"network": True}}, True),
        ({"backend_config": {"network": True}, "permission": "read_only"}, False),
        ({"permission": "full_access"}, True),
    ):
        run = await done(codex, *script, **more)
        assert (await texts(codex, run))[0].endswith("\nreached\n" if reached else "not reached\n") or reached
        assert ("not reached" in (await texts(codex, run))[0]) is not reached


# ---- what is asked


async def test_a_command_outside_of_the_sandbox_is_asked_with_its_reason(codex: Desk, outside: Path) -> None:
    run = await codex.finished(escalated(f"touch {outside}/a", "the tests need it"), "heard", "say end")
    (request,) = run["pending"]
    assert request["kind"] == "approval"
    assert request["text"] == f"Codex asks to run: touch {outside}/a (the tests need it)"
    assert request["detail"] == {"command": f"touch {outside}/a", "cwd": str(codex.cwd)}
    assert [option["id"] for option in request["options"]] == ["approve", "approve_session", "deny", "cancel"]
    assert list(outside.iterdir()) == []
    run = await codex.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert [path.name for path in outside.iterdir()] == ["a"]
    assert await commands(codex, run) == [(f"touch {outside}/a", "completed")]


async def test_a_denied_command_leaves_no_trace_and_the_agent_hears_why(codex: Desk, outside: Path) -> None:
    run = await codex.finished(f"approve touch {outside}/a", "say on")
    run = await codex.answered(run["run_id"], decision="deny", text="not on my watch")
    assert run["status"] == "completed", run
    assert await texts(codex, run) == ["denied: not on my watch", "on"]
    assert await commands(codex, run) == [(f"touch {outside}/a", "declined")]
    assert list(outside.iterdir()) == []


async def test_an_approval_for_the_session_covers_the_same_in_this_run_alone(codex: Desk, outside: Path) -> None:
    script = (f"approve touch {outside}/a", f"approve touch {outside}/a", f"approve touch {outside}/b")
    run = await codex.finished(*script)
    run = await codex.answered(run["run_id"], decision="approve_session")
    assert [request["detail"]["command"] for request in run["pending"]] == [f"touch {outside}/b"]
    run = await codex.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert await texts(codex, run) == ["approved"] * 3
    assert len(await asked(codex, run)) == 2
    again = await codex.finished(*script[:1], session_mode="resume", session_id=run["session_id"])
    assert again["status"] == "input_required"


async def test_an_approval_may_be_answered_by_stopping_the_run(codex: Desk, outside: Path) -> None:
    run = await codex.finished("file made.txt x", f"approve touch {outside}/a", "say never")
    run = await codex.answered(run["run_id"], decision="cancel")
    assert run["status"] == "cancelled"
    assert list(outside.iterdir()) == []
    assert await texts(codex, run) == []
    assert tree(codex.cwd) == {"made.txt": b"x\n"}
    assert (await commands(codex, run))[-1][1] in ("declined", "interrupted")


async def test_approvals_that_are_pending_together_are_answered_in_any_order(codex: Desk, outside: Path) -> None:
    """Codex asks for all the commands of one answer at once."""
    lines = [f"touch {outside}/{name}" for name in "123"]
    run_id = await codex.spawn(calls(*(escalated(line) for line in lines)), "heard", "say all")
    last = 0
    for _ in lines:
        last = (await codex.seen(run_id, "input_required", last))["seq"]
    pending = (await codex.call("get_run", run_id=run_id))["pending"]
    names = {request["detail"]["command"][-1]: request["request_id"] for request in pending}
    assert sorted(names) == ["1", "2", "3"]
    for left, name in enumerate("312"):
        decision = "deny" if name == "2" else "approve"
        await codex.call("continue_run", run_id=run_id, request_id=names[name], decision=decision)
        run = await codex.call("get_run", run_id=run_id)
        assert len(run.get("pending", ())) == 2 - left
    run = await codex.settled(run_id)
    assert run["status"] == "completed", run
    assert sorted(path.name for path in outside.iterdir()) == ["1", "3"]


@pytest.mark.parametrize(("policy", "made"), [("allow", True), ("deny", False)])
async def test_a_policy_answers_what_would_be_asked(codex: Desk, outside: Path, policy: str, made: bool) -> None:
    run = await done(codex, f"approve touch {outside}/a", f"file {outside}/b x", "say on", on_approval=policy)
    assert sorted(path.name for path in outside.iterdir()) == (["a", "b"] if made else [])
    assert await asked(codex, run) == []
    assert (await details(codex, run)).count(f"on_approval: {policy}") == 2


async def test_more_permissions_hold_for_the_turn_that_asked_for_them(codex: Desk, outside: Path) -> None:
    wish = call("request_permissions", reason="to write", permissions={"file_system": {"write": [str(outside)]}})
    feature = configured(**{"features.request_permissions_tool": True})
    run = await codex.finished(wish, f"run touch {outside}/a", "say end", **feature)
    (request,) = run["pending"]
    assert str(outside) in str(request["detail"]["permissions"])
    assert "to write" in request["text"]
    run = await codex.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert [path.name for path in outside.iterdir()] == ["a"]


# ---- full_access, and what is the user's own


async def test_full_access_writes_anywhere_and_asks_nothing(codex: Desk, outside: Path) -> None:
    script = (f"run touch {outside}/a", f"file {outside}/b x", f"approve touch {outside}/c", "run mkdir .git .codex")
    run = await done(codex, *script, "run touch .git/x .codex/x", permission="full_access")
    assert sorted(path.name for path in outside.iterdir()) == ["a", "b", "c"]
    assert sorted(tree(codex.cwd)) == [".codex/x", ".git/x"]
    assert await asked(codex, run) == []


@pytest.mark.parametrize("level", ["read_only", "workspace_write", "full_access"])
async def test_credentials_of_the_environment_are_not_in_that_of_commands(codex: Desk, level: str) -> None:
    names = [*SECRETS, "PLAYER_KEY"]
    run = await done(codex, *(f"env {name}" for name in names), permission=level)
    assert await texts(codex, run) == [f"{name}={SECRETS[name] if name == 'PLAIN' else ''}" for name in names]


async def test_an_approved_command_gets_no_credentials_either(codex: Desk) -> None:
    run = await codex.finished(escalated("env"), "heard")
    run = await codex.answered(run["run_id"], decision="approve")
    (said,) = await texts(codex, run)
    assert "PLAIN=plain" in said
    assert not any(value in said for name, value in SECRETS.items() if name != "PLAIN")


@pytest.mark.parametrize("folder", ["plain", "git", "codex"])
async def test_the_users_own_files_are_left_as_they_are(codex: Desk, folder: str) -> None:
    """Codex takes a thread that may write for the user's word that a repository is trusted, and would write it down."""
    if folder == "git":
        repository(codex.cwd)
    elif folder == "codex":
        (codex.cwd / ".codex").mkdir()
    own = Path(codex.env["CODEX_HOME"])
    (own / "auth.json").write_text('{"OPENAI_API_KEY": "sk-own"}')
    files = [own / name for name in ("config.toml", "auth.json")]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    for level in ("read_only", "workspace_write", "full_access"):
        await done(codex, "run ls" if level == "read_only" else "file a.txt x", "say end", permission=level)
        (codex.cwd / "a.txt").unlink(missing_ok=True)
    run = await codex.finished(escalated("true"))
    await codex.answered(run["run_id"], decision="approve_session")
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


async def test_a_users_wide_configuration_widens_no_run(codex: Desk, outside: Path, model: CodexPlayer) -> None:
    config = Path(codex.env["CODEX_HOME"]) / "config.toml"
    wide = 'sandbox_mode = "danger-full-access"\napproval_policy = "never"\n'
    policy = (
        "[shell_environment_policy]\nignore_default_excludes = true\n[sandbox_workspace_write]\nnetwork_access = true\n"
    )
    config.write_text(wide + config.read_text() + policy)
    port = model.url.rpartition(":")[2]
    line = f"touch {outside}/a; bash -c ': > /dev/tcp/127.0.0.1/{port}' && echo reached; true"
    run = await codex.finished(f"run {line}", "heard", "env GITHUB_TOKEN", f"approve touch {outside}/b")
    said = await texts(codex, run)
    assert "Read-only file system" in said[0]
    assert "reached" not in said[0]
    assert said[1] == "GITHUB_TOKEN="
    assert run["status"] == "input_required"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("level", ["read_only", "workspace_write", "full_access"])
async def test_nothing_that_a_folder_brings_is_run(codex: Desk, outside: Path, level: str) -> None:
    """By the same trust Codex would start the MCP servers of the folder's own configuration, outside of the sandbox."""
    (codex.cwd / ".codex").mkdir()
    server = f'[mcp_servers.theirs]\ncommand = "touch"\nargs = ["{outside}/served"]\n'
    wide = f'sandbox_mode = "danger-full-access"\nnotify = ["touch", "{outside}/notified"]\n'
    (codex.cwd / ".codex/config.toml").write_text(wide + server)
    run = await done(codex, f"run touch {outside}/a; true", "heard", "say end", permission=level)
    assert ("Read-only file system" in str(await texts(codex, run))) is (level != "full_access")
    assert [path.name for path in outside.iterdir()] == (["a"] if level == "full_access" else [])


@pytest.mark.parametrize(
    ("decision", "status"), [("allow", "rejected"), ("prompt", "completed"), ("forbidden", "completed")]
)
async def test_a_users_rule_that_opens_the_sandbox_is_no_way_out_of_read_only(
    codex: Desk, outside: Path, decision: str, status: str
) -> None:
    rules = Path(codex.env["CODEX_HOME"]) / "rules"
    rules.mkdir()
    (rules / "default.rules").write_text(f'prefix_rule(pattern=["touch"], decision="{decision}")\n')
    run = await codex.finished(f"run touch {outside}/a", "say end", permission="read_only", on_approval="allow")
    assert run["status"] == status
    assert list(outside.iterdir()) == []
    if status == "rejected":
        assert "default.rules" in run["error"]["message"]
