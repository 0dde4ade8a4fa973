"""What a run waits for: asking, answering once, expiring, withdrawing.

Used by one run's `Life`; the log records every step before anybody acts on it.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestrator.errors import (
    AlreadyAnswered,
    BackendError,
    Conflict,
    InvalidArgument,
    StoreError,
    WrongState,
    nearest,
)
from orchestrator.events import message_added, waiting_status
from orchestrator.model import Answer, InputRequest, JsonObject, Message, OnApproval, Resolution, Run, compact, now
from orchestrator.store.log import RunLog, uninterrupted
from orchestrator.store.masking import secrets_of

INPUT_TIMEOUT_S = 24 * 3600.0
CLAIM_S = 30.0
"""How long an answer that came just before its expiry may take to be recorded."""
ID_CHARS = 200


@dataclass(slots=True)
class _Open:
    request: InputRequest
    answer: asyncio.Future[Answer]
    claimed: bool = False
    """Somebody is resolving it: nobody else may."""
    waiters: int = 0
    """How many of the agent's tasks wait for the answer; the last one to go away withdraws the request."""


class Requests:
    """The pending requests of one run.

    Args:
        timeout_s: how long the caller may take for each answer.
    """

    def __init__(self, log: RunLog, on_approval: OnApproval, timeout_s: float) -> None:
        self._log = log
        self._on_approval = on_approval
        self._timeout_s = timeout_s
        self._resolved: set[str] = set()
        loop = asyncio.get_running_loop()
        # what an earlier owner of the run had asked: it can be answered, even before the agent asks for it again
        self._open = {request.request_id: _Open(request, loop.create_future()) for request in log.run.pending}
        self._inherited = dict(self._open)

    async def ask(self, request: InputRequest) -> Answer:
        """See `RunContext.ask`."""
        if len(request.request_id) > ID_CHARS:  # the log would preview it, and nobody could name it
            request = replace(request, request_id=hashlib.sha256(request.request_id.encode()).hexdigest())
        if request.kind == "approval" and self._on_approval != "ask":
            decision = "approve" if self._on_approval == "allow" else "deny"
            outcome: Resolution = "answered" if decision == "approve" else "denied"
            await self._record(request.request_id, outcome, decision, detail=f"on_approval: {self._on_approval}")
            return Answer(decision=decision)
        timeout_s = self._timeout_s
        if entry := self._inherited.pop(request.request_id, None):
            timeout_s = _seconds_until(entry.request.expires_at, timeout_s)
        elif (entry := self._open.get(request.request_id)) is None:
            entry = await self._announce(request)
        entry.waiters += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(entry.answer)
        except TimeoutError:
            return await self._expire(entry)
        except asyncio.CancelledError:
            if not entry.claimed and entry.waiters == 1:
                entry.claimed = True
                await self._close(entry, "withdrawn")
            raise
        finally:
            entry.waiters -= 1

    async def _announce(self, request: InputRequest) -> _Open:
        request = replace(request, expires_at=now(self._timeout_s))
        entry = _Open(request, asyncio.get_running_loop().create_future())
        self._open[request.request_id] = entry
        try:
            await self._log.append(request.waiting.value, {"request": request.to_json()}, durable=True)
        except asyncio.CancelledError:
            if not entry.claimed:  # written all the same, so it is taken back
                entry.claimed = True
                await self._close(entry, "withdrawn")
            raise
        except BaseException:
            self._open.pop(request.request_id, None)
            raise
        return entry

    async def _expire(self, entry: _Open) -> Answer:
        if entry.claimed:  # an answer came in the same moment, or another who waits for it expires it
            await asyncio.wait({entry.answer}, timeout=CLAIM_S)
            if entry.answer.done():
                return entry.answer.result()
        entry.claimed = True
        if entry.request.kind == "approval":
            await self._close(entry, "expired", "deny")
            entry.answer.set_result(Answer(decision="deny", message=Message.of_text("nobody answered in time")))
        else:
            await self._close(entry, "expired")
            entry.answer.set_exception(
                BackendError(
                    "input_timeout",
                    f"nobody answered {entry.request.request_id!r} within {self._timeout_s:g} s: "
                    f"{entry.request.text[:200]}",
                    next_step="call continue_run with the answer as text to go on in the same session",
                )
            )
        return entry.answer.result()

    def find(self, request_id: str | None) -> InputRequest:
        """The request that an answer is meant for; the only one pending if no id is given.

        Raises:
            Conflict: several are pending and none is named.
            AlreadyAnswered: it was resolved before.
            WrongState: nothing of that id was ever asked.
        """
        pending = [entry.request for entry in self._open.values() if not entry.claimed]
        if request_id is None:
            if len(pending) == 1:
                return pending[0]
            if not pending:
                raise AlreadyAnswered("nothing is pending any more; call get_run")
            names = "; ".join(f"{r.request_id!r} ({r.kind}: {r.text[:80]})" for r in pending)
            raise Conflict(f"several requests are pending, name one by request_id: {names}")
        for request in pending:
            if request.request_id == request_id:
                return request
        if request_id in self._resolved or request_id in self._open:
            raise AlreadyAnswered(f"request {request_id!r} was resolved before; nothing was changed")
        raise WrongState(f"no request {request_id!r} is pending{nearest(request_id, [r.request_id for r in pending])}")

    async def answer(self, request: InputRequest, answer: Answer) -> None:
        """Resolves a request. Returns once it is in the log; the agent goes on from there.

        Raises:
            InvalidArgument: the answer does not fit the request; nothing was changed.
            AlreadyAnswered: somebody was faster.
        """
        check_answer(request, answer)
        entry = self._open.get(request.request_id)
        if entry is None or entry.claimed:
            raise AlreadyAnswered(f"request {request.request_id!r} was resolved before; nothing was changed")
        entry.claimed = True
        await uninterrupted(self._give(entry, answer))

    async def _give(self, entry: _Open, answer: Answer) -> None:
        """Records a claimed answer and hands it to the agent. Both or nothing, whatever becomes of the caller."""
        request_id = entry.request.request_id
        self._log.hide(secrets_of(answer.backend_config, {}))
        outcome: Resolution = "denied" if answer.decision == "deny" else "answered"
        try:
            if answer.message:
                await self._log.append("message_added", message_added(answer.message, request_id))
            await self._close(entry, outcome, answer.decision)
        except StoreError as error:
            entry.claimed = request_id not in self._open
            if entry.claimed:
                raise WrongState("the run ended in the same moment; call get_run") from error
            raise
        if not entry.answer.done():
            entry.answer.set_result(answer)

    async def _close(self, entry: _Open, outcome: Resolution, decision: str | None = None) -> None:
        await self._record(entry.request.request_id, outcome, decision)
        self._open.pop(entry.request.request_id, None)
        self._resolved.add(entry.request.request_id)

    async def _record(
        self, request_id: str, outcome: Resolution, decision: str | None, detail: str | None = None
    ) -> None:
        resolved = compact({"request_id": request_id, "outcome": outcome, "decision": decision})

        def data(run: Run) -> JsonObject:
            left = tuple(request for request in run.pending if request.request_id != request_id)
            return compact({"status": waiting_status(left), "resolved": resolved, "detail": detail})

        await self._log.append("status_changed", data, durable=True)

    def abandon(self) -> None:
        """The run is being ended: from now on nothing can be answered, and nothing more is recorded."""
        for request_id, entry in self._open.items():
            entry.claimed = True
            self._resolved.add(request_id)
        self._open.clear()


