"""Telling a client when a resource that it watches changes, in both eras of the protocol, in the SDK's types.

Before 2026-07-28 a client subscribes to one resource after the other and hears of them on its session; since then it
listens by a request that stays open, and hears of tasks too. Each resource that is watched has a task of its own, which
ends with the client or when the resource cannot change any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import mcp_types as types
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError

from orchestrator.doors import resources
from orchestrator.doors.mcp_tasks import Context, declares_forms, declares_tasks
from orchestrator.doors.tasks import Tasks
from orchestrator.doors.tools import Tools
from orchestrator.errors import OrchestratorError
from orchestrator.model import JsonObject, as_array
from orchestrator.store.layout import RUN_ID

logger = logging.getLogger(__name__)

MOST_WATCHED = 100
TASK_POLL_S = 0.5
TASK_OVER = ("completed", "failed", "cancelled")

Tell = Callable[[], Awaitable[None]]


class TaskNotification(types.Notification[dict[str, Any], Literal["notifications/tasks"]]):
    """A task as it is now."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


class Watching:
    """What one client watches."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._watched: dict[str, asyncio.Task[None]] = {}
        """By URI, for a client of the older era."""

    # ---- before 2026-07-28

    async def subscribe(self, ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """From now on the session hears when the resource changes."""
        uri, session = params.uri, ctx.session
        mark = await self._mark(uri)
        if uri not in self._watched:  # looked at now, for it may have been asked for twice at the same time
            if len(self._watched) >= MOST_WATCHED:
                raise MCPError(types.INVALID_PARAMS, f"{MOST_WATCHED} resources are watched already")
            watching = self._watch(uri, lambda: session.send_resource_updated(uri), mark)
            self._watched[uri] = task = asyncio.create_task(watching, name=f"watch {uri}")
            task.add_done_callback(partial(self._forget, uri))
        return types.EmptyResult()

    async def unsubscribe(self, _ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        """Nobody wants to hear of it any more."""
        if task := self._watched.pop(params.uri, None):
            task.cancel()
        return types.EmptyResult()

    def _forget(self, uri: str, task: asyncio.Task[None]) -> None:
        if self._watched.get(uri) is task:
            del self._watched[uri]

    def close(self) -> None:
        """The client is gone."""
        for task in list(self._watched.values()):
            task.cancel()

    # ---- since 2026-07-28

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Says what changes of what was asked for, for as long as the request is open."""
        asked = params.notifications
        uris = list(dict.fromkeys(asked.resource_subscriptions or ()))[:MOST_WATCHED]
        task_ids = _words((asked.model_extra or {}).get("taskIds")) if declares_tasks(ctx) else []
        marks = {uri: await self._mark(uri) for uri in uris}  # before it is acknowledged, so that nothing is missed
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        heeded: JsonObject = {"resourceSubscriptions": uris} if uris else {}
        heeded |= {"taskIds": task_ids} if task_ids else {}

        async def say(notification: Any) -> None:
            await ctx.session.send_notification(notification, related_request_id=ctx.request_id)

        acknowledged = types.SubscriptionsAcknowledgedNotificationParams.model_validate(
            {"notifications": heeded, "_meta": meta}
        )
        async with asyncio.TaskGroup() as watchers:
            await say(types.SubscriptionsAcknowledgedNotification(params=acknowledged))
            for uri in uris:
                told = types.ResourceUpdatedNotificationParams.model_validate({"uri": uri, "_meta": meta})
                change = types.ResourceUpdatedNotification(params=told)
                watchers.create_task(self._watch(uri, lambda change=change: say(change), marks[uri]))
            asks = declares_forms(ctx)
            for task_id in task_ids[:MOST_WATCHED]:
                watchers.create_task(self._watch_task(task_id, asks, meta, say))
            await asyncio.get_running_loop().create_future()  # until the client ends it
        return types.SubscriptionsListenResult.model_validate({"_meta": meta})

    # ---- watching

    async def _mark(self, uri: str) -> resources.Mark:
        try:
            return await resources.mark(self._tools, uri)
        except OrchestratorError as error:
            raise MCPError(types.INVALID_PARAMS, error.sentence, {"uri": uri}) from error

    async def _watch(self, uri: str, tell: Tell, known: resources.Mark) -> None:
        """Tells of each change, until there can be none."""
        try:
            while not known.final:
                before, known = known, await resources.change(self._tools, uri, known)
                if known.seen != before.seen:
                    await tell()
        except OrchestratorError as error:  # its files went away
            logger.info("%s is not watched any more: %s", uri, error)

    async def _watch_task(
        self, task_id: str, asks: bool, meta: JsonObject, say: Callable[[Any], Awaitable[None]]
    ) -> None:
        tasks, known, last_seq = Tasks(self._tools), None, 0
        try:
            while True:
                task = await tasks.get(task_id, asks=asks)
                if task != known:
                    known = task
                    await say(TaskNotification(params={**task, "_meta": meta}))
                if task["status"] in TASK_OVER:
                    return
                if RUN_ID.fullmatch(task_id):
                    await self._tools.run_past(task_id, last_seq)
                    last_seq = (await self._tools.run(task_id)).last_seq
                await asyncio.sleep(TASK_POLL_S)
        except OrchestratorError as error:
            logger.info("task %s is not watched: %s", task_id, error)


def _words(given: Any) -> list[str]:
    return [word for word in as_array(given) or [] if isinstance(word, str)]
