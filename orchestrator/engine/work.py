"""The work of one run: a place is made, the agent works there, and what came of it is looked at, before the run is
called done: the patch, the checks of the caller, the criteria.

Between a run's life, which it serves as the driver's whole task, and its backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.backend import Backend
from orchestrator.ends import Completed, Failed, Outcome
from orchestrator.engine import deliverables
from orchestrator.engine.acceptance import answered, asking
from orchestrator.engine.checks import Checks, Passed, failed, verification_of
from orchestrator.engine.outcome import fitting
from orchestrator.engine.reports import Reports, bring
from orchestrator.errors import BackendError, GitError, OrchestratorError
from orchestrator.json_schema import json_in
from orchestrator.model import JsonObject, Message, RunSpec, compact
from orchestrator.store.layout import RunDir
from orchestrator.store.log import uninterrupted
from orchestrator.workspaces.changes import Changes
from orchestrator.workspaces.places import Place

if TYPE_CHECKING:
    from orchestrator.engine.life import Life

logger = logging.getLogger(__name__)
T = TypeVar("T")

FINISH_S = 12.0
"""How long looking at what a run left may take, when it was not the agent's own end: somebody waits for that."""
THREADS = 8


class Shared:
    """What the works of one process share: threads of their own, for git may take its time, and passed checks."""

    def __init__(self) -> None:
        self.passed = Passed()
        self._pool = ThreadPoolExecutor(THREADS, "git")

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls what blocks, in a thread. Comes to its end whatever happens to the caller."""
        loop = asyncio.get_running_loop()
        return await uninterrupted(_awaited(loop.run_in_executor(self._pool, partial(function, *arguments))))


async def _awaited(future: asyncio.Future[T]) -> T:
    return await future


class Work:
    """Of one run.

    Args:
        shared: what the works of this process share.
    """

    def __init__(self, life: Life, backend: Backend, shared: Shared) -> None:
        self._life = life
        self._backend = backend
        self._shared = shared
        self._stop = threading.Event()
        self._place: Place | None = None
        self._reports: Reports | None = None
        self._looked = False
        self._facts: JsonObject = {}

    @property
    def cwd(self) -> Path:
        """Where the agent works."""
        return self._place.cwd if self._place else self._life.spec.cwd

    @property
    def begun(self) -> JsonObject:
        """What `run_started` says of the place."""
        return compact({"cwd": str(self.cwd), "workspace": self._place.told if self._place else None})

    async def run(self, spec: RunSpec, env: Mapping[str, str]) -> Outcome:
        """Does the work. Returns how the agent ended, or why that is not taken for an end.

        Raises:
            BackendError, StoreError, InvalidArgument: the place cannot be made, or whatever the backend raises.
        """
        place = await self._placed(spec, env)
        try:
            return await self._proved(spec, env, place)
        except BaseException:
            if not self._looked and not self._life.shut_down:
                with contextlib.suppress(Exception):  # before the next run of the session begins
                    await self._look()
            raise

    async def _placed(self, spec: RunSpec, env: Mapping[str, str]) -> Place:
        making = asyncio.ensure_future(self._shared.call(self._make_place, spec, env))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._stop.set()  # git ends, and nothing is left of the place
            with contextlib.suppress(Exception):
                await making
            raise
        except GitError as error:
            raise BackendError(
                "conflict", str(error), resumable=False, next_step="look at the repository, then spawn the run again"
            ) from error
        finally:
            self._stop.clear()

    async def _proved(self, spec: RunSpec, env: Mapping[str, str], place: Place) -> Outcome:
        asked = asking(replace(spec, cwd=place.cwd))
        outcome = await self._attempt(asked)
        life, attempt, said = self._life, 0, ""
        passed = self._shared.passed if spec.workspace else Passed()  # in a shared directory what is ignored counts
        checks = Checks(spec.run_id, spec.checks or (), passed, life.emit, lambda: life.log.run.last_seq)
        while isinstance(outcome, Completed):
            outcome = await self._answered(spec, outcome)
            said = outcome.final_response if isinstance(outcome, Completed) else said
            changes = await self._look()
            outcome = _unproved(spec, outcome, changes)
            if not isinstance(outcome, Completed) or not spec.checks:
                break
            results = await checks.run(place.cwd, place.folder, env, changes.tree if changes else None)
            self._facts["verification"] = verification_of(results)
            if not (names := failed(results)):
                break
            if attempt >= spec.limits.get("fix_attempts", 0):
                outcome = Failed(code="checks_failed", message=f"{', '.join(names)} did not pass")
                break
            if not life.meter.may_go_on():
                words = f"{', '.join(names)} did not pass, and no budget is left to mend that"
                outcome = Failed(code="budget_exceeded", message=words)
                break
            attempt += 1
            outcome = await self._mended(asked, attempt, checks.mending(results))
        if said and not isinstance(outcome, Completed):  # it said that it was done, and it is not
            self._facts["final_response"] = said
        return outcome

    async def _attempt(self, spec: RunSpec) -> Outcome:
        """Has the agent work. Returns its end, with all that the run used so far."""
        outcome = await self._backend.run(spec, self._life)
        self._life.meter.end_attempt(outcome.usage if isinstance(outcome, Completed) else None)
        return replace(outcome, usage=self._life.meter.total) if isinstance(outcome, Completed) else outcome

    def _make_place(self, spec: RunSpec, env: Mapping[str, str]) -> Place:
        trusted = self._life.settings.trusts(spec.cwd)
        place = Place(self._life.log.dir, spec, env, trusted=trusted, stop=self._stop)
        if place.mode != "shared" or "attach" not in self._backend.abilities:  # an agent elsewhere changes nothing here
            place.prepare()
        self._reports = Reports(place.cwd)
        self._place = place
        return place

    async def _mended(self, asked: RunSpec, attempt: int, words: str) -> Outcome:
        """Gives what the checks found back to the agent, in its session."""
        message = Message.of_text(words)
        assert self._place is not None
        self._looked = False
        self._facts.pop("changes", None)  # of the attempt before
        await self._shared.call(self._place.reopen)
        native = await self._life.begin_attempt(message, f"fix attempt {attempt}")
        again = replace(asked, message=message, session_mode="resume", native_session_id=native, attempt=attempt)
        return await self._attempt(replace(again, attach=None))

    async def _answered(self, spec: RunSpec, outcome: Completed) -> Outcome:
        """The outcome without the answers to the criteria; why it is none, where it does not fit what was asked for."""
        if not spec.acceptance:
            return await fitting(spec, outcome)
        structured = outcome.structured_output
        if structured is None:
            structured = json_in(outcome.final_response)
        found = answered(spec, outcome, structured)
        if isinstance(found, str):
            return Failed(code="invalid_output", message=f"{found}: {outcome.final_response[:2_000]}")
        self._facts["acceptance"] = found.answers
        return await fitting(spec, found.outcome)

    async def _look(self) -> Changes | None:
        """The changes so far, stored and told."""
        assert self._place is not None
        try:
            changes = await self._shared.call(self._place.finish)
        except (OrchestratorError, OSError) as error:
            self._looked = True
            if self._place.mode != "shared":
                raise BackendError("conflict", f"what the agent left cannot be read: {error}") from error
            self._place.unknown = str(error)
            changes = None
        self._looked = True
        if changes is not None:
            self._facts["changes"] = changes.told
        elif self._place.unknown:
            self._facts["notices"] = [f"what changed is not known: {self._place.unknown}"[:500]]
        return changes

    async def facts(self, end: Outcome | Exception | object) -> JsonObject:
        """What the last event says beside how the run ended. Never raises; bounded."""
        if self._place is None:
            return {}
        if self._life.shut_down:  # there is no time; whoever asks for the patch makes it
            return unlooked(self._place)
        looking = asyncio.ensure_future(self._look_last(end))
        await asyncio.wait({looking}, timeout=FINISH_S)
        if not looking.done():
            self._stop.set()  # git ends, and the place stays
            await asyncio.wait({looking}, timeout=FINISH_S)
        return self._facts

    async def _look_last(self, end: object) -> None:
        try:
            if not self._looked:
                await self._look()
            await self._shared.call(self._conclude, end)
        except Exception as error:  # noqa: BLE001  the run is over all the same
            logger.warning("what came of %s is not known: %r", self._life.spec.run_id, error)
            self._facts.setdefault("notices", [f"what came of the run is not known: {error}"[:500]])
            if self._place and (told := self._place.told):
                self._facts["workspace"] = {**told, "kept": True, "why": "what it holds could not be looked at"}

    def _conclude(self, end: Outcome | Exception | object) -> None:
        place = self._place
        assert place is not None
        if self._reports and (written := self._reports.written()):
            self._facts["reports"] = self._brought(place.cwd, written)
        if (told := place.told) is not None:
            kept = place.why_kept(failed=not isinstance(end, Completed))
            self._facts["workspace"] = compact({**told, "kept": kept is not None, "why": kept})
        if "changes" in self._facts:
            life = self._life
            said = self._facts.get("final_response") or life.log.run.summary
            answer = end.final_response if isinstance(end, Completed) else said
            names = deliverables.write(life.log, life.spec, answer, self._facts)
            self._facts["deliverables"] = names
            if life.log.holds_secret(place.patch):
                self._facts["changes"] = {**self._facts["changes"], "holds_secret": True}

    def _brought(self, cwd: Path, written: list[str]) -> list[str]:
        """Reports that were written elsewhere, copied to where the caller finds them."""
        home = self._life.spec.cwd
        if cwd == home:
            return written
        return [brought for name in written if (brought := bring(cwd, home, name, self._life.spec.run_id))]

    async def close(self) -> None:
        """The last event is written: the place goes, if it may."""
        if self._place is not None:
            life = self._life
            told, trusted = self._facts.get("workspace"), life.settings.trusts(life.spec.cwd)
            await self._shared.call(leave_behind, life.log.dir, life.spec, told, life.lent_env, trusted)


def unlooked(place: Place) -> JsonObject:
    """What the last event says of the place of a run that nobody could look at: it stays."""
    told = place.told
    return {"workspace": {**told, "kept": True, "why": "nobody looked at what is in it yet"}} if told else {}


def leave_behind(
    run_dir: RunDir, spec: RunSpec, told: JsonObject | None, env: Mapping[str, str], trusted: bool = False
) -> None:
    """The last event of a run is written: its place goes, if it was said so. Blocks; raises nothing.

    Args:
        told: what the last event said of the place.
    """
    try:
        place = Place(run_dir, spec, env, trusted=trusted)
        place.close()
        if told and not told.get("kept", True) and (why := place.remove()):
            logger.warning("the workspace of %s stays: %s", spec.run_id, why)
    except Exception as error:  # noqa: BLE001  the run is over all the same
        logger.warning("the workspace of %s stays: %r", spec.run_id, error)


def _unproved(spec: RunSpec, outcome: Outcome, changes: Changes | None) -> Outcome:
    """The outcome, or why it is not believed."""
    if not isinstance(outcome, Completed):
        return outcome
    if changes is not None and not changes.applies:
        return Failed(code="conflict", message="the patch of what the agent did does not give the same files again")
    if spec.require_changes and (changes is None or not changes.any):
        what = "no file has changed" if changes else "whether any file has changed is not known"
        return Failed(code="invalid_output", message=f"the agent says that it is done, and {what}")
    return outcome
