"""Questions, approvals and sessions: what waits for the caller, whatever executes the run."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from orchestrator.errors import AlreadyAnswered, Conflict, InvalidArgument, SessionNotFound, Unsupported, WrongState
from tests.contract.conftest import Subject


async def test_a_question_waits_and_its_answer_goes_on(subject: Subject) -> None:
    run_id = await subject.spawn("ask Which colour? | red | blue", "say bye")
    waiting = await subject.settled(run_id)
    assert waiting["status"] == "input_required"
    (request,) = waiting["pending"]
    assert request["kind"] == "question"
    assert request["text"] == "Which colour?"
    assert [option["id"] for option in request["options"]] == ["red", "blue"]
    answered = await subject.call("continue_run", run_id=run_id, decision="red")
    assert answered["mode"] == "answer"
    await subject.settled(run_id)
    events = await subject.events(run_id)
    resolved = [event["data"]["resolved"] for event in events if "resolved" in event["data"]]
    assert resolved == [{"request_id": request["request_id"], "outcome": "answered", "decision": "red"}]
    assert "the answer is: red" in [event["data"].get("text") for event in events]


async def test_an_approval_is_given_or_denied_with_a_reason(subject: Subject) -> None:
    first, second = "sh -c true", "sh -c :"
    run_id = await subject.spawn(f"approve {first}", f"approve {second}")
    (request,) = (await subject.settled(run_id))["pending"]
    assert request["kind"] == "approval"
    assert request["detail"]["command"] == first
    await subject.call("continue_run", run_id=run_id, decision="approve")
    assert (await subject.settled(run_id))["status"] == "input_required"
    await subject.call("continue_run", run_id=run_id, decision="deny", text="never that")
    await subject.settled(run_id)
    ended = [event["data"] for event in await subject.events(run_id, "command_finished")]
    assert [data["command"] for data in ended if data["status"] == "completed"] == [first]
    assert all(data["status"] == "declined" for data in ended if data["command"] == second)
    texts = [event["data"]["text"] for event in await subject.events(run_id, "agent_message")]
    assert texts == ["approved", "denied: never that"]


async def test_words_are_no_approval(subject: Subject) -> None:
    run_id = await subject.spawn("approve sh -c true")
    await subject.settled(run_id)
    with pytest.raises(InvalidArgument, match="approve"):
        await subject.call("continue_run", run_id=run_id, text="sure, go on")
    with pytest.raises(InvalidArgument, match="approve"):
        await subject.call("continue_run", run_id=run_id, decision="aprove")
    assert (await subject.settled(run_id))["status"] == "input_required"
    await subject.call("cancel_run", run_id=run_id)


@pytest.mark.parametrize(("policy", "said"), [("allow", "approved"), ("deny", "denied")])
async def test_on_approval_answers_approvals_alone(subject: Subject, policy: str, said: str) -> None:
    run_id = await subject.spawn("approve sh -c true", "ask Sure?", on_approval=policy)
    (request,) = (await subject.settled(run_id))["pending"]
    assert request["kind"] == "question"
    assert (await subject.events(run_id, "agent_message"))[0]["data"]["text"] == said
    await subject.call("continue_run", run_id=run_id, text="yes")
    assert (await subject.settled(run_id))["status"] == "completed"


async def test_a_login_is_waited_for(subject: Subject) -> None:
    run_id = await subject.spawn("auth please", "say in")
    waiting = await subject.settled(run_id)
    assert waiting["status"] == "auth_required"
    await subject.call("continue_run", run_id=run_id, decision="approve")
    assert (await subject.settled(run_id))["status"] == "completed"


async def test_one_request_is_answered_once(subject: Subject) -> None:
    run_id = await subject.spawn("ask Which?", "ask And then?")
    (request,) = (await subject.settled(run_id))["pending"]
    answers = [
        subject.call("continue_run", run_id=run_id, request_id=request["request_id"], text=str(n)) for n in range(5)
    ]
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 1
    assert sum(isinstance(result, AlreadyAnswered) for result in results) == 4
    await subject.call("cancel_run", run_id=run_id)


async def test_a_request_that_was_never_asked_cannot_be_answered(subject: Subject) -> None:
    run_id = await subject.spawn("ask Which?")
    await subject.settled(run_id)
    with pytest.raises(WrongState, match="no request"):
        await subject.call("continue_run", run_id=run_id, request_id="nonsense", text="x")
    await subject.call("cancel_run", run_id=run_id)


async def test_an_approval_that_nobody_gives_is_denied_and_the_run_goes_on(subject: Subject) -> None:
    run_id = await subject.spawn("approve sh -c true", "say on", limits={"input_timeout_s": 0.2})
    await subject.settled(run_id)
    await subject.call("poll_events", run_id=run_id, types=["run_completed"])
    events = await subject.events(run_id)
    resolved = [event["data"]["resolved"] for event in events if "resolved" in event["data"]]
    assert resolved[0]["outcome"] == "expired"
    assert events[-1]["type"] == "run_completed"


async def test_a_question_that_nobody_answers_ends_the_run(subject: Subject) -> None:
    run_id = await subject.spawn("ask Which?", limits={"input_timeout_s": 0.2})
    await subject.settled(run_id)
    await subject.call("poll_events", run_id=run_id, types=["run_failed"])
    run = await subject.call("get_run", run_id=run_id)
    assert run["error"]["code"] == "input_timeout"
    assert run["error"]["resumable"]


async def test_a_finished_run_is_resumed_in_its_session(subject: Subject) -> None:
    first = await subject.finished("say one")
    answer = await subject.call("continue_run", run_id=first["run_id"], text="remember")
    assert answer["mode"] == "resume"
    assert answer["resumed_from_run_id"] == first["run_id"]
    await subject.settled(answer["run_id"])
    second = await subject.call("get_run", agent_name=first["agent_name"])
    assert second["run_id"] == answer["run_id"]
    assert second["session_id"] == first["session_id"]
    assert second["resumed_from_run_id"] == first["run_id"]
    assert second["result"]["final_response"] == "1 earlier prompts"


async def test_runs_of_one_session_come_one_after_the_other_in_order(subject: Subject) -> None:
    first = await subject.finished("say start")
    resume = {"session_mode": "resume", "session_id": first["session_id"]}
    runs = [await subject.spawn("sleep 0.1", f"say {number}", **resume) for number in range(4)]
    await subject.call("wait_runs", run_ids=runs, until="all")
    spans = [await subject.call("get_run", run_id=run_id) for run_id in runs]
    for earlier, later in pairwise(spans):
        assert earlier["completed_at"] <= later["started_at"]


async def test_sessions_are_not_made_up(subject: Subject) -> None:
    with pytest.raises(SessionNotFound):
        await subject.spawn("say x", session_mode="resume", session_id="ses_0000000000000000000000")
    with pytest.raises(InvalidArgument, match="session_id"):
        await subject.spawn("say x", session_mode="resume")
    with pytest.raises(InvalidArgument, match="session_id"):
        await subject.spawn("say x", session_id="ses_0000000000000000000000")


async def test_a_session_of_another_backend_is_refused(subject: Subject) -> None:
    other = "remote_a2a" if subject.backend == "scripted" else "scripted"
    run = await subject.finished("say x")
    config = {"agent_url": "http://127.0.0.1:1"} if other == "remote_a2a" else {}
    with pytest.raises(Conflict, match="belongs to backend"):
        await subject.call(
            "spawn_run",
            **{**subject.arguments("say y"), "backend": other, "backend_config": config},
            session_mode="resume",
            session_id=run["session_id"],
        )


async def test_talking_to_a_running_agent_steers_it_or_says_that_it_cannot(subject: Subject) -> None:
    run_id = await subject.at_work("listen" if subject.local else "sleep 100")
    if subject.local:
        answer = await subject.call("continue_run", run_id=run_id, text="left")
        assert answer["mode"] == "steer"
        await subject.settled(run_id)
        assert (await subject.events(run_id, "agent_message"))[-1]["data"]["text"] == "heard: left"
    else:
        with pytest.raises(Unsupported):
            await subject.call("continue_run", run_id=run_id, text="left")
        await subject.call("cancel_run", run_id=run_id)


async def test_cancel_while_waiting_ends_the_run(subject: Subject) -> None:
    run_id = await subject.spawn("ask Which?")
    await subject.settled(run_id)
    assert (await subject.call("cancel_run", run_id=run_id))["status"] == "cancelled"
    run = await subject.call("get_run", run_id=run_id)
    assert "pending" not in run
    with pytest.raises(WrongState):
        await subject.call("continue_run", run_id=run_id, decision="approve")
