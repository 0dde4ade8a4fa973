"""Runs on disk to test the store with, and strategies for what agents may put into them."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from orchestrator.events import Event, fold
from orchestrator.model import JsonObject, Message, Run, RunSpec, new_id, now
from orchestrator.store.artifacts import read_field
from orchestrator.store.create import Created, create_run
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.log import RunLog
from orchestrator.store.masking import Mask
from orchestrator.store.reader import RunReader

NO_SECRETS = Mask(())
FAILED: JsonObject = {"code": "agent_error", "message": "it broke", "resumable": True, "next_step": "try again"}

awkward = st.sampled_from(list('\x00\n"\\/~é漢🙂\ud800\udfff\x7f\u2028'))
texts = st.text(st.one_of(st.characters(), awkward), max_size=20)
"""Any text at all: half surrogates and NUL too."""
long_texts = st.tuples(texts.filter(bool), st.integers(1, 4_000)).map(lambda drawn: drawn[0] * drawn[1])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, width=32), texts
).filter(lambda value: not (isinstance(value, float) and abs(value) == float("inf")))
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6), max_leaves=12
)
"""Whatever an agent's tool may return."""


def spec_in(cwd: Path, **more: Any) -> RunSpec:
    """What a caller may ask for; without an agent name, so that a session begins."""
    given: JsonObject = {
        "agent_name": "",
        "backend": "scripted",
        "role": "worker",
        "message": Message.of_text("do it"),
        **more,
    }
    return RunSpec(run_id=new_id("run"), session_id=new_id("ses"), cwd=cwd, created_at=now(), **given)


def create(
    home: Home, cwd: Path, *, mask: Mask = NO_SECRETS, nickname: str | None = None, key: str | None = None, **more: Any
) -> Created:
    """A new run in a workspace."""
    return create_run(home, spec_in(cwd, **more), mask, nickname=nickname, idempotency_key=key)


def resume(home: Home, spec: RunSpec) -> RunSpec:
    """What was asked of a further run of the session, which is on disk and has no owner."""
    again = replace(spec_in(spec.cwd, agent_name=spec.agent_name, session_mode="resume"), session_id=spec.session_id)
    log = create_run(home, again, NO_SECRETS, nickname=None, idempotency_key=None).log
    assert log is not None
    log.close()
    return again


def new_log(home: Home, cwd: Path, *, mask: Mask = NO_SECRETS, **more: Any) -> RunLog:
    """The log of a new run."""
    log = create(home, cwd, mask=mask, **more).log
    assert log is not None
    return log


@contextmanager
def temporary_log(mask: Mask = NO_SECRETS, **more: Any) -> Generator[RunLog]:
    """A run in a directory of its own: one for each example of a property."""
    with TemporaryDirectory() as folder:
        cwd = Path(folder, "project")
        cwd.mkdir()
        log = new_log(Home(Path(folder, "home")), cwd, mask=mask, **more)
        try:
            yield log
        finally:
            log.close()


def events_of(run_dir: RunDir, after_seq: int = 0) -> list[Event]:
    """What a reader sees."""
    with closing(RunReader(run_dir).lines(after_seq)) as lines:
        return [line.event() for line in lines]


def folded(run_dir: RunDir) -> Run:
    """The run by its log alone, from the first event on."""
    run = Run.queued(RunReader(run_dir).spec())
    for event in events_of(run_dir):
        run = fold(run, event)
    return run


def whole_field(run_dir: RunDir, event: Event, pointer: str, limit: int = 10_000) -> str:
    """A field of an event, page by page."""
    pages: list[str] = []
    offset = 0
    while True:
        page = read_field(run_dir, event, pointer, offset, limit)
        assert page.offset == offset
        assert page.returned_bytes == len(page.content.encode()) <= max(limit, 4)
        pages.append(page.content)
        offset += page.returned_bytes
        if offset == page.total_bytes:
            return "".join(pages)
        assert page.returned_bytes > 0, "a page that is not the last one moves on"


def files_below(folder: Path) -> Iterator[Path]:
    """All files, sorted, so that the chunks of a field follow each other."""
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            yield Path(parent, name)


def modes_below(folder: Path) -> dict[str, int]:
    """The permission bits of a directory and all that it holds, but for those as they should be."""
    odd: dict[str, int] = {}
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o700 if path.is_dir() else 0o600):
            odd[str(path.relative_to(folder))] = mode
    return odd
