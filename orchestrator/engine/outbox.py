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
from orchestrator.engine.command import run_command
from orchestrator.errors import OrchestratorError
from orchestrator.listing import row_of, tree_of
from orchestrator.model import JsonObject, Run, RunSpec, compact
from orchestrator.process import MARKER
from orchestrator.store.deliveries import Deliveries, Told
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.reader import RunReader, is_tampered, sealed_spec

logger = logging.getLogger(__name__)

DELAYS = (1, 6, 24, 120, 360, 720, 1440, 2880, 5760)
"""Between one attempt and the next, in units of the setting `delivery_retry_s`: 5 s, 30 s, 2 min ... 8 h."""
COMMAND_S = 60.0
"""How long a command may take."""
BODY_CHARS = 16_000
DELIVERY_ID = "ORCHESTRATOR_DELIVERY_ID"
"""In the environment of a command: by it the command knows an end that it was told of before."""
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

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, run_dir: RunDir, env: Mapping[str, str] | None) -> None:
        """A run is over: tells everybody who is to know.

        Args:
            env: that of the run's client, in which a command is run; None if it was lost.
        """
        if run_dir.run_id not in self._tasks:
            task = asyncio.create_task(self._deliver(run_dir, env), name=f"deliveries of {run_dir.run_id}")
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
                self.begin(run_dir, None)

    async def close(self) -> None:
        """Leaves what is not done to the next owner."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.3)

    async def _deliver(self, run_dir: RunDir, env: Mapping[str, str] | None) -> None:
        deliveries = Deliveries(run_dir)
        try:
            spec = await asyncio.to_thread(self._spec, run_dir)
            if spec is None or not spec.on_finish:
                await asyncio.to_thread(self._home.delivered, run_dir.run_id)
            elif await asyncio.to_thread(deliveries.open):
                run = (await asyncio.to_thread(RunReader(run_dir).state)).run
                body = await asyncio.to_thread(self._body, run_dir, run)
                told = await asyncio.to_thread(deliveries.told)
                async with asyncio.TaskGroup() as channels:
                    for channel in spec.on_finish:
                        one = _Channel(self, spec, run, channel, body, deliveries, told.get(channel, Told()))
                        channels.create_task(one.deliver(env))
                await asyncio.to_thread(self._home.delivered, run_dir.run_id)
        except (OrchestratorError, OSError, ExceptionGroup) as error:  # whoever looks next tries again
            logger.warning("whom the end of %s concerns is not told yet: %s", run_dir.run_id, error)
        finally:
            deliveries.close()

    def _spec(self, run_dir: RunDir) -> RunSpec | None:
        """What the run was asked for; None if that is not certain: an agent may have written it."""
        if is_tampered(self._home, run_dir):
            logger.error("nobody is told of the end of %s: its spec.json was changed", run_dir.run_id)
            return None
        return sealed_spec(self._home, run_dir)

    def _body(self, run_dir: RunDir, run: Run) -> bytes:
        result = {key: value for key, value in (run.result or {}).items() if not key.endswith("_ref")}
        more = {
            "session_id": run.session_id,
            "completed_at": run.completed_at,
            "tree": tree_of(self._home, run_dir, run, lambda _: None),
            "error": run.error.to_json() if run.error else None,
            "result": result or None,
            "metadata": run.metadata,
        }
        data, _ = clip(row_of(run) | compact(more), BODY_CHARS)
        return orjson.dumps({"type": f"run.{run.status}", "timestamp": run.completed_at, "data": data})

    async def attempt(
        self, spec: RunSpec, run: Run, channel: str, body: bytes, env: Mapping[str, str] | None
    ) -> JsonObject:
        """Tells one, once. Returns what is known of that.

        Raises:
            webhook.Undelivered: it did not arrive, or nobody said that it did.
        """
        wanted, name = (spec.on_finish or {})[channel], delivery_id(run.run_id)
        match channel:
            case "webhook":
                secret = await asyncio.to_thread(self._home.webhook_secret, webhook.new_secret)
                return {"http_status": await webhook.post(wanted, name, body, secret)}
            case "command":
                own = {**(os.environ if env is None else env), DELIVERY_ID: name}
                own = {"PATH": os.environ.get("PATH", os.defpath), **own}
                ran = await run_command(
                    wanted, spec.cwd, {k: v for k, v in own.items() if k != MARKER}, COMMAND_S, body
                )
                if ran.exit_code != 0:
                    how = "took too long" if ran.exit_code is None else f"ended with exit code {ran.exit_code}"
                    raise webhook.Undelivered(f"{wanted[0]} {how}: {ran.output[-200:].strip()}".rstrip(": "))
                return {"exit_code": 0}
            case _:
                text = f"Run {run.run_id} of {run.agent_name} is {run.status}: {run.summary}\nget_run has the rest."
                try:
                    await self._tell(spec, wanted, name, text)
                except OrchestratorError as error:
                    raise webhook.Undelivered(error.sentence) from error
                return {}

    def delay_after(self, attempts: int) -> float | None:
        """Seconds before the next attempt; None if there is none."""
        return DELAYS[attempts - 1] * self._retry_s() if attempts <= len(DELAYS) else None


class _Channel:
    """One of those who are to be told of one end."""

    def __init__(
        self, outbox: Outbox, spec: RunSpec, run: Run, name: str, body: bytes, deliveries: Deliveries, told: Told
    ) -> None:
        self._outbox, self._spec, self._run, self._name, self._body = outbox, spec, run, name, body
        self._deliveries = deliveries
        self._told = told

    async def deliver(self, env: Mapping[str, str] | None) -> None:
        """Tries until it is told, or nobody tries any more."""
        attempts = self._told.attempts
        if self._told.status != "pending":
            return
        if self._told.last_at and (delay := self._outbox.delay_after(attempts)):  # a new owner is a new chance
            soon = min(delay, self._outbox.delay_after(2) or delay)
            await asyncio.sleep(max(0.0, soon - _seconds_since(self._told.last_at)))
        while True:
            attempts += 1
            about = {"channel": self._name, "id": delivery_id(self._run.run_id), "attempt": attempts}
            try:
                known = await self._outbox.attempt(self._spec, self._run, self._name, self._body, env)
            except webhook.Undelivered as failure:
                delay = None if failure.final else self._outbox.delay_after(attempts)
                kind = "delivery_failed" if delay is not None else "delivery_given_up"
                retry = {"retry_in_s": delay} if delay is not None else {}
                await self._note(kind, {**about, "error": failure.reason[:500], **retry})
                if delay is None:
                    logger.error("%s of %s is given up: %s", self._name, self._run.run_id, failure.reason)
                    return
                await asyncio.sleep(delay)
            else:
                await self._note("delivered", {**about, **known})
                return

    async def _note(self, event_type: str, data: JsonObject) -> None:
        await asyncio.to_thread(self._deliveries.add, event_type, data)


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
