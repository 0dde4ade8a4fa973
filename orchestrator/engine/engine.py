"""Commands: spawn, continue, cancel, and the register of the runs that live in this process.

Above: the doors, which bring checked arguments and a caller. Below: one `Life` per run, and the store. Queries do not
come here; they read the files. The engine never imports a backend: it is given a function that loads one by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator.backend import Backend
from orchestrator.engine import spawn
from orchestrator.engine.history import History, Inherited, inherit
from orchestrator.engine.life import STOP_GRACE_S, Life, Stop
from orchestrator.engine.order import SessionOrder
from orchestrator.engine.outcome import last_event
from orchestrator.errors import (
    Conflict,
    HostUnavailable,
    InvalidArgument,
    NotOwner,
    OrchestratorError,
    SessionNotFound,
    StoreError,
    Unsupported,
    WrongState,
    nearest,
)
from orchestrator.model import Answer, JsonObject, Message, Run, RunSpec, Status, new_id, now
from orchestrator.process import reap
from orchestrator.store import sessions
from orchestrator.store.create import create_run
from orchestrator.store.layout import Home, RunDir, read_json
from orchestrator.store.log import RunLog, uninterrupted
from orchestrator.store.masking import Mask, renewed, secrets_of
from orchestrator.store.owner import read_owner
from orchestrator.store.reader import RunReader

logger = logging.getLogger(__name__)

CLOSE_S = 0.45

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: the directory and the environment of a client. The environment stays in memory."""

    cwd: Path
    env: Mapping[str, str] = field(repr=False)
    backends: frozenset[str] | None = None
    """What it may spawn on; None for all there are."""
    forwarded: bool = False
    """It is another process of ours that passes a command on, which is never passed on again."""


