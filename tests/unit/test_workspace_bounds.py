"""Workspaces at their edges: sessions that go on in one place, set-ups that fail or hang, agents that plant links and
settings, checks that leave something running."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from orchestrator.errors import Conflict, GitError, OrchestratorError, PermissionCeiling, WrongState
from orchestrator.model import JsonObject
from tests.conftest import wait_until
from tests.contract.test_workspaces import git
from tests.unit.test_agent_bounds import Place as Ground
from tests.unit.test_agent_bounds import opened, spawning

TREE = {"mode": "worktree", "keep": "always"}


@pytest.fixture
async def place(cwd: Path) -> AsyncGenerator[Ground]:
    """A repository with one commit, and an engine."""
    git(cwd, "init", "-q", "-b", "main")
    (cwd / "a.txt").write_text("a\n")
    git(cwd, "add", ".")
    git(cwd, "commit", "-q", "-m", "first")
    async with opened(cwd) as here:
        yield here


async def spawn(place: Ground, *script: str, **more: Any) -> str:
    prompt = "\n".join(script)
    answer = await place.tools.call("spawn_run", {**spawning(place, workspace=TREE), "prompt": prompt, **more})
    return answer["run_id"]


async def over(place: Ground, run_id: str) -> JsonObject:
    while not (await place.tools.call("wait_runs", {"run_ids": [run_id]}))["done"]:
        pass
    return await place.tools.call("get_run", {"run_id": run_id})


async def goes_on(place: Ground, run_id: str, *script: str) -> str:
    return (await place.tools.call("continue_run", {"run_id": run_id, "text": "\n".join(script)}))["run_id"]


def there(run: JsonObject) -> set[str]:
    return {path.name for path in Path(run["workspace"]["path"]).iterdir() if not path.name.startswith(".")}


# ---- one place for a session


async def test_a_run_that_never_had_the_place_does_not_cost_its_session_the_work(place: Ground) -> None:
    first = await over(place, await spawn(place, "file one.txt 1", "fail not yet"))
    assert first["workspace"]["kept"] is True
    working = await goes_on(place, first["run_id"], "file two.txt 2", "ask Well?", "final done")
    await over(place, working)
    queued = await goes_on(place, first["run_id"], "final never")
    await place.tools.call("cancel_run", {"run_id": queued})
    await place.tools.call("cancel_run", {"run_id": working})
    last = await over(place, await goes_on(place, queued, "file three.txt 3", "final done"))
    assert last["status"] == "completed", last
    assert there(last) == {"a.txt", "one.txt", "two.txt", "three.txt"}
    assert last["result"]["changes"]["files"] == 3


async def test_a_queued_run_goes_on_from_the_work_of_the_one_before_it(place: Ground) -> None:
    first = await over(place, await spawn(place, "file one.txt 1", "final done", workspace={"mode": "worktree"}))
    second = await goes_on(place, first["run_id"], "file two.txt 2", "ask Well?", "final done")
    third = await goes_on(place, first["run_id"], "file three.txt 3", "final done")
    await over(place, second)
    await place.tools.call("continue_run", {"run_id": second, "text": "go on"})
    assert (await over(place, third))["result"]["changes"]["files"] == 3


async def test_a_session_goes_on_where_its_agent_has_committed(place: Ground) -> None:
    run_id = await spawn(
        place, "file one.txt 1", "ask Well?", "file two.txt 2", "final done", workspace={"mode": "worktree"}
    )
    run = await over(place, run_id)
    where = Path(run["workspace"]["path"])
    git(where, "add", "one.txt")
    git(where, "commit", "-q", "-m", "of the agent")
    await place.tools.call("continue_run", {"run_id": run_id, "text": "go on"})
    await over(place, run_id)
    await wait_until(lambda: not where.exists(), "the worktree is gone")
    last = await over(place, await goes_on(place, run_id, "ask Well?", "final done"))
    assert there(last) == {"a.txt", "one.txt", "two.txt"}
    assert git(where, "log", "--format=%s").split("\n")[0] == "of the agent"
    assert git(where, "status", "--porcelain") == "?? two.txt"
    await place.tools.call("cancel_run", {"run_id": last["run_id"]})


# ---- set-ups that fail or hang


async def test_a_clone_that_cannot_be_made_fails_with_the_reason_and_leaves_nothing(
    place: Ground, tmp_path: Path
) -> None:
    workspace = {"mode": "clone", "repo": f"file://{place.cwd}", "base": "nowhere"}
    run = await over(place, await spawn(place, "final never", workspace=workspace))
    assert (run["status"], run["error"]["code"]) == ("failed", "conflict"), run
    assert "nowhere" in run["error"]["message"]
    assert [path.name for path in (place.cwd / ".orchestrator/worktrees").iterdir() if path.is_dir()] == []
    with pytest.raises(WrongState):
        await place.tools.call("get_patch", {"run_id": run["run_id"]})


async def test_a_clone_that_hangs_ends_with_its_run_and_holds_up_nobody(place: Ground) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=32)  # which takes connections and says nothing
    port = silent.getsockname()[1]
    workspace = {"mode": "clone", "repo": f"git://127.0.0.1:{port}/x"}
    hanging = [await spawn(place, "final never", workspace=workspace) for _ in range(8)]

    def cloning() -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            seen = psutil.process_iter(["cmdline"])
            return [p for p in seen if f"git://127.0.0.1:{port}/x" in (p.info["cmdline"] or ())]
        return []

    await wait_until(lambda: bool(cloning()), "git is cloning")
    assert (await place.tools.call("list_runs", {}))["runs"]
    for run_id in hanging:
        assert (await place.tools.call("cancel_run", {"run_id": run_id}))["status"] == "cancelled"
    await wait_until(lambda: not cloning(), "no git is left")
    silent.close()


def test_what_git_refuses_is_a_conflict_at_every_door() -> None:
    assert GitError("no").sentence == "conflict: no"
    assert GitError("no").exit_code == 3


# ---- agents that plant things


async def test_a_report_is_written_through_no_link(place: Ground, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of the user\n")
    reports = place.cwd / ".orchestrator/reports"
    await spawn(place, "final done", workspace={})
    reports.mkdir(parents=True)
    (reports / "x.md").symlink_to(victim)
    run = await over(place, await spawn(place, "file .orchestrator/reports/x.md stolen", "final done"))
    assert victim.read_text() == "of the user\n"
    (brought,) = run["result"]["reports"]
    assert (place.cwd / brought).read_text() == "stolen\n"
    assert brought.endswith(f"x-{run['run_id']}.md")


@pytest.mark.parametrize("name", ["patch.diff", "workspace.json"])
async def test_nothing_is_written_through_links_in_the_runs_directory(place: Ground, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of the user\n")
    run_id = await spawn(place, "ask Well?", "file new.txt 1", "final done")
    await over(place, run_id)
    planted = place.cwd / ".orchestrator/runs" / run_id / name
    planted.unlink(missing_ok=True)
    planted.symlink_to(victim)
    await place.tools.call("continue_run", {"run_id": run_id, "text": "go on"})
    await over(place, run_id)
    assert victim.read_text() == "of the user\n"


async def test_a_patch_that_was_changed_since_the_run_ended_is_not_brought_in(place: Ground) -> None:
    run = await over(place, await spawn(place, "file new.txt 1", "final done"))
    patch = place.cwd / ".orchestrator/runs" / run["run_id"] / "patch.diff"
    made = patch.read_text()
    patch.write_text(made.replace("new.txt", "other.txt"))
    with pytest.raises(Conflict, match="was changed since"):
        await place.tools.call("apply_run", {"run_id": run["run_id"]})
    patch.write_text(made)
    assert (await place.tools.call("apply_run", {"run_id": run["run_id"]}))["files"] == 1


async def test_a_note_that_names_another_place_moves_nothing(place: Ground, tmp_path: Path) -> None:
    own = tmp_path / "own"
    git(place.cwd, "worktree", "add", "-q", "-b", "own", str(own))
    run = await over(place, await spawn(place, "file new.txt 1", "final done"))
    record = place.cwd / ".orchestrator/runs" / run["run_id"] / "workspace.json"
    record.write_text(record.read_text().replace(run["workspace"]["path"], str(own)))
    with contextlib.suppress(OrchestratorError):
        await place.tools.call("discard_run", {"run_id": run["run_id"]})
    assert (own / "a.txt").exists()


async def test_an_agent_may_not_have_the_host_run_its_commands(place: Ground) -> None:
    agent = place.agent(await place.waiting())
    for more in ({"checks": ["true"]}, {"workspace": {"mode": "clone", "repo": "https://example.invalid/x"}}):
        with pytest.raises(PermissionCeiling):
            await agent.call("spawn_run", spawning(place, **more))


async def test_where_filters_are_not_trusted_changes_are_not_known_and_that_is_said(place: Ground) -> None:
    git(place.cwd, "config", "filter.own.clean", "touch ran; cat")
    (place.cwd / ".gitattributes").write_text("*.txt filter=own\n")
    run = await over(place, await spawn(place, "file new.txt 1", "final done", workspace={}))
    assert "changes" not in run["result"]
    assert "trusted_dirs" in run["result"]["notices"][0]
    assert not (place.cwd / "ran").exists()


# ---- checks


async def test_what_a_check_leaves_running_is_not_waited_for_and_is_ended(place: Ground) -> None:
    check = {"run": "sleep 3600 & echo $! > pid; exit 0", "timeout_s": 30}
    run = await over(place, await spawn(place, "file new.txt 1", "final done", checks=[check]))
    assert run["result"]["verification"]["status"] == "passed"
    pid = int((Path(run["workspace"]["path"]) / "pid").read_text())
    await wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "it is ended")


async def test_a_check_that_takes_too_long_is_ended_and_says_so(place: Ground) -> None:
    check = {"run": "echo begun; sleep 3600", "timeout_s": 0.3}
    run = await over(place, await spawn(place, "final done", checks=[check]))
    (told,) = run["result"]["verification"]["checks"]
    assert (run["error"]["code"], told["status"]) == ("checks_failed", "timed_out")


async def test_a_check_that_passed_is_not_run_again_on_the_same_tree_in_another_worktree(
    place: Ground, tmp_path: Path
) -> None:
    (place.cwd / "in").mkdir()
    (place.cwd / "in/b.txt").write_text("b\n")
    git(place.cwd, "add", ".")
    git(place.cwd, "commit", "-q", "-m", "second")

    async def checked(*script: str, **more: Any) -> JsonObject:
        checks = [f"echo . >>{tmp_path}/ran; test ! -f bad.txt"]
        run = await over(place, await spawn(place, *script, "final done", checks=checks, **more))
        (told,) = run["result"]["verification"]["checks"]
        return told

    times = tmp_path / "ran"
    assert "memoised" not in await checked("file new.txt 1")
    assert (await checked("file new.txt 1"))["memoised"] is True
    assert times.read_text() == ".\n"
    assert "memoised" not in await checked("file new.txt 2"), "another tree"
    assert "memoised" not in await checked("file ../new.txt 1", cwd=str(place.cwd / "in")), "another folder"
    for _ in range(2):
        assert "memoised" not in await checked("file bad.txt 1"), "what failed is not remembered for others"
    assert times.read_text() == ".\n" * 5


async def test_a_place_can_be_looked_at_by_many_at_once(place: Ground) -> None:
    run = await over(place, await spawn(place, "file new.txt 1", "fail no"))
    reader = place.tools
    pages = await asyncio.gather(*(reader.call("get_patch", {"run_id": run["run_id"]}) for _ in range(8)))
    assert {page["content"] for page in pages} == {pages[0]["content"]}
    assert "+1" in pages[0]["content"]


# ---- what is left beside the log


async def test_a_run_leaves_its_answer_its_transcript_and_the_words_of_a_pull_request(place: Ground) -> None:
    checks = [{"name": "words", "run": "echo looked"}]
    run = await over(place, await spawn(place, "file new.txt 1", "final # Adds a greeting", checks=checks))
    assert run["result"]["deliverables"] == ["out.md", "logs.txt", "pr.json"]
    of_run = place.cwd / ".orchestrator/runs" / run["run_id"]
    assert (of_run / "out.md").read_text() == "# Adds a greeting\n\n## Checks\n\n- words: passed\n"
    transcript = (of_run / "logs.txt").read_text()
    assert "run_started" in transcript
    assert "    output: looked\n" in transcript
    words = {"title": "Adds a greeting", "body": "# Adds a greeting", "branch": run["workspace"]["branch"]}
    assert orjson.loads((of_run / "pr.json").read_bytes()) == words
    idle = await over(place, await spawn(place, "final nothing to do"))
    assert idle["result"]["deliverables"] == ["out.md", "logs.txt"]


async def test_a_place_that_is_never_kept_goes_after_a_failure_too(place: Ground) -> None:
    never = {"mode": "worktree", "keep": "never"}
    run = await over(place, await spawn(place, "file new.txt 1", "fail no", workspace=never))
    assert (run["status"], run["workspace"]["kept"]) == ("failed", False)
    await wait_until(lambda: not Path(run["workspace"]["path"]).exists(), "the worktree is gone")
    assert "+1" in (await place.tools.call("get_patch", {"run_id": run["run_id"]}))["content"]


async def test_a_patch_is_read_in_pages(place: Ground) -> None:
    run = await over(place, await spawn(place, "file new.txt " + "x" * 3_000, "final done"))
    whole = await place.tools.call("get_patch", {"run_id": run["run_id"]})
    read, offset = "", 0
    while offset is not None:
        page = await place.tools.call("get_patch", {"run_id": run["run_id"], "offset": offset, "limit": 1_000})
        assert page["offset"] == offset
        read, offset = read + page["content"], page.get("next_offset")
    assert read == whole["content"]
    assert len(read) == whole["total_bytes"] > 3_000
