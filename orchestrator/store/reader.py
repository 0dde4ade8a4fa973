"""Reading a run from its files, whoever owns it and whether anybody does. Takes no lock and writes nothing.

The log needs no index: `seq` counts without gaps and stands at the start of every line, so the place of an event is
found by bisecting the file (about twenty small reads for a million events), and what is skipped is never parsed.
The run's state is `run.json`, which names the byte behind the last event it knows, plus the fold of what follows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, cast

import orjson

from orchestrator.errors import RunNotFound, StoreError
from orchestrator.events import Event, concerns_fold, fold
from orchestrator.files import open_file, read_file
from orchestrator.model import JsonObject, Run, RunSpec, as_object
from orchestrator.store.layout import Home, RunDir, read_json

_HEAD = re.compile(rb'\{"seq":(\d{1,18}),"ts":"([^"]*)","type":"([^"\\]*)","data":')
_PROBE = 8 * 1024
_BLOCK = 256 * 1024
_NEAR = 64 * 1024
"""A stretch of the log that is cheaper to walk than to bisect further."""


_TEXTS = ("agent_name", "session_id", "backend", "role", "summary", "started_at", "updated_at", "detail")


class State(NamedTuple):
    """A run and the byte behind the last event that it knows."""

    run: Run
    offset: int


class Line(NamedTuple):
    """One line of the log whose data is not parsed yet."""

    seq: int
    ts: str
    type: str
    raw: bytes
    end: int

    def event(self) -> Event:
        """The whole event."""
        try:
            data: Any = orjson.loads(self.raw)["data"]
        except (ValueError, KeyError) as error:
            raise StoreError(f"event {self.seq} of the log is damaged: {error}") from error
        if not isinstance(data, dict):
            raise StoreError(f"event {self.seq} of the log is damaged: its data is no object")
        return Event(self.seq, self.ts, self.type, cast(JsonObject, data))


def seal_of(spec: bytes) -> bytes:
    """The digest of what stands in a `spec.json`."""
    import hashlib  # not for a list

    return hashlib.sha256(spec).hexdigest().encode()


def is_tampered(home: Home, run_dir: RunDir) -> bool:
    """Whether a run's spec is not what it was when it was spawned, as far as the index knows."""
    if not (seal := home.seal(run_dir)):
        return False
    try:
        return seal != seal_of(read_file(run_dir.file("spec.json")))
    except OSError as error:
        raise StoreError(f"cannot read {run_dir.file('spec.json')}: {error.strerror}") from error


def sealed_spec(home: Home, run_dir: RunDir, seal: bytes | None = None) -> RunSpec:
    """What was asked for, to act upon it again: an agent that can write to its workspace must not have changed it.

    Args:
        seal: of the spec, which must be there; None for the one of the index, as far as that knows one.

    Raises:
        RunNotFound: there is no such run.
        StoreError: its `spec.json` is damaged, or not what it was when the run was spawned.
    """
    reader = RunReader(run_dir)
    content = reader.spec_bytes()  # once: what is looked at is what is acted upon
    known = home.seal(run_dir) if seal is None else seal or b"none"
    if known and known != seal_of(content):
        raise StoreError(f"{run_dir.file('spec.json')} was changed since the run was spawned; spawn a new run")
    return reader.spec(content)


