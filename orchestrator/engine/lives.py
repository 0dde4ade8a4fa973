"""The register of the runs that live in this process: their tasks, their order, their slots, and the clients present.

Above: the engine, which makes lives for commands, and the recovery, which makes them for runs that lost their owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from orchestrator import config
from orchestrator.backend import Backend
from orchestrator.ends import Stop
from orchestrator.engine.budget import Budgets
from orchestrator.engine.caller import Caller
from orchestrator.engine.face import Door
from orchestrator.engine.history import History
from orchestrator.engine.life import STOP_GRACE_S, Life
from orchestrator.engine.order import SessionOrder
from orchestrator.engine.outbox import Outbox, Tell
from orchestrator.engine.slots import Kind, Slots
from orchestrator.engine.work import Shared
from orchestrator.logs import RUN_ID
from orchestrator.model import RunSpec, Status
from orchestrator.store.layout import Home
from orchestrator.store.log import RunLog

logger = logging.getLogger(__name__)

CLOSE_S = 0.45

T = TypeVar("T")


class Lives:
    """All live runs of this process. To be entered; leaving it ends every run.

    Args:
        socket: where this process takes commands from others; None if it does not.
        tell: writes to an agent that a run is over.
    """

    def __init__(self, home: Home, socket: str | None, tell: Tell) -> None:
        self.home = home
        self.outbox = Outbox(home, tell, lambda: self.settings.delivery_retry_s)
        self.socket = socket
        self.door: Door | None = None
        """Where the agents of our runs are heard; without one they are given no tools of ours."""
        self.closing = False
        self.draining: str | None = None
        """Why no new runs are taken any more, and none are taken over, for whoever asks."""
        self.handing_over = False
        """That is for a successor's sake: agents of runs here, which know no other host, may spawn on."""
        self._lives: dict[str, Life] = {}
        self._shared = Shared()
        self.budgets = Budgets(home)
        self._callers: list[Caller] = []
        self._order = SessionOrder()
        self._slots: dict[Kind, Slots] = {"local": Slots(), "remote": Slots()}
        self.settings = config.Settings()
        self.use(self.settings)
        self._owned_tasks: set[asyncio.Task[Any]] = set()
        self._tasks = asyncio.TaskGroup()

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._lives

    def __len__(self) -> int:
        return len(self._lives)

    def __iter__(self) -> Iterator[Life]:
        return iter(list(self._lives.values()))

    def get(self, run_id: str) -> Life | None:
        """The life of a run, if it is here."""
        return self._lives.get(run_id)

    @property
    def idle(self) -> bool:
        """Whether nothing is left of any run."""
        return not self._lives and self._order.idle and not self.outbox

    async def open(self) -> None:
        """Begins."""
        await self._tasks.__aenter__()

    async def end(self) -> None:
        """Closes, and waits for every task."""
        await self.close()
        await self._tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        """Ends or leaves every run; bounded, for clients kill within half a second."""
        self.closing = True
        await self.outbox.close()
        deadline = asyncio.get_running_loop().time() + CLOSE_S
        while pending := {task for task in self._owned_tasks if not task.done()}:
            for life in self:
                life.stop(Stop("shutdown"))
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                logger.error("%d runs could not be ended in time; whoever looks at them next ends them", len(pending))
                return
            await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def cancel_all(self, reason: str) -> None:
        """Cancels every run of this process. Returns when they are over, or after a bounded time."""
        lives = list(self)
        for life in lives:
            life.stop(Stop("cancel", reason))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE_S + 5):
                for life in lives:
                    await life.over()

    # ---- clients ----

    @contextlib.contextmanager
    def client(self, caller: Caller) -> Generator[None]:
        """A client is there: recovered runs that lost their environment take that of one at the same place."""
        if caller.parent_run_id is not None:  # an agent lends nobody what it may have set itself
            yield
            return
        self._callers.append(caller)
        try:
            for life in self:
                life.lend(caller.cwd, caller.agent_env)
            yield
        finally:
            self._callers.remove(caller)

    # ---- lives ----

    async def begin(
        self,
        spec: RunSpec,
        log: RunLog,
        backend: Backend,
        env: Mapping[str, str] | None,
        history: History | None = None,
    ) -> None:
        """Gives a run its life.

        Args:
            env: as the agent gets it; None when it was lost with an earlier owner of the run.
            history: how far that owner had come.
        """
        turn = partial(self._order.turn, spec)
        slots = self._slots["remote" if "attach" in backend.abilities else "local"]
        hosted = self.socket is not None
        face: tuple[Door, str] | None = None
        if self.door and "agent_tools" in backend.abilities and spec.backend_config.get("agent_tools", True):
            face = (self.door, str(self.home.path))
        account = await self.budgets.open(spec, log)
        life = Life(
            spec, log, backend, env, turn, slots, self.settings, history,
            hosted=hosted, face=face, shared=self._shared, account=account,
        )  # fmt: skip
        if account is not None:
            account.begin(lambda why: life.stop(Stop("budget", why)))
        self._lives[spec.run_id] = life
        for caller in self._callers:
            life.lend(caller.cwd, caller.agent_env)
        if self.closing:
            life.stop(Stop("shutdown"))
        self._own(self._live(life), spec.run_id)

    def _own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs work that outlives its caller, in a task that `close` waits for."""
        task = self._tasks.create_task(work, name=name)
        self._owned_tasks.add(task)
        task.add_done_callback(self._owned_tasks.discard)
        return task

    async def _live(self, life: Life) -> None:
        spec = life.spec
        RUN_ID.set(spec.run_id)
        below = f", below {spec.parent_run_id}" if spec.parent_run_id else ""
        logger.info("run %s on %s in %s%s", spec.run_id, spec.backend, spec.cwd, below)
        try:
            await life.live()
        finally:
            run = life.log.run
            logger.info("run %s is %s%s", run.run_id, run.status, f": {run.error.code}" if run.error else "")
            del self._lives[life.spec.run_id]
            self.budgets.close(life.spec.run_id)
            if life.log.run.terminal:
                await self.settle(life.spec.run_id)
                if life.spec.on_finish and not self.closing:
                    self.outbox.begin(life.log.dir, life.spec, life.lent_env)

    async def settle(self, run_id: str) -> None:
        """Takes a run that is over out of the index of live runs."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.home.settle, run_id)

    def place(self, run_id: str) -> int | None:
        """The place of a run that waits for a slot, 1 for the next; None if it waits for none."""
        return next((place for slots in self._slots.values() if (place := slots.place(run_id))), None)

    @contextlib.contextmanager
    def giving_way(self, waiting: str | None, runs: Iterable[str]) -> Generator[None]:
        """While the agent of a run waits for others of which one has not begun, its slot may be theirs.

        Or as many agents as there are slots, each waiting for one that it spawned, would wait for ever.
        """
        life = self._lives.get(waiting or "")
        queued = any(run_id in self and self._lives[run_id].log.run.status is Status.QUEUED for run_id in runs)
        if life is None or life.slot is None or not queued:
            yield
            return
        life.slot.give_back()
        try:
            yield
        finally:
            if life.log.run.status is Status.RUNNING:
                life.slot.take_again()

    def use(self, settings: config.Settings) -> None:
        """Takes this process's settings: the caps, and what live runs go by from now on."""
        self.settings = settings
        self._slots["local"].set_cap(settings.max_concurrent_runs_local)
        self._slots["remote"].set_cap(settings.max_concurrent_runs_remote)
