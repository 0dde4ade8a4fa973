"""The life of one run: from its turn in its session to its last event, and the bulkhead around its backend.

Above: `Engine`, which makes lives and routes commands to them. Below: the run's log and one backend coroutine.
Whatever the backend does, the run ends with exactly one terminal event, and nobody else's run notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator.backend import Backend
from orchestrator.config import Settings
from orchestrator.ends import Outcome, Stop
from orchestrator.engine.budget import Account
from orchestrator.engine.clock import ActiveClock, patience_of
from orchestrator.engine.equipment import ask_for_credentials, bind_session, credentials_of, native_session
from orchestrator.engine.face import Door, Face
from orchestrator.engine.history import WAITING_FOR_CLIENT, History
from orchestrator.engine.meter import Meter
from orchestrator.engine.outcome import last_event, result_of, write_end
from orchestrator.engine.profiled import instructed
from orchestrator.engine.requests import INPUT_TIMEOUT_S, Requests
from orchestrator.engine.slots import Slot, Slots
from orchestrator.engine.steering import Steering
from orchestrator.engine.work import Shared, Work
from orchestrator.errors import BackendError, StoreError, Unsupported, WrongState
from orchestrator.events import message_added, waiting_status
from orchestrator.model import Answer, InputRequest, JsonObject, Message, RunSpec, Status, Usage, now
from orchestrator.store.log import RunLog, uninterrupted
from orchestrator.store.masking import lost_credentials, renewed, secrets_of
from orchestrator.updates import (
    AgentProcess,
    ArtifactChunk,
    Progress,
    RateLimited,
    RemoteRef,
    SessionBound,
    Started,
    Update,
)

logger = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
"""How long a backend may clean up after a cancellation before the run is ended without it."""
SHUTDOWN_GRACE_S = 0.25
LONGEST_REST_S = 86_400.0  # that a run waits for its provider, in all, before it fails instead


class Life:
    """One run. `live` is its whole life; everything else is called while it lasts. Also the backend's `RunContext`.

    Args:
        env: the environment of the run's client; None when it was lost with an earlier owner of the run.
        turn: waits until the run is first in its session; held until the run is over.
        slots: of its kind of agent; it holds one while it works.
        settings: those of this process.
        history: how far an earlier owner had come; None for a new run.
        hosted: this process is a host, after which another comes: what has not begun is left to that one.
        face: where the agent is heard, and our home; None if it is nowhere.
        shared: by the works of this process.
        account: its budgets; None if it has none.
    """

    def __init__(
        self,
        spec: RunSpec,
        log: RunLog,
        backend: Backend,
        env: Mapping[str, str] | None,
        turn: Callable[[], contextlib.AbstractAsyncContextManager[None]],
        slots: Slots,
        settings: Settings,
        history: History | None = None,
        *,
        hosted: bool = False,
        face: tuple[Door, str] | None = None,
        shared: Shared,
        account: Account | None = None,
    ) -> None:
        self.spec = spec = instructed(spec, backend)
        self.log = log
        self.lent_env: Mapping[str, str] = env or {}
        self.face = Face(spec, *face, self) if face else None
        if self.face:
            log.hide({self.face.key})
        self._lent: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        if env is not None:
            self._lent.set_result(env)
        self._recovered = history is not None
        self._hosted = hosted
        self._backend = backend
        self._turn = turn
        self._slots = slots
        self.settings = settings
        self.slot: Slot | None = None
        self.meter = Meter(log, account)
        self._rest_s, self._limited_s = 0.0, None
        self._work = Work(self, backend, shared)
        self._stop = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._leaving = asyncio.Event()
        self._started = history is not None and history.started
        self._starting = asyncio.Lock()
        self._bound = spec.session_mode == "resume"
        self._steering = Steering(log)
        limits = spec.limits
        self._requests = Requests(log, spec.on_approval, float(limits.get("input_timeout_s", INPUT_TIMEOUT_S)))
        self._clock = ActiveClock(limits.get("timeout_s"), history.worked_s if history else 0.0)

    # ---- commands, from the engine ----

    def give_up(self, why: str) -> None:
        """Ends the run: nobody answered what its agent asked by a tool of ours."""
        self.stop(Stop("unanswered", why))

    def stop(self, stop: Stop) -> None:
        """Asks the run to end; the first one to ask decides how."""
        if stop.why == "shutdown":
            self._leaving.set()
        if not self._stop.done():
            self._stop.set_result(stop)

    @property
    def leaving(self) -> bool:
        """See `RunContext.leaving`: what runs elsewhere is left to the next owner when this process ends."""
        if not self.shut_down:
            return False
        return "attach" in self._backend.abilities if self._started else self._hosted

    @property
    def grace_s(self) -> float:
        """See `RunContext.grace_s`."""
        return SHUTDOWN_GRACE_S if self.shut_down else STOP_GRACE_S

    @property
    def shut_down(self) -> bool:
        """Whether this process ends."""
        return self._stop.done() and self._stop.result().why == "shutdown"

    def lend(self, cwd: Path, env: Mapping[str, str]) -> None:
        """A client is there: its environment is taken if the run lost that of the client that asked for it."""
        mine = cwd in (self.spec.cwd, self.spec.client_cwd)
        if mine and not self._lent.done() and self._backend.ready(self.spec, env):
            self._lent.set_result(env)

    @property
    def cwd(self) -> Path:
        """Where its agent works."""
        return self._work.cwd

    async def over(self) -> None:
        """Returns when the run's last event is written and its place left, or never will be in this process."""
        await self._over.wait()

    def pending(self, request_id: str | None) -> InputRequest:
        """The request that an answer is meant for; see `Requests.find`."""
        return self._requests.find(request_id)

    async def answer(self, request_id: str | None, answer: Answer) -> None:
        """Resolves a pending request; see `Requests`."""
        await self._requests.answer(self.pending(request_id), answer)

    def check_credentials(self, config: JsonObject, env: Mapping[str, str]) -> JsonObject:
        """See `credentials_of`."""
        return credentials_of(self.spec, self._backend, self.settings, config, env)

    async def steer(self, message: Message) -> None:
        """Says something to the running agent.

        Raises:
            Unsupported: the agent takes nothing while it works.
        """
        if "steer" not in self._backend.abilities:
            raise Unsupported(
                f"{self.spec.backend} cannot be steered while it works; wait until the run needs input or is over"
            )
        if self.log.run.status is not Status.RUNNING:
            raise WrongState(f"the run is {self.log.run.status}; call get_run")
        self._backend.check(replace(self.spec, message=message), self.settings)
        await self._steering.say(message)

    # ---- what the backend may do: RunContext ----

    @property
    def env(self) -> Mapping[str, str]:
        """See `RunContext.env`."""
        return {**self.lent_env, **self.face.environment} if self.face else self.lent_env

    @property
    def agent_tools(self) -> Face | None:
        """See `RunContext.agent_tools`."""
        return self.face

    @property
    def metered(self) -> bool:
        """See `RunContext.metered`."""
        return self.meter.metered

    async def spend(self, usage: Usage, *, more: bool) -> bool:
        """See `RunContext.spend`."""
        return await self.meter.spend(usage, more=more)

    async def rest(self) -> None:
        """See `RunContext.rest`."""
        assert self.slot
        own_s, self._limited_s = self._limited_s or 0.0, None
        self._rest_s += max(own_s, self._slots.held_for(self.spec.backend))
        if self._rest_s > LONGEST_REST_S:
            words, then = "the provider takes no requests for more than a day", "wait, then call continue_run with text"
            raise BackendError("agent_error", words, next_step=then)
        self._clock.pause()
        await self.slot.rest(self.spec.run_id, self.spec.backend, own_s)
        self._clock.go()
        await self.log.append("status_changed", lambda run: {"status": run.status})

    async def emit(self, update: Update) -> None:
        """See `RunContext.emit`."""
        await self._record(update)
        self.meter.count()

    async def _record(self, update: Update) -> None:
        match update:
            case Started():
                await self._start(update)
            case SessionBound():
                await self._bind_session(update.native_session_id)
            case AgentProcess():
                process = {"pid": update.pid, "pgid": update.pgid, "start_time": update.start_time}
                await asyncio.to_thread(self.log.write_owner, process)
            case ArtifactChunk():
                await self._ensure_started()
                await self.log.add_chunk(update)
            case RateLimited():
                self._limited_s = update.retry_s
                held = self._slots.hold(self.spec.backend, update.retry_s, self.settings.rate_limit_wait_s)
                until = now(update.retry_s) if update.retry_s else held
                await self._tell_detail(f"rate_limited until {until}: {update.words}"[:500])
            case Progress() | RemoteRef():
                await self._ensure_started()
                payload = update.payload()
                await self.log.append(
                    update.type,
                    lambda run: {**payload, "status": waiting_status(run.pending)},
                    durable=isinstance(update, RemoteRef),
                )
            case _:
                await self._ensure_started()
                await self.log.append(update.type, update.payload())

    async def ask(self, request: InputRequest) -> Answer:
        """See `RunContext.ask`."""
        await self._ensure_started()
        self.pause()
        try:
            return await self._requests.ask(request)
        finally:
            if not self.log.run.pending:
                self.go()

    def pause(self) -> None:
        """The run waits for its caller: its time does not count, and another may have its slot."""
        self._clock.pause()
        if self.slot:
            self.slot.give_back()

    def go(self) -> None:
        """The run works again."""
        self._clock.go()
        if self.slot:
            self.slot.take_again()

    def steering(self) -> AsyncIterator[Message]:
        """See `RunContext.steering`."""
        return self._steering.messages()

    async def end_steering(self, over: Callable[[], bool]) -> bool:
        """See `RunContext.end_steering`."""
        return await self._steering.end(over)

    async def _start(self, update: Started) -> None:
        """Writes `run_started` before anything else, once, however many tasks of the agent begin at the same time."""
        async with self._starting:
            if update.native_session_id is not None:
                await self._bind_session(update.native_session_id)
            if self._started:
                return
            data = {**update.payload(), **self._work.begun}
            await self.log.append(update.type, data, durable=True)
            self._started = True
            await self._sent(self.spec.message)

    async def _ensure_started(self) -> None:
        if not self._started:
            await self._start(Started())

    async def _sent(self, message: Message) -> None:
        await self.log.append("message_added", message_added(message))

    async def _bind_session(self, native_session_id: str) -> None:
        await uninterrupted(asyncio.to_thread(bind_session, self.log.dir.workspace, self.spec, native_session_id))
        self._bound = True

    # ---- the life itself ----

    async def live(self) -> None:
        """Runs the backend and ends the run. Raises nothing but cancellation."""
        try:
            outcome = await self._outcome()
            self._requests.abandon()
            if isinstance(outcome, Stop) and self.leaving:
                logger.info("run %s is left to its next owner", self.spec.run_id)
                return
            with contextlib.suppress(StoreError):
                await self.log.end_artifacts()
            facts = await self._work.facts(outcome)
            self.meter.close()
            if (used := self.meter.total) and used != self.log.run.usage:
                facts = {**facts, "usage": used.to_json()}
            told = partial(last_event, self.spec, self.log.run, bound=self._bound, facts=facts)
            await write_end(self.log, outcome, told, self._leaving)
            await self._work.close()
        except Exception:
            logger.exception("run %s could not be ended", self.spec.run_id)
        finally:
            self._clock.pause()
            if self.face:
                await self.face.close()
            self.log.close()
            self._over.set()

    async def _outcome(self) -> Outcome | Exception | Stop:
        """How the run ended: by itself, by a fault, or because it was asked to."""
        driver = asyncio.create_task(self._drive(), name=f"backend of {self.spec.run_id}")
        self._clock.on_expiry(lambda: self.stop(Stop("timeout")))
        try:
            await asyncio.wait({driver, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the engine itself is being torn down
            self.stop(Stop("shutdown"))
        if driver.done():
            return await result_of(driver)
        stop: Stop = self._stop.result()
        self._requests.abandon()
        driver.cancel()
        await asyncio.wait({driver}, timeout=self.grace_s)
        if not driver.done():
            logger.error("backend %s of %s did not stop in time", self.spec.backend, self.spec.run_id)
        elif not driver.cancelled() and (error := driver.exception()):
            logger.warning("backend of %s failed while stopping: %r", self.spec.run_id, error)
        return stop

    async def _drive(self) -> Outcome:
        ttl = self.spec.limits.get("queue_ttl_s")
        async with patience_of(ttl) as patience, self._turn():
            spec = self.spec
            if spec.session_mode == "resume":  # a fork was given its origin's session when it was spawned
                native = await asyncio.to_thread(native_session, self.log.dir.workspace, spec.session_id)
                spec = replace(spec, native_session_id=native)
            if self._recovered:
                spec = await self._equipped(spec)
            if (why := self._slots.why_wait(spec.backend)) is not None:
                await self._tell_detail(why)
            async with self._slots.slot(spec.run_id, spec.priority, spec.backend) as self.slot:
                patience.reschedule(None)
                self._clock.go()
                return await self._work.run(spec, self.lent_env)

    async def _equipped(self, spec: RunSpec) -> RunSpec:
        """Gives a recovered run back what only lived in memory: a client's environment and the caller's credentials."""
        if not self._lent.done() and not self._backend.ready(spec, {}):
            if self.log.run.detail != WAITING_FOR_CLIENT:
                await self._tell_detail(WAITING_FOR_CLIENT)
            self.lent_env = await self._lent
        elif self._lent.done():
            self.lent_env = self._lent.result()
        config = spec.backend_config
        if lost := lost_credentials(config):
            config = renewed(config, await ask_for_credentials(self._requests, lost))
        self.log.hide(secrets_of(config, self.lent_env))
        return replace(spec, backend_config=config)

    async def begin_attempt(self, message: Message, detail: str) -> str:
        """The agent is asked once more, in its session. Returns the session's own id."""
        native = await asyncio.to_thread(native_session, self.log.dir.workspace, self.spec.session_id)
        self._steering = Steering(self.log)
        await self._tell_detail(detail)
        await self._sent(message)
        return native

    async def _tell_detail(self, detail: str) -> None:
        await self.log.append("status_changed", lambda run: {"status": run.status, "detail": detail})
