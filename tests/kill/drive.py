"""The callers of the runs: they spawn, follow, answer, cancel, steer and resume, and write down what they were told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from orchestrator.model import TERMINAL, JsonObject
from tests.kill.arena import LOST_CONTACT_S, Arena
from tests.kill.client import Refused, Seat
from tests.kill.ledger import Promise
from tests.kill.plans import Plan

REST_S = 30.0
"""How long a run may take until it is over: its own work takes two seconds."""
POLL_MS = 3_000


@dataclass(slots=True)
class Told:
    """What its caller was told of a run.

    Attributes:
        attempts: by request id, the answers that were given; nobody knows whether those were taken that were not
            acknowledged.
        taken: by request id, the answer that was acknowledged.
        tried: how often it was tried to cancel or steer it.
        commanded: whether its cancellation or steering was acknowledged.
        late: runs that came of steering when the run was over, which resumes its session.
    """

    plan: Plan
    run_id: str = ""
    session_id: str = ""
    agent_name: str = ""
    agent_url: str = ""
    status: str = ""
    events: dict[int, JsonObject] = field(default_factory=dict[int, JsonObject])
    attempts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    taken: dict[str, str] = field(default_factory=dict[str, str])
    tried: int = 0
    commanded: bool = False
    late: list[Told] = field(default_factory=list["Told"])

    @property
    def over(self) -> bool:
        """Whether it was told to be over."""
        return self.status in TERMINAL


class Heard:
    """Counts what callers are told, so that a kill can come in the midst of it."""

    def __init__(self) -> None:
        self.count = 0
        self._marks: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, count: int = 1) -> None:
        """So much more was told."""
        self.count += count
        for mark, future in self._marks:
            if self.count >= mark and not future.done():
                future.set_result(None)

    async def reach(self, mark: int) -> None:
        """Returns when as much as this was told."""
        future = asyncio.get_running_loop().create_future()
        self._marks.append((mark, future))
        self.add(0)
        await future


class Caller:
    """Plays one plan on one seat."""

    def __init__(self, arena: Arena, seat: Seat, heard: Heard, rng: Random) -> None:
        self._arena = arena
        self._ledger = arena.ledger
        self._seat = seat
        self._heard = heard
        self._rng = rng

    async def play(self, told: Told, after: asyncio.Future[str] | None, session: asyncio.Future[str]) -> None:
        """A whole run, to its rest.

        Args:
            after: the session in which it is queued, once that is known.
            session: gets its own one; an empty one if there never was any.
        """
        try:
            async with asyncio.timeout(REST_S):
                await self._spawn(told, await after if after is not None else None)
                session.set_result(told.session_id)
                await self.follow(told)
                for late in told.late:
                    await self.follow(late)
        except Refused as refused:
            self._ledger.check(Promise.TRUTH, False, f"{told.run_id or told.plan.label}: {refused}")
        except TimeoutError:
            pass  # the oracle looks at what became of it
        finally:
            if not session.done():
                session.set_result("")

    async def _spawn(self, told: Told, session_id: str | None) -> None:
        plan = told.plan
        arguments: JsonObject = {"cwd": str(self._arena.cwd), "prompt": plan.prompt, "role": plan.label}
        arguments["backend"] = "remote_a2a" if plan.remote else "scripted"
        if plan.remote:
            told.agent_url = self._arena.agent_url
            arguments["backend_config"] = {"agent_url": told.agent_url, "lost_contact_s": LOST_CONTACT_S}
        if plan.keyed:
            arguments["idempotency_key"] = plan.label
        if session_id is not None:
            arguments |= {"session_mode": "resume", "session_id": session_id}
        document = await self._seat.command("spawn_run", **arguments)
        while document is None:
            document = await self._found(plan) or await self._seat.command("spawn_run", **arguments)
        self.note_spawn(told, document)

    async def _found(self, plan: Plan) -> JsonObject | None:
        """A run without a key is looked for before it is asked for again, as the refusal says."""
        if plan.keyed:
            return None
        rows = (await self._seat.read("list_runs", role=plan.label))["runs"]
        return await self._seat.read("get_run", run_id=rows[0]["run_id"]) if rows else None

    def note_spawn(self, told: Told, document: JsonObject) -> None:
        """Writes down that a run was promised."""
        told.run_id = document["run_id"]
        told.session_id = document.get("session_id", told.session_id)
        told.agent_name = document.get("agent_name", told.agent_name)
        self._heard.add()

    async def follow(self, told: Told) -> None:
        """Reads the events of a run to the last one, and does what its plan wants meanwhile."""
        after = 0
        while True:
            page = await self._seat.read(
                "poll_events", run_id=told.run_id, after_seq=after, limit=1000, wait_ms=POLL_MS, max_chars=200_000
            )
            for event in page["events"]:
                told.events[event["seq"]] = event
            after = page["next_after_seq"]
            told.status = page["status"]
            self._heard.add(len(page["events"]))
            if told.over and not page["has_more"]:
                return
            for request in page.get("pending", ()):
                await self._answer(told, request)
            await self._act(told)

    async def _answer(self, told: Told, request: JsonObject) -> None:
        name = request["request_id"]
        if name in told.taken:
            self._ledger.check(
                Promise.ANSWERS,
                False,
                f"{told.run_id}: {name!r} was answered with {told.taken[name]!r}, and waits again",
            )
            return
        attempts = told.attempts.setdefault(name, [])
        answer: JsonObject
        if "options" in request:
            answer = {"decision": self._rng.choice([str(option["id"]) for option in request["options"]])}
        else:
            answer = {"text": f"{told.plan.label} answer {name} {len(attempts)}"}
        words = str(next(iter(answer.values())))
        attempts.append(words)
        document = await self._command(told, "continue_run", request_id=name, **answer)
        if document and document["mode"] == "answer":
            told.taken[name] = words

    async def _act(self, told: Told) -> None:
        """Cancels or steers a run that is to be, once it has begun."""
        begun = any(event["type"] == "agent_message" for event in told.events.values())
        if told.plan.kind == "work" or told.commanded or not begun or told.over:
            return
        told.tried += 1
        if told.plan.kind == "cancel":
            document = await self._command(told, "cancel_run")
            told.commanded = document is not None and document["status"] == "cancelled"
            return
        late = Told(Plan(f"{told.plan.label}-late-{told.tried}", told.plan.remote))
        document = await self._command(told, "continue_run", text=late.plan.prompt)
        if document is None:
            return
        if document["mode"] == "resume":
            self.note_spawn(late, document)
            told.late.append(late)
        told.commanded = document["mode"] == "steer"

    async def _command(self, told: Told, tool: str, **arguments: Any) -> JsonObject | None:
        """A command that may come too late: the run moved on, or ended."""
        try:
            document = await self._seat.command(tool, run_id=told.run_id, **arguments)
        except Refused as refused:
            if refused.code not in ("already_answered", "wrong_state"):
                raise
            return None
        self._heard.add()
        return document
