"""Results that can be trusted, over every backend and both doors: where a run works, what it changed, and what the host
found when it looked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Conflict, InvalidArgument, Unsupported, WrongState
from orchestrator.model import JsonObject
from tests.conftest import wait_until
from tests.contract.conftest import Subject


def git(cwd: Path, *arguments: str) -> str:
    """A git command of the user's."""
    who = ["-c", "user.name=User", "-c", "user.email=user@localhost"]
    done = subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def state(cwd: Path) -> tuple[str, ...]:
    """What is the user's own: files, index, stash, branch."""
    return (
        git(cwd, "status", "--porcelain=v2", "--untracked-files=all"),
        git(cwd, "ls-files", "--stage"),
        git(cwd, "stash", "list"),
        git(cwd, "rev-parse", "HEAD", "--symbolic-full-name", "HEAD"),
    )


@pytest.fixture
def repo(cwd: Path) -> Path:
    """The directory as a repository with a commit, something staged, something not, something new and a stash."""
    git(cwd, "init", "-q", "-b", "main")
    for name in ("a.txt", "b.txt", "c.txt"):
        (cwd / name).write_text(f"{name}\n" * 20)
    git(cwd, "add", ".")
    git(cwd, "commit", "-q", "-m", "first")
    (cwd / "a.txt").write_text("stashed\n")
    git(cwd, "stash", "-q")
    (cwd / "b.txt").write_text("staged\n")
    git(cwd, "add", "b.txt")
    (cwd / "c.txt").write_text("not staged\n")
    (cwd / "own.txt").write_text("new\n")
    return cwd


async def gone(path: str) -> None:
    """Returns when the worktree is gone, which it is soon after its run is over."""
    await wait_until(lambda: not Path(path).exists(), f"{path} is gone")


async def over(subject: Subject, run_id: str, status: str = "completed") -> JsonObject:
    digest = await subject.settled(run_id)
    run = await subject.call("get_run", run_id=run_id)
    assert digest["status"] == status, run
    return run


async def worked(subject: Subject, *script: str, status: str = "completed", **more: Any) -> JsonObject:
    """A run in a worktree, once it is over."""
    run_id = await subject.spawn(*script, **{"workspace": {"mode": "worktree"}, "on_approval": "allow", **more})
    return await over(subject, run_id, status)


async def test_a_run_in_a_worktree_leaves_the_callers_files_alone_and_gives_a_patch(
    subject: Subject, repo: Path
) -> None:
    before = state(repo)
    run = await worked(subject, "file new.txt hello", "final done", nickname="tom")
    assert state(repo) == before
    changes = run["result"]["changes"]
    assert (changes["files"], changes["insertions"], changes["deletions"], changes["applies"]) == (1, 1, 0, True)
    assert changes["base"] == git(repo, "rev-parse", "HEAD")
    assert run["workspace"]["kept"] is False
    await gone(run["workspace"]["path"])
    await wait_until(lambda: "\n" not in git(repo, "worktree", "list"), "git knows of no worktree")
    await wait_until(lambda: git(repo, "branch", "--format=%(refname:short)") == "main", "its branch is gone")
    patch = await subject.call("get_patch", run_id=run["run_id"])
    assert "+hello" in patch["content"]
    assert patch["total_bytes"] == changes["patch"]["total_bytes"]


async def test_a_result_is_brought_in_whole(subject: Subject, repo: Path) -> None:
    before = state(repo)
    run = await worked(subject, "file new.txt hello", "final done")
    tried = await subject.call("apply_run", run_id=run["run_id"], check_only=True)
    assert (tried["applied"], tried["files"]) == (False, 1)
    assert state(repo) == before
    done = await subject.call("apply_run", run_id=run["run_id"])
    assert (done["applied"], done["files"], done["mode"]) == (True, 1, "apply")
    assert (repo / "new.txt").read_text() == "hello\n"
    assert state(repo)[1:] == before[1:], "index, stash and branch are as they were"
    with pytest.raises(Conflict, match=r"new\.txt"):
        await subject.call("apply_run", run_id=run["run_id"])


