"""Queries: the documents that get, list, poll, wait and artifact reads return, in the shapes of the tools.

Every door uses these. They read files through the store's reader; the engine is asked only for what it alone knows,
which is the log of a run that lives in this process. Nothing here changes a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.clip import clip, json_chars
from orchestrator.errors import ArtifactNotFound, InvalidArgument, RunNotFound
from orchestrator.events import Event
from orchestrator.listing import Where, list_row_of, page_of, row_of, tree_of
from orchestrator.model import InputRequest, JsonObject, Run, Status, compact
from orchestrator.store import artifacts
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.index import RunIndex
from orchestrator.store.layout import Home, RunDir, read_json
from orchestrator.store.reader import RunReader

if TYPE_CHECKING:
    from orchestrator.store.log import RunLog

RESULT_CHARS = 9_500
"""Known clients cut a tool's result at about 12,000 characters; a default result stays well below."""
REQUEST_CHARS = 2_000
FINAL_CHARS = 8_000
ARTIFACT_LIMIT = 6_144
_GATHER_S = 0.004
"""Events seldom come alone: what follows the first one this soon is told in the same answer."""
_PATIENCE_S = 30.0
_REMEMBERED = 5_000
_FILE_POLL_S = 0.02
"""How often a run that another process owns is looked at while somebody waits for it."""


class Runs(Protocol):
    """Where queries find runs: an engine, for what lives in its process, or the files alone."""

    @property
    def home(self) -> Home:
        """The index of runs."""
        ...

    def log_of(self, run_id: str) -> RunLog | None:
        """The log of a run that lives in this process."""
        ...

    async def state(self, run_dir: RunDir) -> Run:
        """The run now, recovered if its owner is gone."""
        ...

    def place(self, run_id: str) -> int | None:
        """The place of a run among those that wait for a slot; None if that is not known here."""
        ...

    def left(self, run_id: str) -> JsonObject | None:
        """What a live run may still use of its budgets; None if it has none, or that is not known here."""
        ...


