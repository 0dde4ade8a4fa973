"""Profiles over every backend: the job description reaches the agent, on resume too, as it was at the spawn; what a
file of the workspace says lowers and never raises."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import orjson
import pytest

from orchestrator.errors import InvalidArgument, ProfileNotFound
from orchestrator.model import JsonObject
from orchestrator.store.layout import Workspace
from tests.contract.conftest import Subject

PARROT = "---\ndescription: A test's own.\nrole: bird\nlimits: {timeout_s: 600}\n---\nYou are the parrot of Zanzibar.\n"


def profile(cwd: Path, text: str = PARROT, name: str = "parrot") -> Path:
    """Writes a profile into the project."""
    (cwd / "profiles").mkdir(exist_ok=True)
    path = cwd / "profiles" / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path


def spec_of(subject: Subject, run_id: str) -> JsonObject:
    return orjson.loads(Path(Workspace(subject.cwd).run(run_id).file("spec.json")).read_bytes())


async def said(subject: Subject, run_id: str) -> list[str]:
    return [event["data"]["text"] for event in await subject.events(run_id, "agent_message")]


async def test_the_job_description_reaches_the_agent_and_the_task_stays_what_it_was(subject: Subject) -> None:
    path = await asyncio.to_thread(profile, subject.cwd)
    run = await subject.finished("system Zanzibar", "system Madagascar", "final done", profile="parrot")
    assert run["status"] == "completed", run
    assert (await said(subject, run["run_id"]))[:2] == ["Zanzibar is there", "Madagascar is not there"]
    assert run["result"]["final_response"] == "done"
    digest = hashlib.sha256(PARROT.encode()).hexdigest()
    assert run["profile"] == {"name": "parrot", "path": str(path), "sha256": digest}
    assert run["role"] == "bird"
    assert run["agent_name"] == "parrot"
    spec = await asyncio.to_thread(spec_of, subject, run["run_id"])
    assert spec["profile"]["sha256"] == digest
    assert spec["limits"] == {"timeout_s": 600}
    assert spec["message"]["parts"][0]["text"].startswith("system Zanzibar"), "what was asked is kept as it was asked"


async def test_a_resumed_session_has_it_again_as_it_was_at_the_spawn(subject: Subject) -> None:
    path = await asyncio.to_thread(profile, subject.cwd)
    run = await subject.finished("say hello", profile=str(path))
    await asyncio.to_thread(path.unlink)
    answer = await subject.call("continue_run", run_id=run["run_id"], text="system Zanzibar\nfinal done")
    assert answer["mode"] == "resume"
    await subject.settled(answer["run_id"])
    again = await subject.call("get_run", run_id=answer["run_id"])
    assert again["status"] == "completed", again
    assert (await said(subject, answer["run_id"]))[0] == "Zanzibar is there"
    assert again["profile"] == run["profile"]


async def test_a_long_job_description_reaches_the_agent_whole(subject: Subject) -> None:
    await asyncio.to_thread(profile, subject.cwd, "First word.\n" + "x" * 200_000 + "\nYou are Zanzibar.\n")
    run = await subject.finished("system Zanzibar", profile="profiles/parrot.md")
    assert await said(subject, run["run_id"]) == ["Zanzibar is there"], run


async def test_a_file_of_the_workspace_lowers_and_never_raises(subject: Subject) -> None:
    text = "---\npermission: full_access\non_approval: allow\nchecks: [make zanzibar]\n---\nYou are the parrot.\n"
    await asyncio.to_thread(profile, subject.cwd, text)
    answer = await subject.call("spawn_run", **subject.arguments("system zanzibar"), profile="parrot")
    assert answer["notices"] == [
        "checks of a folder that is not in trusted_dirs are not used",
        "permission full_access is lowered to workspace_write",
        "on_approval allow is lowered to ask",
    ]
    await subject.settled(answer["run_id"])
    assert await said(subject, answer["run_id"]) == ["zanzibar is not there"]
    spec = await asyncio.to_thread(spec_of, subject, answer["run_id"])
    assert (spec["permission"], spec["on_approval"]) == ("workspace_write", "ask")


async def test_a_folder_that_the_user_trusts_may_say_more(subject: Subject) -> None:
    text = "---\non_approval: allow\nchecks: [make zanzibar]\n---\nYou are the parrot.\n"
    path = await asyncio.to_thread(profile, subject.cwd, text)
    trusted = f'trusted_dirs = ["{path.parent}"]\n'
    await asyncio.to_thread((subject.engine.home.path / "config.toml").write_text, trusted)
    answer = await subject.call("spawn_run", **subject.arguments("system zanzibar"), profile="parrot")
    assert "notices" not in answer
    await subject.settled(answer["run_id"])
    assert await said(subject, answer["run_id"]) == ["zanzibar is there"]
    assert (await asyncio.to_thread(spec_of, subject, answer["run_id"]))["on_approval"] == "allow"


async def test_the_words_of_the_call_win(subject: Subject) -> None:
    await asyncio.to_thread(profile, subject.cwd)
    run = await subject.finished("say hello", profile="parrot", role="cat", nickname="tom", limits={"timeout_s": 60})
    assert (run["role"], run["agent_name"]) == ("cat", "tom")
    assert (await asyncio.to_thread(spec_of, subject, run["run_id"]))["limits"] == {"timeout_s": 60}


async def test_a_schema_of_the_profile_is_kept(subject: Subject) -> None:
    schema = "---\noutput_schema:\n  type: object\n  additionalProperties: false\n  required: [n]\n"
    await asyncio.to_thread(profile, subject.cwd, schema + "  properties: {n: {type: integer}}\n---\nYou count.\n")
    run = await subject.finished('json {"n": 3}', profile="parrot")
    assert run["result"]["structured_output"] == {"n": 3}, run


async def test_what_is_no_profile_is_refused_and_nothing_is_left(subject: Subject) -> None:
    await asyncio.to_thread(profile, subject.cwd)
    with pytest.raises(ProfileNotFound, match=r"profiles.*\.claude.agents.*did you mean 'parrot'"):
        await subject.spawn("say hello", profile="parott")
    await asyncio.to_thread(profile, subject.cwd, "---\npermision: read_only\n---\nYou ...\n", "wrong")
    with pytest.raises(InvalidArgument, match=r"no key 'permision'.*did you mean 'permission'"):
        await subject.spawn("say hello", profile="wrong")
    assert (await subject.call("list_runs"))["runs"] == []


async def test_reports_that_a_run_wrote_are_told_with_its_result(subject: Subject) -> None:
    old = subject.cwd / ".orchestrator" / "reports" / "reviewer" / "old.md"
    await asyncio.to_thread(old.parent.mkdir, parents=True)
    await asyncio.to_thread(old.write_text, "of another run\n")
    path = ".orchestrator/reports/reviewer/new.md"
    run = await subject.finished(f"file {path} # Review", "final done")
    assert run["status"] == "completed", run
    assert run["result"]["reports"] == [path]
