"""Runs that lost their owner: taken over, and given a new life or their end.

What had not begun is started, what runs elsewhere is found again, and the rest is ended, with what an agent left
behind. The same code at the start of a host, when somebody looks at such a run, and after a reboot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.backend import Backend
from orchestrator.engine.history import Inherited, inherit
from orchestrator.engine.life import Stop
from orchestrator.engine.lives import Lives
from orchestrator.engine.outcome import last_event
from orchestrator.errors import Conflict, OrchestratorError, StoreError
from orchestrator.model import Run
from orchestrator.process import reap
from orchestrator.store.layout import RunDir, read_json
from orchestrator.store.log import uninterrupted
from orchestrator.store.reader import RunReader

logger = logging.getLogger(__name__)


class Recovery:
    """Takes runs over for one process.

    Args:
        scope: only runs at or below this directory; None for all.
    """

    def __init__(self, lives: Lives, load_backend: Callable[[str], Awaitable[Backend]], scope: Path | None) -> None:
        self._lives = lives
        self._load_backend = load_backend
        self._scope = scope
        self._taking = asyncio.Lock()

    async def state(self, run_dir: RunDir) -> Run:
        """The state of a run that does not live here, recovered if its owner is gone."""
        run = (await asyncio.to_thread(RunReader(run_dir).state)).run
        if run.terminal or self._lives.closing or not self._in_scope(run_dir):
            return run
        taken = await self._take([run_dir])
        life = self._lives.get(run_dir.run_id)
        return life.log.run if life else taken.get(run_dir.run_id, run)

    async def recover(self) -> int:
        """Takes all runs whose owner is gone: to be called before the first command, and now and then.

        Returns:
            How many there were.
        """
        living = await asyncio.to_thread(self._lives.home.living)
        return len(await self._take([run for run in living if self._in_scope(run)]))

    def _in_scope(self, run_dir: RunDir) -> bool:
        return self._scope is None or run_dir.path.is_relative_to(self._scope)

    async def _take(self, run_dirs: list[RunDir]) -> dict[str, Run]:
        async with self._taking:  # what is being taken over is not asked for again by those who come meanwhile
            return await uninterrupted(self._take_now(run_dirs))

    async def _take_now(self, run_dirs: list[RunDir]) -> dict[str, Run]:
        strangers = [run for run in run_dirs if run.run_id not in self._lives]
        taken = [run for run in await asyncio.gather(*map(self._inherit, strangers)) if run]
        if reaping := {run.spec.run_id: run.log.agent for run in taken if not run.log.run.terminal}:
            await asyncio.to_thread(reap, reaping)
        # those that had begun come first in their sessions, then the others as they were asked for
        taken.sort(key=lambda run: (not run.history.started, run.spec.run_id))
        return {run.spec.run_id: await self._go_on(run) for run in taken}

    async def _inherit(self, run_dir: RunDir) -> Inherited | None:
        try:
            return await asyncio.to_thread(inherit, run_dir, self._lives.socket)
        except (Conflict, StoreError, OSError) as error:  # it has an owner, or cannot be read
            logger.debug("%s is not taken over: %s", run_dir.run_id, error)
            return None

    async def _go_on(self, inherited: Inherited) -> Run:
        """Finds a run's remote work again, starts one that had not begun, and ends what can only be ended."""
        spec, log, history = inherited
        if log.run.terminal:
            log.close()
            await self._lives.settle(spec.run_id)
            return log.run
        try:
            backend = await self._load_backend(spec.backend)
        except OrchestratorError as error:
            return await self._bury(inherited, error)
        if history.started and "attach" not in backend.abilities:
            return await self._bury(inherited, Stop("lost"))
        if history.started:
            spec = replace(spec, attach=history.attachment)
        logger.info("run %s is taken over, %s", spec.run_id, "re-attached" if history.started else "queued again")
        self._lives.begin(spec, log, backend, None, history)
        return log.run

    async def _bury(self, inherited: Inherited, why: Stop | OrchestratorError) -> Run:
        """Ends a run whose agent cannot be found again."""
        spec, log, _ = inherited
        try:
            session = await asyncio.to_thread(read_json, log.dir.workspace.session(spec.session_id)) or {}
            last = await last_event(spec, log.run, why, bound="native_session_id" in session)
            await log.end(last.type, last.data)
            await self._lives.settle(spec.run_id)
        except StoreError as error:
            logger.warning("cannot end %s, whose owner is gone: %s", spec.run_id, error)
        finally:
            log.close()
        return log.run
