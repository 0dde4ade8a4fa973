"""One run of Codex: its process, the conversation with it, and its end.

Above: the backend, which makes one `Drive` for each run. A run is one process, or several one after the other when a
login, or the provider's limit, had to be waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from backends.codex import ends, options
from backends.codex.client import Client, ProcessEnded, RpcError
from backends.codex.mounts import mount_points
from backends.codex.options import Options
from backends.codex.prompt import input_of, text_item
from backends.codex.turns import Conversation
from backends.codex.updates import Translation
from orchestrator import rate_limits
from orchestrator.backend import RunContext
from orchestrator.changes import Watch, tell_changes
from orchestrator.ends import Outcome, Rejected
from orchestrator.home import default_home, make_directory
from orchestrator.line_process import HURRY_S, line_process
from orchestrator.logins import GO_ON, LoginNeeded, settle
from orchestrator.model import JsonObject, RunSpec, as_object
from orchestrator.rate_limits import LimitReached, seconds_until, wait_out
from orchestrator.updates import Started

COLD_STARTS = 8
"""How often a start is tried again that failed because several made a new CODEX_HOME at the same time."""
CHECK_S = 20.0
"""How long Codex may take to check the caller's configuration."""


class Denied(Exception):
    """The run's permission could not be kept; the message says why."""


