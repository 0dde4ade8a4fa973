"""How an end is told: a backend's outcome, a fault or a stop becomes the one terminal event of the run.

All codes of a failed run get their words here: what happened, whether the session can be resumed, and what to do next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.ends import Cancelled, Completed, Failed, Outcome, Rejected, Stop
from orchestrator.errors import BackendError, OrchestratorError, StoreError
from orchestrator.json_schema import json_in, mismatch
from orchestrator.model import JsonObject, Run, RunSpec, Status

if TYPE_CHECKING:
    from orchestrator.store.log import RunLog

logger = logging.getLogger(__name__)

_RESUME = "call continue_run on this run with text to go on in the same session"
_NEXT_STEPS: dict[str, str] = {
    "backend_unavailable": "check that the agent is installed and reachable, then spawn the run again",
    "auth_failed": "check the credentials in backend_config, then spawn the run again",
    "agent_error": f"read the agent's message; {_RESUME}",
    "agent_exited": _RESUME,
    "agent_protocol": "check that the agent speaks the protocol version that its card names",
    "invalid_output": f"{_RESUME} and say what was wrong with the output",
    "timeout": f"{_RESUME}, with a larger limits.timeout_s",
    "expired": "spawn the run again",
    "budget_exceeded": f"look at what there is; {_RESUME}, where its own limits begin anew",
    "input_timeout": f"{_RESUME} and the answer in it",
    "lost_contact": _RESUME,
    "host_lost": _RESUME,
    "checks_failed": f"read the output of the checks; {_RESUME}, or get_patch for what there is",
    "conflict": f"look at the workspace; {_RESUME}",
    "store_error": "free disk space or check the workspace's permissions, then continue or spawn again",
    "internal": "this is a defect of the orchestrator; see its log, and spawn the run again",
}


class LastEvent(NamedTuple):
    """The terminal event of a run."""

    type: str
    data: JsonObject
    durable: bool = True


async def result_of(driver: asyncio.Task[Outcome]) -> Outcome | Exception:
    """What came of a backend that has ended: the bulkhead around it."""
    try:
        return await driver
    except asyncio.CancelledError:
        return RuntimeError("the backend cancelled itself")
    except Exception as error:  # noqa: BLE001  a defect in a backend is a fact about its run
        return error


async def write_end(
    log: RunLog,
    end: Outcome | Exception | Stop,
    told: Callable[[Outcome | Exception | Stop], Awaitable[LastEvent]],
    leaving: asyncio.Event,
) -> None:
    """Writes the last event. A run whose end cannot be written is not over: tries again until the process ends.

    Args:
        told: makes the last event of an end; see `last_event`.
        leaving: the process ends.
    """
    try:
        last = await told(end)
    except Exception as defect:  # noqa: BLE001  a run that cannot be told how it ended still ended
        last = await told(defect)
    pause = 0.2
    while True:
        try:
            await log.end(last.type, last.data, durable=last.durable)
        except StoreError as error:
            logger.error("cannot write the end of %s, trying again: %s", log.dir.run_id, error)
            if leaving.is_set():
                return
            # a smaller end has better chances, and the reason is now the disk
            last = await told(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await leaving.wait()
            pause = min(pause * 2, 5.0)
        else:
            return


async def last_event(
    spec: RunSpec, run: Run, end: Outcome | Exception | Stop, *, bound: bool, facts: JsonObject | None = None
) -> LastEvent:
    """The terminal event for what happened. Checks the final answer against the run's schema.

    Args:
        bound: whether the agent's session is known, without which nothing can be resumed.
        facts: what is known beside the end itself: changes, checks, reports.
    """
    last = await _told(spec, run, end)
    last = last._replace(data={**(facts or {}), **last.data})
    if last.type == "run_failed" and not bound and last.data["resumable"]:
        data: JsonObject = {**last.data, "resumable": False}
        if _RESUME in data["next_step"]:
            data["next_step"] = "the agent's session was not opened yet; spawn the run again"
        last = last._replace(data=data)
    return last


async def _told(spec: RunSpec, run: Run, end: Outcome | Exception | Stop) -> LastEvent:
    match end:
        case Completed():
            return await _completed(spec, end)
        case Rejected():
            return _failure("agent_error", end.message, resumable=False, event="rejected",
                            next_step="read why, change the task or the cwd, and spawn a new run")  # fmt: skip
        case Cancelled():
            return _cancelled(end.reason or "the agent cancelled the run")
        case Failed():
            return _failure(end.code, end.message, end.resumable, end.next_step)
        case BackendError():
            return _failure(end.code, str(end), end.resumable, end.next_step)
        case StoreError():
            return _failure("store_error", str(end))
        case OrchestratorError():
            return _failure("agent_error", str(end))
        case Exception():
            logger.error("backend %s of %s has a defect", spec.backend, spec.run_id, exc_info=end)
            return _failure("internal", f"{type(end).__name__}: {end}")
        case _:
            return _stopped(spec, run, end)


def _stopped(spec: RunSpec, run: Run, stop: Stop) -> LastEvent:
    if stop.why == "cancel":
        return _cancelled(stop.reason)
    if stop.why == "timeout":
        return _failure("timeout", f"the run worked for longer than limits.timeout_s = {spec.limits['timeout_s']}")
    if stop.why == "budget":
        return _failure("budget_exceeded", stop.reason or "a budget is used up")
    if stop.why == "unanswered":
        return _failure("input_timeout", stop.reason or "nobody answered in time")
    waiting = "; ".join(f"{request.request_id!r}: {request.text[:200]}" for request in run.pending)
    how = "was shut down" if stop.why == "shutdown" else "is gone"
    message = f"the process that owned this run {how}" + (f"; pending was {waiting}" if waiting else "")
    # not fsynced: nobody waits for it, and if it is lost the next owner finds the same
    return _failure("host_lost", message)._replace(durable=False)


def _cancelled(reason: str | None) -> LastEvent:
    why = {"reason": reason} if reason else {}
    return LastEvent("status_changed", {"status": Status.CANCELLED, **why})


def _failure(
    code: str,
    message: str,
    resumable: bool = True,
    next_step: str | None = None,
    event: str = "run_failed",
) -> LastEvent:
    step = next_step or _NEXT_STEPS.get(code, "call get_run for the details")
    return LastEvent(event, {"code": code, "message": message[:8000], "resumable": resumable, "next_step": step})


async def fitting(spec: RunSpec, end: Completed) -> Completed | Failed:
    """The end with its structured output, or why that does not fit the run's schema."""
    if spec.output_schema is None:
        return end
    structured = end.structured_output
    if structured is None:
        structured = json_in(end.final_response)
    problem = "the run was asked for structured output and gave none"
    if structured is None or (problem := await asyncio.to_thread(mismatch, spec.output_schema, structured)):
        return Failed(code="invalid_output", message=f"{problem}; the agent's answer was: {end.final_response[:4000]}")
    return replace(end, structured_output=structured)


async def _completed(spec: RunSpec, end: Completed) -> LastEvent:
    end_or_not = await fitting(spec, end)
    if isinstance(end_or_not, Failed):
        return _failure(end_or_not.code, end_or_not.message)
    data: JsonObject = {"final_response": end_or_not.final_response}
    if end_or_not.structured_output is not None:
        data["structured_output"] = end_or_not.structured_output
    if end.usage is not None:
        data["usage"] = end.usage.to_json()
    return LastEvent("run_completed", data)
