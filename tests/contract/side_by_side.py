"""One script on every agent: what each tells of it, without what may differ, as a table.

`docs/backends.md` holds the table; the test compares, and `python -m tests.contract.side_by_side` writes it anew.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from orchestrator.model import JsonObject
from tests.contract.conftest import MODELS, open_subject
from tests.models.player import Player, agent_environment

SCRIPT = (
    "think about it",
    "command ls -> a b",
    "command [1] make -> no rule",
    "file src/a.txt hello",
    "tool search -> found",
    "todo A; [>] B; [x] C",
    "ask Which colour? | red | blue",
    "approve sh -c true",
    "usage 10 20",
    "final all done",
)
KINDS = ("local", "claude", "codex", "a2a_1.0", "a2a_claude", "a2a_codex")
TITLES = {
    "local": "scripted", "claude": "claude_code", "codex": "codex", "a2a_1.0": "scripted over A2A",
    "a2a_claude": "claude_code over A2A", "a2a_codex": "codex over A2A",
}  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "backends.md"


def _request(data: JsonObject) -> str:
    request = data["request"]
    options = ", ".join(option["id"] for option in request.get("options") or ())
    return f"{request['kind']}: {options}"


def _command(data: JsonObject) -> str:
    return f"exit {data.get('exit_code')}, {data.get('status')}: {(data.get('output') or '').strip()!r}"


def _resolved(data: JsonObject) -> str | None:
    resolved = data.get("resolved")
    return f"{resolved['outcome']} {resolved.get('decision', '')}".strip() if resolved else None


SHOWN: Mapping[str, Callable[[JsonObject], str | None]] = {
    "run_started": lambda _: "",
    "agent_message": lambda data: data["text"],
    "reasoning": lambda data: data["text"],
    "command_started": lambda _: "",
    "command_finished": _command,
    "file_changed": lambda data: "; ".join(f"{c['kind']} {c['path']} {c.get('diff')!r}" for c in data["changes"]),
    "tool_started": lambda _: "",
    "tool_finished": lambda data: "an error" if "error" in data else "a result",
    "todo_updated": lambda data: ", ".join(f"{item['text']} {item['status']}" for item in data["items"]),
    "input_required": _request,
    "status_changed": _resolved,
    "run_completed": lambda data: data["final_response"],
}
"""What is compared of each type of event; None leaves one out. Other types are told by some agents only."""


async def told(kind: str, cwd: Path, env: Mapping[str, str]) -> list[str]:
    """What a run of the script tells, in order."""
    async with open_subject(kind, "", cwd, env) as subject:
        run_id = await subject.spawn(*SCRIPT)
        await subject.settled(run_id)
        await subject.call("continue_run", run_id=run_id, decision="red")
        await subject.settled(run_id)
        await subject.call("continue_run", run_id=run_id, decision="approve")
        await subject.settled(run_id)
        rows = [
            f"`{event['type']}` {words}".strip()
            for event in await subject.events(run_id)
            if (show := SHOWN.get(event["type"])) and (words := show(event["data"])) is not None
        ]
    return without_steps(rows)


def without_steps(rows: Sequence[str]) -> list[str]:
    """Of several todo lists in a row the last: one agent changes its list item by item."""
    kept: list[str] = []
    for row in rows:
        if kept and kept[-1].startswith("`todo_updated`") and row.startswith("`todo_updated`"):
            kept.pop()
        kept.append(row)
    return kept


def document(columns: Mapping[str, Sequence[str]]) -> str:
    """The page: each row is told by the agents that are marked, in this order."""
    rows: list[str] = []
    for column in columns.values():  # merged, each in its own order
        place = 0
        for row in column:
            if row in rows[place:]:
                place = rows.index(row, place) + 1
            else:
                rows.insert(place, row)
                place += 1
    head = "| what is told | " + " | ".join(TITLES[kind] for kind in columns) + " |"
    lines = [head, "|---|" + ":-:|" * len(columns)]
    places = [_places(column, rows) for column in columns.values()]
    for place, row in enumerate(rows):
        marks = " | ".join("✓" if place in taken else "" for taken in places)
        lines.append(f"| {row.replace('|', chr(92) + '|')} | {marks} |")
    script = "\n".join(f"    {line}" for line in SCRIPT)
    return f"""# The same task on every backend

Written by `python -m tests.contract.side_by_side`, and compared by a test. Real agents play this script through a
scripted model, each with its own tools; the question is answered with `red`, the approval with `approve`:

{script}

Times, ids, names of tools and messages on the way are left out.

{chr(10).join(lines)}

Claude Code takes its todo list item by item, and has no tool that is neither a command nor a file tool and needs no
permission but the list of its agents. An approval has one more answer at Claude Code, and two more at Codex. All that a
local agent tells is told over A2A too.
"""


def _places(column: Sequence[str], rows: Sequence[str]) -> set[int]:
    """The rows of the table that a column has, which come in the same order."""
    places: set[int] = set()
    place = 0
    for row in column:
        place = rows.index(row, place) + 1
        places.add(place - 1)
    return places


async def columns_of(folder: Path, models: Mapping[str, Player]) -> dict[str, list[str]]:
    """What every agent tells."""
    columns: dict[str, list[str]] = {}
    for kind in KINDS:
        root = folder / kind
        (root / "project").mkdir(parents=True)
        model = models.get(kind.removeprefix("a2a_"))
        env = agent_environment(model, root) if model else {}
        columns[kind] = await told(kind, root / "project", env)
    return columns


def main() -> None:
    """Writes the page."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        os.environ["ORCHESTRATOR_HOME"] = f"{temporary}/orchestrator"
        models = {name: stack.enter_context(player()) for name, player in MODELS.items()}
        columns = asyncio.run(columns_of(Path(temporary), models))
    DOCUMENT.write_text(document(columns), encoding="utf-8")


if __name__ == "__main__":
    main()
    sys.stderr.write(f"{DOCUMENT} is written\n")
