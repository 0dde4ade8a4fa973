"""What the next owner of a run needs to know of its past, from its log alone.

`RunSpec` says what was asked and the fold says how things stand; this says how far the work had come: whether the
agent may have seen the prompt, what of it was told, which answers were given, and how long it worked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import NamedTuple

from orchestrator.errors import StoreError
from orchestrator.events import Event, fold
from orchestrator.model import Answer, Attachment, JsonObject, Message, Run, RunSpec, Status
from orchestrator.store.artifacts import whole_data
from orchestrator.store.layout import RunDir
from orchestrator.store.log import RunLog
from orchestrator.store.masking import Mask, secrets_of
from orchestrator.store.reader import RunReader

WAITING_FOR_CLIENT = "waiting_for_client"
"""Detail of a recovered run that needs an environment: it goes on when a client at the same place says hello."""
REATTACHED = "reattached"
"""Detail by which a backend tells that it found its work again: something may be missing before it."""
CREDENTIALS = "credentials"
"""The request for what was lost with an earlier owner."""


class History(NamedTuple):
    """How far a run had come.

    Attributes:
        started: the agent may have had the prompt; otherwise the run can be started anew without harm.
        worked_s: seconds of work, without waiting for the caller.
    """

    started: bool
    worked_s: float
    attachment: Attachment


def history_of(run_dir: RunDir, *, attachable: bool) -> History:
    """Reads the log once. Blocks on the disk.

    Args:
        attachable: read it to its end, if the run had begun; otherwise only whether it had is wanted.

    Raises:
        StoreError: the log is damaged.
    """
    reader = RunReader(run_dir)
    try:
        with closing(reader.lines(0)) as lines:
            events = _as_far_as_needed((line.event() for line in lines), attachable)
            return told(Run.queued(reader.spec()), events, partial(whole_data, run_dir))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"the log of {run_dir.run_id} is damaged: {error!r}") from error


def _as_far_as_needed(events: Iterable[Event], attachable: bool) -> Iterator[Event]:
    for event in events:
        yield event
        if event.type == "run_started" and not attachable:
            return


def told(run: Run, events: Iterable[Event], whole: Callable[[Event], JsonObject]) -> History:
    """The history that the events tell.

    Args:
        whole: gives an event's data with what is stored apart.
    """
    started, worked_s = False, 0.0
    message_ids: set[str] = set()
    request_ids: set[str] = set()
    artifact_ids: set[str] = set()
    remote_seqs: set[int] = set()
    said: dict[str, Message] = {}
    answers: dict[str, Answer] = {}
    last_message: Event | None = None
    for event in events:
        if run.status is Status.RUNNING and run.detail != WAITING_FOR_CLIENT and not _is_takeover(event):
            worked_s += max(_seconds_between(run.updated_at, event.ts), 0.0)
        data = event.data
        started = started or event.type == "run_started"
        if isinstance(seq := data.get("remote_seq"), int):
            remote_seqs.add(seq)
        match event.type:
            case "agent_message":
                message_ids.add(str(data.get("message_id")))
                last_message = event
            case "artifact_added":
                artifact_ids.add(str(data.get("artifact_id")))
            case "input_required" | "auth_required":
                request_ids.add(data["request"]["request_id"])
            case "message_added" if "request_id" in data:
                said[data["request_id"]] = _message(whole(event))  # no answer yet: the next event makes it one
            case "status_changed" if "resolved" in data:
                resolved: JsonObject = data["resolved"]
                if resolved["outcome"] in ("answered", "denied"):
                    message = said.get(resolved["request_id"])
                    answers[resolved["request_id"]] = Answer(decision=resolved.get("decision"), message=message)
            case _:
                pass
        run = fold(run, event)
    attachment = Attachment(
        remote_ref=run.remote_ref,
        pending=run.pending,
        message_ids=frozenset(message_ids),
        request_ids=frozenset(request_ids),
        last_message=(whole(last_message).get("text") or "") if last_message else "",
        artifact_ids=frozenset(artifact_ids),
        remote_seqs=frozenset(remote_seqs),
        answers=answers,
    )
    return History(started, worked_s, attachment)


def _is_takeover(event: Event) -> bool:
    """Whether the event is the first of a new owner: before it nobody counted."""
    if event.type == "auth_required":
        return event.data["request"].get("request_id") == CREDENTIALS
    return event.data.get("detail") in (REATTACHED, WAITING_FOR_CLIENT)


def _message(data: JsonObject) -> Message:
    """The message that `message_added` tells of."""
    parts = data.get("parts") or [{"type": "text", "text": data.get("text", "")}]
    return Message(role=data.get("role", "user"), parts=parts)


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


class Inherited(NamedTuple):
    """A run that was taken over: what was asked, its log, which is ours now, and its past."""

    spec: RunSpec
    log: RunLog
    history: History


def inherit(run_dir: RunDir, socket: str | None, *, attachable: bool) -> Inherited:
    """Takes a run over whose owner is gone. Blocks on the disk.

    Raises:
        Conflict: it has an owner.
        StoreVersion: another version wrote it.
        StoreError: it cannot be read, or lies where locks do not hold.
    """
    run_dir.workspace.open()
    log = RunLog.take_over(run_dir, Mask(secrets_of({}, os.environ)), socket)
    try:
        return Inherited(RunReader(run_dir).spec(), log, history_of(run_dir, attachable=attachable))
    except BaseException:
        log.close()
        raise