def _seconds_until(expires_at: str | None, at_most: float) -> float:
    """How long an inherited request may still wait. By the clock on the wall, for another process asked it."""
    if expires_at is None:
        return at_most
    left = (datetime.fromisoformat(expires_at) - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), at_most)


def check_answer(request: InputRequest, answer: Answer) -> None:
    """Refuses an answer that the request cannot take.

    Raises:
        InvalidArgument: with what it can take.
    """
    options = [str(option["id"]) for option in request.options or []]
    decision = answer.decision
    if request.kind == "approval":
        known = list(dict.fromkeys(("approve", "deny", *options)))
        if decision is None:
            raise InvalidArgument(f"{request.request_id!r} is an approval; pass decision: {' | '.join(known)}")
        if decision not in known:
            raise InvalidArgument(f"no decision {decision!r} here{nearest(decision, known)}")
        return
    if decision is not None and decision not in ("deny", *options):
        if request.kind == "auth" and decision == "approve":
            return
        known = f"one of its options ({', '.join(options)})" if options else "text"
        raise InvalidArgument(f"{request.request_id!r} is no approval; answer it with {known}, or decision 'deny'")
    if decision is None and answer.message is None and not answer.backend_config:
        raise InvalidArgument(f"{request.request_id!r} needs an answer; pass text, input_message or decision")
