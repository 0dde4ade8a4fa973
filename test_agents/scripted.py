"""A deterministic agent: its prompt is its script, one instruction a line.

It needs no model and no account, and shows everything that an agent can do to a run. As a backend it runs inside the
orchestrator; behind `test_agents.a2a_agent` the same agent is a real A2A server.

    say TEXT                    a message
    think TEXT                  reasoning
    command CMD -> OUTPUT       a command that exits 0; `command [3] CMD -> OUTPUT` exits 3
    file PATH TEXT              writes a file in cwd and reports the change
    tool NAME -> RESULT         a tool call
    call NAME JSON              one of the orchestrator's own tools for agents, really; says what it gave
    todo A; [>] B; [x] C        the todo list
    progress TEXT               one line of status
    events COUNT [BYTES]        COUNT messages of BYTES each (200)
    artifact SIZE [NAME]        a text artifact, in pieces; SIZE as 500B, 64KB, 5MB
    binary SIZE [NAME]          the same with bytes
    data JSON                   a structured artifact
    ask QUESTION [| A | B]      asks, with options if given, and says the answer
    asks QUESTION | QUESTION    asks all at once, and says the answers
    approve COMMAND             asks before it runs a command
    input TEXT                  asks for missing input
    auth                        needs a login
    listen                      waits for a steering message and says it
    sleep SECONDS               does nothing
    remember                    says how many prompts this session had before
    env NAME                    says an environment variable
    system WORD                 says whether the word is in its job description, which comes before the script
    usage IN OUT [COST]         what it used
    limit SECONDS               its provider takes no more requests for so long
    spend IN OUT [COST]         one more call of a model, which used that; goes on if there is budget for it
    json JSON                   structured output
    final TEXT                  the final response; otherwise the last message
    fail WHY | reject WHY | cancel WHY | crash

OUTPUT, TEXT and RESULT may be a size, as in `say 5KB`. Any other line is said back.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from orchestrator.backend import Ability, RunContext
from orchestrator.config import Settings
from orchestrator.ends import Cancelled, Completed, Failed, Outcome, Rejected
from orchestrator.model import Answer, InputRequest, JsonObject, RunSpec, Usage
from orchestrator.updates import (
    AgentMessage,
    ArtifactAdded,
    ArtifactChunk,
    CommandFinished,
    CommandStarted,
    FileChanged,
    Progress,
    RateLimited,
    Reasoning,
    Started,
    TodoUpdated,
    ToolFinished,
    ToolStarted,
)

PIECE = 64 * 1024
_SIZE = re.compile(r"(\d+)(B|KB|MB)")
_UNITS = {"B": 1, "KB": 1024, "MB": 1024**2}


class Scripted:
    """The backend `scripted`. Sessions are remembered as long as this object lives."""

    name = "scripted"
    abilities: frozenset[Ability] = frozenset(
        {"steer", "resume", "fork", "permission", "agent_tools", "max_turns", "max_tokens", "max_cost_usd"}
    )

    def __init__(self) -> None:
        self._sessions: dict[str, list[str]] = {}

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """See `Backend.check`. Takes any configuration."""

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`: like every local agent it runs in the environment of its client."""
        return bool(env)

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """See `Backend.run`."""
        native = spec.native_session_id
        if native is None or spec.session_mode == "fork":
            earlier = list(self._sessions.get(native or "", ()))
            native = f"scripted-{spec.session_id}"
            self._sessions[native] = earlier
        prompts = self._sessions.setdefault(native, [])
        await ctx.emit(Started(agent="scripted", model="none", native_session_id=native))
        script = _Script(spec, ctx, len(prompts))
        prompts.append(spec.message.text)
        return await script.play()


