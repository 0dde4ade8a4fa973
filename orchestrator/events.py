"""What happened in a run, and what a run is after it happened.

An `Event` is what the log holds: an update of a backend (`orchestrator.updates`) with its envelope, or one of the
engine's own. `fold` is the only place where a run's state is derived from events; the store's reader, the engine and
every door use it. Pure: imports the model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.model import TERMINAL, Failure, InputRequest, JsonObject, Message, Run, Status, Usage

SUMMARY_CHARS = 200


@dataclass(frozen=True, slots=True)
class Event:
    """One line of `events.jsonl`. `seq` counts 1, 2, 3 without gaps; `ts` is UTC; absent values are absent."""

    seq: int
    ts: str
    type: str
    data: JsonObject


def message_added(message: Message, request_id: str | None = None) -> JsonObject:
    """The data of `message_added`: what was sent to the agent, with the request that it answers."""
    data: JsonObject = {"role": message.role, "text": message.text}
    if any(part.get("type") != "text" for part in message.parts):
        data["parts"] = message.parts
    return data if request_id is None else {**data, "request_id": request_id}


def waiting_status(pending: tuple[InputRequest, ...]) -> Status:
    """The status that goes with what is pending: a login wins over a question, nothing pending is `running`."""
    if not pending:
        return Status.RUNNING
    waits = {request.waiting for request in pending}
    return Status.AUTH_REQUIRED if Status.AUTH_REQUIRED in waits else Status.INPUT_REQUIRED


def fold(run: Run, event: Event) -> Run:
    """The run after the event. Types that are not in the table only move `last_seq` and `updated_at`."""
    step = _STEPS.get(event.type)
    if step is None:
        return run.evolve(last_seq=event.seq, updated_at=event.ts)
    changes = step(run, event)
    if changes.get("status") in TERMINAL:
        changes |= {"completed_at": event.ts, "pending": (), "detail": None}
    return run.evolve(last_seq=event.seq, updated_at=event.ts, **changes)


def concerns_fold(event_type: str) -> bool:
    """Whether `fold` looks at the data of such events. A reader need not parse the others."""
    return event_type in _STEPS


def clip_line(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: SUMMARY_CHARS * 8].split())
    return line if len(line) <= SUMMARY_CHARS else line[: SUMMARY_CHARS - 1] + "…"


def _run_started(run: Run, event: Event) -> JsonObject:
    data = event.data
    return {
        "status": Status.RUNNING,
        "detail": None,
        "started_at": event.ts,
        "native_session_id": data.get("native_session_id"),
        "permission_enforced": data.get("permission_enforced"),
        "workspace": data.get("workspace"),
    }


def _status_changed(run: Run, event: Event) -> JsonObject:
    data = event.data
    changes: JsonObject = {"status": Status(data["status"]), "detail": data.get("detail")}
    if used := data.get("usage"):
        changes["usage"] = Usage.from_json(used)
        if "detail" not in data:  # what it used says nothing of what it does
            del changes["detail"]
    if "remote_ref" in data:
        changes["remote_ref"] = data["remote_ref"]
    if resolved := data.get("resolved"):
        changes["pending"] = tuple(r for r in run.pending if r.request_id != resolved["request_id"])
    if progress := data.get("progress"):
        changes |= {"progress": progress, "summary": clip_line(_in_words(progress))}
    if changes["status"] in TERMINAL:
        changes |= _known(run, event)
        changes["summary"] = clip_line(data.get("reason") or run.summary)
    return changes


def _in_words(progress: JsonObject) -> str:
    percent = progress.get("percent")
    return str(progress["text"]) if percent is None else f"{percent:g} %: {progress['text']}"


def _agent_message(run: Run, event: Event) -> JsonObject:
    return {"summary": clip_line(event.data.get("text") or "") or run.summary}


def _asked(run: Run, event: Event) -> JsonObject:
    refs: Mapping[str, Any] = event.data.get("artifact_refs", {})
    clipped = [pointer.removeprefix("/request") for pointer in refs if pointer.startswith("/request/")]
    request = replace(InputRequest.from_json(event.data["request"]), seq=event.seq, clipped=clipped or None)
    others = tuple(r for r in run.pending if r.request_id != request.request_id)
    pending = (*others, request)
    return {"status": waiting_status(pending), "pending": pending}


_ANSWER = ("final_response", "structured_output", "usage")
_FACTS = ("changes", "verification", "acceptance", "reports", "deliverables", "notices")
"""What is known of an end beside the agent's answer; of a run that failed, too."""


def _result(data: JsonObject, seq: int, keys: tuple[str, ...]) -> JsonObject:
    """What a run came to, with references to what is stored apart."""
    refs: Mapping[str, Any] = data.get("artifact_refs", {})
    whole = {f"{pointer[1:]}_ref": {"seq": seq, **ref} for pointer, ref in refs.items() if pointer[1:] in keys}
    return {key: data[key] for key in keys if key in data} | whole


def _known(run: Run, event: Event) -> JsonObject:
    """What a run came to that was not completed: its place, and what it leaves."""
    result = _result(event.data, event.seq, ("final_response", *_FACTS))
    usage = Usage.from_json(used) if (used := event.data.get("usage")) else run.usage
    return {"result": result or None, "workspace": event.data.get("workspace", run.workspace), "usage": usage}


def _run_completed(run: Run, event: Event) -> JsonObject:
    data = event.data
    return {
        "status": Status.COMPLETED,
        "result": _result(data, event.seq, (*_ANSWER, *_FACTS)),
        "summary": clip_line(data.get("final_response") or "") or run.summary,
        "workspace": data.get("workspace", run.workspace),
        "usage": Usage.from_json(used) if (used := data.get("usage")) else run.usage,
    }


def _run_failed(run: Run, event: Event) -> JsonObject:
    error = Failure.from_json(event.data)
    status = Status.REJECTED if event.type == "rejected" else Status.FAILED
    return {"status": status, "error": error, "summary": clip_line(error.message), **_known(run, event)}


_STEPS: dict[str, Callable[[Run, Event], JsonObject]] = {
    "run_started": _run_started,
    "status_changed": _status_changed,
    "agent_message": _agent_message,
    "input_required": _asked,
    "auth_required": _asked,
    "run_completed": _run_completed,
    "run_failed": _run_failed,
    "rejected": _run_failed,
}
