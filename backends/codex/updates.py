"""What Codex does, in our words: a notification becomes updates. Pure; one `Translation` for each run.

Items are known by their ids, because a stream that is tried again repeats them. Only the run's own thread is told:
sub-agents stream on the same connection and show as the tool calls by which they were made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.changes import added, shown
from orchestrator.model import JsonObject, Usage, as_array, as_object
from orchestrator.updates import (
    AgentMessage,
    ArtifactAdded,
    CommandFinished,
    CommandStarted,
    FileChanged,
    Progress,
    Reasoning,
    TodoUpdated,
    ToolFinished,
    ToolStarted,
    Update,
)

ASK_TOOL = "ask_caller"
"""The tool by which the agent asks its caller; its calls are told as requests, not as tools."""

_TOOLS = {
    "mcpToolCall", "dynamicToolCall", "webSearch", "collabAgentToolCall", "subAgentActivity", "imageView",
    "imageGeneration", "sleep", "hookPrompt",
}  # fmt: skip
_PLAN = {"pending": "pending", "inProgress": "in_progress", "completed": "completed"}
_COMMAND = {"completed": "completed", "failed": "failed", "declined": "declined"}
_QUIET = ("item", "type", "id", "status", "durationMs", "result", "error", "contentItems", "success", "tool", "server")


class Translation:
    """One run's conversation. Feed it every notification, in order.

    Args:
        cwd: where the agent works; files in it are told relative to it.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._open: dict[str, JsonObject] = {}
        self._done: set[str] = set()
        self._diff = ""
        self._before: JsonObject | None = None
        self._total: JsonObject = {}
        self._helpers: JsonObject = {}
        self._calls = 0
        self.changes: dict[str, list[JsonObject]] = {}
        """What each file change that was begun would do, by item: an approval is asked for without it."""
        self.touched: set[Path] = set()
        """Files that the agent's own tools changed since this was last emptied."""
        self.last_message = ""
        """The last message that may be the agent's answer."""
        self._final = False

    def updates(self, method: str, params: JsonObject) -> Iterator[Update]:
        """What a notification of the run's own thread tells."""
        item = as_object(params.get("item")) or {}
        match method:
            case "item/started":
                yield from self._begun(item)
            case "item/completed":
                yield from self._ended(item)
            case "turn/plan/updated":
                yield TodoUpdated(items=[_step(step) for step in as_array(params.get("plan")) or []])
            case "turn/diff/updated":
                self._diff = str(params.get("diff", ""))
            case "thread/tokenUsage/updated":
                self._used(as_object(params.get("tokenUsage")) or {})
            case _:
                yield from _noticed(method, params)

    def of_helper(self, method: str, params: JsonObject) -> None:
        """What a sub-agent does is not told; but its changes may be asked for, and what it uses counts."""
        if method == "thread/tokenUsage/updated":
            last = as_object((as_object(params.get("tokenUsage")) or {}).get("last")) or {}
            names = {*self._helpers, *last}
            self._helpers = {name: _number(self._helpers, name) + _number(last, name) for name in names}
        item = as_object(params.get("item")) or {}
        if method == "item/started" and item.get("type") == "fileChange":
            self.changes[str(item.get("id"))] = self._changes(item)

    # ---- items

    def _begun(self, item: JsonObject) -> Iterator[Update]:
        item_id, kind = str(item.get("id")), str(item.get("type"))
        if item_id in self._open or item_id in self._done:
            return
        self._open[item_id] = item
        match kind:
            case "commandExecution":
                yield CommandStarted(command_id=item_id, command=command_of(item), cwd=str(item.get("cwd", "")))
            case "fileChange":
                self.changes[item_id] = self._changes(item)
            case _ if kind in _TOOLS and item.get("tool") != ASK_TOOL:
                yield ToolStarted(tool_id=item_id, **_tool(item), arguments=_arguments(item))
            case _:
                pass

    def _ended(self, item: JsonObject) -> Iterator[Update]:
        item_id = str(item.get("id"))
        if item_id in self._done:
            return
        yield from self._begun(item)
        self._done.add(item_id)
        self._open.pop(item_id, None)
        kind = str(item.get("type"))
        match kind:
            case "agentMessage" if text := item.get("text"):
                self._answered(str(text), item.get("phase"))
                yield AgentMessage(text=str(text), message_id=item_id)
            case "plan" if text := item.get("text"):
                yield AgentMessage(text=str(text), message_id=item_id)
            case "reasoning":
                text = "\n\n".join(map(str, as_array(item.get("summary")) or as_array(item.get("content")) or []))
                if text:
                    yield Reasoning(text=text)
            case "commandExecution":
                yield CommandFinished(
                    command_id=item_id,
                    command=command_of(item),
                    output=item.get("aggregatedOutput") or "",
                    exit_code=_exit_code(item),
                    status=_COMMAND.get(str(item.get("status")), "interrupted"),
                )
            case "fileChange":
                yield from self._changed(item_id, item)
            case "contextCompaction":
                yield Progress(detail="the conversation was compacted")
            case _ if kind in _TOOLS and item.get("tool") != ASK_TOOL:
                yield ToolFinished(tool_id=item_id, **_tool(item), **_outcome(item))
            case _:
                pass

    def _answered(self, text: str, phase: Any) -> None:
        """The answer is the last message that says it is final, otherwise the last that says nothing of it."""
        if phase == "final_answer" or (phase is None and not self._final):
            self._final = phase == "final_answer"
            self.last_message = text

    def _changed(self, item_id: str, item: JsonObject) -> Iterator[Update]:
        self.changes.pop(item_id, None)
        if item.get("status") == "completed":
            changes = self._changes(item)
            self.touched.update(self._cwd / change["path"] for change in changes)
            yield FileChanged(changes=changes)
            return
        yield ToolStarted(tool_id=item_id, tool="apply_patch", arguments={"changes": self._changes(item)})
        yield ToolFinished(tool_id=item_id, tool="apply_patch", error=str(item.get("status")))

    def _changes(self, item: JsonObject) -> list[JsonObject]:
        changes: list[JsonObject] = []
        for given in as_array(item.get("changes")) or []:
            change = as_object(given) or {}
            name, diff = shown(str(change.get("path")), self._cwd), str(change.get("diff", ""))
            kind = as_object(change.get("kind")) or {}
            match kind.get("type"):
                case "add":
                    changes.append({"path": name, "kind": "add", "diff": added(diff)})
                case "delete":
                    gone = "".join(f"-{line}" for line in diff.splitlines(keepends=True))
                    changes.append({"path": name, "kind": "delete", "diff": gone})
                case _ if target := kind.get("move_path"):
                    changes.append({"path": name, "kind": "delete"})
                    changes.append({"path": shown(str(target), self._cwd), "kind": "add"})
                case _:
                    changes.append({"path": name, "kind": "update", "diff": diff})
        return changes

    # ---- what a turn leaves behind

    @property
    def open_commands(self) -> bool:
        """Whether a command that began has not ended."""
        return any(item.get("type") == "commandExecution" for item in self._open.values())

    def interrupted(self) -> Iterator[Update]:
        """The ends of what will have none of its own."""
        for item_id, item in list(self._open.items()):
            self._done.add(item_id)
            if item.get("type") == "commandExecution":
                yield CommandFinished(command_id=item_id, command=command_of(item), status="interrupted")
            elif str(item.get("type")) in _TOOLS and item.get("tool") != ASK_TOOL:
                yield ToolFinished(tool_id=item_id, **_tool(item), error="interrupted")
        self._open.clear()

    def patch(self, turn_id: str) -> ArtifactAdded | None:
        """All that the turn's own tools changed, as one patch; None if that is nothing. Told once."""
        diff, self._diff = self._diff, ""
        if not diff:
            return None
        return ArtifactAdded(artifact_id=f"patch-{turn_id}", name="turn.patch", mime="text/x-diff", text=diff)

    # ---- usage

    def used_before(self, usage: JsonObject) -> None:
        """What Codex says that a thread had used when it was resumed."""
        if not self._calls:
            self._before = as_object(usage.get("total")) or {}

    def _used(self, usage: JsonObject) -> None:
        """Totals are those of the thread, over all its runs: what was there before the first call is taken off."""
        total, last = as_object(usage.get("total")) or {}, as_object(usage.get("last")) or {}
        if self._before is None:
            self._before = {name: _number(total, name) - _number(last, name) for name in total}
        self._total = total
        self._calls += 1

    @property
    def usage(self) -> Usage:
        """What the run used so far, with its sub-agents."""
        used = {
            name: _number(self._total, name) - _number(self._before or {}, name) + _number(self._helpers, name)
            for name in self._total
        }
        return Usage(
            input_tokens=used.get("inputTokens", 0),
            cached_input_tokens=used.get("cachedInputTokens", 0),
            output_tokens=used.get("outputTokens", 0),
            turns=self._calls,
        )