class _Script:
    """One run of one script."""

    def __init__(self, spec: RunSpec, ctx: RunContext, earlier: int) -> None:
        self._spec = spec
        self._ctx = ctx
        self._earlier = earlier
        self._job, self._text = told_apart(spec.message.text)
        self._count = 0
        self._last = "done"
        self._final: str | None = None
        self._structured: object = None
        self._usage: Usage | None = None

    async def play(self) -> Outcome:
        for line in self._text.splitlines():
            word, _, rest = line.strip().partition(" ")
            if not word:
                continue
            self._count += 1
            act = getattr(self, f"_do_{word}", None) if word.isidentifier() else None
            outcome = await act(rest.strip()) if act else await self._say(f"You said: {line.strip()}")
            if outcome is not None:
                return outcome
        final = self._final if self._final is not None else self._last
        return Completed(final_response=final, structured_output=self._structured, usage=self._usage)

    async def _say(self, text: str) -> None:
        self._last = text
        await self._ctx.emit(AgentMessage(text=text, message_id=self._id("message")))

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._earlier + 1}-{self._count}"

    async def _do_say(self, rest: str) -> None:
        await self._say(_sized(rest))

    async def _do_think(self, rest: str) -> None:
        await self._ctx.emit(Reasoning(text=_sized(rest)))

    async def _do_command(self, rest: str) -> None:
        command, _, output = rest.partition(" -> ")
        exit_code = 0
        if match := re.match(r"\[(\d+)\]\s+", command):
            exit_code, command = int(match[1]), command[match.end() :]
        await self._run_command(command, _sized(output), exit_code)

    async def _run_command(self, command: str, output: str, exit_code: int) -> None:
        name, cwd = self._id("command"), str(self._spec.cwd)
        await self._ctx.emit(CommandStarted(command_id=name, command=command, cwd=cwd))
        status = "completed" if exit_code == 0 else "failed"
        finished = CommandFinished(command_id=name, command=command, output=output, exit_code=exit_code, status=status)
        await self._ctx.emit(finished)

    async def _do_file(self, rest: str) -> None:
        name, _, text = rest.partition(" ")
        if self._spec.level == "read_only":
            return await self._say(f"{name} was not written: this run is read_only")
        content = _sized(text) + "\n"
        kind = await asyncio.to_thread(_write, self._spec.cwd, name, content)
        if kind is None:
            return await self._say(f"{name} was not written: it is outside of cwd")
        diff = "".join(f"+{line}" for line in content.splitlines(keepends=True))
        await self._ctx.emit(FileChanged(changes=[{"path": name, "kind": kind, "diff": diff}]))
        return None

    async def _do_tool(self, rest: str) -> None:
        tool, _, result = rest.partition(" -> ")
        name = self._id("tool")
        await self._ctx.emit(ToolStarted(tool_id=name, tool=tool, server="scripted", arguments={}))
        await self._ctx.emit(ToolFinished(tool_id=name, tool=tool, server="scripted", result=_sized(result)))

    async def _do_call(self, rest: str) -> None:
        name, _, given = rest.partition(" ")
        if self._ctx.agent_tools is None:
            return await self._say("there are no such tools here")
        await self._say(await call_tool(self._ctx.agent_tools.server, name, orjson.loads(given or "{}")))
        return None

    async def _do_todo(self, rest: str) -> None:
        marks = {"[>]": "in_progress", "[x]": "completed"}
        items = [item.strip() for item in rest.split(";") if item.strip()]
        todo = [{"text": item.removeprefix(item[:3]).strip() if item[:3] in marks else item,
                 "status": marks.get(item[:3], "pending")} for item in items]  # fmt: skip
        await self._ctx.emit(TodoUpdated(items=todo))

    async def _do_progress(self, rest: str) -> None:
        await self._ctx.emit(Progress(detail=rest))

    async def _do_events(self, rest: str) -> None:
        count, _, size = rest.partition(" ")
        text = "x" * int(size or 200)
        for _ in range(int(count)):
            await self._say(text)

    async def _do_artifact(self, rest: str) -> None:
        await self._stream(rest, lambda start, size: _filler(start, size).decode())

    async def _do_binary(self, rest: str) -> None:
        await self._stream(rest, lambda start, size: hashlib.shake_128(str(start).encode()).digest(size))

    async def _stream(self, rest: str, content: Callable[[int, int], str | bytes]) -> None:
        size, _, name = rest.partition(" ")
        total, artifact_id = _bytes_of(size) or 0, self._id("artifact")
        for start in range(0, max(total, 1), PIECE):
            piece = content(start, min(PIECE, total - start))
            last = start + PIECE >= total
            chunk = ArtifactChunk(
                artifact_id=artifact_id, name=name or "artifact", content=piece, append=start > 0, last=last
            )
            await self._ctx.emit(chunk)

    async def _do_data(self, rest: str) -> None:
        await self._ctx.emit(ArtifactAdded(artifact_id=self._id("artifact"), name="data", data=orjson.loads(rest)))

    async def _do_ask(self, rest: str) -> None:
        await self._say("the answer is: " + (await self._question(rest)).text)

    async def _do_asks(self, rest: str) -> None:
        answers = await asyncio.gather(*(self._question(question) for question in rest.split("|")))
        await self._say("the answers are: " + ", ".join(answer.text for answer in answers))

    async def _question(self, rest: str) -> Answer:
        text, *labels = (word.strip() for word in rest.split("|"))
        options = [{"id": label, "label": label} for label in labels]
        return await self._ctx.ask(
            InputRequest(request_id=self._id("question"), kind="question", text=text, options=options or None)
        )

    async def _do_approve(self, rest: str) -> None:
        request = InputRequest(
            request_id=self._id("approval"),
            kind="approval",
            text=f"Run {rest!r}?",
            options=[{"id": "approve", "label": "Run it"}, {"id": "deny", "label": "Do not run it"}],
            detail={"command": rest, "cwd": str(self._spec.cwd)},
        )
        answer = await self._ctx.ask(request)
        if answer.approved:
            await self._run_command(rest, "", 0)
            await self._say("approved")
        else:
            reason = answer.message.text if answer.message else ""
            await self._say(f"denied: {reason}".rstrip(": "))

    async def _do_input(self, rest: str) -> None:
        answer = await self._ctx.ask(InputRequest(request_id=self._id("input"), kind="input", text=rest))
        await self._say(f"the input is: {answer.text}")

    async def _do_auth(self, rest: str) -> None:
        await self._ctx.ask(InputRequest(request_id=self._id("auth"), kind="auth", text=rest or "please log in"))
        await self._say("logged in")

    async def _do_listen(self, _rest: str) -> None:
        async for message in self._ctx.steering():
            await self._say(f"heard: {message.text}")
            break

    async def _do_sleep(self, rest: str) -> None:
        await asyncio.sleep(float(rest))

    async def _do_remember(self, _rest: str) -> None:
        await self._say(f"{self._earlier} earlier prompts")

    async def _do_env(self, rest: str) -> None:
        await self._say(f"{rest}={self._ctx.env.get(rest, '')}")

    async def _do_system(self, rest: str) -> None:
        await self._say(f"{rest} is {'' if rest in self._job else 'not '}there")

    async def _do_usage(self, rest: str) -> None:
        numbers = rest.split()
        cost = float(numbers[2]) if len(numbers) > 2 else None
        self._usage = Usage(input_tokens=int(numbers[0]), output_tokens=int(numbers[1]), cost_usd=cost, turns=1)

    async def _do_limit(self, rest: str) -> None:
        await self._ctx.emit(RateLimited(words="too much", retry_s=float(rest)))
        await self._ctx.rest()

    async def _do_spend(self, rest: str) -> None:
        before = self._usage
        await self._do_usage(rest)
        assert self._usage is not None
        self._usage = self._usage.plus(before)
        if not await self._ctx.spend(self._usage, more=True):
            await asyncio.get_running_loop().create_future()  # until it is ended

    async def _do_json(self, rest: str) -> None:
        self._structured, self._final = orjson.loads(rest), rest

    async def _do_final(self, rest: str) -> None:
        self._final = _sized(rest)

    async def _do_fail(self, rest: str) -> Outcome:
        return Failed(code="agent_error", message=rest or "the script says so")

    async def _do_reject(self, rest: str) -> Outcome:
        return Rejected(message=rest or "the script says so")

    async def _do_cancel(self, rest: str) -> Outcome:
        return Cancelled(reason=rest or "the script says so")

    async def _do_crash(self, _rest: str) -> Outcome:
        raise RuntimeError("the script asked for a crash")


