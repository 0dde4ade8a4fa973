"""One run of Claude Code: its process, the conversation with it, what it asks, and its end.

Above: the backend, which makes one `Drive` for each run. A run is one process, or several one after the other when a
login had to be waited for. Pure work is done by `updates`, `requests` and `ends`; here is what takes time.
"""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import claude_agent_sdk
import orjson
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKError, ResultMessage

from backends.claude_code import ends
from backends.claude_code.options import Options, agent_environment, sdk_options
from backends.claude_code.prompt import content_of
from backends.claude_code.sessions import cost_until_now, transcript_of
from backends.claude_code.talk import Talk
from backends.claude_code.transport import command_of
from backends.claude_code.updates import Translation
from orchestrator.backend import RunContext
from orchestrator.changes import Watch
from orchestrator.errors import BackendError
from orchestrator.events import FileChanged, Progress, Started
from orchestrator.line_process import LineProcess, line_process
from orchestrator.logins import GO_ON, LoginNeeded, settle
from orchestrator.model import Completed, JsonObject, Outcome, RunSpec, Usage, as_array, as_object

OLDEST = (2, 1, 248)
"""The first Claude Code that takes a prompt as it is written."""


class Drive:
    """One run."""

    def __init__(self, spec: RunSpec, ctx: RunContext, options: Options, cli: str) -> None:
        self._spec = spec
        self._ctx = ctx
        self._options = options
        self._cli = cli
        self._told = Translation(spec.cwd)
        self._usage = Usage(input_tokens=0, output_tokens=0, cached_input_tokens=0)
        self._before_usd = 0.0
        self._session = str(uuid.uuid4())
        self._resume = spec.native_session_id
        self._fork = spec.session_mode == "fork"
        self._logins = 0

    async def run(self) -> Outcome:
        """Drives the run to its end."""
        spec = self._spec
        if self._resume:
            self._before_usd = await asyncio.to_thread(cost_until_now, self._resume, self._ctx.env)
        content = content_of(spec.message)
        while True:
            try:
                outcome = await self._talk(content)
            except LoginNeeded as refusal:
                self._logins += 1
                how = "Log in (`claude`, then /login)"
                failure = await settle(self._ctx, refusal, agent="Claude Code", how=how, number=self._logins)
                if failure is not None:
                    return failure
                if await asyncio.to_thread(transcript_of, self._session, self._ctx.env):
                    self._resume, self._fork = self._session, False
                    content = [{"type": "text", "text": GO_ON}]
                continue
            return outcome

    async def _talk(self, content: list[JsonObject]) -> Outcome:
        """One process from its start to its end."""
        fields = sdk_options(self._spec, self._options, cli=self._cli)
        if self._resume:
            fields["resume"] = self._resume
        if not self._resume or self._fork:
            fields["session_id"] = self._session = str(uuid.uuid4())
            fields["fork_session"] = self._fork
        else:
            self._session = self._resume
        begun = False
        env = agent_environment(self._ctx.env, self._spec.cwd, claude_agent_sdk.__version__)
        async with _running(fields, self._spec, self._ctx, env) as (options, process):
            try:
                async with Talk(self._spec, self._ctx, self._told, options, process) as talk:
                    _check_version(talk.about)
                    _check_login(talk.about)
                    watch = await asyncio.to_thread(Watch, self._spec.cwd)
                    await self._ctx.emit(
                        Started(
                            agent=f"Claude Code {talk.about.get('claude_code_version', '')}".strip(),
                            model=self._options.model or _default_model(talk.about),
                            native_session_id=self._session,
                        )
                    )
                    begun = True
                    return await self._converse(talk, content, watch)
            except ClaudeSDKError as error:
                if process.exit_code is None:
                    raise BackendError("agent_protocol", f"Claude Code cannot be understood: {error}") from error
                return ends.exit_of(process.exit_code, [*process.errors, str(error)], begun=begun)

    async def _converse(self, talk: Talk, content: list[JsonObject], watch: Watch) -> Outcome:
        """Says the prompt, tells what comes, and returns how it ended."""
        try:
            result = await talk.converse(content, watch, self._options.background_wait_s)
        finally:
            self._count(talk.results)
            for update in self._told.interrupted():
                await self._ctx.emit(update)
        outcome = ends.outcome_of(result, talk.error, self._usage, self._told.misfit)
        if not isinstance(outcome, Completed):  # whose usage stands in its end
            await self._ctx.emit(Progress(detail="the run is over", usage=self._usage))
        if changes := await asyncio.to_thread(watch.changes):
            await self._ctx.emit(FileChanged(changes=changes))
        return outcome

    def _count(self, results: list[ResultMessage]) -> None:
        """Adds what the turns used. Input counts whole, as other backends count it; costs are those of the session."""
        if not results:
            return
        usage = self._usage
        for result in results:
            given = result.usage or {}
            cached = int(given.get("cache_read_input_tokens") or 0)
            fresh = int(given.get("input_tokens") or 0) + int(given.get("cache_creation_input_tokens") or 0)
            usage = replace(
                usage,
                input_tokens=usage.input_tokens + fresh + cached,
                cached_input_tokens=(usage.cached_input_tokens or 0) + cached,
                output_tokens=usage.output_tokens + int(given.get("output_tokens") or 0),
            )
        cost = results[-1].total_cost_usd
        spent = None if cost is None else max(0.0, round(cost - self._before_usd, 9))
        self._usage = replace(usage, cost_usd=spent, turns=len(self._told.model_calls))