class Drive:
    """One run.

    Args:
        cli: the binary.
        path: directories that come first on the agent's PATH.
    """

    def __init__(self, spec: RunSpec, ctx: RunContext, given: Options, cli: str, path: str | None) -> None:
        self._spec = spec
        self._ctx = ctx
        self._options = given
        self._cli = cli
        self._path = path
        self._told = Translation(spec.cwd)
        self._resume = spec.native_session_id
        self._fork = spec.session_mode == "fork"
        self._begun = False
        self._watch: Watch | None = None
        self._cold_starts = 0

    async def run(self) -> Outcome:
        """Drives the run to its end."""
        if (problem := await self._checked()) is not None:
            return problem
        try:
            return await self._talk_on(input_of(self._spec.message))
        finally:
            if self._watch is not None and self._ctx.grace_s > HURRY_S:
                await tell_changes(self._watch, self._ctx)

    async def _talk_on(self, given: list[JsonObject]) -> Outcome:
        """One process, or several where a login or the provider had to be waited for."""
        number = 0
        while True:
            try:
                if (outcome := await self._talk(given)) is not None:
                    return outcome
                await asyncio.sleep(0.1 * self._cold_starts)
            except LoginNeeded as refusal:
                number += 1
                how = "Log in (`codex login`)"
                failure = await settle(self._ctx, refusal, agent="Codex", how=how, number=number)
                if failure is not None:
                    return failure
                if self._begun:
                    given = [text_item(GO_ON)]
            except LimitReached as limit:
                await wait_out(self._ctx, limit)
                given = [text_item(rate_limits.GO_ON)]

    async def _checked(self) -> Outcome | None:
        """What is wrong with the caller's configuration, as Codex itself finds it; None if nothing is."""
        if not self._options.config:
            return None
        command = [self._cli, "--strict-config", *options.config_flags(self._options), "app-server"]
        async with _temporary() as home:
            await asyncio.to_thread(self._fill, home)
            env = {**self._ctx.env, "CODEX_HOME": str(home)}
            async with line_process(
                command, cwd=self._spec.cwd, env=env, run_id=self._spec.run_id, ctx=self._ctx
            ) as process:
                process.close_stdin()
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_S):
                        async for _ in process.lines():
                            pass
                if process.exit_code:
                    words = " ".join(process.errors)[-1000:]
                    return Rejected(message=f"backend_config.config is not what Codex takes: {words}")
        return None

    def _fill(self, home: Path) -> None:
        """What the caller's keys may refer to; of our own home that is nothing."""
        if not self._options.isolated_home:
            lines = options.provider_lines(options.user_config(self._ctx.env))
            (home / "config.toml").write_text(lines, encoding="utf-8")

    def _prepared(self) -> tuple[dict[str, str], list[str], JsonObject]:
        """The environment and the command line of a process, and the parameters of its thread."""
        env = self._environment()
        user, project = options.user_config(env), options.project_of(self._spec.cwd)
        trusted = all(map(self._ctx.settings.trusts, project))
        if self._spec.level == "read_only":
            trusting = trusted or options.trusts(user, project)
            _check_rules([options.codex_home(env), *(folder / ".codex" for folder in project if trusting)])
        given = options.flags(self._options, user, project, trusted=trusted)
        ours = self._ctx.agent_tools.server if self._ctx.agent_tools else None
        fields = options.thread_fields(self._spec, self._options, user, ours)
        if self._options.append_system_prompt:
            fields["developerInstructions"] = self._options.append_system_prompt
        return env, [self._cli, *given, "app-server", "--listen", "stdio://"], fields

    async def _talk(self, given: list[JsonObject]) -> Outcome | None:
        """One process from its start to its end. None if it could not start and another one may."""
        try:
            env, command, fields = await asyncio.to_thread(self._prepared)
        except Denied as refusal:
            return Rejected(message=str(refusal))
        async with (
            self._writable(env),
            line_process(command, cwd=self._spec.cwd, env=env, run_id=self._spec.run_id, ctx=self._ctx) as process,
            Conversation(self._spec, self._ctx, self._told, Client(process)) as conversation,
        ):
            try:
                account = await conversation.begin()
                if account.get("requiresOpenaiAuth") and not account.get("account"):
                    if conversation.broken_config:
                        return Rejected(message=f"Codex: {conversation.broken_config}")
                    raise LoginNeeded("it is not logged in")
                thread = await conversation.open_thread(fields, resume=self._resume, fork=self._fork)
                if self._watch is None:
                    self._watch = await asyncio.to_thread(Watch, self._spec.cwd)
                await self._ctx.emit(
                    Started(agent=_version(thread), model=thread.get("model"), native_session_id=conversation.thread_id)
                )
                self._resume, self._fork = conversation.thread_id, False
                return await self._converse(conversation, given, self._watch)
            except RpcError as error:
                return ends.refusal_of(str(error), begun=self._begun)
            except ProcessEnded:
                if not self._begun and ends.is_cold_start(process.errors) and self._cold_starts < COLD_STARTS:
                    self._cold_starts += 1
                    return None
                return ends.exit_of(process.exit_code, list(process.errors), begun=self._begun)

    async def _converse(self, conversation: Conversation, given: list[JsonObject], watch: Watch) -> Outcome:
        """Says the prompt, tells what comes, and returns how it ended."""
        fields: JsonObject = {}
        if self._spec.output_schema is not None:
            fields["outputSchema"] = self._spec.output_schema
        if self._options.append_system_prompt and (self._spec.native_session_id or self._begun):
            # a thread that had begun keeps its first instructions, so these come with the turn
            instructions = {"value": self._options.append_system_prompt, "kind": "application"}
            fields["additionalContext"] = {"instructions": instructions}
        self._begun = True
        try:
            turn = await conversation.converse(given, fields, watch)
        finally:
            for update in self._told.interrupted():
                await self._ctx.emit(update)
        words = ends.limit_words(turn, conversation.limited_until)
        await self._ctx.spend(self._told.usage, more=words is not None)
        if words is not None:
            raise LimitReached(words, seconds_until(conversation.limited_until))
        return ends.outcome_of(turn, self._told, stopped=conversation.stopped)

    @asynccontextmanager
    async def _writable(self, env: dict[str, str]) -> AsyncGenerator[None]:
        """What the sandbox lets commands write to besides the files in cwd: a temporary directory of the run's own."""
        if self._spec.level == "full_access":
            yield
            return
        async with _temporary() as folder:
            env["TMPDIR"] = str(folder)
            if self._spec.level == "read_only":
                yield
                return
            async with mount_points(self._spec.cwd):
                yield

    def _environment(self) -> dict[str, str]:
        env = dict(self._ctx.env)
        if self._path:
            env["PATH"] = os.pathsep.join(word for word in (self._path, env.get("PATH")) if word)
        if self._options.isolated_home:
            env["CODEX_HOME"] = str(_isolated_home(env))
        return env


def _check_rules(places: list[Path]) -> None:
    """Refuses a read_only run that would leave its sandbox by the rules in one of these places. Blocks."""
    if rules := next(filter(None, map(options.loosening_rules, places)), None):
        raise Denied(
            f"{rules} lets commands run outside of the sandbox, which a read_only run must not; "
            "use backend_config.isolated_home, or take the rules away"
        )


def _isolated_home(env: Mapping[str, str]) -> Path:
    """A CODEX_HOME of ours, with the user's login: a link, so that a login that is renewed is renewed for both."""
    theirs = options.codex_home(env)
    home = Path(default_home(), "codex", hashlib.sha256(os.fsencode(theirs)).hexdigest()[:16])
    make_directory(home)
    login = home / "auth.json"
    with suppress(FileExistsError):
        login.symlink_to(theirs / "auth.json")
    return home


@asynccontextmanager
async def _temporary() -> AsyncGenerator[Path]:
    """A directory that is there for as long as the block."""
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="orc-")
    try:
        yield Path(folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _version(thread: JsonObject) -> str:
    about = as_object(thread.get("thread")) or {}
    return f"Codex {about.get('cliVersion', '')}".strip()