async def call_tool(server: JsonObject, name: str, arguments: JsonObject) -> str:
    """Calls a tool of an MCP server on stdio, which is started for that. Returns the text of the answer."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    params = {"name": name, "arguments": arguments, "_meta": _ERA}
    process = await asyncio.create_subprocess_exec(
        server["command"], *server["args"], stdin=PIPE, stdout=PIPE, env=server["env"], limit=2**24
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(orjson.dumps({**request, "params": params}, option=orjson.OPT_APPEND_NEWLINE))
        while line := await process.stdout.readline():
            answer = orjson.loads(line)
            if answer.get("id") == 1:
                return answer["result"]["content"][0]["text"] if "result" in answer else answer["error"]["message"]
        return "the server ended"
    finally:
        process.stdin.close()
        await process.wait()


_ERA = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "scripted", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_FENCED = re.compile(r"(===== [0-9a-f]{16} =====) Your job description \([^\n]*\)\n(.*)\n\1 Your task\n(.*)", re.DOTALL)

_OUTPUT = re.compile(r"^```\n(.*?)\n?^```", re.DOTALL | re.MULTILINE)


def told_apart(text: str) -> tuple[str, str]:
    """The job description that a message begins with, which may be none, and the script in the rest."""
    match = _FENCED.fullmatch(text)
    job, rest = (match[2], match[3]) if match else ("", text)
    rest = rest.partition("\n\n## Acceptance\n")[0]
    if rest.startswith("What you did does not pass"):  # what the checks said is the script
        rest = "\n".join(_OUTPUT.findall(rest))
    return job, rest


def _bytes_of(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def _sized(text: str) -> str:
    size = _bytes_of(text)
    return text if size is None else _filler(0, size).decode()


def _filler(start: int, size: int) -> bytes:
    """Text whose every line names its own offset, so that a reader can check any page of it."""
    first = start // 32
    lines = b"".join(b"line at byte %018d\n" % (index * 32) for index in range(first, (start + size) // 32 + 1))
    return lines[start - first * 32 :][:size]


def _write(cwd: Path, name: str, content: str) -> str | None:
    """Writes a file inside of cwd. Returns the kind of change, or None for a path that leads out."""
    path = (cwd / name).resolve()
    if not path.is_relative_to(cwd.resolve()):
        return None
    kind = "update" if path.exists() else "add"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return kind
