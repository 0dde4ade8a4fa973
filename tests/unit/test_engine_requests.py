"""Requests from both sides, and the words of every end."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.backend import RunContext
from orchestrator.ends import Cancelled, Completed, Failed, Outcome, Rejected
from orchestrator.engine.life import Stop
from orchestrator.engine.outcome import last_event
from orchestrator.engine.requests import check_answer
from orchestrator.errors import (
    AlreadyAnswered,
    BackendError,
    Conflict,
    InvalidArgument,
    StoreError,
    Unsupported,
    WrongState,
)
from orchestrator.model import Answer, InputRequest, JsonObject, Message, RequestKind, Run, Usage
from orchestrator.updates import AgentMessage, Started
from tests.unit.agents import Agent, Desk, desk, nothing
from tests.unit.runs import spec_in


def request(request_id: str = "r1", kind: RequestKind = "question", *options: str) -> InputRequest:
    choices: list[JsonObject] = [{"id": option, "label": option} for option in options]
    return InputRequest(request_id=request_id, kind=kind, text=f"about {request_id}?", options=choices or None)


def asking(*requests: InputRequest) -> Agent:
    """An agent that asks all at once and says what it was answered."""

    async def act(ctx: RunContext) -> Outcome:
        await ctx.emit(Started())
        answers = await asyncio.gather(*(ctx.ask(request) for request in requests))
        said = [f"{a.decision}/{a.message.text if a.message else None}/{a.backend_config}" for a in answers]
        return Completed(final_response=" ".join(said))

    return Agent(act)


async def both_pending(tools: Desk, run_id: str) -> None:
    """Waits until both requests of a run are in its log: the first events are its start and its prompt."""
    await tools.call("poll_events", run_id=run_id, types=["input_required"], after_seq=3)


async def test_a_request_says_until_when_it_waits(cwd: Path) -> None:
    async with desk(cwd, asking(request())) as tools:
        run_id = await tools.spawn(limits={"input_timeout_s": 7200})
        (shown,) = (await tools.settled(run_id))["pending"]
        (event,) = tools.events(run_id, "input_required")
        until = datetime.fromisoformat(shown["expires_at"]) - datetime.fromisoformat(event.ts)
        assert timedelta(hours=1) < until <= timedelta(hours=2)
        assert shown["expires_at"].endswith("Z")
        await tools.call("cancel_run", run_id=run_id)


async def test_an_answer_in_words_is_told_with_its_request_before_the_run_goes_on(cwd: Path) -> None:
    async with desk(cwd, asking(request())) as tools:
        run_id = await tools.spawn()
        await tools.settled(run_id)
        await tools.call("continue_run", run_id=run_id, text="red", backend_config={"auth_token": "w0rd-0f-m0uth"})
        run = await tools.over(run_id)
        asked, said, resolved, _ = tools.events(run_id)[2:]
    assert asked.data["request"]["request_id"] == "r1"
    assert (said.type, said.data) == ("message_added", {"role": "user", "text": "red", "request_id": "r1"})
    assert resolved.data == {"status": "running", "resolved": {"request_id": "r1", "outcome": "answered"}}
    assert run["result"]["final_response"] == "None/red/{'auth_token': '***'}"


@pytest.mark.parametrize(
    ("kind", "decision", "outcome"),
    [("approval", "approve", "answered"), ("approval", "deny", "denied"), ("question", "deny", "denied")],
)
async def test_a_decision_is_recorded_as_what_it_is(cwd: Path, kind: RequestKind, decision: str, outcome: str) -> None:
    async with desk(cwd, asking(request("r1", kind))) as tools:
        run_id = await tools.spawn()
        await tools.settled(run_id)
        await tools.call("continue_run", run_id=run_id, decision=decision)
        await tools.over(run_id)
        assert tools.resolved(run_id) == [{"request_id": "r1", "outcome": outcome, "decision": decision}]


@pytest.mark.parametrize(
    ("policy", "decision", "outcome"), [("allow", "approve", "answered"), ("deny", "deny", "denied")]
)
async def test_a_policy_is_recorded_with_its_name(cwd: Path, policy: str, decision: str, outcome: str) -> None:
    async with desk(cwd, asking(request("r1", "approval"))) as tools:
        run = await tools.finished(on_approval=policy)
        (event,) = tools.events(run["run_id"], "status_changed")
    assert event.data == {
        "status": "running",
        "resolved": {"request_id": "r1", "outcome": outcome, "decision": decision},
        "detail": f"on_approval: {policy}",
    }


async def test_an_approval_that_expires_is_a_denial_for_the_agent_and_the_log(cwd: Path) -> None:
    async with desk(cwd, asking(request("r1", "approval"))) as tools:
        run = await tools.over(await tools.spawn(limits={"input_timeout_s": 0.05}))
        assert tools.resolved(run["run_id"]) == [{"request_id": "r1", "outcome": "expired", "decision": "deny"}]
    assert run["result"]["final_response"] == "deny/nobody answered in time/{}"


async def test_a_question_that_expires_is_told_in_the_end_of_its_run(cwd: Path) -> None:
    async with desk(cwd, asking(request())) as tools:
        run = await tools.over(await tools.spawn(limits={"input_timeout_s": 0.05}))
        assert tools.resolved(run["run_id"]) == [{"request_id": "r1", "outcome": "expired"}]
    assert run["error"]["message"] == "nobody answered 'r1' within 0.05 s: about r1?"


async def test_a_request_that_the_agent_takes_back_is_withdrawn_and_the_run_goes_on(cwd: Path) -> None:
    back, go = asyncio.Event(), asyncio.Event()

    async def act(ctx: RunContext) -> Outcome:
        await ctx.emit(Started())
        asks = [asyncio.ensure_future(ctx.ask(request(name))) for name in ("r1", "r2")]
        await back.wait()
        for ask in asks:
            ask.cancel()
            await asyncio.wait([ask])
        await ctx.emit(AgentMessage(text="never mind"))
        await go.wait()
        return Completed(final_response="")

    async with desk(cwd, Agent(act)) as tools:
        run_id = await tools.spawn()
        await both_pending(tools, run_id)
        back.set()
        await tools.call("poll_events", run_id=run_id, types=["agent_message"])
        assert tools.resolved(run_id) == [{"request_id": name, "outcome": "withdrawn"} for name in ("r1", "r2")]
        told = tools.events(run_id, "status_changed")
        assert [event.data["status"] for event in told] == ["input_required", "running"]
        with pytest.raises(WrongState, match=r"no request 'r3'|call get_run"):
            await tools.call("continue_run", run_id=run_id, request_id="r3", text="x")
        with pytest.raises(AlreadyAnswered, match="'r1' was resolved before"):
            await tools.call("continue_run", run_id=run_id, request_id="r1", text="x")
        go.set()
        assert (await tools.over(run_id))["status"] == "completed"


async def test_a_request_that_is_asked_twice_is_one_with_one_answer_for_both(cwd: Path) -> None:
    async with desk(cwd, asking(request(), request())) as tools:
        run_id = await tools.spawn()
        (pending,) = (await tools.settled(run_id))["pending"]
        assert pending["request_id"] == "r1"
        await tools.call("continue_run", run_id=run_id, text="both")
        run = await tools.over(run_id)
        assert len(tools.events(run_id, "input_required")) == 1
    assert run["result"]["final_response"] == "None/both/{} None/both/{}"


async def test_of_several_requests_one_is_named(cwd: Path) -> None:
    async with desk(cwd, asking(request("r1"), request("r2", "approval"))) as tools:
        run_id = await tools.spawn(limits={"timeout_s": 60})
        await both_pending(tools, run_id)
        with pytest.raises(Conflict, match=r"'r1' \(question: about r1\?\); 'r2' \(approval: about r2\?\)"):
            await tools.call("continue_run", run_id=run_id, text="x")
        await tools.call("continue_run", run_id=run_id, request_id="r2", decision="approve")
        assert (await tools.call("get_run", run_id=run_id))["status"] == "input_required"
        with pytest.raises(AlreadyAnswered):
            await tools.call("continue_run", run_id=run_id, request_id="r2", decision="deny")
        await tools.call("continue_run", run_id=run_id, text="now the only one")
        run = await tools.over(run_id)
    assert run["result"]["final_response"] == "None/now the only one/{} approve/None/{}"


WORDS = Message.of_text("because")
FITTING: list[tuple[InputRequest, Answer]] = [
    (request("r", "approval"), Answer(decision="approve")),
    (request("r", "approval"), Answer(decision="deny", message=WORDS)),
    (request("r", "approval", "always"), Answer(decision="always")),
    (request("r", "question"), Answer(message=WORDS)),
    (request("r", "question"), Answer(decision="deny")),
    (request("r", "question", "red"), Answer(decision="red")),
    (request("r", "input"), Answer(message=WORDS)),
    (request("r", "auth"), Answer(decision="approve")),
    (request("r", "auth"), Answer(backend_config={"auth_token": "new"})),
]
UNFIT: list[tuple[InputRequest, Answer, str]] = [
    (request("r", "approval"), Answer(message=WORDS), r"pass decision: approve \| deny$"),
    (request("r", "approval", "always"), Answer(), r"pass decision: approve \| deny \| always$"),
    (request("r", "approval"), Answer(decision="always"), "no decision 'always' here"),
    (request("r", "approval", "always"), Answer(decision="alwais"), "did you mean 'always'"),
    (request("r", "question"), Answer(decision="approve"), "answer it with text, or decision 'deny'"),
    (request("r", "question", "red", "blue"), Answer(decision="green"), r"one of its options \(red, blue\)"),
    (request("r", "auth"), Answer(decision="red"), "is no approval"),
    (request("r", "question"), Answer(), "needs an answer"),
]


@pytest.mark.parametrize(("asked", "given"), FITTING)
def test_an_answer_that_fits_is_taken(asked: InputRequest, given: Answer) -> None:
    check_answer(asked, given)


@pytest.mark.parametrize(("asked", "given", "words"), UNFIT)
def test_an_answer_that_does_not_fit_is_refused_with_what_would(asked: InputRequest, given: Answer, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_answer(asked, given)


RESUME = "call continue_run on this run with text to go on in the same session"
GONE = "the process that owned this run is gone"
ENDS: list[tuple[Outcome | Exception | Stop, str, JsonObject]] = [
    (Completed(final_response="x"), "run_completed", {"final_response": "x"}),
    (
        Completed(final_response="", structured_output=[], usage=Usage(input_tokens=1, output_tokens=2)),
        "run_completed",
        {"final_response": "", "structured_output": [], "usage": {"input_tokens": 1, "output_tokens": 2}},
    ),
    (Cancelled(), "status_changed", {"status": "cancelled", "reason": "the agent cancelled the run"}),
    (Cancelled(reason="late"), "status_changed", {"status": "cancelled", "reason": "late"}),
    (Stop("cancel"), "status_changed", {"status": "cancelled"}),
    (Stop("cancel", "enough"), "status_changed", {"status": "cancelled", "reason": "enough"}),
]
FAILURES: list[tuple[Outcome | Exception | Stop, str, str, bool, str]] = [
    (Rejected(message="no"), "agent_error", "no", False, "read why"),
    (Failed(code="agent_error", message="why"), "agent_error", "why", True, f"read the agent's message; {RESUME}"),
    (Failed(code="expired", message="why", resumable=False), "expired", "why", False, "spawn the run again"),
    (Failed(code="timeout", message="why", next_step="do so"), "timeout", "why", True, "do so"),
    (Failed(code="budget_exceeded", message="why"), "budget_exceeded", "why", True, "look at what there is"),
    (BackendError("auth_failed", "who?", resumable=False), "auth_failed", "who?", False, "check the credentials"),
    (BackendError("agent_exited", "gone", next_step="look"), "agent_exited", "gone", True, "look"),
    (StoreError("full"), "store_error", "full", True, "free disk space"),
    (Unsupported("cannot"), "agent_error", "cannot", True, "read the agent's message"),
    (KeyError("k"), "internal", "KeyError: 'k'", True, "this is a defect"),
    (RuntimeError("x" * 9000), "internal", "RuntimeError: " + "x" * 7986, True, "this is a defect"),
    (Stop("timeout"), "timeout", "the run worked for longer than limits.timeout_s = 5", True, RESUME),
    (Stop("lost"), "host_lost", GONE, True, RESUME),
]


@pytest.mark.parametrize(("end", "event", "data"), ENDS)
async def test_an_end_that_is_no_failure_is_told_whole(
    end: Outcome | Exception | Stop, event: str, data: JsonObject
) -> None:
    spec = spec_in(Path("/work"))
    last = await last_event(spec, Run.queued(spec), end, bound=False)
    assert (last.type, last.data, last.durable) == (event, data, True)


@pytest.mark.parametrize(("end", "code", "message", "resumable", "step"), FAILURES)
async def test_a_failure_says_what_happened_and_what_to_do(
    end: Outcome | Exception | Stop, code: str, message: str, resumable: bool, step: str
) -> None:
    spec = spec_in(Path("/work"), limits={"timeout_s": 5})
    last = await last_event(spec, Run.queued(spec), end, bound=True)
    assert last.type == ("rejected" if isinstance(end, Rejected) else "run_failed")
    assert (last.data["code"], last.data["message"], last.data["resumable"]) == (code, message, resumable)
    assert last.data["next_step"].startswith(step)
    assert last.durable is (code != "host_lost")
    lost = await last_event(spec, Run.queued(spec), end, bound=False)
    assert lost.data["resumable"] is False
    if resumable and RESUME in last.data["next_step"]:
        assert lost.data["next_step"] == "the agent's session was not opened yet; spawn the run again"
    else:
        assert lost.data["next_step"] == last.data["next_step"]


SCHEMA: JsonObject = {"type": "object", "required": ["n"], "properties": {"n": {"const": "```"}}}


@pytest.mark.parametrize(
    ("said", "schema", "told"),
    [
        ('{"n": "```"}', SCHEMA, {"n": "```"}),
        ('  {"n": "```"}\n', SCHEMA, {"n": "```"}),
        ('```json\n{"n": "```"}\n```', SCHEMA, {"n": "```"}),
        ('\n```\n{"n": "```"}\n```\n', SCHEMA, {"n": "```"}),
        ("[]", {"type": "array"}, []),
    ],
)
async def test_an_answer_is_structured_also_inside_a_fence(said: str, schema: JsonObject, told: object) -> None:
    spec = spec_in(Path("/work"), output_schema=schema)
    last = await last_event(spec, Run.queued(spec), Completed(final_response=said), bound=True)
    assert (last.type, last.data) == ("run_completed", {"final_response": said, "structured_output": told})


@pytest.mark.parametrize(
    ("said", "schema", "words"),
    [
        ("words", SCHEMA, "the run was asked for structured output and gave none; the agent's answer was: words"),
        ('{"n": 1}', SCHEMA, "the output does not match output_schema at $.n: '```' was expected"),
        ("{}", {"$ref": "http://127.0.0.1:1/schema"}, "output_schema refers to something it does not contain"),
    ],
)
async def test_an_answer_that_breaks_its_schema_is_a_failure_that_says_how(
    said: str, schema: JsonObject, words: str
) -> None:
    spec = spec_in(Path("/work"), output_schema=schema)
    last = await last_event(spec, Run.queued(spec), Completed(final_response=said), bound=True)
    assert (last.type, last.data["code"]) == ("run_failed", "invalid_output")
    assert last.data["message"].startswith(words)


async def test_an_answer_that_is_checked_fetches_nothing_from_the_network() -> None:
    callers: list[str] = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append("somebody")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        spec = spec_in(Path("/work"), output_schema={"$ref": f"http://127.0.0.1:{port}/schema"})
        last = await last_event(spec, Run.queued(spec), Completed(final_response="{}"), bound=True)
    assert last.data["code"] == "invalid_output"
    assert callers == []


async def test_a_request_that_is_shown_in_part_says_so(cwd: Path) -> None:
    async def act(ctx: RunContext) -> Outcome:
        command = "rm " + "x" * 30_000 + " && rm -rf /"
        await ctx.ask(InputRequest(request_id="r1", kind="approval", text="may I?", detail={"command": command}))
        return await nothing(ctx)

    async with desk(cwd, Agent(act)) as tools:
        run = await tools.settled(await tools.spawn())
        (request,) = run["pending"]
        assert request["clipped"] == ["/detail/command"]
        given = {"run_id": run["run_id"], "seq": request["seq"], "field_path": "/request/detail/command"}
        page = await tools.call("get_event_artifact", **given, limit=100_000)
        assert page["content"].endswith("&& rm -rf /")
        await tools.call("continue_run", run_id=run["run_id"], decision="deny")
