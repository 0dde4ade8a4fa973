"""From a tool's name and arguments to its document: checking, routing, nothing else.

Above: any door that speaks in tools (MCP today). Below: the engine for commands, the queries for everything read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator import profiles
from orchestrator.clip import clip, json_chars
from orchestrator.doors.results import Results, Route
from orchestrator.doors.schemas import TOOLSETS, Tool, offered
from orchestrator.doors.talk import Talk
from orchestrator.engine.engine import Caller, Engine
from orchestrator.engine.spawn import workspace_path
from orchestrator.errors import InvalidArgument, NotFound, NotOwner, RunNotFound, UnknownArgument, WrongState, nearest
from orchestrator.front_matter import in_short
from orchestrator.model import JsonObject, Run, compact
from orchestrator.queries import RESULT_CHARS, Queries
from orchestrator.races import unless
from orchestrator.store.layout import RUN_ID, RunDir, checked

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in offered(TOOLSETS)}


LONGEST_WAIT_S = 50.0
"""How long a call waits: known clients give up after a minute."""
PROFILE_CHARS = 500
"""Of a profile in a list."""
_OVER = "your run is over"
Forward = Callable[[str, Caller, str, JsonObject], Awaitable[JsonObject]]
"""Calls a tool at the socket of another process for a caller."""


class Tools:
    """The tools for one caller.

    Args:
        queries: shared by the clients of one process, for they remember where runs lie.
        forward: how a command reaches the owner of a run that lives in another process; None if it does not.
    """

    def __init__(
        self, engine: Engine, caller: Caller, queries: Queries | None = None, forward: Forward | None = None
    ) -> None:
        self._engine = engine
        self._forward = forward
        self._queries = queries or Queries(engine)
        self.caller = caller
        self.home = engine.home
        self.offered = offered(caller.toolsets, usual=not caller.bound or caller.delegates)
        self._validators: Mapping[str, Validator] = {}
        self._routes: dict[str, Route] = {
            "spawn_run": self._spawn_run,
            "get_run": self._get_run,
            "poll_events": self._poll_events,
            "wait_runs": self._wait_runs,
            "continue_run": self._continue_run,
            "cancel_run": self._cancel_run,
            "list_runs": self._list_runs,
            "get_event_artifact": self._get_event_artifact,
            "list_profiles": self.list_profiles,
            **Talk(engine, caller).routes,
            **Results(engine, caller, self._queries, self._find, self._commanded).routes,
        }

    async def call(self, name: str, arguments: Mapping[str, Any]) -> JsonObject:
        """The document of one call.

        Raises:
            OrchestratorError: the call was refused; its sentence says why and what to do next.
        """
        route = self._routes.get(name)
        if route is None:
            raise InvalidArgument(f"no tool {name[:80]!r}{nearest(name, (tool.name for tool in self.offered))}")
        if BY_NAME[name] not in self.offered:
            raise InvalidArgument(_unoffered(name))
        self.check_live()
        if not self._validators:
            self._validators = await asyncio.to_thread(_make_validators)
        given = check_arguments(BY_NAME[name], self._validators[name], arguments)
        try:
            return await self._while_live(route(given))
        except NotOwner as elsewhere:
            if elsewhere.socket is None or self._forward is None or self.caller.forwarded:
                raise
            run = await self._find(given)
            named = {key: value for key, value in arguments.items() if key not in ("agent_name", "cwd")}
            return await self._forward(elsewhere.socket, self.caller, name, {**named, "run_id": run.run_id})

    def check_live(self) -> None:
        """Refuses the agent of a run that is over: its pass is worth nothing any more.

        Raises:
            WrongState: it is over.
        """
        if self.caller.bound and (self.caller.parent_run_id or "") not in self._engine.lives:
            raise WrongState(_OVER)

    async def _while_live(self, answering: Coroutine[Any, Any, JsonObject]) -> JsonObject:
        """What a call gives; to an agent nothing that comes after its run is over, such as the messages to its next."""
        life = self._engine.lives.get(self.caller.parent_run_id or "") if self.caller.bound else None
        if life is None:
            return await answering
        if (document := await unless(life.over(), answering)) is None:
            raise WrongState(_OVER)
        return document

    async def _spawn_run(self, given: JsonObject) -> JsonObject:
        waits = given.pop("wait", False)
        run = await self._engine.spawn(given, self.caller)
        if waits:
            run_dir = await self._find({"run_id": run.run_id})
            with self._giving_way(run_dir):
                await self._queries.wait_runs([run_dir], until_all=True, wait_s=LONGEST_WAIT_S)
            return await self._queries.get_run(run_dir)
        return compact(
            {
                "run_id": run.run_id,
                "session_id": run.session_id,
                "agent_name": run.agent_name,
                "backend": run.backend,
                "role": run.role,
                "status": run.status,
                "notices": (run.profile or {}).get("notices"),
            }
        )

    async def _get_run(self, given: JsonObject) -> JsonObject:
        return await self._queries.get_run(await self._find(given))

    async def _poll_events(self, given: JsonObject) -> JsonObject:
        run_dir = await self._find(given)
        with self._giving_way(run_dir):
            return await self._queries.poll_events(
                run_dir,
                after_seq=given["after_seq"],
                limit=given["limit"],
                wait_s=given["wait_ms"] / 1000,
                types=given.get("types"),
                max_chars=given["max_chars"],
            )

    async def _wait_runs(self, given: JsonObject) -> JsonObject:
        run_dirs = await asyncio.to_thread(self._find_all, given["run_ids"])
        until_all = given["until"] == "all"
        with self._giving_way(*run_dirs):
            return await self._queries.wait_runs(run_dirs, until_all=until_all, wait_s=given["wait_ms"] / 1000)

    def _giving_way(self, *runs: RunDir) -> AbstractContextManager[None]:
        return self._engine.lives.giving_way(self.caller.parent_run_id, (run.run_id for run in runs))

    async def _continue_run(self, given: JsonObject) -> JsonObject:
        run_dir = await self._commanded(given)
        run, mode = await self._engine.resume(run_dir, given, self.caller)
        resumed_from = run_dir.run_id if mode == "resume" else None
        return compact(
            {
                "run_id": run.run_id,
                "status": run.status,
                "mode": mode,
                "resumed_from_run_id": resumed_from,
            }
        )

    async def _cancel_run(self, given: JsonObject) -> JsonObject:
        run_dir = await self._commanded(given)
        run: Run = await self._engine.cancel(run_dir, given.get("reason"))
        cancelled_at = run.completed_at if run.status == "cancelled" else None
        return compact({"run_id": run.run_id, "status": run.status, "cancelled_at": cancelled_at})

    async def rows(self) -> list[JsonObject]:
        """The newest runs, as a list shows each."""
        return (await self._list_runs({"limit": 20}, trees=False))["runs"]

    async def _list_runs(self, given: JsonObject, *, trees: bool = True) -> JsonObject:
        where = given.get("cwd")
        cwd = None if where == "*" else await asyncio.to_thread(self._cwd, where)
        if (cursor := given.get("cursor")) is not None:
            checked(cursor, RUN_ID, "cursor")
        filters = {name: given[name] for name in ("status", "backend", "role", "session_id") if name in given}
        among = await asyncio.to_thread(self._engine.kin.tree_of, self.caller) if self.caller.bound else None
        return await self._queries.list_runs(
            cwd=cwd, filters=filters, limit=given["limit"], cursor=cursor, among=among, trees=trees
        )

    async def _get_event_artifact(self, given: JsonObject) -> JsonObject:
        return await self._queries.get_event_artifact(
            await self._find(given),
            seq=given["seq"],
            field_path=given["field_path"],
            offset=given["offset"],
            limit=given.get("limit"),
        )

    async def run(self, run_id: str) -> Run:
        """A run as it is now."""
        return await self._engine.state(await self._find({"run_id": run_id}))

    async def run_past(self, run_id: str, last_seq: int) -> None:
        """Returns when a run may have an event behind that number; after a bounded time at the latest."""
        await self._queries.past(await self._find({"run_id": run_id}), last_seq)

    async def patch(self, run_id: str, most: int) -> str:
        """What a run that is over changed, its first bytes if it is large."""
        page = await self._routes["get_patch"]({"run_id": run_id, "offset": 0, "limit": most})
        return page["content"]

    async def list_profiles(self, given: JsonObject) -> JsonObject:
        """The profiles that reach a run in a directory, as many as a result holds."""
        cwd = await asyncio.to_thread(self._cwd, given.get("cwd"))
        return await asyncio.to_thread(_profile_rows, cwd, self.home.path)

    async def _find(self, given: JsonObject) -> RunDir:
        return await asyncio.to_thread(self._find_one, given)

    def _find_one(self, given: JsonObject) -> RunDir:
        return self._seen(given.get("run_id"), given.get("agent_name"), self._cwd(given.get("cwd")))

    def _find_all(self, run_ids: list[str]) -> list[RunDir]:
        return [self._seen(run_id, None, self.caller.cwd) for run_id in run_ids]

    def _seen(self, run_id: str | None, agent_name: str | None, cwd: Path) -> RunDir:
        """A run, if the caller may see it: an agent sees those of its tree, and no others' names."""
        if not self.caller.bound:
            return self._queries.find(run_id, agent_name, cwd)
        try:
            found = self._queries.find(run_id, agent_name, cwd)
            if self._engine.kin.is_in_tree(found.run_id, self.caller):
                return found
        except NotFound:
            pass
        raise RunNotFound(f"no run {run_id or agent_name!r} in your tree; call list_agents")

    async def _commanded(self, given: JsonObject) -> RunDir:
        """The run that a command is for; an agent commands what it spawned, by whichever door it comes."""
        run_dir = await self._find(given)
        if self.caller.bound or self._engine.kin.is_agent(self.caller):
            await asyncio.to_thread(self._engine.kin.check_descends, run_dir.run_id, self.caller)
        return run_dir

    def _cwd(self, given: str | None) -> Path:
        return self.caller.cwd if given is None else workspace_path(given)