def limit_of(limits: JsonObject) -> float | None:
    """When the windows of the account that are used up begin anew, in seconds since 1970; None if none is."""
    windows = [as_object(limits.get(name)) or {} for name in ("primary", "secondary")]
    ends = [
        float(at)
        for window in windows
        if isinstance(used := window.get("usedPercent"), (int, float)) and used >= 100
        if isinstance(at := window.get("resetsAt"), (int, float))
    ]
    return max(ends, default=None)


def command_of(item: JsonObject) -> str:
    """The command as the agent meant it, without the shell that Codex starts for it."""
    whole = str(item.get("command") or "")
    try:
        words = shlex.split(whole)
    except ValueError:
        return whole
    return words[2] if len(words) == 3 and words[1] in ("-lc", "-c") else whole


def retry_words(params: JsonObject) -> str:
    """A call of the model that failed and is tried again, in one line."""
    error = as_object(params.get("error")) or {}
    return " ".join(str(word) for word in (error.get("message"), error.get("additionalDetails")) if word)[:500]


def _noticed(method: str, params: JsonObject) -> Iterator[Update]:
    match method:
        case "error" if params.get("willRetry") is True:
            yield Progress(detail=retry_words(params))
        case "warning" | "guardianWarning" if words := params.get("message"):
            yield Progress(detail=str(words)[:500])
        case "model/rerouted":
            yield Progress(detail=f"the model is now {params.get('toModel')}")
        case "mcpServer/startupStatus/updated" if params.get("status") == "failed":
            yield Progress(detail=f"MCP server {params.get('name')} failed: {params.get('error')}"[:500])
        case _:
            pass