async def test_in_a_shared_directory_the_changes_of_the_run_alone_are_told(subject: Subject, repo: Path) -> None:
    before = state(repo)
    run_id = await subject.spawn("file new.txt hello", "final done", on_approval="allow")
    run = await over(subject, run_id)
    if not subject.local:  # it works elsewhere, as far as anybody knows
        assert "changes" not in run["result"]
        return
    changes = run["result"]["changes"]
    assert (changes["files"], changes["insertions"], changes["applies"]) == (1, 1, True)
    assert state(repo)[1:] == before[1:]
    with pytest.raises(WrongState, match="your own files"):
        await subject.call("apply_run", run_id=run_id)
    with pytest.raises(WrongState, match="your own files"):
        await subject.call("discard_run", run_id=run_id)


async def test_checks_are_run_by_the_host_and_what_passed_is_said(subject: Subject, repo: Path) -> None:
    checks = ["test -f new.txt", {"name": "words", "run": "echo looked; exit 3", "required": False}]
    run = await worked(subject, "file new.txt hello", "final done", checks=checks)
    verification = run["result"]["verification"]
    assert verification["status"] == "passed"
    one, other = verification["checks"]
    assert (one["name"], one["status"], one["exit_code"]) == ("test -f new.txt", "passed", 0)
    assert (other["name"], other["status"], other["exit_code"], other["required"]) == ("words", "failed", 3, False)
    page = await subject.call("get_event_artifact", run_id=run["run_id"], seq=other["seq"], field_path="/output")
    assert page["content"] == "looked\n"


async def test_a_run_whose_required_check_fails_is_not_done(subject: Subject, repo: Path) -> None:
    run = await worked(subject, "file new.txt hello", "final done", checks=["test -f other.txt"], status="failed")
    assert run["error"]["code"] == "checks_failed"
    assert run["result"]["final_response"] == "done"
    assert run["result"]["verification"]["status"] == "failed"
    assert run["result"]["changes"]["files"] == 1
    assert run["workspace"]["kept"] is True, "for whoever looks why"
    assert (Path(run["workspace"]["path"]) / "new.txt").exists()
    await subject.call("discard_run", run_id=run["run_id"])
    await gone(run["workspace"]["path"])
    await wait_until(lambda: git(repo, "branch", "--format=%(refname:short)") == "main", "its branch is gone")
    assert "+hello" in (await subject.call("get_patch", run_id=run["run_id"]))["content"]


async def test_what_checks_find_is_given_back_to_the_agent(subject: Subject, repo: Path) -> None:
    check = "test -f other.txt || { echo 'file other.txt there'; exit 1; }"
    script = ("file new.txt hello", "final done")
    run = await worked(subject, *script, checks=[check], limits={"fix_attempts": 2})
    assert run["result"]["verification"]["status"] == "passed"
    assert run["result"]["changes"]["files"] == 2
    told = await subject.events(run["run_id"], "message_added")
    assert "does not pass" in told[-1]["data"]["text"]
    assert len(told) == 2
    assert run["result"].get("usage", {}).get("turns", 2) >= 2


async def test_no_change_where_one_was_required_is_not_done(subject: Subject, repo: Path) -> None:
    run = await worked(subject, "final done", require_changes=True, status="failed")
    assert run["error"]["code"] == "invalid_output"
    assert run["result"]["changes"]["files"] == 0
    patched = await worked(subject, "file new.txt hello", "final done", require_changes=True)
    assert patched["result"]["changes"]["files"] == 1


async def test_criteria_are_answered_one_by_one(subject: Subject, cwd: Path) -> None:
    answers = [{"criterion": "x", "met": met, "evidence": "seen"} for met in (True, False)]
    script = ["json " + json.dumps({"result": "built", "acceptance": answers})]
    run_id = await subject.spawn(*script, acceptance=["it builds", "it is fast"])
    result = (await over(subject, run_id))["result"]
    assert result["final_response"] == "built"
    assert result["acceptance"] == [
        {"criterion": "it builds", "met": True, "evidence": "seen"},
        {"criterion": "it is fast", "met": False, "evidence": "seen"},
    ]
    assert "structured_output" not in result
    told = (await subject.events(run_id, "message_added"))[0]["data"]["text"]
    assert "## Acceptance" not in told, "what was said is told as it was said"


