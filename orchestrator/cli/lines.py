"""Events as lines for a person. Markup-free text in, Rich text out."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from orchestrator.cli.output import for_people, harmless
from orchestrator.model import JsonObject

MARKS = {"pending": "☐", "in_progress": "◐", "completed": "☑"}
STYLES = {
    "completed": "green",
    "failed": "red",
    "rejected": "red",
    "cancelled": "yellow",
    "input_required": "bold magenta",
    "auth_required": "bold magenta",
    "running": "cyan",
    "queued": "dim",
}
DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_FIRST_LINES = 12
"""Of command output and diffs: the whole is one `orchestrator artifact` away."""


def lines_of(event: JsonObject) -> list[Text]:
    """What a person sees of an event; nothing of those that only move the state."""
    teller = TELLERS.get(event["type"])
    return teller(harmless(event["data"])) if teller else []


def _message(data: JsonObject) -> list[Text]:
    return [Text(str(data.get("text", "")))]


def _reasoning(data: JsonObject) -> list[Text]:
    return [Text(line, style="dim italic") for line in str(data.get("text", "")).splitlines()]


def _sent(data: JsonObject) -> list[Text]:
    text = str(data.get("text", ""))
    first, _, rest = text.partition("\n")
    return [Text.assemble(("> ", "bold blue"), (first + (" …" if rest else ""), "blue"))]


def _command_started(data: JsonObject) -> list[Text]:
    return [Text.assemble(("$ ", "bold yellow"), (str(data["command"]), "yellow"))]


def _command_finished(data: JsonObject) -> list[Text]:
    code = data.get("exit_code")
    lines = _some(str(data.get("output") or ""))
    if code not in (0, None):
        lines.append(Text(f"  exit {code}", style="red"))
    return lines


def _file_changed(data: JsonObject) -> list[Text]:
    lines: list[Text] = []
    for change in data["changes"]:
        sign = {"add": "+", "update": "~", "delete": "-"}.get(change["kind"], "?")
        lines.append(Text.assemble((f"{sign} ", "bold green"), (str(change["path"]), "green")))
        lines += diff_lines(change.get("diff") or "")
    return lines


def diff_lines(diff: str) -> list[Text]:
    """The first lines of a diff, in colour."""
    lines = diff.splitlines()
    shown = [Text(f"  {line}", style=DIFF_STYLES.get(line[:1], "dim")) for line in lines[:_FIRST_LINES]]
    return shown + _more(len(lines) - _FIRST_LINES)


def _tool_started(data: JsonObject) -> list[Text]:
    name = f"{data['server']}.{data['tool']}" if data.get("server") else str(data["tool"])
    return [Text.assemble(("⚙ ", "bold cyan"), (name, "cyan"), (_short(data.get("arguments")), "dim"))]


def _tool_finished(data: JsonObject) -> list[Text]:
    return [Text(f"  {data['error']}", style="red")] if data.get("error") else []


def todo_lines(items: list[JsonObject]) -> list[Text]:
    """A todo list."""
    styles = {"completed": "dim strike", "in_progress": "bold"}
    return [Text(f"{MARKS.get(i['status'], '?')} {i['text']}", style=styles.get(i["status"], "")) for i in items]


def _todo(data: JsonObject) -> list[Text]:
    return todo_lines(data["items"])


def _artifact(data: JsonObject) -> list[Text]:
    refs: JsonObject = data.get("artifact_refs") or {}
    size = next((f", {ref['total_bytes']:,} bytes" for ref in refs.values()), "")
    return [Text.assemble(("▤ ", "bold"), f"{data.get('name') or data['artifact_id']}{size}")]


def _asked(data: JsonObject) -> list[Text]:
    return [Text.assemble(("? ", "bold magenta"), (str(data["request"]["text"]), "magenta"))]


def _status(data: JsonObject) -> list[Text]:
    if resolved := data.get("resolved"):
        decision = resolved.get("decision")
        return [Text(f"  {resolved['outcome']}{f': {decision}' if decision else ''}", style="magenta")]
    if data["status"] == "cancelled":
        return [Text(f"cancelled{': ' + data['reason'] if data.get('reason') else ''}", style="yellow")]
    return [Text(f"· {data['detail']}", style="dim")] if data.get("detail") else []


def _completed(data: JsonObject) -> list[Text]:
    return [Text("completed", style="bold green")]


def _failed(data: JsonObject) -> list[Text]:
    return [
        Text(f"{data['code']}: {data['message']}", style="bold red"),
        Text(f"  {for_people(data['next_step'])}", style="dim"),
    ]


def _some(text: str) -> list[Text]:
    lines = text.splitlines()
    shown = [Text(f"  {line}", style="dim") for line in lines[:_FIRST_LINES]]
    return shown + _more(len(lines) - _FIRST_LINES)


def _more(count: int) -> list[Text]:
    return [Text(f"  … {count} more lines", style="dim")] if count > 0 else []


def cut_line(run_id: str, seq: object, pointer: str) -> Text:
    """Where the whole of a text is, of which not all is shown."""
    return Text(f"  … cut; the whole: orchestrator artifact {run_id} {seq} {pointer}", style="yellow")


def _short(arguments: Any) -> str:
    text = "" if not arguments else f" {arguments}"
    return text if len(text) <= 80 else text[:79] + "…"


TELLERS = {
    "agent_message": _message,
    "reasoning": _reasoning,
    "message_added": _sent,
    "command_started": _command_started,
    "command_finished": _command_finished,
    "file_changed": _file_changed,
    "tool_started": _tool_started,
    "tool_finished": _tool_finished,
    "todo_updated": _todo,
    "artifact_added": _artifact,
    "input_required": _asked,
    "auth_required": _asked,
    "status_changed": _status,
    "run_completed": _completed,
    "run_failed": _failed,
    "rejected": _failed,
}
