"""Runs and waits as tasks of MCP's extension (SEP-2663): documents, without the SDK.

Above: the MCP door, for clients that declare the extension. Below: the tools, by which everything is done, so that a
task can do and see nothing that its client could not by them. A run is its own task, under its run_id; a wait for
several is one that the home remembers. Nothing is kept in this process: any later one answers for a task as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from orchestrator.doors.forms import answer_of, forms_of, requests_of, run_of
from orchestrator.doors.tools import Tools
from orchestrator.errors import AlreadyAnswered, InvalidArgument, NotFound, WrongState
from orchestrator.model import TERMINAL, WAITING, JsonObject, as_object, now
from orchestrator.store.layout import RUN_ID
from orchestrator.store.tasks import TTL_S, find_task, new_task, save_task

EXTENSION = "io.modelcontextprotocol/tasks"
POLL_MS = 1_000


class Tasks:
    """The tasks of one caller."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def wants(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Whether a call is one that may be answered by a task."""
        return name == "wait_runs" or (name == "spawn_run" and arguments.get("wait") is True)

    async def begin(self, name: str, arguments: Mapping[str, Any], *, asks: bool) -> JsonObject:
        """Makes the call. Returns the task, or what the tool returned if there is nothing to wait for.

        Args:
            asks: the client shows forms to its person.

        Raises:
            OrchestratorError: the call was refused.
        """
        if name == "spawn_run":
            run = await self._tools.call(name, {**arguments, "wait": False})
            about = f"{run['run_id']} is a run of agent {run['agent_name']}; get_run and poll_events follow it."
            return {**await self.get(run["run_id"], asks=asks), "note": about}
        document = await self._tools.call(name, {**arguments, "wait_ms": 0})
        wanted: JsonObject = {key: arguments[key] for key in ("run_ids", "until", "ask_person") if key in arguments}
        waiting = self._of_wait(document, wanted, asks=asks)
        if waiting["status"] == "completed" or arguments.get("wait_ms") == 0:
            return {"document": document}
        wanted["created_at"] = now()
        task_id = await asyncio.to_thread(new_task, self._tools.home, wanted)
        return await self.get(task_id, asks=asks)

    async def get(self, task_id: str, *, asks: bool) -> JsonObject:
        """The task now: `{taskId, status, createdAt, lastUpdatedAt, ttlMs, pollIntervalMs, ...}`.

        Raises:
            OrchestratorError: there is none of that id.
        """
        if RUN_ID.fullmatch(task_id):
            run = await self._tools.call("get_run", {"run_id": task_id})
            created_at = (await self._tools.run(task_id)).created_at or run["started_at"]
            about = {"createdAt": created_at, "lastUpdatedAt": run["updated_at"], "ttlMs": None}
            common: JsonObject = {"taskId": task_id, **about, "pollIntervalMs": POLL_MS}
            return {**common, **await self._of_run(run, asks=asks)}
        wanted = await self._wait(task_id)
        about = {"createdAt": wanted["created_at"], "lastUpdatedAt": wanted["created_at"], "ttlMs": TTL_S * 1000}
        common: JsonObject = {"taskId": task_id, **about, "pollIntervalMs": POLL_MS}
        if wanted.get("cancelled"):
            return {**common, "status": "cancelled", "statusMessage": "the wait was cancelled; its runs go on"}
        if "result" in wanted:
            return {**common, "status": "completed", "result": wanted["result"]}
        arguments = {key: wanted[key] for key in ("run_ids", "until") if key in wanted}
        try:
            document = await self._tools.call("wait_runs", {**arguments, "wait_ms": 0})
        except NotFound as error:  # a run is gone since
            gone = {"content": [{"type": "text", "text": error.sentence}], "isError": True}
            return {**common, "status": "completed", "result": gone}
        task = self._of_wait(document, wanted, asks=asks)
        if "result" in task:  # it stays what it was, whatever becomes of the runs
            await asyncio.to_thread(save_task, self._tools.home, task_id, {**wanted, "result": task["result"]})
        return {**common, **task}

    async def update(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Gives answers to what the task asks. What is answered already, or no longer asked, is passed over.

        Raises:
            OrchestratorError: there is no task of that id, or an answer is none.
        """
        known = [task_id] if RUN_ID.fullmatch(task_id) else (await self._wait(task_id))["run_ids"]
        for key, response in responses.items():
            given = as_object(response) or {}
            answer = answer_of(key, str(given.get("action")), given.get("content"))
            if answer is not None and answer["run_id"] in known:
                await self.answer(answer)

    async def answer(self, answer: JsonObject) -> bool:
        """Gives one answer. False if the request is not open any more."""
        try:
            await self._tools.call("continue_run", answer)
        except (AlreadyAnswered, WrongState):
            return False
        return True

    async def cancel(self, task_id: str) -> None:
        """Cancels a run; of a wait, only the waiting. What is over stays as it is.

        Raises:
            OrchestratorError: there is no task of that id.
        """
        if RUN_ID.fullmatch(task_id):
            await self._tools.call("cancel_run", {"run_id": task_id, "reason": "its task was cancelled"})
        elif not {"cancelled", "result"} & (wanted := await self._wait(task_id)).keys():
            await asyncio.to_thread(save_task, self._tools.home, task_id, {**wanted, "cancelled": True})

    async def _wait(self, task_id: str) -> JsonObject:
        wanted = await asyncio.to_thread(find_task, self._tools.home, task_id)
        if wanted is None:
            raise InvalidArgument(f"no task {task_id[:80]!r}; call list_runs")
        return wanted

    async def _of_run(self, run: JsonObject, *, asks: bool) -> JsonObject:
        home, run_id = self._tools.home, run["run_id"]
        if ended := await asyncio.to_thread(find_task, home, run_id):
            return {"status": "completed", **ended}
        asked = next((request["text"] for request in run.get("pending", ())), None)
        words = str(asked or run.get("detail") or run["summary"] or run["status"])[:500]
        if run["status"] == "cancelled":
            return {"status": "cancelled", "statusMessage": run["summary"] or "the run was cancelled"}
        if run["status"] in TERMINAL:
            return {"status": "completed", "statusMessage": words, "result": result_of(run)}
        if run["status"] not in WAITING:
            return {"status": "working", "statusMessage": words}
        if asks and (forms := forms_of([run])):
            return {"status": "input_required", "statusMessage": words, "inputRequests": requests_of(forms)}
        # for the model to answer; a task that is over stays so, whatever becomes of its run
        ended = {"statusMessage": words, "result": result_of(run)}
        await asyncio.to_thread(save_task, home, run_id, ended)
        return {"status": "completed", **ended}

    def _of_wait(self, document: JsonObject, wanted: JsonObject, *, asks: bool) -> JsonObject:
        forms = forms_of(document["runs"]) if asks and wanted.get("ask_person") else []
        asked = {run_of(form.key) for form in forms}
        settled = [run["status"] in (TERMINAL | WAITING) and run["run_id"] not in asked for run in document["runs"]]
        done = all(settled) if wanted.get("until") == "all" else any(settled)
        if done:
            return {"status": "completed", "result": result_of({**document, "done": True, "timed_out": False})}
        told = "; ".join(f"{run['run_id']} {run['status']}" for run in document["runs"])[:500]
        if forms:
            return {"status": "input_required", "statusMessage": told, "inputRequests": requests_of(forms)}
        return {"status": "working", "statusMessage": told}


def result_of(document: JsonObject) -> JsonObject:
    """A tool's document as the result of its call: the parsed text, so that both channels hold exactly the same."""
    text = orjson.dumps(document).decode()
    return {"content": [{"type": "text", "text": text}], "structuredContent": orjson.loads(text), "isError": False}
