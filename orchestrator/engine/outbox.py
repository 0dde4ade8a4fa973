"""Telling others that a run is over, as its `on_finish` asks: at least once, with an id by which they know it again.

Above: the register of live runs, which hands over each run that ends, and the recovery, which finds those whose owner
died before it had told everybody. Below: one attempt by webhook, by a command, or by a message to an agent; each is
recorded before the next. What is owed stands in the home's `outbox` until everybody was told, or given up.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

from orchestrator import webhook
from orchestrator.clip import clip
from orchestrator.config import DELIVERY_VARIABLE
from orchestrator.engine.command import run_command
from orchestrator.errors import InvalidArgument, OrchestratorError, StoreError
from orchestrator.listing import row_of
from orchestrator.model import JsonObject, Run, RunSpec, compact
from orchestrator.process import MARKER
from orchestrator.store.deliveries import Deliveries, Told
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.reader import RunReader, sealed_spec

logger = logging.getLogger(__name__)

DELAYS = (1, 6, 24, 120, 360, 720, 1440, 2880, 5760)
"""Between one attempt and the next, in units of the setting `delivery_retry_s`: 5 s, 30 s, 2 min ... 8 h."""
COMMAND_S = 60.0
"""How long a command may take."""
AT_ONCE = 8
"""Attempts of this process under way at the same time."""
BODY_CHARS = 16_000
Tell = Callable[[RunSpec, str, str, str], Awaitable[None]]
"""Writes to an agent: the run that is over, the agent's name, the id of the message, and what it says."""