def _step(given: Any) -> JsonObject:
    step = as_object(given) or {}
    return {"text": str(step.get("step", "")), "status": _PLAN.get(str(step.get("status")), "pending")}


def _exit_code(item: JsonObject) -> int | None:
    code = item.get("exitCode")
    return code if isinstance(code, int) and code >= 0 else None


def _tool(item: JsonObject) -> dict[str, Any]:
    """A tool's name, and its MCP server's if it has one."""
    name = str(item.get("tool") or item.get("type"))
    return {"tool": name, "server": str(item["server"])} if item.get("server") else {"tool": name}


def _arguments(item: JsonObject) -> Any:
    if "arguments" in item:
        return item["arguments"]
    return {name: value for name, value in item.items() if name not in _QUIET and value is not None}


def _outcome(item: JsonObject) -> JsonObject:
    if (error := as_object(item.get("error"))) is not None:
        return {"error": str(error.get("message", error))}
    if item.get("status") in ("failed", "declined"):
        return {"error": str(item["status"])}
    result = item.get("result") if item.get("result") is not None else item.get("contentItems")
    parts = as_array((as_object(result) or {}).get("content")) or as_array(result)
    if parts is not None:
        return {"result": "\n".join(str((as_object(part) or {}).get("text", part)) for part in parts)}
    return {} if result is None else {"result": result}


def _number(values: JsonObject, name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0