class Queries:
    """Reads runs for the clients of one engine, or for a command."""

    def __init__(self, engine: Runs) -> None:
        self._engine = engine
        self._index = RunIndex(engine.home)
        self._over: OrderedDict[str, Run] = OrderedDict()
        """Members of trees that are over, so that they are read once."""

    def find(self, run_id: str | None, agent_name: str | None, cwd: Path) -> RunDir:
        """The run that a call names by exactly one of the two. Looks at the disk, so it is called in a thread.

        Raises:
            InvalidArgument: both or neither were given.
            RunNotFound, AgentNotFound: there is no such run.
        """
        if (run_id is None) == (agent_name is None):
            raise InvalidArgument("name the run by run_id or agent_name, one of them")
        if run_id is not None:
            return self._index.find(run_id, cwd)
        assert agent_name is not None
        return self._index.newest(agent_name, cwd)

    async def get_run(self, run_dir: RunDir) -> JsonObject:
        """All about one run, bounded: long texts are cut and named, the whole is in its event."""
        run = await self._engine.state(run_dir)
        document = row_of(run) | compact(
            {
                "session_id": run.session_id,
                "completed_at": run.completed_at,
                "last_seq": run.last_seq,
                "detail": run.detail,
                "pending": pending_of(run) or None,
                "result": await asyncio.to_thread(_result, run_dir, run),
                "error": run.error.to_json() if run.error else None,
                "metadata": run.metadata,
                "remote_ref": run.remote_ref,
                "permission_enforced": run.permission_enforced,
                "resumed_from_run_id": run.resumed_from_run_id,
                "depth": run.depth or None,
                "profile": run.profile,
                "workspace": run.workspace,
                "progress": run.progress,
                "queue_place": self._engine.place(run.run_id) if run.status is Status.QUEUED else None,
                "told": await asyncio.to_thread(_told, self._engine.home, run.run_id) or None,
                "budget_left": self._engine.left(run.run_id),
                "tree": await self._tree(run_dir, run),
            }
        )
        value, cut = clip(document, RESULT_CHARS)
        return {**value, "clipped": cut} if cut else value

    async def _tree(self, run_dir: RunDir, run: Run) -> JsonObject | None:
        tree = await asyncio.to_thread(tree_of, self._engine.home, run_dir, run, self._engine.log_of, self._over)
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)
        return tree

    async def list_runs(
        self,
        *,
        cwd: Path | None,
        filters: dict[str, str],
        limit: int,
        cursor: str | None,
        among: frozenset[str] | None = None,
        trees: bool = True,
    ) -> JsonObject:
        """A page of runs, newest first.

        Args:
            cwd: runs at or below this directory; None for all.
            filters: any of status, backend, role and session_id, all of which must match.
            cursor: the `next_cursor` of the page before.
            among: the only runs that count; None for all.
            trees: with what runs and all below them used together.
        """
        status = filters.get("status")
        where = Where(cwd, filters, cursor, among)
        rows, more, unreadable = await asyncio.to_thread(page_of, self._index, where, limit, self._engine.log_of)
        runs: list[JsonObject] = []
        size, last = 0, None
        for run_dir, run in rows:
            if not run.terminal:  # its owner may be gone, and then it is over, or was never answered to anybody
                try:
                    run = await self._engine.state(run_dir)
                except RunNotFound:
                    continue
            if status is None or run.status == status:
                row = list_row_of(run)
                if run.status is Status.QUEUED and (place := self._engine.place(run.run_id)):
                    row["queue_place"] = place
                if trees and run.depth == 0 and (tree := await self._tree(run_dir, run)):
                    row["tree"] = tree
                size += json_chars(row) + 1
                if size > RESULT_CHARS and runs:
                    more = True
                    break
                runs.append(row)
            last = run_dir.run_id
        return compact({"runs": runs, "next_cursor": last if more else None, "unreadable": unreadable or None})

    async def poll_events(
        self,
        run_dir: RunDir,
        *,
        after_seq: int,
        limit: int,
        wait_s: float,
        types: Sequence[str] | None,
        max_chars: int,
    ) -> JsonObject:
        """The events behind `after_seq`; waits while there are none and the run is not over."""
        deadline = asyncio.get_running_loop().time() + wait_s
        seen = after_seq
        while True:
            run = await self._engine.state(run_dir)
            bound = log.offset if (log := self._engine.log_of(run_dir.run_id)) else None
            events, seen, more = await asyncio.to_thread(RunReader(run_dir, bound).poll, seen, limit, types)
            if not events and more:  # a long stretch was filtered out
                continue
            over = run.terminal and seen >= run.last_seq
            if events or over or asyncio.get_running_loop().time() >= deadline:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._wait(run_dir, lambda run, seen=seen: run.last_seq > seen or run.terminal)
                    await asyncio.sleep(_GATHER_S)
        documents, fit = _fit(events, max_chars)
        if fit < len(events):
            seen, more = events[fit - 1].seq, True
        return compact(
            {
                "run_id": run.run_id,
                "status": run.status,
                "events": documents,
                "next_after_seq": seen,
                "has_more": more,
                "pending": pending_of(run) or None,
            }
        )

    async def wait_runs(self, run_dirs: Sequence[RunDir], *, until_all: bool, wait_s: float) -> JsonObject:
        """Waits until one of the runs, or each, is over or needs its caller. Returns a digest of all."""

        async def settle(run_dir: RunDir) -> None:
            while not (await self._engine.state(run_dir)).settled:
                await self._wait(run_dir, lambda run: run.settled)

        waiters = [asyncio.ensure_future(settle(run_dir)) for run_dir in run_dirs]
        try:
            mode = asyncio.ALL_COMPLETED if until_all else asyncio.FIRST_COMPLETED
            await asyncio.wait(waiters, timeout=wait_s, return_when=mode)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
        runs = [await self._engine.state(run_dir) for run_dir in run_dirs]
        settled = [run.settled for run in runs]
        done = all(settled) if until_all else any(settled)
        document: JsonObject = {"runs": [_digest(run) for run in runs], "done": done, "timed_out": not done}
        if json_chars(document) > RESULT_CHARS:  # every run keeps its row, with less in it
            document["runs"] = [_short_digest(run) for run in runs]
        return document

    async def get_event_artifact(
        self, run_dir: RunDir, *, seq: int, field_path: str, offset: int, limit: int | None
    ) -> JsonObject:
        """A page of any field of any event.

        Args:
            limit: in bytes; None for as much as fits a default result.
        """
        log = self._engine.log_of(run_dir.run_id)
        reader = RunReader(run_dir, log.offset if log else None)
        event = await asyncio.to_thread(reader.event, seq)
        if event is None:
            raise ArtifactNotFound(
                f"run {run_dir.run_id} has no event {seq} yet; its last is {await self._last(run_dir)}"
            )
        read = partial(artifacts.read_field, run_dir, event, field_path)
        page = await self._page(read, offset, limit)
        return {"run_id": run_dir.run_id, "seq": seq, "field_path": field_path, **page}

    async def page_of_file(self, path: Path, mime: str, offset: int, limit: int | None) -> JsonObject:
        """A page of a file of a run."""
        return await self._page(partial(artifacts.read_file, path, mime), offset, limit)

    async def _page(self, read: Callable[[int, int], artifacts.Page], offset: int, limit: int | None) -> JsonObject:
        size = ARTIFACT_LIMIT if limit is None else limit
        while True:
            page = await asyncio.to_thread(read, offset, size)
            if limit is not None or json_chars(page.content) <= RESULT_CHARS or size <= 16:
                break
            size = size * RESULT_CHARS // (json_chars(page.content) + 1)
        end = page.offset + page.returned_bytes
        more = end < page.total_bytes
        return compact(
            {
                "mime": page.mime,
                "encoding": page.encoding,
                "total_bytes": page.total_bytes,
                "offset": page.offset,
                "returned_bytes": page.returned_bytes,
                "next_offset": end if more else None,
                "has_more": more,
                "content": page.content,
            }
        )

    async def _last(self, run_dir: RunDir) -> int:
        return (await self._engine.state(run_dir)).last_seq

    async def past(self, run_dir: RunDir, last_seq: int) -> None:
        """Returns when the run may have an event behind that number; after a bounded time at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while (await self._engine.state(run_dir)).last_seq <= last_seq:
                    await self._wait(run_dir, lambda run: run.last_seq > last_seq)

    async def _wait(self, run_dir: RunDir, predicate: Callable[[Run], bool]) -> None:
        """Returns when the run may satisfy the predicate: woken by its log here, by file growth elsewhere."""
        log = self._engine.log_of(run_dir.run_id)
        if log is not None:
            await log.wait(predicate)
            return
        before = await asyncio.to_thread(_size, run_dir)
        for _ in range(50):
            await asyncio.sleep(_FILE_POLL_S)
            if await asyncio.to_thread(_size, run_dir) != before or self._engine.log_of(run_dir.run_id):
                return


def pending_of(run: Run) -> list[JsonObject]:
    """What the run waits for, each request cut to REQUEST_CHARS; `seq` names the event that holds it whole."""
    return [_bounded(request) for request in run.pending]


def _bounded(request: InputRequest) -> JsonObject:
    value, cut = clip(request.to_json(), REQUEST_CHARS)
    return {**value, "clipped": list(dict.fromkeys([*(request.clipped or ()), *cut]))} if cut else value


def _digest(run: Run) -> JsonObject:
    return compact(
        {
            "run_id": run.run_id,
            "status": run.status,
            "summary": run.summary,
            "last_seq": run.last_seq,
            "progress": run.progress,
            "pending": pending_of(run) or None,
        }
    )


def _short_digest(run: Run) -> JsonObject:
    pending = [{"request_id": request.request_id, "kind": request.kind} for request in run.pending[:2]]
    return {**_digest(run.evolve(pending=())), "summary": run.summary[:40]} | ({"pending": pending} if pending else {})


def _told(home: Home, run_id: str) -> list[JsonObject]:
    """Who was told, or is to be told, that the run is over."""
    told = Deliveries(home, run_id).told()
    return [compact({"channel": name, **dataclasses.asdict(how)}) for name, how in told.items()]


def _result(run_dir: RunDir, run: Run) -> JsonObject | None:
    """The result with as much of its final response as a result may hold."""
    if run.result is None or "final_response_ref" not in run.result:
        return run.result
    whole = (read_json(run_dir.file("result.json")) or {}).get("final_response")
    if not isinstance(whole, str):
        return run.result
    return {**run.result, "final_response": whole[:FINAL_CHARS]}


def _fit(events: Sequence[Event], max_chars: int) -> tuple[list[JsonObject], int]:
    """The events as documents, as many as fit; the first always, cut if it alone is too long."""
    documents: list[JsonObject] = []
    size = 0
    for event in events:
        document: JsonObject = {"seq": event.seq, "ts": event.ts, "type": event.type, "data": event.data}
        size += json_chars(document) + 1
        if size > max_chars:
            if documents:
                break
            data, cut = clip(event.data, max(200, max_chars - 250))
            document |= {"data": data, "clipped": cut}
        documents.append(document)
    return documents, len(documents)


def _size(run_dir: RunDir) -> int:
    try:
        return os.stat(run_dir.file("events.jsonl")).st_size  # noqa: PTH116
    except OSError:
        return -1
