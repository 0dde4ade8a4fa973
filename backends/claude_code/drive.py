"""One run of Claude Code: its process, the conversation with it, what it asks, and its end.

Above: the backend, which makes one `Drive` for each run. A run is one process, or several one after the other when a
login, or the provider's limit, had to be waited for. Pure work is done by `updates`, `requests` and `ends`; here is
what takes time.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager

import claude_agent_sdk
import orjson
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKError, ResultMessage

from backends.claude_code import ends
from backends.claude_code.options import IDLE_MS, Options, agent_environment, sdk_options
from backends.claude_code.prompt import content_of
from backends.claude_code.sessions import Spent, spent_until_now, transcript_of
from backends.claude_code.talk import Talk
from backends.claude_code.transport import command_of
from backends.claude_code.updates import Translation
from orchestrator import rate_limits
from orchestrator.backend import RunContext
from orchestrator.changes import Watch, tell_changes
from orchestrator.ends import Outcome
from orchestrator.errors import BackendError
from orchestrator.line_process import HURRY_S, LineProcess, line_process
from orchestrator.logins import GO_ON, LoginNeeded, settle
from orchestrator.model import JsonObject, RunSpec, Usage, as_array, as_object
from orchestrator.rate_limits import LimitReached, seconds_until, wait_out
from orchestrator.updates import Started
from orchestrator.values import OURS

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
        self._before = Spent()
        self._watch: Watch | None = None
        self._session = str(uuid.uuid4())
        self._resume = spec.native_session_id
        self._fork = spec.session_mode == "fork"
        self._logins = 0
        self._said = False
        """The agent has the prompt."""

    async def run(self) -> Outcome:
        """Drives the run to its end."""
        if self._resume:
            self._before = await asyncio.to_thread(spent_until_now, self._resume, self._ctx.env)
        content = content_of(self._spec.message)
        try:
            while True:
                try:
                    return await self._talk(content)
                except LoginNeeded as refusal:
                    self._logins += 1
                    how = "Log in (`claude`, then /login)"
                    failure = await settle(self._ctx, refusal, agent="Claude Code", how=how, number=self._logins)
                    if failure is not None:
                        return failure
                    go_on = GO_ON
                except LimitReached as limit:
                    await wait_out(self._ctx, limit)
                    go_on = rate_limits.GO_ON
                if self._said and await asyncio.to_thread(transcript_of, self._session, self._ctx.env):
                    self._resume, self._fork = self._session, False
                    content = [{"type": "text", "text": go_on}]
        finally:
            if self._watch is not None and self._ctx.grace_s > HURRY_S:
                await tell_changes(self._watch, self._ctx)

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
        if self._ctx.agent_tools is not None:
            server = {**self._ctx.agent_tools.server, "timeout": IDLE_MS}  # whatever MCP_TOOL_TIMEOUT says
            fields["mcp_servers"] = {OURS: server, **fields["mcp_servers"]}
        env = agent_environment(self._ctx.env, self._spec.cwd, claude_agent_sdk.__version__)
        appended = self._options.append_system_prompt
        async with _running(fields, self._spec, self._ctx, env, appended) as (options, process):
            try:
                async with Talk(self._spec, self._ctx, self._told, options, process, self._before_step) as talk:
                    _check_version(talk.about)
                    _check_login(talk.about)
                    if self._watch is None:
                        self._watch = await asyncio.to_thread(Watch, self._spec.cwd)
                    await self._ctx.emit(
                        Started(
                            agent=f"Claude Code {talk.about.get('claude_code_version', '')}".strip(),
                            model=_model(talk.about, self._options, env),
                            native_session_id=self._session,
                        )
                    )
                    self._said = True
                    return await self._converse(talk, content, self._watch)
            except ClaudeSDKError as error:
                if process.exit_code is None:
                    raise BackendError("agent_protocol", f"Claude Code cannot be understood: {error}") from error
                return ends.exit_of(process.exit_code, list(process.errors) or [str(error)], begun=self._said)

    async def _before_step(self, now: Spent) -> bool:
        """Whether the agent may go on, having used so much; told before it uses a tool."""
        self._spent(now)
        return await self._ctx.spend(self._usage, more=True)

    async def _converse(self, talk: Talk, content: list[JsonObject], watch: Watch) -> Outcome:
        """Says the prompt, tells what comes, and returns how it ended."""
        completed = False
        try:
            result = await talk.converse(content, watch, self._options.background_wait_s)
            completed = not result.is_error
        finally:
            self._count(talk.results)
            for update in self._told.interrupted():
                await self._ctx.emit(update)
            if not completed:  # whose usage stands in its end
                await self._ctx.spend(self._usage, more=False)
        if result.is_error and talk.error is not None and talk.error.error == "rate_limit":
            await self._ctx.spend(self._usage, more=True)
            raise LimitReached(result.result or "the provider's limit is reached", seconds_until(talk.limited_until))
        return ends.outcome_of(result, talk.error, self._usage, self._told.misfit)

    def _count(self, results: list[ResultMessage]) -> None:
        if results:
            self._spent(Spent.of(results[-1].total_cost_usd, results[-1].model_usage))

    def _spent(self, now: Spent) -> None:
        """What the run used. Claude Code counts for the session, with its sub-agents, over all its processes."""
        before = self._before
        self._usage = Usage(
            input_tokens=max(0, now.input_tokens - before.input_tokens),
            cached_input_tokens=max(0, now.cached_input_tokens - before.cached_input_tokens),
            output_tokens=max(0, now.output_tokens - before.output_tokens),
            cost_usd=max(0.0, round(now.cost_usd - before.cost_usd, 9)),
            turns=len(self._told.model_calls),
        )


@asynccontextmanager
async def _running(
    fields: JsonObject, spec: RunSpec, ctx: RunContext, env: Mapping[str, str], appended: str | None
) -> AsyncGenerator[tuple[ClaudeAgentOptions, LineProcess]]:
    """The CLI for these options. What it is told of MCP servers goes through a pipe, for it may hold credentials.

    Args:
        appended: to its system prompt.
    """
    servers = fields.pop("mcp_servers")
    with ExitStack() as files:
        keep: list[int] = []
        if servers:
            keep.append(await asyncio.to_thread(_piped, orjson.dumps({"mcpServers": servers}), files))
            fields["mcp_servers"] = f"/dev/fd/{keep[-1]}"
        if appended:
            keep.append(await asyncio.to_thread(_filed, appended.encode(), files))
            extra: JsonObject = fields.get("extra_args", {})
            fields["extra_args"] = {**extra, "append-system-prompt-file": f"/dev/fd/{keep[-1]}"}
        options = ClaudeAgentOptions(**fields)
        async with line_process(
            command_of(options), cwd=spec.cwd, env=env, run_id=spec.run_id, ctx=ctx, keep=keep
        ) as process:
            yield options, process


def _piped(text: bytes, files: ExitStack) -> int:
    """A descriptor from which the text can be read once."""
    if len(text) > 60_000:
        raise BackendError("unsupported", "backend_config.mcp_servers is over 60,000 bytes", resumable=False)
    reader, writer = os.pipe()
    files.callback(os.close, reader)
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(text)
    return reader


def _filed(text: bytes, files: ExitStack) -> int:
    """A descriptor of a file without a name that holds the text."""
    file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  it is closed with the others
    file.write(text)
    file.seek(0)
    return file.fileno()


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
    """A CLI that says that it has no credentials for a service that wants some need not be asked for its first call."""
    account = as_object(about.get("account")) or {}
    none = account.get("tokenSource") == "none" and account.get("apiKeySource") in (None, "none")
    if none and account.get("apiProvider") == "firstParty":
        raise LoginNeeded("it is not logged in")


def _model(about: JsonObject, options: Options, env: Mapping[str, str]) -> str | None:
    """The model that the agent will use, as far as it is known before it begins."""
    wanted = options.model or env.get("ANTHROPIC_MODEL") or ("" if options.setting_sources else "default")
    models = [as_object(model) or {} for model in as_array(about.get("models")) or []]
    resolved = next((model.get("resolvedModel") for model in models if model.get("value") == wanted), None)
    return str(resolved) if resolved else wanted.removeprefix("default") or None
