"""What Claude Code does, in our words: a message of the SDK becomes updates. Pure; one `Translation` for each run.

A message with several blocks comes as several messages, a tool's call and its result are matched by id, and what the
CLI uses for itself (structured output, questions, plans) is not told here. Whatever is unknown is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    RateLimitEvent,
    SystemMessage,
    TaskNotificationMessage,
    TaskStartedMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from orchestrator.backend import DENIED
from orchestrator.changes import added, located, shown
from orchestrator.model import JsonObject, as_array, as_object
from orchestrator.updates import (
    AgentMessage,
    CommandFinished,
    CommandStarted,
    CommandUpdated,
    FileChanged,
    MessageAdded,
    Progress,
    RateLimited,
    Reasoning,
    TodoUpdated,
    ToolFinished,
    ToolStarted,
    Update,
)

SYNTHETIC = "<synthetic>"
"""The model of messages that the CLI makes up itself, such as errors."""
WRITING = ("Write", "Edit", "MultiEdit", "NotebookEdit")
_TODO = ("TodoWrite", "TaskCreate", "TaskUpdate", "TaskList", "TaskGet")
_SILENT = ("StructuredOutput", "AskUserQuestion", "ExitPlanMode", "EnterPlanMode", "ToolSearch")
_EXIT = re.compile(r"(?:Error: )?Exit code (\d+)\n?(.*)", re.DOTALL)
_TASK = re.compile(r"Task #(\S+) created successfully: (.*)", re.DOTALL)
_NO_OUTPUT = "(Bash completed with no output)"
_STOPPED = "The user doesn't want to proceed with this tool use"
"""What the model hears of a tool that was interrupted. A denial of ours has words of its own."""
_IN_BACKGROUND = re.compile(r"exit code (-?\d+)")


class Stored(NamedTuple):
    """A command ended whose output the CLI put into a file, which is to be read for `update.output`."""

    update: CommandFinished
    path: Path


Told = Update | Stored


class Translation:
    """One run's conversation. Feed it every message, in order.

    Args:
        cwd: where the agent works; files in it are told relative to it.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._calls: dict[str, ToolUseBlock] = {}
        self._todo: dict[str, JsonObject] = {}
        self._tasks: dict[str, str] = {}
        self._background: set[str] = set()
        self.misfit = ""
        """Why the CLI did not take the structured output that was handed in last; empty if it took it."""
        self.plan = ""
        """The plan that was handed in last."""
        self.touched: set[Path] = set()
        """Files that the agent's own tools changed since this was last emptied."""
        self.model_calls: set[str] = set()
        """One id for each answer of the model."""

    def updates(self, message: Message) -> Iterator[Told]:
        """What the message tells."""
        match message:
            case AssistantMessage():
                yield from self._said(message)
            case UserMessage():
                yield from self._came_back(message)
            case TaskStartedMessage():
                yield from self._task(message)
            case TaskNotificationMessage():
                yield from self._task_over(message)
            case SystemMessage(subtype="task_updated"):
                self._task_updated(message.data)
            case SystemMessage():
                yield from _system(message)
            case RateLimitEvent() if message.rate_limit_info.status != "allowed":
                yield Progress(detail=f"rate limit: {message.rate_limit_info.status}")
            case _:
                pass

    def interrupted(self) -> Iterator[Update]:
        """The ends of the commands and tools that will have none of their own."""
        for call_id, call in list(self._calls.items()):
            if call.name == "Bash":
                yield CommandFinished(command_id=call_id, command=_command(call), status="interrupted")
            elif not _is_quiet(call.name):
                yield ToolFinished(tool_id=call_id, **_named(call.name), error="interrupted")
        self._calls.clear()

    # ---- what the agent says and calls

    def _said(self, message: AssistantMessage) -> Iterator[Update]:
        if message.model == SYNTHETIC:
            return
        if message.message_id:
            self.model_calls.add(message.message_id)
        for block in message.content:
            match block:
                case TextBlock() if message.parent_tool_use_id:
                    yield MessageAdded(role="agent", text=block.text, message_id=message.uuid)
                case TextBlock():
                    yield AgentMessage(text=block.text, message_id=message.uuid)
                case ThinkingBlock() if block.thinking:
                    yield Reasoning(text=block.thinking)
                case ToolUseBlock():
                    self._calls[block.id] = block
                    yield from self._begun(block)
                case _:
                    pass

    def _begun(self, call: ToolUseBlock) -> Iterator[Update]:
        if call.name == "Bash":
            yield CommandStarted(command_id=call.id, command=_command(call), cwd=str(self._cwd))
        elif call.name == "ExitPlanMode":
            self.plan = str(_given(call).get("plan", ""))
        elif not _is_quiet(call.name):
            yield ToolStarted(tool_id=call.id, **_named(call.name), arguments=call.input)

    # ---- what came back

    def _came_back(self, message: UserMessage) -> Iterator[Told]:
        if isinstance(message.content, str):
            return
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                if call := self._calls.pop(block.tool_use_id, None):
                    yield from self._finished(call, block, message.tool_use_result)
            elif isinstance(block, TextBlock) and not message.parent_tool_use_id:
                yield Progress(detail=block.text[:500])  # what the CLI itself says to the model

    def _finished(self, call: ToolUseBlock, block: ToolResultBlock, result: Any) -> Iterator[Told]:
        text, failed = _text(block.content), bool(block.is_error)
        details = as_object(result) or {}
        if call.name == "StructuredOutput":
            self.misfit = text if failed else ""
        if call.name == "Bash":
            yield from self._command_over(call, text, details, failed=failed)
        elif call.name in WRITING and not failed:
            yield from self._files_changed(_given(call), text, details)
        elif call.name in _TODO and not failed:
            yield from self._todo_changed(call.name, _given(call), text, details)
        elif failed and (call.name in WRITING or call.name in _TODO):
            yield ToolStarted(tool_id=call.id, tool=call.name, arguments=call.input)
            yield ToolFinished(tool_id=call.id, tool=call.name, error=text)
        elif call.name not in _SILENT:
            outcome: JsonObject = {"error": text} if failed else {"result": text}
            yield ToolFinished(tool_id=call.id, **_named(call.name), **outcome)

    def _command_over(self, call: ToolUseBlock, text: str, details: JsonObject, *, failed: bool) -> Iterator[Told]:
        command = _command(call)
        if failed:
            match = _EXIT.match(text)
            status = "declined" if text.startswith(DENIED) else "interrupted" if text.startswith(_STOPPED) else "failed"
            code, output = (int(match[1]), match[2]) if match else (None, "" if status == "interrupted" else text)
            yield CommandFinished(command_id=call.id, command=command, output=output, exit_code=code, status=status)
            return
        if "backgroundTaskId" in details or call.id in self._background:
            self._calls[call.id] = call  # it goes on
            yield CommandUpdated(command_id=call.id, command=command)
            return
        if details:
            text = "\n".join(str(details[name]) for name in ("stdout", "stderr") if details.get(name))
        interrupted = details.get("interrupted") is True
        unknown = interrupted or "returnCodeInterpretation" in details  # a code that is no error, and is not told
        over = CommandFinished(
            command_id=call.id,
            command=command,
            output=text.removeprefix(_NO_OUTPUT),
            exit_code=None if unknown else 0,
            status="interrupted" if interrupted else "completed",
        )
        path = details.get("persistedOutputPath")
        yield Stored(over, Path(path)) if isinstance(path, str) else over

    def _files_changed(self, given: JsonObject, text: str, details: JsonObject) -> Iterator[Update]:
        """A changed file. Of a sub-agent's there are no details, only what it wanted and the words of the result."""
        path = details.get("filePath") or given.get("file_path") or given.get("notebook_path")
        if not isinstance(path, str):
            return
        whole = located(path, self._cwd)
        self.touched.add(whole)
        made = details.get("type") == "create" if details else text.startswith("File created")
        content = str(details.get("content", given.get("content", "")))
        diff = added(content) if made else _hunks(details.get("structuredPatch"))
        change: JsonObject = {"path": shown(whole, self._cwd), "kind": "add" if made else "update"}
        yield FileChanged(changes=[{**change, "diff": diff} if diff else change])

    def _todo_changed(self, tool: str, given: JsonObject, text: str, details: JsonObject) -> Iterator[Update]:
        match tool:
            case "TodoWrite":
                items = [as_object(item) or {} for item in as_array(given.get("todos")) or []]
                self._todo = {str(place): _item(item) for place, item in enumerate(items)}
            case "TaskCreate" if task := as_object(details.get("task")) or _task_in(text):
                self._todo[str(task.get("id"))] = {"text": str(task.get("subject", "")), "status": "pending"}
            case "TaskUpdate" if details.get("success") is not False:
                self._task_changed(str(details.get("taskId", given.get("taskId"))), given, details)
            case _:
                return
        yield TodoUpdated(items=list(self._todo.values()))

    def _task_changed(self, task_id: str, given: JsonObject, details: JsonObject) -> None:
        item = self._todo.get(task_id, {"text": f"task {task_id}", "status": "pending"})
        status = (as_object(details.get("statusChange")) or {}).get("to", given.get("status"))
        if status == "deleted":
            self._todo.pop(task_id, None)
            return
        subject = {"text": given["subject"]} if isinstance(given.get("subject"), str) else {}
        self._todo[task_id] = {**item, **subject} | ({"status": status} if status in _STATUSES else {})

    # ---- work that goes on beside the conversation

    def _task(self, message: TaskStartedMessage) -> Iterator[Update]:
        call = self._calls.get(str(message.tool_use_id))
        if call is not None and call.name == "Bash":
            self._tasks[str(message.task_id)] = call.id
            if message.data.get("is_backgrounded") is True:
                self._background.add(call.id)
            yield CommandUpdated(command_id=call.id, command=_command(call))
        else:
            yield Progress(detail=str(message.description)[:500])

    def _task_updated(self, data: JsonObject) -> None:
        """A command that took too long goes on in the background."""
        patch, call_id = as_object(data.get("patch")) or {}, self._tasks.get(str(data.get("task_id")))
        if call_id is not None and patch.get("is_backgrounded") is True:
            self._background.add(call_id)

    def _task_over(self, message: TaskNotificationMessage) -> Iterator[Told]:
        call = self._calls.get(str(message.tool_use_id))
        if call is None or call.name != "Bash" or not message.output_file:
            return  # a command in the foreground has a result of its own
        del self._calls[call.id]
        match = _IN_BACKGROUND.search(str(message.summary))
        status = str(message.status) if message.status in ("completed", "failed") else "interrupted"
        over = CommandFinished(
            command_id=call.id, command=_command(call), exit_code=int(match[1]) if match else None, status=status
        )
        yield Stored(over, Path(str(message.output_file)))