def _unoffered(name: str) -> str:
    for toolset, tools in TOOLSETS.items():
        if BY_NAME[name] in tools:
            return f"{name} is offered by `orchestrator mcp --toolset {toolset}` alone"
    return f"{name} is offered to agents only with backend_config.delegate: true"


def _profile_rows(cwd: Path, home: Path) -> JsonObject:
    rows: list[JsonObject] = []
    names: list[str] = []
    size = 0
    for row in profiles.listed(cwd, home):
        document, _ = clip(row.to_json(), PROFILE_CHARS)
        size += json_chars(document)
        if size > RESULT_CHARS - 1_000:
            names.append(row.name)
        else:
            rows.append(document)
    more = f"{len(names)} more: {in_short(names)}" if names else None
    return compact({"profiles": rows, "more": more})


def check_arguments(tool: Tool, validator: Validator, arguments: Mapping[str, Any]) -> JsonObject:
    """The arguments with defaults filled in.

    Raises:
        UnknownArgument: the tool has no argument of a name that was given.
        InvalidArgument: a value is missing or of the wrong kind; the message names it.
    """
    for name in arguments:
        if name not in tool.properties:
            raise UnknownArgument(f"{tool.name} has no argument {name!r}{nearest(name, tool.properties)}")
    for name in tool.required:
        if name not in arguments:
            raise InvalidArgument(f"{tool.name} needs {name}: {_wanted(tool, name)}")
    error = next(iter(validator.iter_errors(dict(arguments))), None)
    if error is not None:
        raise InvalidArgument(_said(tool, error))
    defaults = {name: schema["default"] for name, schema in tool.properties.items() if "default" in schema}
    return {**defaults, **{name: _whole(tool.properties[name], value) for name, value in arguments.items()}}


def _whole(schema: JsonObject, value: Any) -> Any:
    """1.0 is an integer to JSON Schema, and 1 to us."""
    return int(value) if schema.get("type") == "integer" and isinstance(value, float) else value


def _wanted(tool: Tool, name: str) -> str:
    schema = cast(JsonObject, tool.properties[name])
    return str(schema.get("description") or schema.get("type", "a value"))


def _said(tool: Tool, error: Any) -> str:
    """jsonschema's error in words that name the argument and what it takes."""
    path = error.json_path.removeprefix("$.")
    if error.validator == "enum":
        allowed = ", ".join(str(value) for value in error.validator_value)
        return f"{path} is {error.instance!r}; {tool.name} takes one of: {allowed}"
    return f"{path}: {error.message[:300]}"


@cache
def _make_validators() -> Mapping[str, Validator]:
    """One validator per tool. The import reads files, so this is called in a thread."""
    from jsonschema import Draft202012Validator

    return {tool.name: Draft202012Validator(tool.input_schema) for tool in BY_NAME.values()}