class RunReader:
    """Reads one run.

    Args:
        bound: where to stop, for runs that this process owns: what is behind it is not published yet.
    """

    def __init__(self, run_dir: RunDir, bound: int | None = None) -> None:
        self.dir = run_dir
        self._bound = bound

    def spec_bytes(self) -> bytes:
        """The file that says what was asked for.

        Raises:
            RunNotFound: there is no such run.
            StoreError: it cannot be read.
        """
        path = self.dir.file("spec.json")
        try:
            return read_file(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFound(f"no run {self.dir.run_id!r} in {self.dir.workspace.root}; call list_runs") from error
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error

    def spec(self, content: bytes | None = None) -> RunSpec:
        """What was asked for.

        Args:
            content: of its file, if that was read already.

        Raises:
            RunNotFound: there is no such run.
            StoreError: its `spec.json` is damaged.
        """
        path = self.dir.file("spec.json")
        try:
            document = as_object(orjson.loads(self.spec_bytes() if content is None else content))
        except orjson.JSONDecodeError as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        if document is None:
            raise StoreError(f"{path} does not hold a JSON object")
        try:
            return RunSpec.from_json(document)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise StoreError(f"{self.dir.file('spec.json')} is damaged: {error}") from error

    def state(self, known: State | None = None) -> State:
        """The run now: `run.json`, or the spec where there is none, and the fold of the log behind it.

        Args:
            known: what it was before, for who looks often: only what follows it is read.
        """
        with self._open() as (descriptor, end):
            snapshot = known if known and _fits(known, descriptor, end) else self._snapshot(descriptor, end)
            run, offset = snapshot or State(Run.queued(self.spec()), 0)
            for line in _lines(descriptor, offset, end):
                if line.seq != run.last_seq + 1:
                    raise StoreError(f"{self.dir.file('events.jsonl')} jumps from event {run.last_seq} to {line.seq}")
                event = line.event() if concerns_fold(line.type) else Event(line.seq, line.ts, line.type, {})
                try:
                    run = fold(run, event)
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    raise StoreError(f"event {line.seq} of {self.dir.run_id} is damaged: {error!r}") from error
                offset = line.end
            return State(run, offset)

    def lines(self, after_seq: int) -> Generator[Line]:
        """The events behind `after_seq`, oldest first, unparsed. Closes the log when the iterator is closed."""
        with self._open() as (descriptor, end):
            yield from _lines(descriptor, _find(descriptor, after_seq + 1, end), end, after_seq + 1)

    def event(self, seq: int) -> Event | None:
        """One event; None when the log has none of that number."""
        with closing(self.lines(seq - 1)) as lines:
            line = next(lines, None)
            return line.event() if line else None

    def poll(
        self, after_seq: int, limit: int, types: Collection[str] | None, scan: int = 20_000
    ) -> tuple[list[Event], int, bool]:
        """The next events.

        Args:
            types: only these; others are passed over.
            scan: lines to look at, at the most.

        Returns:
            The events, the seq to go on behind, and whether more lines follow it.
        """
        events: list[Event] = []
        seen = after_seq
        with closing(self.lines(after_seq)) as lines:
            for line in lines:
                if len(events) == limit or line.seq - after_seq > scan:
                    return events, seen, True
                seen = line.seq
                if types is None or line.type in types:
                    events.append(line.event())
        return events, seen, False

    @contextmanager
    def _open(self) -> Generator[tuple[int, int]]:
        """The log and where it ends for this reader: behind the last whole line, never behind the bound."""
        try:
            descriptor = open_file(self.dir.file("events.jsonl"), os.O_RDONLY)
        except FileNotFoundError:
            descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot read {self.dir.file('events.jsonl')}: {error.strerror}") from error
        try:
            size = os.fstat(descriptor).st_size
            yield descriptor, _whole_lines(descriptor, size if self._bound is None else min(size, self._bound))
        finally:
            os.close(descriptor)

    def _snapshot(self, descriptor: int, end: int) -> State | None:
        """`run.json`, if it is whole and fits the log; it is only a cache."""
        try:
            document = read_json(self.dir.file("run.json"))
            if document is None:
                return None
            if not all(isinstance(document.get(name, ""), str) for name in _TEXTS):
                return None
            run, offset = Run.from_json(document), int(document["offset"])
            state = State(run, offset)
            return state if run.run_id == self.dir.run_id and _fits(state, descriptor, end) else None
        except (StoreError, TypeError, KeyError, ValueError, AttributeError):
            return None


def _fits(state: State, descriptor: int, end: int) -> bool:
    """Whether the log ends with what a state knows, or goes on behind it."""
    return 0 <= state.offset <= end and _seq_before(descriptor, state.offset) == state.run.last_seq


def _lines(descriptor: int, offset: int, end: int, first: int | None = None) -> Iterator[Line]:
    """The lines from `offset` to `end`; the first must have the seq `first` if one is given."""
    rest = b""
    expected = first
    while offset < end:
        block = os.pread(descriptor, min(_BLOCK, end - offset), offset)
        if not block:
            return
        start = offset - len(rest)
        buffer = rest + block
        done = 0
        while (newline := buffer.find(b"\n", done)) >= 0:
            line = _parse_head(buffer[done : newline + 1], start + newline + 1)
            if expected is not None and line.seq != expected:
                raise StoreError(f"the log has event {line.seq} where {expected} belongs")
            expected = line.seq + 1
            done = newline + 1
            yield line
        rest = buffer[done:]
        offset += len(block)


def _parse_head(raw: bytes, end: int) -> Line:
    match = _HEAD.match(raw)
    if match is None:
        raise StoreError(f"the log holds a line that is no event, at byte {end - len(raw)}")
    return Line(int(match[1]), match[2].decode(errors="replace"), match[3].decode(errors="replace"), raw, end)


def _find(descriptor: int, seq: int, end: int) -> int:
    """The byte at which the event `seq` starts, or `end` if the log ends before it."""
    low, low_seq = 0, 1
    high = end
    while high - low > _NEAR and low_seq < seq:
        start = _line_start(descriptor, (low + high) // 2, high)
        if start >= high:
            break
        found = _seq_at(descriptor, start)
        if found <= seq:
            low, low_seq = start, found
        else:
            high = start
    # `high` may be the start of the event wanted, or of one behind it: walk from `low`
    for line in _lines(descriptor, low, end):
        if line.seq >= seq:
            return line.end - len(line.raw)
    return end


def _line_start(descriptor: int, position: int, end: int) -> int:
    """The start of the first line that begins behind `position`."""
    while position < end:
        block = os.pread(descriptor, min(_PROBE, end - position), position)
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline + 1
        if not block:
            return end
        position += len(block)
    return end


def _seq_at(descriptor: int, start: int) -> int:
    match = _HEAD.match(os.pread(descriptor, 256, start))
    if match is None:
        raise StoreError(f"the log holds a line that is no event, at byte {start}")
    return int(match[1])


def _seq_before(descriptor: int, offset: int) -> int:
    """The seq of the line that ends at `offset`; 0 at the start of the log, -1 if no line ends there."""
    if offset == 0:
        return 0
    end = _whole_lines(descriptor, offset)
    if end != offset:
        return -1
    return _seq_at(descriptor, _whole_lines(descriptor, offset - 1))


def _whole_lines(descriptor: int, end: int) -> int:
    """The end of the last whole line before `end`: what follows it is still being written, or torn."""
    while end > 0:
        start = max(0, end - _PROBE)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
