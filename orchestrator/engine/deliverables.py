"""What a run in a repository leaves beside its log, for people and scripts: its answer, its transcript, the words of a
pull request. The patch lies with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from orchestrator.events import Event
from orchestrator.files import read_file
from orchestrator.model import JsonObject, RunSpec
from orchestrator.store.layout import RunDir, replace_file
from orchestrator.store.log import RunLog
from orchestrator.store.reader import RunReader

ANSWER, TRANSCRIPT, PULL_REQUEST = "out.md", "logs.txt", "pr.json"
TRANSCRIPT_EVENTS = 20_000
TITLE_CHARS = 72


def write(log: RunLog, spec: RunSpec, answer: str, facts: JsonObject) -> list[str]:
    """Writes them, masked. Returns their names. Blocks on the disk."""
    run_dir, mask = log.dir, log.masked
    begin = max(0, log.run.last_seq - TRANSCRIPT_EVENTS)
    told = RunReader(run_dir).poll(begin, TRANSCRIPT_EVENTS, None)[0]
    texts = {ANSWER: mask(_answer(answer, told, facts)), TRANSCRIPT: "".join(_transcript(told))}
    if spec.workspace is not None and facts.get("changes", {}).get("files"):
        title, _, body = (mask(answer).strip() or spec.agent_name).partition("\n")
        branch = facts.get("workspace", {}).get("branch")
        words = {"title": _short(title.lstrip("# ")), "body": body.strip() or title, "branch": branch}
        texts[PULL_REQUEST] = orjson.dumps(words, option=orjson.OPT_INDENT_2).decode() + "\n"
    for name, text in texts.items():
        replace_file(run_dir.file(name), text.encode(errors="replace"))
    return list(texts)


def title_of(run_dir: RunDir) -> tuple[str, str]:
    """The title and the words of a commit of the run's work, from its pull request; the run's id if it has none."""
    try:
        document = orjson.loads(read_file(run_dir.file(PULL_REQUEST)))
        return str(document["title"]), str(document["body"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"Work of {run_dir.run_id}", ""


def _short(title: str) -> str:
    return title if len(title) <= TITLE_CHARS else title[: TITLE_CHARS - 1] + "…"


def _answer(answer: str, events: Sequence[Event], facts: JsonObject) -> str:
    parts = [answer.strip() or "No answer."]
    plans: list[list[JsonObject]] = [event.data["items"] for event in events if event.type == "todo_updated"]
    if plans and plans[-1]:
        marks = {"completed": "x", "in_progress": "~"}
        parts.append("## Plan\n\n" + "\n".join(f"- [{marks.get(i['status'], ' ')}] {i['text']}" for i in plans[-1]))
    if answers := facts.get("acceptance"):
        parts.append("## Acceptance\n\n" + "\n".join(f"- [{'x' if a['met'] else ' '}] {a['criterion']}: {a['evidence']}"
                                                     for a in answers))  # fmt: skip
    if checks := facts.get("verification", {}).get("checks"):
        parts.append("## Checks\n\n" + "\n".join(f"- {check['name']}: {check['status']}" for check in checks))
    return "\n\n".join(parts) + "\n"


def _transcript(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        yield f"{event.ts} {event.type}\n"
        for line in _words(event.data):
            yield f"    {line}\n"


def _words(data: JsonObject) -> Iterator[str]:
    for key in ("command", "text", "tool", "output", "result", "error", "detail", "final_response", "message"):
        value: Any = data.get(key)
        if isinstance(value, str):
            yield from (f"{key}: {line}" if not place else line for place, line in enumerate(value.splitlines()))
    for change in data.get("changes", ()):
        yield f"{change.get('kind')} {change.get('path')}"
    for item in data.get("items", ()):
        yield f"[{item.get('status')}] {item.get('text')}"
    if isinstance(request := data.get("request"), dict):
        yield f"asks: {request.get('text')}"  # pyright: ignore[reportUnknownMemberType]
    if isinstance(answer := data.get("resolved"), dict):
        yield f"{answer.get('outcome')}: {answer.get('decision', '')}"  # pyright: ignore[reportUnknownMemberType]