async def test_a_session_goes_on_where_it_worked(subject: Subject, repo: Path) -> None:
    first = await worked(subject, "file new.txt hello", "final done", nickname="tom")
    resumed = await subject.call("continue_run", run_id=first["run_id"], text="file more.txt there\nfinal done")
    second = await over(subject, resumed["run_id"])
    assert second["workspace"]["path"] == first["workspace"]["path"]
    assert second["result"]["changes"]["base"] == first["result"]["changes"]["base"]
    assert second["result"]["changes"]["files"] == 2, "what was done before is there"
    await gone(second["workspace"]["path"])


async def test_the_callers_uncommitted_work_is_carried_over(subject: Subject, repo: Path) -> None:
    before = state(repo)
    workspace = {"mode": "worktree", "include_uncommitted": True, "keep": "always"}
    run = await worked(subject, "file new.txt hello", "final done", workspace=workspace)
    assert state(repo) == before
    path = Path(run["workspace"]["path"])
    assert {name: (path / name).read_text() for name in ("b.txt", "c.txt", "own.txt")} == {
        "b.txt": "staged\n",
        "c.txt": "not staged\n",
        "own.txt": "new\n",
    }
    assert run["result"]["changes"]["files"] == 1, "of the agent's own"
    await subject.call("apply_run", run_id=run["run_id"])
    assert (repo / "new.txt").exists()
    assert git(repo, "rev-parse", f"{run['result']['changes']['base']}^") == git(repo, "rev-parse", "HEAD")


async def test_a_result_is_committed_without_what_else_is_there(subject: Subject, repo: Path) -> None:
    git(repo, "config", "user.name", "User")
    git(repo, "config", "user.email", "user@localhost")
    run = await worked(subject, "file new.txt hello", "final Adds the greeting")
    head = git(repo, "rev-parse", "HEAD")
    done = await subject.call("apply_run", run_id=run["run_id"], mode="commit")
    assert git(repo, "rev-parse", "HEAD") == done["commit"]
    assert git(repo, "rev-parse", "HEAD^") == head
    assert git(repo, "show", "--format=%s", "--name-only", "HEAD").split() == ["Adds", "the", "greeting", "new.txt"]
    assert git(repo, "diff", "--cached", "--name-only") == "b.txt", "what was staged is staged still"


async def test_a_result_becomes_a_branch(subject: Subject, repo: Path) -> None:
    git(repo, "config", "user.name", "User")
    git(repo, "config", "user.email", "user@localhost")
    before = state(repo)
    run = await worked(subject, "file new.txt hello", "final done", nickname="tom")
    done = await subject.call("apply_run", run_id=run["run_id"], mode="branch")
    assert done["branch"].startswith("orchestrator/tom-")
    assert state(repo) == before
    assert git(repo, "show", f"{done['branch']}:new.txt") == "hello"


async def test_a_clone_is_worked_in_as_well(subject: Subject, repo: Path) -> None:
    before = state(repo)
    run = await worked(subject, "file new.txt hello", "final done", workspace={"mode": "clone"})
    assert state(repo) == before
    assert run["result"]["changes"]["files"] == 1
    await subject.call("apply_run", run_id=run["run_id"])
    assert (repo / "new.txt").read_text() == "hello\n"


async def test_what_cannot_be_had_is_refused_with_the_reason(subject: Subject, cwd: Path) -> None:
    async def refused(why: str, kind: type[Exception] = InvalidArgument, **more: Any) -> None:
        with pytest.raises(kind, match=why):
            await subject.spawn("final done", **more)
        assert (await subject.call("list_runs"))["runs"] == []

    await refused("in no git repository", workspace={"mode": "worktree"})
    git(cwd, "init", "-q")
    await refused("has no commit yet", workspace={"mode": "worktree"})
    await refused("takes one of: shared, worktree, clone", workspace={"mode": "tree"})
    await refused("did you mean 'branch'", workspace={"mode": "worktree", "brnach": "x"})
    await refused("goes with mode", workspace={"base": "main"})
    await refused("must be a command, or an object", checks=["ok", 3])
    await refused("each one thing that must hold", acceptance=["", "x"])
    if not subject.local:
        return
    await refused("fix_attempts is at most 10", limits={"fix_attempts": 11})


async def test_a_session_in_a_worktree_is_not_forked(subject: Subject, repo: Path) -> None:
    run = await worked(subject, "final done")
    arguments = {"session_mode": "fork", "session_id": run["session_id"]}
    with pytest.raises(Unsupported):
        await subject.spawn("final done", **arguments)
