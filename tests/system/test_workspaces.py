"""From prompt to verified patch, by real processes: real agents in parallel worktrees, people's commands, a host that
is killed at any moment, twenty runs in one repository."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path

import pytest

from backends import Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.errors import Conflict
from orchestrator.store.layout import Home
from tests.conftest import wait_until
from tests.contract.test_workspaces import git
from tests.kill.places import kill_in_places
from tests.models.player import Player, agent_environment
from tests.system.desk import Desk
from tests.system.hosts import until
from tests.system.shell import Shell, shell

pytestmark = [pytest.mark.system]

TEST = "from totals import total\nassert total([1, 2, 3]) == 6\n"
KILLS = 10
"""Hosts that the suite kills; `scripts/bench kill-workspaces` kills many more."""


def plant(cwd: Path) -> None:
    """A repository whose one commit has a defect and a test for it."""
    cwd.mkdir(parents=True, exist_ok=True)
    git(cwd, "init", "-q", "-b", "main")
    git(cwd, "config", "user.name", "Somebody")
    git(cwd, "config", "user.email", "somebody@example.invalid")
    (cwd / "totals.py").write_text("def total(prices):\n    return 0\n")
    (cwd / "check.py").write_text(TEST)
    git(cwd, "add", ".")
    git(cwd, "commit", "-q", "-m", "first")


# ---- real agents


@pytest.fixture
async def both(models: Mapping[str, Player], cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk in a repository, whose agents may be of either kind."""
    plant(cwd)
    env: dict[str, str] = {}
    for model in models.values():
        env |= agent_environment(model, tmp_path)
    async with Engine(Home.default(), Backends().load) as engine:
        caller = Caller(cwd=cwd, env=env, toolsets=frozenset({"workspace"}))
        with engine.lives.client(caller):
            place = Desk("claude_code", engine, Tools(engine, caller), cwd, env)
            yield place
    assert place.processes() == [], "these processes were left"


@pytest.mark.parametrize("right", ["claude_code", "codex"])
async def test_two_agents_solve_one_task_and_the_checks_pick_the_right_one(both: Desk, right: str) -> None:
    runs: dict[str, str] = {}
    for backend in ("claude_code", "codex"):
        said = "return sum(prices)" if backend == right else "return len(prices) and 5"
        script = f"run printf 'def total(prices):\\n    {said}\\n' > totals.py"
        runs[backend] = await both.spawn(
            script,
            "final it adds up now",
            backend=backend,
            on_approval="allow",
            workspace={"mode": "worktree"},
            checks=[{"name": "totals", "run": f"{sys.executable} -B check.py"}],
        )
    ended = {backend: await both.settled(run_id) for backend, run_id in runs.items()}
    good, bad = ended.pop(right), next(iter(ended.values()))
    assert (good["status"], good["result"]["verification"]["status"]) == ("completed", "passed"), good
    assert (bad["status"], bad["error"]["code"]) == ("failed", "checks_failed"), bad
    assert bad["result"]["final_response"] == "it adds up now", "its word"
    assert git(both.cwd, "status", "--porcelain") == ""
    done = await both.call("apply_run", run_id=good["run_id"], mode="commit")
    assert git(both.cwd, "log", "-1", "--format=%H %s") == f"{done['commit']} it adds up now"
    assert "return sum(prices)" in (both.cwd / "totals.py").read_text()
    with pytest.raises(Conflict, match=r"totals\.py"):
        await both.call("apply_run", run_id=bad["run_id"])
    await both.call("discard_run", run_id=bad["run_id"])
    assert git(both.cwd, "worktree", "list").count("\n") == 0
    assert git(both.cwd, "branch", "--format=%(refname:short)") == "main"


@pytest.mark.parametrize("backend", ["claude_code", "codex"])
async def test_an_agent_mends_what_the_checks_found(both: Desk, backend: str) -> None:
    mend = "run printf 'def total(prices):\\n    return sum(prices)\\n' > totals.py"
    check = f"{sys.executable} -B check.py 2>/dev/null || {{ cat hint; exit 1; }}"
    (both.cwd / "hint").write_text(f"{mend}\n")
    run = await both.finished(
        "final done",
        backend=backend,
        on_approval="allow",
        workspace={"mode": "worktree", "include_uncommitted": True},
        checks=[check],
        limits={"fix_attempts": 1},
    )
    assert run["status"] == "completed", run
    assert run["result"]["verification"]["status"] == "passed"
    assert run["result"]["changes"]["files"] == 1


# ---- people


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Shell]:
    """A shell in a repository, with a host of its own."""
    with shell(tmp_path / "shell") as place:
        plant(place.cwd)
        yield place


