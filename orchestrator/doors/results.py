"""The tools by which a caller looks at what a run changed, takes it, or throws it away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from orchestrator.engine import deliverables
from orchestrator.engine.caller import Caller
from orchestrator.engine.engine import Engine
from orchestrator.errors import WrongState
from orchestrator.model import JsonObject, as_object
from orchestrator.queries import Queries
from orchestrator.store.layout import RunDir
from orchestrator.store.reader import sealed_spec
from orchestrator.workspaces.results import Commit, Result

Route = Callable[[JsonObject], Coroutine[Any, Any, JsonObject]]


class Results:
    """The handlers for one caller, by the names of their tools.

    Args:
        find: the run that a call names.
        command: the same, if the caller may command it.
    """

    def __init__(
        self,
        engine: Engine,
        caller: Caller,
        queries: Queries,
        find: Callable[[JsonObject], Awaitable[RunDir]],
        command: Callable[[JsonObject], Awaitable[RunDir]],
    ) -> None:
        self._engine = engine
        self._caller = caller
        self._queries = queries
        self._find = find
        self._command = command
        self.routes: Mapping[str, Route] = {
            "get_patch": self._get_patch,
            "apply_run": self._apply_run,
            "discard_run": self._discard_run,
        }

    async def _get_patch(self, given: JsonObject) -> JsonObject:
        run_dir = await self._find(given)
        result = await self._result(run_dir)
        patch = await asyncio.to_thread(result.patch)
        page = await self._queries.page_of_file(patch, "text/x-diff", given["offset"], given.get("limit"))
        return {"run_id": run_dir.run_id, **page}

    async def _apply_run(self, given: JsonObject) -> JsonObject:
        run_dir = await self._command(given)
        result = await self._result(run_dir)
        await asyncio.to_thread(self._engine.check_writes, run_dir, self._caller)
        title, body = await asyncio.to_thread(deliverables.title_of, run_dir)
        if "message" in given:
            title, _, body = given["message"].strip().partition("\n")
        done = await asyncio.to_thread(
            result.apply,
            mode=given["mode"],
            words=Commit(title, body.strip()),
            check_only=given["check_only"],
            three_way=given["three_way"],
            branch=given.get("branch"),
        )
        return {"run_id": run_dir.run_id, **done}

    async def _discard_run(self, given: JsonObject) -> JsonObject:
        run_dir = await self._command(given)
        result = await self._result(run_dir)
        await asyncio.to_thread(self._engine.check_writes, run_dir, self._caller)
        return {"run_id": run_dir.run_id, **await asyncio.to_thread(result.discard)}

    async def _result(self, run_dir: RunDir) -> Result:
        run = await self._engine.state(run_dir)
        if not run.terminal:
            raise WrongState(f"{run.run_id} is {run.status}; wait until it is over, or cancel it")
        patch = as_object((as_object((run.result or {}).get("changes")) or {}).get("patch")) or {}
        return await asyncio.to_thread(self._open, run_dir, patch.get("sha256"))

    def _open(self, run_dir: RunDir, digest: str | None) -> Result:
        trusted = self._engine.lives.settings.trusts(run_dir.workspace.cwd)
        spec, env = sealed_spec(self._engine.home, run_dir), self._engine.env_for(self._caller)
        return Result(run_dir, spec, env, trusted=trusted, digest=digest)
