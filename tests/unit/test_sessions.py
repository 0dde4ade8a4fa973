"""Proves what holds between processes: names, keys and sessions, and a run that is there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import AgentNotFound, Conflict, InvalidArgument, SessionNotFound, StoreError
from orchestrator.model import Message, RunSpec, new_id
from orchestrator.store import sessions
from orchestrator.store.inbox import Inbox
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import RUN_ID, Home, Workspace
from orchestrator.store.reader import RunReader
from orchestrator.store.sessions import Session, SessionLock
from tests.unit.processes import racers
from tests.unit.runs import create, files_below, new_log, resume

MANY = 25


@pytest.fixture
def workspace(cwd: Path) -> Workspace:
    """An empty store."""
    workspace = Workspace(cwd)
    workspace.open()
    return workspace


def test_of_many_processes_one_gets_a_name_and_the_others_get_their_own(workspace: Workspace, cwd: Path) -> None:
    with racers(4, "names", cwd, str(MANY)) as processes:
        results = processes.go()
    names = [name for _, given in results for name in given]
    assert len(set(names)) == len(names) == 4 * MANY
    assert set(os.listdir(workspace.root / "names")) == set(names)
    for session_id, given in results:
        for number, name in enumerate(given):
            assert name == f"agent-{number}" or name.startswith(f"agent-{number}-")
            assert workspace.name(name).read_text() == session_id
    for number in range(MANY):
        assert names.count(f"agent-{number}") == 1


@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "of a run that is gone"])
def test_of_many_processes_one_makes_the_run_of_a_key(workspace: Workspace, home: Home, cwd: Path, stale: bool) -> None:
    if stale:
        for number in range(MANY):
            entry = {"run_id": new_id("run"), "fingerprint": "of old"}
            assert sessions.take_key(workspace, sessions.key_digest(f"key-{number}"), entry)
    with racers(4, "keys", home.path, cwd, str(MANY)) as processes:
        results = processes.go()
    for made in zip(*results, strict=True):
        assert len({run_id for run_id, _ in made}) == 1
        assert [was_made for _, was_made in made].count(True) == 1
    winners = {run_id for run_id, _ in results[0]}
    assert set(os.listdir(workspace.root / "runs")) == winners
    assert set(os.listdir(home.runs)) == set(os.listdir(home.live)) == winners
    assert len(os.listdir(workspace.root / "names")) == MANY, "the losers gave their names back"
    assert len(list((workspace.root / "sessions").glob("*.json"))) == MANY
    assert len([name for name in os.listdir(workspace.root / "keys") if not name.startswith(".")]) == MANY


def test_of_many_processes_one_owns_a_session_until_it_ends(workspace: Workspace, cwd: Path) -> None:
    session_id = new_id("ses")
    with racers(4, "session", cwd, session_id) as processes:
        assert sorted(processes.go()) == [False, False, False, True]
        lock = SessionLock(workspace, session_id)
        assert not lock.acquire()
        processes.kill()
        assert lock.acquire()
        assert not SessionLock(workspace, session_id).acquire()
        lock.release()
        lock.release()
        assert SessionLock(workspace, session_id).acquire()


def test_the_same_key_and_arguments_give_the_same_run(home: Home, cwd: Path) -> None:
    first = create(home, cwd, key="k", nickname="ann")
    again = create(home, cwd, key="k", nickname="ann")
    assert first.log is not None
    first.log.close()
    assert again.log is None
    assert again.existing == first.log.dir
    renewed = create(home, cwd, key="k", nickname="ann", backend_config={})
    assert renewed.existing == first.log.dir


def test_the_same_key_with_other_arguments_is_a_conflict(home: Home, cwd: Path) -> None:
    log = create(home, cwd, key="k").log
    assert log is not None
    log.close()
    before = {path for path in files_below(cwd) if path.parent.name != "keys"}
    others: list[dict[str, Any]] = [
        {"message": Message.of_text("else")},
        {"role": "boss"},
        {"nickname": "ann"},
        {"limits": {"a": 1}},
    ]
    for other in others:
        with pytest.raises(Conflict, match="other arguments"):
            create(home, cwd, key="k", **other)
    assert {path for path in files_below(cwd) if path.parent.name != "keys"} == before


def test_the_key_of_a_run_that_is_gone_is_free_again(home: Home, cwd: Path) -> None:
    first = create(home, cwd, key="k")
    assert first.log is not None
    first.log.close()
    shutil.rmtree(first.log.dir.path)
    second = create(home, cwd, key="k")
    assert second.log is not None
    second.log.close()
    assert create(home, cwd, key="k").existing == second.log.dir


def test_credentials_may_be_renewed_under_the_same_key(home: Home, cwd: Path) -> None:
    log = create(home, cwd, key="k", backend_config={"auth_token": "one"}).log
    assert log is not None
    log.close()
    assert create(home, cwd, key="k", backend_config={"auth_token": "two"}).existing == log.dir


def test_a_key_may_be_any_text(home: Home, cwd: Path) -> None:
    for key in ("", "../../etc", "x" * 10_000, "\x00", "\udcff", "漢"):
        log = create(home, cwd, key=key).log
        assert log is not None
        log.close()
        if key:
            assert create(home, cwd, key=key).existing == log.dir


@pytest.mark.parametrize("failing", ["spec.json", "owner.json", "reserve"])
def test_a_run_that_cannot_be_written_leaves_nothing_behind(
    home: Home, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    rename = os.rename

    def fail(source: str, target: str) -> None:
        if str(target).endswith(failing):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        rename(source, target)

    before = set(files_below(workspace.root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(StoreError, match="No space left"):
            create(home, workspace.cwd, nickname="ann", key="k")
    assert set(files_below(workspace.root)) == before
    assert os.listdir(workspace.root / "runs") == []
    assert list(files_below(home.path)) == []
    log = create(home, workspace.cwd, nickname="ann", key="k").log
    assert log is not None
    assert log.run.agent_name == "ann"
    log.close()


def test_a_run_is_readable_as_soon_as_its_id_is_known(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd, nickname="ann")
    index = RunIndex(Home(home.path))
    assert index.find(log.run.run_id, Path("/")).path == log.dir.path
    assert index.newest("ann", cwd) == log.dir
    assert RunReader(log.dir).state().run == log.run
    log.close()


def test_the_newest_run_of_an_agent_is_the_one_noted_last(workspace: Workspace) -> None:
    session_id = new_id("ses")
    assert sessions.reserve_name(workspace, "ann", session_id) == "ann"
    sessions.save(workspace, Session(session_id=session_id, agent_name="ann", backend="scripted"), durable=False)
    ids = [new_id("run") for _ in range(3)]
    for run_id in ids:
        sessions.add_run(workspace, session_id, run_id)
    assert sessions.newest_run(workspace, "ann") == ids[-1]
    sessions.release_name(workspace, "ann")
    with pytest.raises(AgentNotFound):
        sessions.newest_run(workspace, "ann")


def test_an_unknown_agent_gets_a_hint(workspace: Workspace) -> None:
    sessions.reserve_name(workspace, "amber-fox", new_id("ses"))
    with pytest.raises(AgentNotFound, match="did you mean 'amber-fox'"):
        sessions.newest_run(workspace, "amber-fix")
    with pytest.raises(InvalidArgument):
        sessions.newest_run(workspace, "../amber-fox")
    with pytest.raises(AgentNotFound, match="call list_runs"):
        sessions.newest_run(Workspace(workspace.cwd / "elsewhere"), "amber-fox")


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"../../x", b"ses_0"])
def test_a_name_that_a_crash_left_half_written_is_of_no_agent(workspace: Workspace, content: bytes) -> None:
    workspace.name("ann").write_bytes(content)
    with pytest.raises(AgentNotFound):
        sessions.newest_run(workspace, "ann")
    assert sessions.reserve_name(workspace, "ann", new_id("ses")) != "ann"


def test_a_session_is_what_was_saved(workspace: Workspace) -> None:
    session = Session(session_id=new_id("ses"), agent_name="ann", backend="scripted", native_session_id="n1")
    for durable in (False, True):
        sessions.save(workspace, session, durable=durable)
        assert sessions.load(workspace, session.session_id) == session
    sessions.remove(workspace, session.session_id)
    with pytest.raises(SessionNotFound, match="no session"):
        sessions.load(workspace, session.session_id)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"session_id": 5}'])
def test_a_damaged_session_is_an_error_of_the_store(workspace: Workspace, content: bytes) -> None:
    session_id = new_id("ses")
    workspace.session(session_id).write_bytes(content)
    with pytest.raises(StoreError):
        sessions.load(workspace, session_id)


def ended(home: Home, cwd: Path, **more: Any) -> RunSpec:
    """What was asked of a run that its owner has let go."""
    made = create(home, cwd, **more)
    assert made.log is not None
    made.log.close()
    return made.spec


def gone(home: Home, cwd: Path, **more: Any) -> RunSpec:
    """The same of one that was removed."""
    spec = ended(home, cwd, **more)
    shutil.rmtree(Workspace(cwd).run(spec.run_id).path)
    return spec


def of_session(workspace: Workspace, spec: RunSpec) -> set[str]:
    """The files that a session has, and the name of its agent."""
    found = {path.name.removeprefix(spec.session_id) for path in workspace.root.glob(f"sessions/{spec.session_id}*")}
    return found | ({spec.agent_name} & set(workspace.agent_names()))


def test_a_session_goes_when_its_last_run_is_gone(home: Home, workspace: Workspace) -> None:
    first = ended(home, workspace.cwd, nickname="ann")
    other = ended(home, workspace.cwd, nickname="bob")
    second = resume(home, first)
    Inbox(workspace, first.session_id).append({"from": {}, "parts": []})
    before = of_session(workspace, first)
    for run_id in (first.run_id, second.run_id):
        assert not sessions.retire(workspace, first.session_id), "it has runs"
        assert of_session(workspace, first) >= before
        shutil.rmtree(workspace.run(run_id).path)
    assert sessions.retire(workspace, first.session_id)
    assert of_session(workspace, first) == set()
    assert not sessions.retire(workspace, first.session_id), "it is gone already"
    assert of_session(workspace, first) == set()
    assert of_session(workspace, other) >= {".json", ".runs", "bob"}
    assert ended(home, workspace.cwd, nickname="ann").agent_name == "ann"


def test_a_session_that_somebody_uses_stays(home: Home, workspace: Workspace) -> None:
    spec = gone(home, workspace.cwd, nickname="ann")
    with racers(1, "session", workspace.cwd, spec.session_id) as processes:
        assert processes.go() == [True]
        before = of_session(workspace, spec)
        assert not sessions.retire(workspace, spec.session_id)
        assert of_session(workspace, spec) == before >= {".json", ".runs", "ann"}
        processes.kill()
    assert sessions.retire(workspace, spec.session_id)


def test_a_session_stays_of_which_nobody_can_tell_whether_it_has_runs(home: Home, workspace: Workspace) -> None:
    spec = gone(home, workspace.cwd, nickname="ann")
    runs = workspace.session(spec.session_id).with_suffix(".runs")
    for written in (b"", b"\xff", b"../x\n"):
        runs.write_bytes(written)
        assert not sessions.retire(workspace, spec.session_id)
    runs.unlink()
    assert not sessions.retire(workspace, spec.session_id)
    assert of_session(workspace, spec) >= {".json", "ann"}


def test_a_name_that_another_session_has_stays_its_own(home: Home, workspace: Workspace) -> None:
    spec = gone(home, workspace.cwd, nickname="ann")
    workspace.name("ann").write_text(new_id("ses"))
    assert sessions.retire(workspace, spec.session_id)
    assert of_session(workspace, spec) == {"ann"}


@pytest.mark.parametrize("noted", [False, True], ids=["before it is noted", "once it is noted"])
def test_a_resume_that_meets_the_removal_of_its_session(
    home: Home, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    spec, add_run, retired = gone(home, workspace.cwd, nickname="ann"), sessions.add_run, list[bool]()

    def add(workspace: Workspace, session_id: str, run_id: str) -> None:
        if noted:
            add_run(workspace, session_id, run_id)
        retired.append(sessions.retire(workspace, session_id))
        if not noted:
            add_run(workspace, session_id, run_id)

    monkeypatch.setattr(sessions, "add_run", add)
    before = list(files_below(home.path))
    if noted:
        resumed = resume(home, spec)
        assert sessions.newest_run(workspace, "ann") == resumed.run_id
        assert sessions.load(workspace, spec.session_id).agent_name == "ann"
    else:
        with pytest.raises(SessionNotFound, match="just removed"):
            resume(home, spec)
        assert of_session(workspace, spec) == set()
        assert (os.listdir(workspace.root / "runs"), list(files_below(home.path))) == ([], before)
    assert retired == [not noted]


def test_no_run_is_left_without_its_session_by_processes_that_remove_it(home: Home, workspace: Workspace) -> None:
    specs = [gone(home, workspace.cwd) for _ in range(MANY)]
    known = [f"{spec.session_id} {spec.agent_name}" for spec in specs]
    with racers(4, "resume_or_retire", home.path, workspace.cwd, *known) as processes:
        results = processes.go()
    made: set[str] = set()
    for spec, *happened in zip(specs, *results, strict=True):
        resumed = {what for what in happened if RUN_ID.fullmatch(what)}
        made |= resumed
        assert set(happened) - resumed <= {"retired", "stays", "session_not_found"}
        assert not resumed or "retired" not in happened, happened
        if resumed:
            assert sessions.load(workspace, spec.session_id).agent_name == spec.agent_name
            assert sessions.newest_run(workspace, spec.agent_name) in resumed
        elif "retired" in happened:
            assert of_session(workspace, spec) == set(), happened
    assert set(workspace.run_ids()) == made


def test_a_key_is_given_back_by_the_run_that_has_it_alone(home: Home, workspace: Workspace) -> None:
    spec, digest = gone(home, workspace.cwd, key="k"), sessions.key_digest("k")
    sessions.release_key(workspace, digest, new_id("run"))
    assert workspace.key(digest).exists()
    outside = workspace.cwd / "mine.json"
    outside.write_text(f'{{"run_id": "{spec.run_id}"}}')
    for named in ("../../mine.json", "../" + digest, "", "no"):
        sessions.release_key(workspace, named, spec.run_id)
    assert outside.exists()
    sessions.release_key(workspace, digest, spec.run_id)
    assert not workspace.key(digest).exists()


def test_a_lock_that_was_removed_is_held_by_nobody(workspace: Workspace) -> None:
    session_id = new_id("ses")
    first, second = SessionLock(workspace, session_id), SessionLock(workspace, session_id)
    assert first.acquire()
    opened: list[int] = []
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if not opened:  # between its opening and its locking the file is removed and given back
            opened.append(descriptor)
            sessions.remove(workspace, session_id)
            first.release()
        flock(descriptor, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        assert not second.acquire()
    assert second.acquire()


def test_names_that_nobody_wished_for_do_not_run_out(workspace: Workspace) -> None:
    names = [sessions.reserve_name(workspace, None, new_id("ses")) for _ in range(300)]
    long = [sessions.reserve_name(workspace, "n" * 64, new_id("ses")) for _ in range(20)]
    assert len({*names, *long}) == 320
    assert all(len(name) <= 64 for name in long)