def test_a_person_runs_looks_and_takes(person: Shell) -> None:
    done = person.run(
        "run", "-b", "scripted", "-w", "--check", "test -f new.txt", "--name", "tom", "file new.txt hello"
    )
    assert done.code == 0, done
    shown = person.ok("show", "tom")
    assert "1 file, +1 -0" in shown
    assert "test -f new.txt: passed" in shown
    assert person.ok("diff", "tom").startswith("diff --git a/new.txt b/new.txt\n")
    assert "1 file changed, 1 insertion(+)" in person.ok("diff", "tom", "--stat")
    assert person.json("diff", "tom")["changes"]["files"] == 1
    with person.terminal("diff", "tom") as terminal:
        terminal.expect("+hello")
        assert "\x1b[32m" in terminal.raw
    assert not (person.cwd / "new.txt").exists()
    assert "it applies: 1 file" in person.run("apply", "tom", "--check").err
    assert person.json("apply", "tom", "--commit", "-m", "Add the greeting")["applied"] is True
    assert git(person.cwd, "log", "-1", "--format=%s") == "Add the greeting"
    again = person.run("apply", "tom")
    assert (again.code, "new.txt" in again.err) == (3, True), again
    assert person.run("apply", "tom", "--commit", "--branch").code == 2


def test_a_person_is_told_what_failed_and_throws_it_away(person: Shell) -> None:
    done = person.run("run", "-b", "scripted", "-w", "--check", "echo not yet; false", "--name", "tom", "file a.txt x")
    assert done.code == 1
    assert "not yet" in done.out
    shown = person.ok("show", "tom", "--json")
    place = json.loads(shown)["workspace"]
    assert place["kept"] is True
    assert Path(place["path"]).is_dir()
    assert "the patch stays" in person.run("discard", "tom").err
    assert not Path(place["path"]).exists()
    assert "+x" in person.ok("diff", "tom")
    assert person.run("discard", "tom").code == 0, "there is nothing left to do"


KEPT = ("--workspace", '{"mode": "worktree", "keep": "always"}')


def test_gc_shows_worktrees_and_keeps_those_that_hold_more_than_their_patch(person: Shell) -> None:
    one, two = (person.over(f"file {name}.txt x", *KEPT) for name in "ab")
    places = {run_id: Path(person.state(run_id)["workspace"]["path"]) for run_id in (one, two)}
    (places[two] / "later.txt").write_text("by hand")
    listed = person.ok("gc", "--keep", "0")
    assert all(str(place) in listed for place in places.values())
    assert all(place.is_dir() for place in places.values())
    done = person.run("gc", "--keep", "0", "--delete")
    assert f"{two} stays" in done.err
    assert (places[one].exists(), places[two].exists()) == (False, True)
    assert (places[two] / "later.txt").read_text() == "by hand"
    assert person.run("show", one).code == 4
    assert person.run("show", two).code == 0


def test_gc_takes_no_changed_spec_for_where_a_run_worked(person: Shell) -> None:
    one, two = (person.over(f"file {name}.txt x", *KEPT) for name in "ab")
    places = {run_id: Path(person.state(run_id)["workspace"]["path"]) for run_id in (one, two)}
    spec = person.cwd / ".orchestrator/runs" / two / "spec.json"
    git(person.cwd, "branch", "precious")
    spec.write_bytes(spec.read_bytes().replace(b'"worktree"', b'"worktree", "branch": "precious"'))
    done = person.run("gc", "--keep", "0", "--delete")
    assert f"{two} stays" in done.err
    assert (places[one].exists(), places[two].exists()) == (False, True)
    assert git(person.cwd, "rev-parse", "precious") == git(person.cwd, "rev-parse", "HEAD")


# ---- many, and death


def test_twenty_runs_in_one_repository_do_not_disturb_each_other(person: Shell) -> None:
    person.ok("host", "start")
    place = {"backend": "scripted", "cwd": str(person.cwd), "workspace": {"mode": "worktree"}}
    prompts = [f"file f{number}.txt {number}\nfinal done" for number in range(20)]
    ids = [person.tool("spawn_run", prompt=prompt, **place)["run_id"] for prompt in prompts]
    person.settled(*ids)
    for number, run_id in enumerate(ids):
        run = person.state(run_id)
        assert (run["status"], run["result"]["changes"]["files"]) == ("completed", 1), run
        assert person.ok("diff", run_id).count(f"+{number}\n") == 1
    until(lambda: "\n" not in git(person.cwd, "worktree", "list"), "all worktrees are gone")
    assert git(person.cwd, "branch", "--format=%(refname:short)") == "main"


@pytest.fixture
def seed() -> int:
    """Shown, so that what failed can be tried again: KILL_SEED sets it."""
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    sys.stdout.write(f"KILL_SEED={seed}\n")
    return seed


@pytest.mark.timeout(180)
def test_a_host_that_is_killed_at_any_moment_loses_no_change(person: Shell, seed: int) -> None:
    assert kill_in_places(person, KILLS, seed).broken == []


async def test_a_run_that_is_cancelled_keeps_its_work(both: Desk) -> None:
    run_id = await both.spawn("run echo hello > new.txt", "listen", on_approval="allow", workspace={"mode": "worktree"})
    await both.seen(run_id, "command_finished")
    await both.call("cancel_run", run_id=run_id)
    run = await both.settled(run_id)
    assert run["status"] == "cancelled"
    assert run["result"]["changes"]["files"] == 1
    assert run["workspace"]["kept"] is True
    assert "+hello" in (await both.call("get_patch", run_id=run_id))["content"]
    await both.call("discard_run", run_id=run_id)
    await wait_until(lambda: "\n" not in git(both.cwd, "worktree", "list"), "the worktree is gone")