_STATUSES = ("pending", "in_progress", "completed")


def _system(message: SystemMessage) -> Iterator[Update]:
    data = message.data
    match message.subtype:
        case "api_retry" if data.get("error") == "rate_limit":
            wait = data.get("retry_delay_ms")
            yield RateLimited(words=retry_words(data), retry_s=wait / 1000 if isinstance(wait, (int, float)) else None)
        case "api_retry":
            yield Progress(detail=retry_words(data))
        case "init":
            servers = [as_object(server) or {} for server in as_array(data.get("mcp_servers")) or []]
            for server in servers:
                if server.get("status") not in ("connected", "pending"):
                    yield Progress(detail=f"MCP server {server.get('name')} is {server.get('status')}")
        case "status" if isinstance(status := data.get("status"), str) and status != "requesting":
            yield Progress(detail=status)
        case "compact_boundary":
            yield Progress(detail="the conversation was compacted")
        case "permission_denied":
            yield Progress(detail=f"not permitted: {data.get('tool_name', 'a tool')}")
        case _:
            pass


def retry_words(data: JsonObject) -> str:
    """A call of the model that failed and is tried again, in one line."""
    status = f" ({data['error_status']})" if data.get("error_status") else ""
    wait = data.get("retry_delay_ms")
    when = f", in {wait / 1000:.1f} s" if isinstance(wait, (int, float)) else ""
    return f"{data.get('error')}{status}: try {data.get('attempt')} of {data.get('max_retries')}{when}"


