"""The one writer of a run: numbers, masks, stores, appends, folds and publishes each event, in this order.

Above: the engine, which owns one `RunLog` for each live run, while this process holds the run's lock. Below: its
directory. What is published is written: `run` and `offset` move after the line is in the file, where readers here stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import orjson

from orchestrator.errors import StoreError
from orchestrator.events import Event, fold
from orchestrator.files import open_file
from orchestrator.model import TERMINAL, JsonObject, Run, RunSpec, compact, now
from orchestrator.process import ProcessId
from orchestrator.store import artifacts, reader
from orchestrator.store.layout import RunDir, replace_file, write_all
from orchestrator.store.masking import Mask
from orchestrator.store.owner import agent_of, epoch_of, locked, read_owner
from orchestrator.store.serial import serialisable
from orchestrator.store.spool import Spool, discard_unfinished
from orchestrator.updates import ArtifactChunk

logger = logging.getLogger(__name__)

Data = JsonObject | Callable[[Run], JsonObject]
P = ParamSpec("P")
T = TypeVar("T")

SNAPSHOT_EVERY = 4096
"""Events after which `run.json` is replaced at the latest, so that the tail behind it stays short."""
RESERVE_BYTES = 8192
"""Kept free on the disk, and below a limit on the file size, for a run's last event."""
_BREATH = 64
"""Events after which an agent that never pauses lets the others run."""
ARTIFACT_CAP = 256 * 2**20


