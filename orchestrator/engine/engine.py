"""Commands: spawn, continue, cancel, and the register of the runs that live in this process.

Above: the doors, which bring checked arguments and a caller. Below: one `Life` per run, and the store. Queries do not
come here; they read the files. The engine never imports a backend: it is given a function that loads one by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator.backend import Backend
from orchestrator.engine import spawn
from orchestrator.engine.life import STOP_GRACE_S, Life, Stop
from orchestrator.engine.outcome import last_event
from orchestrator.errors import (
    Conflict,
    HostUnavailable,
    InvalidArgument,
    NotOwner,
    SessionNotFound,
    StoreError,
    Unsupported,
    WrongState,
)
from orchestrator.model import Answer, JsonObject, Message, Run, RunSpec, Status, new_id, now
from orchestrator.store import sessions
from orchestrator.store.create import create_run
from orchestrator.store.layout import Home, RunDir, Workspace, read_json
from orchestrator.store.log import RunLog, uninterrupted
from orchestrator.store.masking import Mask, renewed, secrets_of
from orchestrator.store.reader import RunReader

logger = logging.getLogger(__name__)

_SESSION_POLL_S = 0.2
CLOSE_S = 0.45

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: the directory and the environment of a client. The environment stays in memory."""

    cwd: Path
    env: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class _Line:
    """The runs of one session in this process: one at a time, in the order they came."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    members: int = 0


class Engine:
    """All live runs of this process. Used as `async with Engine(...)`; leaving it ends every run.

    Args:
        load_backend: gives the backend of a name, or raises `InvalidArgument` or `BackendUnavailable`.
    """

    def __init__(self, home: Home, load_backend: Callable[[str], Awaitable[Backend]]) -> None:
        self.home = home
        self._load_backend = load_backend
        self._lives: dict[str, Life] = {}
        self._lines: dict[str, _Line] = {}
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
        backend = await self._load_backend(arguments["backend"])
        request = await asyncio.to_thread(spawn.request_of, arguments, backend)
        return await self._launch(request, backend, caller)

    async def _launch(self, request: spawn.Request, backend: Backend, caller: Caller) -> Run:
        if self._closing:
            raise HostUnavailable("the server is shutting down; spawn the run again in a moment")
        # finished even when the caller goes away: a run that is on disk has to have a life
        return await uninterrupted(self._begin(request, backend, caller))

    async def _begin(self, request: spawn.Request, backend: Backend, caller: Caller) -> Run:
        spec, nickname, key = request
        mask = Mask(secrets_of(spec.backend_config, caller.env))
        created = await asyncio.to_thread(create_run, self.home, spec, mask, nickname=nickname, idempotency_key=key)
        if created.log is None:
            assert created.existing is not None
            return await self.state(created.existing)
        spec, log = created.spec, created.log
        life = Life(spec, log, backend, caller.env, lambda: self._turn(spec))
        self._lives[spec.run_id] = life
        if self._closing:
            life.stop(Stop("shutdown"))
        self._own(self._live(life), spec.run_id)
        return log.run

    async def _live(self, life: Life) -> None:
        try:
            await life.live()
        finally:
            del self._lives[life.spec.run_id]
            if life.log.run.terminal:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self.home.settle, life.spec.run_id)

    @contextlib.asynccontextmanager
    async def _turn(self, spec: RunSpec) -> AsyncGenerator[None]:
        """Waits until no other run of the session is live, here (in order) or in another process."""
        line = self._lines.setdefault(spec.session_id, _Line())
        line.members += 1
        lock = sessions.SessionLock(Workspace(spec.cwd), spec.session_id)
        try:
            async with line.lock:
                while not await asyncio.to_thread(lock.acquire):  # noqa: ASYNC110  another process holds it and cannot call us
                    await asyncio.sleep(_SESSION_POLL_S)
                try:
                    yield
                finally:
                    lock.release()
        finally:
            line.members -= 1
            if not line.members:
                del self._lines[spec.session_id]

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

    # ---- ownership ----

    async def state(self, run_dir: RunDir) -> Run:
        """The run now. One whose owner is gone is ended first, so that nobody reads a state that is a lie."""
        log = self.log_of(run_dir.run_id)
        if log is not None:
            return log.run
        run = (await asyncio.to_thread(RunReader(run_dir).state)).run
        return run if run.terminal else await self._bury(run_dir, run)

    async def _bury(self, run_dir: RunDir, run: Run) -> Run:
        """Ends a run that nobody owns any more. One that has a live owner is returned as it is."""
        return await uninterrupted(self._bury_now(run_dir, run))

    async def _bury_now(self, run_dir: RunDir, run: Run) -> Run:
        try:
            log = await asyncio.to_thread(RunLog.take_over, run_dir, Mask(secrets_of({}, os.environ)))
        except (Conflict, StoreError, OSError):
            return run
        try:
            if not log.run.terminal:
                spec = await asyncio.to_thread(RunReader(run_dir).spec)
                session = await asyncio.to_thread(read_json, run_dir.workspace.session(run.session_id)) or {}
                last = await last_event(spec, log.run, Stop("lost"), bound="native_session_id" in session)
                await log.end(last.type, last.data)
            await asyncio.to_thread(self.home.settle, run_dir.run_id)
            return log.run
        except StoreError as error:
            logger.warning("cannot end %s, whose owner is gone: %s", run_dir.run_id, error)
            return run
        finally:
            log.close()

    async def _owned(self, run_dir: RunDir) -> Life:
        life = self._lives.get(run_dir.run_id)
        if life is not None:
            return life
        owner = await asyncio.to_thread(read_json, run_dir.file("owner.json")) or {}
        raise NotOwner(
            f"{run_dir.run_id} belongs to process {owner.get('pid', '?')} on {owner.get('host', '?')}, "
            "which takes no commands from here; use the client that spawned it"
        )