class Outbox:
    """What is owed to others by the runs of one process, and the tasks that deliver it.

    Args:
        tell: raises what kept the message from its inbox.
        retry_s: seconds between the first attempt and the second, as the settings have it now.
    """

    def __init__(self, home: Home, tell: Tell, retry_s: Callable[[], float]) -> None:
        self._home = home
        self._tell = tell
        self._retry_s = retry_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, run_dir: RunDir, spec: RunSpec | None, env: Mapping[str, str] | None) -> None:
        """A run is over: tells everybody who is to know.

        Args:
            spec: as its owner had it; None to read what it was sealed with.
            env: that of the run's client, in which a command is run; None if it was lost.
        """
        if run_dir.run_id not in self._tasks:
            task = asyncio.create_task(self._deliver(run_dir, spec, env), name=f"deliveries of {run_dir.run_id}")
            self._tasks[run_dir.run_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(run_dir.run_id, None))

    async def recover(self, scope: Path | None, is_live: Callable[[str], bool]) -> None:
        """Goes on with what owners that are gone have left undone.

        Args:
            scope: only runs at or below this directory; None for all.
            is_live: whether a run lives here.
        """
        for run_dir in await asyncio.to_thread(self._home.owing):
            ours = scope is None or run_dir.path.is_relative_to(scope)
            if ours and not is_live(run_dir.run_id) and await asyncio.to_thread(_is_over, run_dir):
                self.begin(run_dir, None, None)

    async def close(self) -> None:
        """Leaves what is not done to the next owner."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.3)

    async def _deliver(self, run_dir: RunDir, spec: RunSpec | None, env: Mapping[str, str] | None) -> None:
        deliveries = Deliveries(self._home, run_dir.run_id)
        try:
            if spec is None:
                spec = await asyncio.to_thread(self._sealed, run_dir)
            if spec is None or not spec.on_finish:
                await asyncio.to_thread(self._home.delivered, run_dir.run_id)
            elif await asyncio.to_thread(deliveries.open):
                run = (await asyncio.to_thread(RunReader(run_dir).state)).run
                told = await asyncio.to_thread(deliveries.told)
                ends = [
                    _Channel(self, spec, run, name, deliveries, told.get(name, Told())).deliver(env)
                    for name in spec.on_finish
                ]
                if all(await asyncio.gather(*ends)):
                    await asyncio.to_thread(self._home.delivered, run_dir.run_id)
        except (OrchestratorError, OSError) as error:  # whoever looks next tries again
            logger.warning("whom the end of %s concerns is not told yet: %s", run_dir.run_id, error)
        finally:
            deliveries.close()

    def _sealed(self, run_dir: RunDir) -> RunSpec | None:
        """What the run was asked for; None if that is not certain: an agent may have written it."""
        try:
            return sealed_spec(self._home, run_dir, self._home.owed_seal(run_dir.run_id))
        except StoreError as error:
            logger.error("nobody is told of the end of %s: %s", run_dir.run_id, error)
            return None

    async def attempt(self, spec: RunSpec, run: Run, channel: str, env: Mapping[str, str] | None) -> JsonObject:
        """Tells one, once. Returns what is known of that.

        Raises:
            webhook.Undelivered: it did not arrive, or nobody said that it did.
        """
        wanted, name = (spec.on_finish or {})[channel], delivery_id(run.run_id)
        async with self._at_once:
            match channel:
                case "webhook":
                    return {"http_status": await webhook.post(wanted, name, _body(run), await self._secret())}
                case "command":
                    own = {**(os.environ if env is None else env), DELIVERY_VARIABLE: name}
                    own.pop(MARKER, None)
                    ran = await run_command(wanted, spec.cwd, own, COMMAND_S, _body(run))
                    if not ran.started:
                        raise webhook.Undelivered(f"{wanted[0]}: {ran.output}")
                    if ran.exit_code != 0:  # what it said may hold secrets, and is not kept
                        how = "took too long" if ran.exit_code is None else f"ended with exit code {ran.exit_code}"
                        raise webhook.Undelivered(f"{wanted[0]} {how}")
                    return {"exit_code": 0}
                case _:
                    text = f"Run {run.run_id} of {run.agent_name} is {run.status}: {run.summary}\nget_run has the rest."
                    await self._tell(spec, wanted, name, text)
                    return {}

    async def _secret(self) -> str:
        try:
            secret = await asyncio.to_thread(self._home.webhook_secret, webhook.new_secret)
            webhook.check_secret(secret)
        except (OSError, InvalidArgument) as error:
            raise webhook.Undelivered(f"webhook_secret cannot be used: {error}") from error
        return secret

    def delay_after(self, attempts: int) -> float | None:
        """Seconds before the next attempt; None if there is none."""
        return DELAYS[attempts - 1] * self._retry_s() if attempts <= len(DELAYS) else None


class _Channel:
    """One of those who are to be told of one end."""

    def __init__(self, outbox: Outbox, spec: RunSpec, run: Run, name: str, deliveries: Deliveries, told: Told) -> None:
        self._outbox, self._spec, self._run, self._name = outbox, spec, run, name
        self._deliveries = deliveries
        self._told = told

    async def deliver(self, env: Mapping[str, str] | None) -> bool:
        """Tries until it is told, or nobody tries any more. False if that could not be written down."""
        attempts = self._told.attempts
        if self._told.status != "pending":
            return True
        if self._told.last_at and (delay := self._outbox.delay_after(attempts)):  # a new owner is a new chance
            soon = min(delay, self._outbox.delay_after(2) or delay)
            await asyncio.sleep(max(0.0, soon - _seconds_since(self._told.last_at)))
        try:
            while True:
                attempts += 1
                if (delay := await self._try(attempts, env)) is None:
                    return True
                await asyncio.sleep(delay)
        except StoreError as error:
            logger.warning("what became of telling of %s is not kept: %s", self._run.run_id, error)
            return False

    async def _try(self, attempt: int, env: Mapping[str, str] | None) -> float | None:
        """Tries once. Returns the seconds until the next attempt; None if there is none."""
        about = {"channel": self._name, "id": delivery_id(self._run.run_id), "attempt": attempt}
        final = False
        try:
            known = await self._outbox.attempt(self._spec, self._run, self._name, env)
            await asyncio.to_thread(self._deliveries.add, "delivered", {**about, **known})
            return None
        except webhook.Undelivered as failure:
            reason, final = failure.reason, failure.final
        except StoreError:
            raise
        except OrchestratorError as failure:
            reason = failure.sentence
        except Exception as defect:
            logger.exception("%s of %s met a defect", self._name, self._run.run_id)
            reason = f"internal: {type(defect).__name__}"
        delay = None if final else self._outbox.delay_after(attempt)
        event = "delivery_failed" if delay is not None else "delivery_given_up"
        retry = {"retry_in_s": delay} if delay is not None else {}
        await asyncio.to_thread(self._deliveries.add, event, {**about, "error": reason[:500], **retry})
        return delay


def _body(run: Run) -> bytes:
    """What is said of a run that is over; the same for each attempt, for it is made of its log alone."""
    result = {key: value for key, value in (run.result or {}).items() if not key.endswith("_ref")}
    more = {
        "session_id": run.session_id,
        "completed_at": run.completed_at,
        "error": run.error.to_json() if run.error else None,
        "result": result or None,
        "metadata": run.metadata,
    }
    data, _ = clip(row_of(run) | compact(more), BODY_CHARS)
    return orjson.dumps({"type": f"run.{run.status}", "timestamp": run.completed_at, "data": data})


def delivery_id(run_id: str) -> str:
    """The id of the message that a run is over: the same for every attempt and every receiver."""
    return f"end_{run_id.removeprefix('run_')}"


def _is_over(run_dir: RunDir) -> bool:
    try:
        return RunReader(run_dir).state().run.terminal
    except OrchestratorError:
        return False


def _seconds_since(timestamp: str) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()
    except ValueError:
        return 0.0