class Engine:
    """All live runs of this process. Used as `async with Engine(...)`; leaving it ends every run.

    Args:
        load_backend: gives the backend of a name, or raises `InvalidArgument` or `BackendUnavailable`.
        socket: where this process takes commands from others; None if it does not.
        scope: recover only runs at or below this directory; None for all.
    """

    def __init__(
        self,
        home: Home,
        load_backend: Callable[[str], Awaitable[Backend]],
        *,
        socket: str | None = None,
        scope: Path | None = None,
    ) -> None:
        self.home = home
        self.draining: str | None = None
        """Why no new runs are taken any more, for whoever asks for one."""
        self._load_backend = load_backend
        self._socket = socket
        self._scope = scope
        self._callers: list[Caller] = []
        self._lives: dict[str, Life] = {}
        self._order = SessionOrder()
        self._taking = asyncio.Lock()
        self._closing = False
        self._owned_tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        await self._tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        """Ends every run as `failed`/`host_lost`, resumable; bounded, for clients kill within half a second."""
        self._closing = True
        deadline = asyncio.get_running_loop().time() + CLOSE_S
        while pending := {task for task in self._owned_tasks if not task.done()}:
            for life in list(self._lives.values()):
                life.stop(Stop("shutdown"))
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                logger.error("%d runs could not be ended in time; whoever looks at them next ends them", len(pending))
                return
            await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs work that outlives its caller, in a task that `close` waits for."""
        task = self._tasks.create_task(work, name=name)
        self._owned_tasks.add(task)
        task.add_done_callback(self._owned_tasks.discard)
        return task

    @property
    def live(self) -> int:
        """How many runs live in this process."""
        return len(self._lives)

    @contextlib.contextmanager
    def client(self, caller: Caller) -> Generator[None]:
        """A client is there: recovered runs that lost their environment take that of one at the same place."""
        self._callers.append(caller)
        try:
            for life in self._lives.values():
                life.lend(caller.cwd, caller.env)
            yield
        finally:
            self._callers.remove(caller)

    async def cancel_all(self, reason: str) -> None:
        """Cancels every run of this process. Returns when they are over, or after a bounded time."""
        lives = list(self._lives.values())
        for life in lives:
            life.stop(Stop("cancel", reason))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE_S + 5):
                for life in lives:
                    await life.over()

    def log_of(self, run_id: str) -> RunLog | None:
        """The log of a run that lives in this process."""
        life = self._lives.get(run_id)
        return life.log if life else None

    # ---- spawn ----

    async def spawn(self, arguments: Mapping[str, Any], caller: Caller) -> Run:
        """Starts a run. Its directory is durable and its owner known before this returns.

        Raises:
            OrchestratorError: the call was refused, and nothing is left of it.
        """
        name = arguments["backend"]
        if caller.backends is not None and name not in caller.backends:
            raise InvalidArgument(f"no backend {name!r}{nearest(name, caller.backends)}")
        backend = await self._load_backend(name)
        request = await asyncio.to_thread(spawn.request_of, arguments, backend, caller.cwd)
        return await self._launch(request, backend, caller)

    async def _launch(self, request: spawn.Request, backend: Backend, caller: Caller) -> Run:
        if self._closing:
            raise HostUnavailable("the server is shutting down; spawn the run again in a moment")
        if self.draining is not None:
            raise HostUnavailable(self.draining)
        # finished even when the caller goes away: a run that is on disk has to have a life
        return await uninterrupted(self._begin(request, backend, caller))

    async def _begin(self, request: spawn.Request, backend: Backend, caller: Caller) -> Run:
        spec, nickname, key = request
        mask = Mask(secrets_of(spec.backend_config, caller.env))
        created = await asyncio.to_thread(
            create_run, self.home, spec, mask, nickname=nickname, idempotency_key=key, socket=self._socket
        )
        if created.log is None:
            assert created.existing is not None
            return await self.state(created.existing)
        spec, log = created.spec, created.log
        self._bring_to_life(spec, log, backend, caller.env)
        return log.run

    def _bring_to_life(
        self,
        spec: RunSpec,
        log: RunLog,
        backend: Backend,
        env: Mapping[str, str] | None,
        history: History | None = None,
    ) -> Life:
        turn = partial(self._order.turn, spec)
        life = Life(spec, log, backend, env, turn, history, hosted=self._socket is not None)
        self._lives[life.spec.run_id] = life
        if self._closing:
            life.stop(Stop("shutdown"))
        self._own(self._live(life), life.spec.run_id)
        return life

    async def _live(self, life: Life) -> None:
        try:
            await life.live()
        finally:
            del self._lives[life.spec.run_id]
            if life.log.run.terminal:
                await self._settle(life.spec.run_id)

    # ---- continue ----

    async def resume(self, run_dir: RunDir, arguments: Mapping[str, Any], caller: Caller) -> tuple[Run, str]:
        """`continue_run`: answers a waiting run, steers a running one, resumes the session of one that is over.

        Returns:
            The run that goes on, which is a new one after `resume`, and the mode.
        """
        message = spawn.message_of(arguments, required=False, text="text")
        config: JsonObject = arguments.get("backend_config") or {}
        request_id: str | None = arguments.get("request_id")
        decision: str | None = arguments.get("decision")
        run = await self.state(run_dir)
        if run.terminal:
            return await self._resume(run_dir, run, message, request_id or decision, config, caller), "resume"
        life = await self._owned(run_dir)
        if run.status is Status.QUEUED:
            raise WrongState(f"{run.run_id} is queued and takes nothing yet; call wait_runs, or cancel_run")
        if run.status is Status.RUNNING and request_id is None and decision is None:
            if message is None:
                raise InvalidArgument("there is nothing to say; give text or input_message")
            await life.steer(message)
            return life.log.run, "steer"
        credentials = life.check_credentials(config, caller.env) if config else {}
        await life.answer(request_id, Answer(decision=decision, message=message, backend_config=credentials))
        return life.log.run, "answer"

    async def _resume(
        self,
        run_dir: RunDir,
        run: Run,
        message: Message | None,
        answering: str | None,
        config: JsonObject,
        caller: Caller,
    ) -> Run:
        if answering is not None:
            raise WrongState(
                f"{run.run_id} is {run.status} and waits for no answer; give only text to resume its session"
            )
        if message is None:
            raise InvalidArgument(f"{run.run_id} is {run.status}; give text or input_message to resume its session")
        old = await asyncio.to_thread(RunReader(run_dir).spec)
        session = await asyncio.to_thread(sessions.load, run_dir.workspace, old.session_id)
        if session.native_session_id is None:
            raise SessionNotFound(f"{run.run_id} ended before its agent opened a session; spawn a new run")
        backend = await self._load_backend(old.backend)
        if "resume" not in backend.abilities:
            raise Unsupported(f"backend {old.backend!r} cannot resume sessions; spawn a new run")
        spec = replace(
            old,
            run_id=new_id("run"),
            message=message,
            created_at=now(),
            session_mode="resume",
            native_session_id=None,
            backend_config=renewed(old.backend_config, config),
            resumed_from_run_id=run.run_id,
            client_cwd=caller.cwd,
        )
        await asyncio.to_thread(spawn.workspace_path, str(spec.cwd))
        spawn.check_abilities(spec, backend)
        return await self._launch(spawn.Request(spec, None, None), backend, caller)

    # ---- cancel ----

    async def cancel(self, run_dir: RunDir, reason: str | None) -> Run:
        """Ends a run, once its agent's processes are gone. A run that is over stays as it is."""
        run = await self.state(run_dir)
        if run.terminal:
            return run
        life = await self._owned(run_dir)
        life.stop(Stop("cancel", reason))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE_S + 5):
                await life.over()
        return await self.state(run_dir)

    # ---- ownership and recovery ----

    async def state(self, run_dir: RunDir) -> Run:
        """The run now. One whose owner is gone is recovered first, so that nobody reads a state that is a lie."""
        log = self.log_of(run_dir.run_id)
        if log is not None:
            return log.run
        run = (await asyncio.to_thread(RunReader(run_dir).state)).run
        if run.terminal or self._closing or not self._in_scope(run_dir):
            return run
        taken = await self._recover([run_dir])
        return taken.get(run_dir.run_id, run)

    async def recover(self) -> int:
        """Takes all runs whose owner is gone: to be called before the first command, and now and then.

        Returns:
            How many there were.
        """
        living = await asyncio.to_thread(self.home.living)
        return len(await self._recover([run for run in living if self._in_scope(run)]))

    def _in_scope(self, run_dir: RunDir) -> bool:
        return self._scope is None or run_dir.path.is_relative_to(self._scope)

    async def _recover(self, run_dirs: list[RunDir]) -> dict[str, Run]:
        async with self._taking:  # what is being taken over is not asked for again by those who come meanwhile
            return await uninterrupted(self._recover_now(run_dirs))

    async def _recover_now(self, run_dirs: list[RunDir]) -> dict[str, Run]:
        """Takes over those of the runs that nobody owns, and gives each a new life or its end."""
        strangers = [run for run in run_dirs if run.run_id not in self._lives]
        taken = [run for run in await asyncio.gather(*map(self._inherit, strangers)) if run]
        if reaping := {run.log.dir.run_id: run.log.agent for run in taken if not run.log.run.terminal}:
            await asyncio.to_thread(reap, reaping)
        # those that had begun come first in their sessions, then the others as they were asked for
        taken.sort(key=lambda run: (not run.history.started, run.log.dir.run_id))
        return {run.log.dir.run_id: await self._go_on(run) for run in taken}

    async def _inherit(self, run_dir: RunDir) -> Inherited | None:
        try:
            return await asyncio.to_thread(inherit, run_dir, self._socket)
        except (Conflict, StoreError, OSError) as error:  # it has an owner, or cannot be read
            logger.debug("%s is not taken over: %s", run_dir.run_id, error)
            return None

    async def _go_on(self, inherited: Inherited) -> Run:
        """Re-attaches a run to its remote task, starts one that had not begun, and ends what can only be ended."""
        spec, log, history = inherited
        if log.run.terminal:
            log.close()
            await self._settle(spec.run_id)
            return log.run
        try:
            backend = await self._load_backend(spec.backend)
        except OrchestratorError as error:
            await self._bury(inherited, error)
            return log.run
        if history.started and "attach" not in backend.abilities:
            await self._bury(inherited, Stop("lost"))
            return log.run
        if history.started:
            spec = replace(spec, attach=history.attachment)
        life = self._bring_to_life(spec, log, backend, None, history)
        for caller in self._callers:
            life.lend(caller.cwd, caller.env)
        logger.info("run %s is taken over, %s", spec.run_id, "re-attached" if history.started else "queued again")
        return log.run

    async def _bury(self, inherited: Inherited, why: Stop | OrchestratorError) -> None:
        """Ends a run whose owner is gone and whose agent cannot be found again."""
        spec, log, _ = inherited
        try:
            session = await asyncio.to_thread(read_json, log.dir.workspace.session(spec.session_id)) or {}
            last = await last_event(spec, log.run, why, bound="native_session_id" in session)
            await log.end(last.type, last.data)
            await self._settle(spec.run_id)
        except StoreError as error:
            logger.warning("cannot end %s, whose owner is gone: %s", spec.run_id, error)
        finally:
            log.close()

    async def _settle(self, run_id: str) -> None:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.home.settle, run_id)

    async def _owned(self, run_dir: RunDir) -> Life:
        life = self._lives.get(run_dir.run_id)
        if life is not None:
            return life
        owner = await asyncio.to_thread(read_owner, run_dir)
        raise NotOwner(
            f"{run_dir.run_id} belongs to process {owner.get('pid', '?')} on {owner.get('host', '?')}, "
            "which takes no commands from here; use the client that spawned it",
            socket=owner.get("socket"),
        )