class RunLog:
    """The log of one live run. Made by `create` or `take_over`; closed by `close`. For one event loop."""

    def __init__(self, run_dir: RunDir, mask: Mask, run: Run, offset: int, lock: int, socket: str | None) -> None:
        self.dir = run_dir
        self._socket = socket
        self.run = run
        self.offset = offset
        self._mask = mask
        self._lock_fd = lock
        self._fd = open_file(run_dir.file("events.jsonl"), os.O_WRONLY | os.O_CREAT)
        os.ftruncate(self._fd, offset)  # a torn tail goes
        os.lseek(self._fd, 0, os.SEEK_END)
        self._ceiling = _file_size_limit() - RESERVE_BYTES
        self._snapshot = run
        self._writing = asyncio.Lock()
        self._spools: dict[str, tuple[Spool, ArtifactChunk]] = {}
        self._spool_count = 0
        self._waiters: list[tuple[Callable[[Run], bool], asyncio.Future[None]]] = []
        self._epoch = 1
        self.stored_bytes = 0  # of artifacts, since this process has the run
        self.agent: JsonObject | None = None
        """The agent's process group, also one that the owner before left behind."""

    @classmethod
    def create(cls, run_dir: RunDir, spec: bytes, mask: Mask, socket: str | None = None) -> RunLog:
        """Makes a run's directory, with `spec.json` durable, and owns it. Blocks on the disk.

        Args:
            spec: what `spec.json` is to say, without credentials.
            socket: where this process takes commands for its runs from others, if it does.
        """
        run_dir.path.mkdir(mode=0o700)
        with locked(run_dir) as lock:
            replace_file(run_dir.file("spec.json"), spec, durable=True)
            replace_file(run_dir.file("reserve"), bytes(RESERVE_BYTES))
            log = cls(run_dir, mask, Run.queued(RunSpec.from_json(orjson.loads(spec))), 0, lock, socket)
            try:
                log.write_owner()
            except StoreError:
                os.close(log._fd)
                raise
        return log

    @classmethod
    def take_over(cls, run_dir: RunDir, mask: Mask, socket: str | None = None) -> RunLog:
        """Owns a run whose owner is gone: the tail is made whole, the epoch goes up. Blocks on the disk.

        What the owner before left of its agent's process stays in `owner.json` until `write_owner` replaces it.

        Raises:
            Conflict: another process holds the run.
        """
        with locked(run_dir) as lock:
            state = reader.RunReader(run_dir).state()
            if not state.run.terminal:  # written before a last event that never was
                Path(run_dir.file("result.json")).unlink(missing_ok=True)
            _checked_io(discard_unfinished, run_dir)
            _checked_io(_tidy, run_dir, state.run)
            log = cls(run_dir, mask, state.run, state.offset, lock, socket)
            before = read_owner(run_dir)
            log._epoch = epoch_of(before) + 1
            log.agent = agent_of(before)
            try:
                log.write_owner()
            except StoreError:
                os.close(log._fd)
                raise
        return log

    def hide(self, secrets: Iterable[str]) -> None:
        """Masks these values too from now on; credentials may come while a run is live."""
        if secrets := frozenset(secrets):
            self._mask = self._mask.plus(secrets)
            for spool, _ in self._spools.values():
                spool.hide(self._mask)

    def masked(self, text: str) -> str:
        """A text as it may be written."""
        return self._mask.text(text)

    def holds_secret(self, path: Path) -> bool:
        """Whether a file, which is kept as it is, holds what is masked elsewhere. Blocks on the disk."""
        return path.exists() and self._mask.found_in(path.read_bytes())

    async def append(self, event_type: str, data: Data, *, durable: bool = False) -> Event:
        """Adds an event and publishes it. Once begun it is finished, even when the caller is cancelled.

        Args:
            data: the event's data, or what makes it from the run as it is when the event's turn comes.
            durable: fsync the line before it is published.

        Raises:
            StoreError: it could not be written; the log is as it was.
        """
        if not durable and not self._writing.locked():
            event = self._next(event_type, data(self.run) if callable(data) else data)
            try:
                line = _line(event)
            except orjson.JSONEncodeError:
                line = b""  # the long way makes it fit for JSON
            if 0 < len(line) <= artifacts.LEAF_BYTES and not self._mask.touches(line):
                run = fold(self.run, event)
                if not self._snapshot_due(run):
                    self._write(line)
                    self._publish(run, len(line))
                    if event.seq % _BREATH == 0:
                        await asyncio.sleep(0)
                    return event
        return await uninterrupted(self._append(event_type, data, durable))

    async def _append(self, event_type: str, data: Data, durable: bool) -> Event:
        async with self._writing:
            made = data(self.run) if callable(data) else data
            event, run, size = await asyncio.to_thread(self._record, event_type, made, durable)
            self._publish(run, size)
            return event

    async def add_chunk(self, chunk: ArtifactChunk) -> None:
        """Takes a piece of an artifact; with the last one the event `artifact_added` is written."""
        await uninterrupted(self._add_chunk(chunk))

    async def _add_chunk(self, chunk: ArtifactChunk) -> None:
        async with self._writing:
            key = chunk.artifact_id
            if not chunk.append and key in self._spools:
                self._spools.pop(key)[0].discard()
            if key not in self._spools:
                self._spool_count += 1
                binary = isinstance(chunk.content, bytes)
                spool = Spool(self.dir, self._spool_count, self._mask, ARTIFACT_CAP, binary=binary)
                self._spools[key] = (spool, replace(chunk, content=b""))
            spool, first = self._spools[key]
            content = chunk.content.encode(errors="replace") if isinstance(chunk.content, str) else chunk.content
            try:
                await asyncio.to_thread(_checked_io, spool.feed, content)
            except StoreError:
                self._spools.pop(key)[0].discard()
                raise
            if chunk.last:
                await self._end_spool(key, spool, first)

    async def end_artifacts(self) -> None:
        """Writes the events of artifacts that were begun and never completed: the task is over."""
        while self._spools:
            await uninterrupted(self._end_next_spool())

    async def _end_next_spool(self) -> None:
        async with self._writing:
            for key, (spool, first) in list(self._spools.items())[:1]:
                await self._end_spool(key, spool, first)

    async def _end_spool(self, key: str, spool: Spool, first: ArtifactChunk) -> None:
        del self._spools[key]
        data: JsonObject = {"artifact_id": key}
        data |= {name: value for name in ("name", "mime") if (value := getattr(first, name)) is not None}
        data = serialisable(data)
        try:
            event, run, size = await asyncio.to_thread(_checked_io, self._record_spool, spool, data)
        except StoreError:
            spool.discard()
            raise
        self._publish(run, size)
        logger.debug("artifact %s of %s is event %d", key, self.dir.run_id, event.seq)

    def _record_spool(self, spool: Spool, data: JsonObject) -> tuple[Event, Run, int]:
        whole = spool.end()
        if whole is not None:
            return self._record("artifact_added", {**data, "text": whole.decode(errors="replace")}, False)
        mime = data.get("mime") or ("application/octet-stream" if spool.binary else "text/plain")
        shown: JsonObject = {"data": {"bytes": spool.total_bytes}} if spool.binary else {"text": spool.edges()}
        refs = spool.settle(self.run.last_seq + 1, "/data" if spool.binary else "/text", mime)
        self.stored_bytes += spool.total_bytes
        event = self._next("artifact_added", {**self._mask.value(data), **shown, "artifact_refs": refs})
        return self._commit(event, _line(event), durable=False)

    async def end(self, event_type: str, data: JsonObject, *, durable: bool = True) -> None:
        """Writes the last event: `result.json`, line, `run.json`, publish.

        A full disk is met with the reserve that the run kept for this moment.

        Raises:
            StoreError: even so it could not be written; the run is not over.
        """
        await uninterrupted(self._end(event_type, data, durable))

    async def _end(self, event_type: str, data: JsonObject, durable: bool) -> None:
        async with self._writing:
            _, run, size = await asyncio.to_thread(self._record_last, event_type, data, durable)
            self._publish(run, size)

    def _record_last(self, event_type: str, data: JsonObject, durable: bool) -> tuple[Event, Run, int]:
        try:
            recorded = self._record(event_type, data, durable)
        except StoreError:
            self._release_reserve()
            recorded = self._record(event_type, data, durable)
        self._release_reserve()
        return recorded

    def _release_reserve(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.dir.file("reserve"))  # noqa: PTH108
        self._ceiling = _file_size_limit()

    def _record(self, event_type: str, data: JsonObject, durable: bool) -> tuple[Event, Run, int]:
        """Masks, stores what is oversize, and commits. Blocks on the disk."""
        data = serialisable(data)
        event = self._next(event_type, data)
        line = _line(event)
        if self._mask.touches(line):
            event = replace(event, data=self._mask.value(event.data))
            line = _line(event)
        whole = event.data
        if len(line) > artifacts.LEAF_BYTES:
            small, stored = artifacts.plan(event_type, event.data)
            if stored:
                refs = _checked_io(artifacts.write, self.dir, event.seq, event_type, stored)
                self.stored_bytes += sum(len(field.content) for field in stored.values())
                event = replace(event, data={**small, "artifact_refs": refs})
                line = _line(event)
        if fold(self.run, event).status in TERMINAL:
            result = {"run_id": self.dir.run_id, "type": event_type, "ts": event.ts, **whole}
            content = orjson.dumps(result, option=orjson.OPT_INDENT_2)
            _checked_io(replace_file, self.dir.file("result.json"), content, durable=durable)
        return self._commit(event, line, durable)

    def _commit(self, event: Event, line: bytes, durable: bool) -> tuple[Event, Run, int]:
        run = fold(self.run, event)
        self._write(line, durable=durable)
        if self._snapshot_due(run):
            self._save_snapshot(run, self.offset + len(line))
        return event, run, len(line)

    def _next(self, event_type: str, data: JsonObject) -> Event:
        if self.run.terminal:
            raise StoreError(f"{self.dir.run_id} is over; nothing follows its last event")
        return Event(self.run.last_seq + 1, now(), event_type, data)

    def _write(self, line: bytes, *, durable: bool = False) -> None:
        try:
            if self.offset + len(line) > self._ceiling:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            write_all(self._fd, line)
            if durable:
                os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.offset)
                os.lseek(self._fd, self.offset, os.SEEK_SET)
            raise StoreError(f"cannot write {self.dir.file('events.jsonl')}: {error.strerror}") from error

    def _snapshot_due(self, run: Run) -> bool:
        old = self._snapshot
        if run.last_seq - old.last_seq >= SNAPSHOT_EVERY:
            return True
        return run.status is not old.status or run.pending != old.pending or run.remote_ref != old.remote_ref

    def _save_snapshot(self, run: Run, offset: int) -> None:
        """Replaces `run.json`. It is a cache of the log, so a failure is told and survived."""
        try:
            replace_file(self.dir.file("run.json"), orjson.dumps({**run.to_json(), "offset": offset}))
            self._snapshot = run
        except OSError as error:
            logger.warning("cannot write run.json of %s: %s", self.dir.run_id, error.strerror)

    def _publish(self, run: Run, size: int) -> None:
        self.run = run
        self.offset += size
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        for predicate, future in self._waiters:
            if not future.done() and predicate(self.run):
                future.set_result(None)

    async def wait(self, predicate: Callable[[Run], bool]) -> None:
        """Returns as soon as the published run satisfies the predicate, or the log is closed."""
        if predicate(self.run) or self._fd < 0:
            return
        entry = (predicate, asyncio.get_running_loop().create_future())
        self._waiters.append(entry)
        try:
            await entry[1]
        finally:
            self._waiters.remove(entry)

    def write_owner(self, agent: JsonObject | None = None) -> None:
        """Replaces `owner.json`; with `agent`, the process group of the agent is durable when it returns."""
        self.agent = agent or self.agent
        owner = compact({**ProcessId.own().to_json(), "epoch": self._epoch, "agent": self.agent})
        owner["socket"] = self._socket
        _checked_io(replace_file, self.dir.file("owner.json"), orjson.dumps(owner), durable=agent is not None)

    def close(self) -> None:
        """Gives the run up. Wakes all who wait."""
        for spool, _ in self._spools.values():
            spool.discard()
        self._spools.clear()
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._lock_fd)
            self._fd = -1
        for _, future in self._waiters:
            if not future.done():
                future.set_result(None)


def _tidy(run_dir: RunDir, run: Run) -> None:
    """Removes what a dead owner left: files that it was replacing, what it had stored for an event that it did not
    live to write, and the reserve of a run that is over."""
    for name in os.listdir(run_dir.path):  # noqa: PTH208
        if name.endswith(".tmp") or (run.terminal and name == "reserve"):
            os.unlink(run_dir.file(name))  # noqa: PTH108
    artifacts.discard_behind(run_dir, run.last_seq)


def _line(event: Event) -> bytes:
    document = {"seq": event.seq, "ts": event.ts, "type": event.type, "data": event.data}
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _file_size_limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return 2**62 if limit == resource.RLIM_INFINITY else limit


def _checked_io(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return function(*args, **kwargs)
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or 'the store'}: {error.strerror}") from error


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work to its end, whatever happens to the caller; a cancellation is passed on afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001  raised below by result()
            break
    if cancelled:
        if error := task.exception():
            logger.warning("a write ended with %r after its caller was cancelled", error)
        raise cancelled
    return task.result()
