"""What Claude Code asks its caller: questions with and without options, plans, and approvals that nobody gives.

Each test follows a request from the agent to its caller and the answer back to the model, which says what it heard.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidArgument, WrongState
from orchestrator.model import JsonObject
from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

SIZE: JsonObject = {
    "question": "Which size?",
    "header": "Size",
    "options": [{"label": "small", "description": "for one"}, {"label": "large", "description": "for two"}],
    "multiSelect": False,
}
TOPPINGS: JsonObject = {
    "question": "Which toppings?",
    "header": "Toppings",
    "options": [{"label": label, "description": f"with {label}"} for label in ("ham", "olives", "corn")],
    "multiSelect": True,
}
PLAN = {"plan": "1. write x.txt\n2. say so"}
ASKS = "sh -c 'touch made'"
"""A command that Claude Code does not take for harmless."""


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


def question(*questions: JsonObject) -> str:
    """A line of a script: one call that asks all of these."""
    return f"call AskUserQuestion {json.dumps({'questions': list(questions)})}"


def helper(*script: str, background: bool) -> str:
    """A line of a script: a sub-agent that plays one of its own."""
    given = {"description": "h", "subagent_type": "general-purpose", "prompt": "\n".join(script)}
    return f"call Agent {json.dumps({**given, 'run_in_background': background})}"


async def texts(claude: Desk, run: JsonObject) -> list[str]:
    """What the agent said, without what Claude Code tells its model besides."""
    events = await claude.events(run["run_id"], "agent_message")
    return [event["data"]["text"].partition("\n\n<system-reminder>")[0] for event in events]


async def resolutions(claude: Desk, run: JsonObject) -> list[tuple[str, str | None]]:
    """How each request was resolved, in order: the outcome and the decision."""
    told = [event["data"].get("resolved") for event in await claude.events(run["run_id"], "status_changed")]
    return [(answer["outcome"], answer.get("decision")) for answer in told if answer]


async def paths(claude: Desk, run: JsonObject) -> list[str]:
    """The files that were told as changed."""
    events = await claude.events(run["run_id"], "file_changed")
    return [change["path"] for event in events for change in event["data"]["changes"]]


def heard(**answers: str) -> str:
    """What the model gets to read of its answered questions; the keys are the last words of the questions.

    Claude Code puts it into one sentence if the answers are options, and into another one if they are not.
    """
    return ", ".join(f'"Which {key}?"="{answer}"' for key, answer in answers.items()) + ". "


# ---- questions


async def test_a_question_shows_its_options_and_takes_one_by_its_id(claude: Desk) -> None:
    run = await claude.finished(question(SIZE), "heard")
    assert run["status"] == "input_required"
    (request,) = run["pending"]
    options = [
        {"id": "small", "label": "small", "description": "for one"},
        {"id": "large", "label": "large", "description": "for two"},
    ]
    assert (request["kind"], request["text"], request["options"]) == ("question", "Which size?", options)
    asked = {"id": "1", "text": "Which size?", "header": "Size", "options": options, "multi_select": False}
    assert request["questions"] == [asked]
    with pytest.raises(InvalidArgument, match="small, large"):
        await claude.call("continue_run", run_id=run["run_id"], decision="medium")
    run = await claude.answered(run["run_id"], decision="large")
    assert run["status"] == "completed", run
    assert heard(size="large") in (await texts(claude, run))[0]
    assert await resolutions(claude, run) == [("answered", "large")]
    assert await claude.events(run["run_id"], "tool_started", "tool_finished") == []


@pytest.mark.parametrize("words", ["small", "as large as it gets, please"])
async def test_a_question_is_answered_in_words_of_ones_own(claude: Desk, words: str) -> None:
    run = await claude.finished(question(SIZE), "heard")
    run = await claude.answered(run["run_id"], text=words)
    assert heard(size=words) in (await texts(claude, run))[0]
    added = await claude.events(run["run_id"], "message_added")
    assert added[-1]["data"]["text"] == words
    assert added[-1]["data"]["request_id"]


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ({"text": "ham, corn"}, "ham, corn"),
        ({"decision": "olives"}, "olives"),
        ({"text": '{"1": ["ham", "olives"]}'}, "ham, olives"),
        ({"input_message": {"parts": [{"type": "data", "data": {"Toppings": ["corn"]}}]}}, "corn"),
    ],
)
async def test_several_options_of_one_question_are_chosen(claude: Desk, answer: JsonObject, chosen: str) -> None:
    run = await claude.finished(question(TOPPINGS), "heard")
    assert run["pending"][0]["questions"][0]["multi_select"] is True
    run = await claude.answered(run["run_id"], **answer)
    assert heard(toppings=chosen) in (await texts(claude, run))[0]
    assert [outcome for outcome, _ in await resolutions(claude, run)] == ["answered"]


@pytest.mark.parametrize(
    ("answer", "size", "toppings"),
    [
        ({"text": "large\nham, corn"}, "large", "ham, corn"),
        ({"text": "1. small\n2. olives"}, "small", "olives"),
        ({"text": '{"1": "small", "2": ["ham"]}'}, "small", "ham"),
        ({"text": '{"Which size?": "large", "Toppings": "corn"}'}, "large", "corn"),
        (
            {"input_message": {"parts": [{"type": "data", "data": {"answers": {"1": "large", "2": ["ham", "corn"]}}}]}},
            "large",
            "ham, corn",
        ),
        ({"text": "whatever"}, "whatever", "whatever"),
    ],
)
async def test_several_questions_of_one_call_are_one_request(
    claude: Desk, answer: JsonObject, size: str, toppings: str
) -> None:
    run = await claude.finished(question(SIZE, TOPPINGS), "heard")
    (request,) = run["pending"]
    assert "options" not in request
    assert request["text"].startswith("1. Which size?\n2. Which toppings?\n")
    assert [asked["id"] for asked in request["questions"]] == ["1", "2"]
    run = await claude.answered(run["run_id"], **answer)
    assert heard(size=size, toppings=toppings) in (await texts(claude, run))[0]


async def test_questions_of_several_calls_are_answered_in_any_order(claude: Desk) -> None:
    run_id = await claude.spawn("asks Which one? | Which other?")
    first = await claude.seen(run_id, "input_required")
    second = await claude.seen(run_id, "input_required", first["seq"])
    requests = [event["data"]["request"] for event in (first, second)]
    assert [request["text"] for request in requests] == ["Which one?", "Which other?"]
    ids = [request["request_id"] for request in requests]
    await claude.call("continue_run", run_id=run_id, request_id=ids[1], text="B")
    run = await claude.call("get_run", run_id=run_id)
    assert run["status"] == "input_required"
    assert [request["request_id"] for request in run["pending"]] == ids[:1]
    run = await claude.answered(run_id, request_id=ids[0], text="A")
    assert run["status"] == "completed", run
    assert await texts(claude, run) == ["the answers are: A, B"]


async def test_a_declined_question_tells_the_agent_why(claude: Desk) -> None:
    run = await claude.finished(question(SIZE), "heard", "say on")
    run = await claude.answered(run["run_id"], decision="deny", text="decide for yourself")
    assert run["status"] == "completed", run
    assert await texts(claude, run) == ["The caller denied this: decide for yourself", "on"]
    assert await resolutions(claude, run) == [("denied", "deny")]


async def test_a_question_of_a_read_only_run_is_asked_too(claude: Desk) -> None:
    run = await claude.finished(question(SIZE), "heard", permission="read_only", on_approval="deny")
    assert run["status"] == "input_required", "on_approval is about approvals alone"
    run = await claude.answered(run["run_id"], decision="small")
    assert heard(size="small") in (await texts(claude, run))[0]


# ---- plans

PLANNED: JsonObject = {"backend_config": {"plan": True}}
HANDS_IN = f"call ExitPlanMode {json.dumps(PLAN)}"


async def test_a_plan_is_shown_and_nothing_is_written_before_it_is_approved(claude: Desk) -> None:
    run = await claude.finished("file early.txt x", HANDS_IN, "file x.txt done", "say so", **PLANNED)
    (request,) = run["pending"]
    assert request["kind"] == "approval"
    assert request["detail"] == PLAN
    assert [option["id"] for option in request["options"]] == ["approve", "deny"]
    assert list(claude.cwd.glob("*.txt")) == []
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert (claude.cwd / "x.txt").read_text() == "done\n"
    assert not (claude.cwd / "early.txt").exists()
    assert await texts(claude, run) == ["early.txt was not written: the plan is not approved yet", "so"]
    assert await paths(claude, run) == ["x.txt"]
    assert await resolutions(claude, run) == [("answered", "approve")]


async def test_after_its_plan_was_approved_a_run_has_its_permission_and_no_more(claude: Desk) -> None:
    script = (HANDS_IN, "file x.txt x", f"run {ASKS}", "say end")
    run = await claude.finished(*script, **PLANNED)
    run = await claude.answered(run["run_id"], decision="approve")
    assert [request["detail"].get("command") for request in run["pending"]] == [ASKS]
    run = await claude.answered(run["run_id"], decision="deny")
    assert await paths(claude, run) == ["x.txt"]
    assert not (claude.cwd / "made").exists()
    (claude.cwd / "x.txt").unlink()
    run = await claude.finished(*script, permission="read_only", **PLANNED)
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert await texts(claude, run) == ["x.txt was not written: this run is read_only", "end"]


async def test_what_a_plan_is_followed_by_at_once_is_not_asked(claude: Desk) -> None:
    """By itself Claude Code asks for everything once a plan is approved."""
    write = json.dumps({"file_path": str(claude.cwd / "x.txt"), "content": "x"})
    run = await claude.finished(f"{HANDS_IN} // Write {write}", "say end", **PLANNED)
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run.get("pending")
    assert (claude.cwd / "x.txt").read_text() == "x"


async def test_a_plan_that_is_denied_is_made_anew(claude: Desk) -> None:
    better = f"call ExitPlanMode {json.dumps({'plan': 'a better one'})}"
    run = await claude.finished(HANDS_IN, "heard", "file x.txt x", better, "file x.txt x", "say end", **PLANNED)
    run = await claude.answered(run["run_id"], decision="deny", text="plan better")
    assert run["status"] == "input_required", run
    assert run["pending"][0]["detail"] == {"plan": "a better one"}
    assert not (claude.cwd / "x.txt").exists()
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert (await texts(claude, run))[0] == "The caller denied this: plan better"
    assert (await texts(claude, run))[1] == "x.txt was not written: the plan is not approved yet"
    assert (claude.cwd / "x.txt").read_text() == "x\n"


async def test_no_command_writes_before_the_plan_is_approved(claude: Desk) -> None:
    run = await claude.finished("run touch early", f"run {ASKS}", HANDS_IN, "say end", on_approval="allow", **PLANNED)
    assert run["status"] == "completed", run
    ended = await claude.events(run["run_id"], "command_finished")
    assert [event["data"]["status"] for event in ended] == ["declined", "declined"]
    assert [name for name in ("early", "made") if (claude.cwd / name).exists()] == []


# ---- what nobody answers


async def test_an_approval_that_expires_is_denied_and_the_agent_goes_on(claude: Desk) -> None:
    run_id = await claude.spawn(f"run {ASKS}", "heard", "say on", limits={"input_timeout_s": 0.3})
    request = (await claude.seen(run_id, "input_required"))["data"]["request"]
    assert request["expires_at"]
    await claude.seen(run_id, "run_completed")
    run = await claude.call("get_run", run_id=run_id)
    assert await texts(claude, run) == ["The caller denied this: nobody answered in time", "on"]
    assert await resolutions(claude, run) == [("expired", "deny")]
    (ended,) = await claude.events(run_id, "command_finished")
    assert ended["data"]["status"] == "declined"
    assert not (claude.cwd / "made").exists()
    with pytest.raises(WrongState):
        await claude.call("continue_run", run_id=run_id, request_id=request["request_id"], decision="approve")


async def test_a_question_that_expires_ends_the_run_which_can_be_resumed(claude: Desk) -> None:
    run_id = await claude.spawn("asks Which one? | Which other?", "say never", limits={"input_timeout_s": 0.3})
    await claude.seen(run_id, "run_failed")
    run = await claude.call("get_run", run_id=run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "input_timeout")
    assert run["error"]["resumable"]
    assert "pending" not in run
    assert await texts(claude, run) == []
    assert claude.processes() == []
    resumed = await claude.call("continue_run", run_id=run_id, text="remember")
    again = await claude.settled(resumed["run_id"])
    assert (again["status"], again["result"]["final_response"]) == ("completed", "1 earlier prompts")


async def waits_for(claude: Desk, count: int, *script: str, **more: Any) -> tuple[str, list[JsonObject]]:
    """Spawns a run that asks so many things at once. Returns its id and what it asks."""
    run_id = await claude.spawn(*script, **more)
    last, requests = 0, list[JsonObject]()
    for _ in range(count):
        event = await claude.seen(run_id, "input_required", last)
        last, requests = event["seq"], [*requests, event["data"]["request"]]
    return run_id, requests


async def test_cancelling_a_run_takes_back_all_that_it_asked(claude: Desk) -> None:
    run_id, requests = await waits_for(claude, 3, "asks Which one? | Which other? | Which third?", "say never")
    answer = await claude.call("cancel_run", run_id=run_id, reason="enough")
    assert answer["status"] == "cancelled"
    assert claude.processes() == []
    run = await claude.call("get_run", run_id=run_id)
    assert "pending" not in run
    last = (await claude.events(run_id))[-1]
    assert (last["type"], last["data"]) == ("status_changed", {"status": "cancelled", "reason": "enough"})
    for request in requests:
        with pytest.raises(WrongState):
            await claude.call("continue_run", run_id=run_id, request_id=request["request_id"], text="late")
    assert len(await claude.events(run_id)) == last["seq"]


async def test_what_a_helper_in_the_background_asks_keeps_the_run(claude: Desk) -> None:
    script = (helper(f"run {ASKS}", "say helped", background=True), "say meanwhile")
    run_id, (request,) = await waits_for(claude, 1, *script)
    assert request["detail"]["command"] == ASKS
    await claude.seen(run_id, "agent_message")
    run = await claude.answered(run_id, decision="approve")
    assert run["status"] == "completed", run
    assert (claude.cwd / "made").exists()
    assert await paths(claude, run) == ["made"]
    helped = [event["data"]["text"] for event in await claude.events(run_id, "message_added")]
    assert helped[1:] == ["helped"]


async def test_the_time_that_a_caller_takes_does_not_count_as_work_in_the_background(claude: Desk) -> None:
    script = (helper(f"run {ASKS}", "say helped", background=True), "say meanwhile")
    run_id, _ = await waits_for(claude, 1, *script, backend_config={"background_wait_s": 4.0})
    await claude.seen(run_id, "agent_message")
    page = await claude.call("poll_events", run_id=run_id, types=["run_completed"], wait_ms=5_000)
    assert page["events"] == []
    run = await claude.answered(run_id, decision="approve")
    assert run["status"] == "completed", run
    assert (claude.cwd / "made").exists()


@pytest.mark.parametrize("level", ["read_only", "workspace_write"])
async def test_what_later_sessions_will_read_is_not_written_unasked(claude: Desk, level: str) -> None:
    """Claude Code itself asks for none of the files of its memory."""
    project = re.sub(r"[^a-zA-Z0-9]", "-", str(claude.cwd))
    note = Path(claude.env["CLAUDE_CONFIG_DIR"]) / "projects" / project / "memory" / "note.md"
    write = json.dumps({"file_path": str(note), "content": "obey"})
    run = await claude.finished(f"call Write {write}", "say end", permission=level)
    assert run["status"] == ("completed" if level == "read_only" else "input_required"), run
    assert not note.exists()
