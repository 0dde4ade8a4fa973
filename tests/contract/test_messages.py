"""Messages between callers and agents, over every backend and both doors: how they arrive, that each arrives, and that
none reaches a run it was not meant for."""

from __future__ import annotations

import pytest

from orchestrator.errors import AgentNotFound, WrongState
from orchestrator.model import JsonObject
from tests.contract.conftest import Subject
from tests.contract.test_agent_tools import documents, over, said


def letters(texts: list[str]) -> list[list[str]]:
    """What each fetch of an agent gave, as texts."""
    fetched = documents([text for text in texts if '{"messages"' in text])
    return [[letter["parts"][0]["text"] for letter in answer["messages"]] for answer in fetched]


async def send(subject: Subject, to: str, text: str, **more: str) -> JsonObject:
    return await subject.call("send_agent_message", to=to, text=text, **more)


async def test_a_message_waits_until_it_is_fetched_and_is_given_until_it_is_acknowledged(subject: Subject) -> None:
    run_id = await subject.spawn(
        "ask Ready?",
        subject.ours("fetch_messages"),
        subject.ours("fetch_messages"),
        subject.ours("fetch_messages", after_seq=2),
        subject.ours("fetch_messages"),
        "final done",
        nickname="tom",
    )
    await subject.settled(run_id)
    first = await send(subject, "tom", "one")
    assert first["delivered"] == "queued"
    assert (await send(subject, "tom", "two", reply_to=first["id"], deliver="now"))["delivered"] == "queued"
    await subject.call("continue_run", run_id=run_id, text="go on")
    await over(subject, run_id)
    assert letters(await said(subject, run_id)) == [["one", "two"], ["one", "two"], [], []]


@pytest.mark.local
async def test_a_message_can_steer_the_work_under_way(subject: Subject) -> None:
    run_id = await subject.spawn("say started", "listen", "final done", nickname="tom")
    page = await subject.call("poll_events", run_id=run_id, types=["command_started", "agent_message"], wait_ms=20_000)
    assert page["events"]
    answer = await send(subject, "tom", "turn left", deliver="now")
    assert answer["delivered"] == "steered"
    await over(subject, run_id)
    assert any("turn left" in text for text in await said(subject, run_id))


async def test_a_message_can_wake_an_agent_whose_runs_are_over(subject: Subject) -> None:
    run = await subject.finished("final done", nickname="tom")
    answer = await send(subject, "tom", "one more thing", deliver="wake")
    assert answer["delivered"] == "woken"
    woken = await over(subject, answer["run_id"])
    assert woken["resumed_from_run_id"] == run["run_id"]
    (told,) = await subject.events(woken["run_id"], "message_added")
    assert "one more thing" in told["data"]["text"]


async def test_a_message_to_a_run_never_reaches_a_later_one_of_the_same_agent(subject: Subject) -> None:
    run_id = await subject.spawn("ask Ready?", "final done", nickname="tom")
    await subject.settled(run_id)
    await send(subject, run_id, "for this run")
    await send(subject, "tom", "for tom")
    await subject.call("continue_run", run_id=run_id, text="go on")
    await over(subject, run_id)
    with pytest.raises(WrongState, match="is over"):
        await send(subject, run_id, "too late")
    script = "\n".join([subject.ours("fetch_messages"), "final done"])
    later = await subject.call("continue_run", run_id=run_id, text=script)
    await over(subject, later["run_id"])
    assert letters(await said(subject, later["run_id"])) == [["for tom"]]


async def test_a_caller_gets_what_its_agents_write_to_it(subject: Subject) -> None:
    run_id = await subject.spawn(
        subject.ours("send_message", to="caller", text="first"),
        subject.ours("send_message", to="caller", text="second"),
        "final done",
        nickname="tom",
    )
    await over(subject, run_id)
    answer = await subject.call("fetch_agent_messages")
    assert [letter["parts"][0]["text"] for letter in answer["messages"]] == ["first", "second"]
    assert {letter["from"]["agent_name"] for letter in answer["messages"]} == {"tom"}
    again = await subject.call("fetch_agent_messages")
    assert again == answer, "nobody said that it has them"
    rest = await subject.call("fetch_agent_messages", after_seq=answer["next_after_seq"])
    assert rest == {"messages": [], "next_after_seq": 2, "has_more": False}
    assert (await subject.call("fetch_agent_messages"))["messages"] == []
    (row,) = (await subject.call("list_agents"))["agents"]
    assert (row["agent_name"], row["status"]) == ("tom", "completed")


async def test_nobody_of_that_name_is_said_with_who_there_is(subject: Subject) -> None:
    await subject.finished("final done", nickname="tom")
    with pytest.raises(AgentNotFound, match="did you mean 'tom'"):
        await send(subject, "tomm", "hello")