@asynccontextmanager
async def _running(
    fields: JsonObject, spec: RunSpec, ctx: RunContext, env: Mapping[str, str]
) -> AsyncGenerator[tuple[ClaudeAgentOptions, LineProcess]]:
    """The CLI for these options. What it is told of MCP servers goes through a pipe, for it may hold credentials."""
    servers, reader = fields.pop("mcp_servers"), None
    if servers:
        reader = await asyncio.to_thread(_piped, orjson.dumps({"mcpServers": servers}))
        fields["mcp_servers"] = f"/dev/fd/{reader}"
    options = ClaudeAgentOptions(**fields)
    try:
        async with line_process(
            command_of(options), cwd=spec.cwd, env=env, run_id=spec.run_id, ctx=ctx, keep=reader
        ) as process:
            yield options, process
    finally:
        if reader is not None:
            os.close(reader)


def _piped(text: bytes) -> int:
    """A descriptor from which the text can be read once."""
    if len(text) > 60_000:
        raise BackendError("unsupported", "backend_config.mcp_servers is over 60,000 bytes", resumable=False)
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(text)
    return reader


def _check_version(about: JsonObject) -> None:
    """Refuses a CLI that would take `@` and `/` in prompts for commands, or says less than is needed."""
    version = str(about.get("claude_code_version") or "of unknown version")
    numbers = tuple(int(word) for word in re.findall(r"\d+", version)[:3])
    if numbers < OLDEST:
        raise BackendError(
            "backend_unavailable",
            f"Claude Code {version} is too old: {'.'.join(map(str, OLDEST))} or newer is needed",
            next_step="update it, or install 'orchestrator-mcp[claude]', then spawn the run again",
        )


def _check_login(about: JsonObject) -> None:
    """A CLI that names no source of credentials for a service that wants some need not be asked for its first call."""
    account = as_object(about.get("account")) or {}
    sources = (account.get("tokenSource"), account.get("apiKeySource"))
    if account.get("apiProvider") == "firstParty" and all(source in (None, "none") for source in sources):
        raise LoginNeeded("it is not logged in")


def _default_model(about: JsonObject) -> str | None:
    models = [as_object(model) or {} for model in as_array(about.get("models")) or []]
    return next((str(model.get("resolvedModel")) for model in models if model.get("value") == "default"), None)