def _hunks(patch: Any) -> str:
    """The diff in a `structuredPatch`."""
    lines: list[str] = []
    for given in as_array(patch) or []:
        hunk = as_object(given) or {}
        old, new = (f"{hunk.get(f'{side}Start')},{hunk.get(f'{side}Lines')}" for side in ("old", "new"))
        lines += [f"@@ -{old} +{new} @@", *map(str, as_array(hunk.get("lines")) or [])]
    return "".join(f"{line}\n" for line in lines)


def _is_quiet(tool: str) -> bool:
    """Whether the beginning of a call is not told: its result says all, or it is the CLI's own affair."""
    return tool in WRITING or tool in _TODO or tool in _SILENT


def _given(call: ToolUseBlock) -> JsonObject:
    """A call's input, which the model made and nobody has checked."""
    return as_object(call.input) or {}


def _command(call: ToolUseBlock) -> str:
    return str(_given(call).get("command", ""))


def _task_in(text: str) -> JsonObject | None:
    match = _TASK.match(text)
    return {"id": match[1], "subject": match[2]} if match else None


def _named(tool: str) -> dict[str, Any]:
    """A tool's name, and its MCP server's if it has one."""
    if tool.startswith("mcp__"):
        server, _, name = tool.removeprefix("mcp__").partition("__")
        return {"tool": name, "server": server}
    return {"tool": tool}


def _item(item: JsonObject) -> JsonObject:
    status = item.get("status")
    return {"text": str(item.get("content", "")), "status": status if status in _STATUSES else "pending"}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_object(part) or {} for part in as_array(content) or []]
    return "\n".join(str(part.get("text", f"[{part.get('type')}]")) for part in parts)
