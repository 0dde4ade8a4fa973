"""Runs that lost their owner: taken over, and given a new life or their end.

What had not begun is started, what runs elsewhere is found again, and the rest is ended, with what an agent left
behind. The same code at the start of a host, when somebody looks at such a run, and after a reboot. A run that cannot
be taken over, for its files are damaged or its disk is dead, is left alone with a line in the log, and harms no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.backend import Backend
from orchestrator.ends import Stop
from orchestrator.engine.history import Inherited, inherit
from orchestrator.engine.lives import Lives
from orchestrator.engine.outcome import last_event
from orchestrator.engine.work import leave_behind, unlooked
from orchestrator.errors import BackendError, Conflict, RunNotFound
from orchestrator.model import JsonObject, Run
from orchestrator.process import reap
from orchestrator.store.create import discard, was_answered
from orchestrator.store.layout import RunDir, read_json
from orchestrator.store.log import uninterrupted
from orchestrator.store.reader import RunReader, is_tampered
from orchestrator.workspaces.places import Place

logger = logging.getLogger(__name__)

FIRST_S = 5.0
"""How long new runs wait for the first round, to come behind those that it finds."""
TAKE_S = 10.0
"""How long the disk may take for one run before the others go on without it."""


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
        self._slow: dict[asyncio.Task[tuple[Inherited, Backend] | None], str] = {}
        """What hangs, and the run that it is about: each may hold a thread for ever, and so is not tried again."""
        self._warned: set[str] = set()
        self.reaped = asyncio.Event()
        """Nothing is left of the agents of dead owners, as far as the first round found any: commands may begin."""
        self._first: asyncio.Event | None = None

    async def state(self, run_dir: RunDir) -> Run:
        """The state of a run that does not live here, recovered if its owner is gone."""
        run = (await asyncio.to_thread(RunReader(run_dir).state)).run
        if run.terminal or not self._may_take(run_dir):
            return run
        taken = await self._take([run_dir])
        if life := self._lives.get(run_dir.run_id):
            return life.log.run
        if run_dir.run_id in taken and not await asyncio.to_thread(run_dir.path.is_dir):
            raise RunNotFound(f"no run {run_dir.run_id!r}: its spawn was never answered, and it was taken back")
        return taken.get(run_dir.run_id, run)

    async def recover(self) -> int:
        """Takes all runs whose owner is gone: to be called before the first command, and now and then.

        Returns:
            How many there were.
        """
        over = self._first = self._first or asyncio.Event()
        try:
            living = await asyncio.to_thread(self._lives.home.living)
            taken = await self._take([run for run in living if self._may_take(run)])
        finally:
            over.set()
            self.reaped.set()
        if not self._lives.closing:
            await self._lives.outbox.recover(self._scope, self._lives.__contains__)
        return len(taken)

    async def first_round(self) -> None:
        """Returns when the first round is over, if there is one, and after FIRST_S at the latest."""
        if self._first is not None and not self._first.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_S):
                    await self._first.wait()

    def _may_take(self, run_dir: RunDir) -> bool:
        if self._lives.closing or self._lives.draining is not None:
            return False
        return self._scope is None or run_dir.path.is_relative_to(self._scope)

    async def _take(self, run_dirs: list[RunDir]) -> dict[str, Run]:
        async with self._taking:  # what is being taken over is not asked for again by those who come meanwhile
            return await uninterrupted(self._take_now(run_dirs))

    async def _take_now(self, run_dirs: list[RunDir]) -> dict[str, Run]:
        not_ours = [run for run in run_dirs if run.run_id not in self._lives and run.run_id not in self._slow.values()]
        taken = await self._inherit_all(not_ours)
        if reaping := {run.spec.run_id: run.log.agent for run, _ in taken if not run.log.run.terminal}:
            await asyncio.to_thread(reap, reaping)
        self.reaped.set()
        # those that had begun come first in their sessions, then the others as they were asked for
        taken.sort(key=lambda pair: (not pair[0].history.started, pair[0].spec.run_id))
        over = [pair for pair in taken if _is_over(*pair)]
        found = await asyncio.gather(*(self._try(*pair) for pair in over))  # most of it is waiting for the disk
        found += [await self._try(*pair) for pair in taken if not _is_over(*pair)]
        return {run.run_id: run for run in found if run is not None}

    async def _try(self, inherited: Inherited, backend: Backend) -> Run | None:
        try:
            return await self._go_on(inherited, backend)
        except Exception:
            logger.exception("run %s could not go on", inherited.spec.run_id)
            if inherited.spec.run_id not in self._lives:
                inherited.log.close()
            return None

    async def _inherit_all(self, strangers: list[RunDir]) -> list[tuple[Inherited, Backend]]:
        """Those of the runs that are ours now. What hangs is given up for this time."""
        if not strangers:
            return []
        tasks = {asyncio.create_task(self._inherit(run)): run.run_id for run in strangers}
        done, hanging = await asyncio.wait(tasks, timeout=TAKE_S)
        for task in hanging:
            logger.error("run %s could not be read within %g s and is left for later", tasks[task], TAKE_S)
            self._slow[task] = tasks[task]
            task.add_done_callback(self._give_back)
        return [pair for task in done if (pair := task.result())]

    def _give_back(self, task: asyncio.Task[tuple[Inherited, Backend] | None]) -> None:
        """A run that was taken over too late: somebody else may have it now."""
        del self._slow[task]
        if not task.cancelled() and (pair := task.result()):
            pair[0].log.close()

    async def _inherit(self, run_dir: RunDir) -> tuple[Inherited, Backend] | None:
        """The run with its lock, if nobody has it and this process knows its backend."""
        try:
            spec = await asyncio.to_thread(RunReader(run_dir).spec)
            backend = await self._load_backend(spec.backend)
            attachable = "attach" in backend.abilities
            return await asyncio.to_thread(inherit, run_dir, self._lives.socket, attachable=attachable), backend
        except Conflict:  # it has an owner
            return None
        except Exception as error:  # noqa: BLE001  whatever is wrong with one run, the others are recovered
            if run_dir.run_id not in self._warned:
                self._warned.add(run_dir.run_id)
                logger.warning("run %s cannot be taken over: %r", run_dir.run_id, error)
            return None

    async def _go_on(self, inherited: Inherited, backend: Backend) -> Run:
        """Finds a run's remote work again, starts one that had not begun, and ends what can only be ended."""
        spec, log, history = inherited
        if log.run.terminal:
            await self._leave_behind(inherited, log.run.workspace)
            log.close()
            await self._lives.settle(spec.run_id)
        elif _is_over(inherited, backend):
            await self._bury(inherited, Stop("lost"))
        elif not history.started and not await asyncio.to_thread(was_answered, log.dir, spec):
            await self._leave_behind(inherited, {"kept": False})
            await asyncio.to_thread(discard, self._lives.home, log.dir, spec)
            log.close()
        elif not history.started and spec.masked:
            words = "the process that was to start this run is gone, and its prompt held a secret, which is not kept"
            await self._bury(inherited, BackendError("host_lost", words, next_step="spawn the run again"))
        elif await asyncio.to_thread(is_tampered, self._lives.home, log.dir):
            words = "the process that owned this run is gone, and its spec.json was changed since it was spawned"
            await self._bury(inherited, BackendError("host_lost", words, next_step="spawn the run again"))
        else:
            how = "re-attached" if history.started else "queued again"
            logger.info("run %s is taken over, %s", spec.run_id, how)
            await asyncio.to_thread(self._lives.home.add, log.dir, live=True)  # its spawn may have died before that
            attach = history.attachment if history.started else None
            await self._lives.begin(replace(spec, attach=attach), log, backend, None, history)
        return log.run

    async def _leave_behind(self, inherited: Inherited, workspace: JsonObject | None) -> None:
        """Its place goes, if it may: not by the word of a spec that an agent may have changed."""
        spec, log, _ = inherited
        if not await asyncio.to_thread(is_tampered, self._lives.home, log.dir):
            await asyncio.to_thread(leave_behind, log.dir, spec, workspace, {})

    async def _bury(self, inherited: Inherited, why: Stop | BackendError) -> None:
        """Ends a run whose agent cannot be found again."""
        spec, log, _ = inherited
        try:
            session = await asyncio.to_thread(read_json, log.dir.workspace.session(spec.session_id)) or {}
            place = await asyncio.to_thread(Place, log.dir, spec, {})
            bound, facts = "native_session_id" in session, unlooked(place)
            last = await last_event(spec, log.run, why, bound=bound, facts=facts)
            await log.end(last.type, last.data)
            await self._leave_behind(inherited, None)
            await self._lives.settle(spec.run_id)
        except Exception as error:  # noqa: BLE001  it stays as it is; whoever looks at it tries again
            logger.warning("cannot end %s, whose owner is gone: %r", spec.run_id, error)
        finally:
            log.close()


def _is_over(inherited: Inherited, backend: Backend) -> bool:
    """Whether a run has ended, or can only be ended: its agent died with its owner."""
    begun_here = inherited.history.started and "attach" not in backend.abilities
    return inherited.log.run.terminal or begun_here
