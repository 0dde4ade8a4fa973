"""The work of one run: a place is made, the agent works there, and what came of it is looked at, before the run is
called done: the patch, the checks of the caller, the criteria.

Between a run's life, which it serves as the driver's whole task, and its backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backend import Backend
from orchestrator.ends import Completed, Failed, Outcome
from orchestrator.engine import deliverables
from orchestrator.engine.acceptance import answered, asking
from orchestrator.engine.checks import Checks, Passed, failed, verification_of
from orchestrator.engine.reports import Reports
from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.json_schema import json_in
from orchestrator.model import JsonObject, Message, RunSpec, Usage, compact
from orchestrator.store.layout import RunDir
from orchestrator.store.log import uninterrupted
from orchestrator.workspaces.places import Changes, Place

if TYPE_CHECKING:
    from orchestrator.engine.life import Life

logger = logging.getLogger(__name__)

FINISH_S = 120.0
"""How long looking at what a run left may take, when it was not the agent's own end."""


class Work:
    """Of one run.

    Args:
        passed: checks that passed, of all runs of this process.
    """

    def __init__(self, life: Life, backend: Backend, passed: Passed) -> None:
        self._life = life
        self._backend = backend
        self._passed = passed
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
        place = await uninterrupted(asyncio.to_thread(self._make_place, spec, env))
        asked = asking(replace(spec, cwd=place.cwd))
        outcome = await self._backend.run(asked, self._life)
        life, used, attempt, said = self._life, _usage_of(outcome), 0, ""
        checks = Checks(spec.run_id, spec.checks or (), self._passed, life.emit, lambda: life.log.run.last_seq)
        while isinstance(outcome, Completed):
            said = outcome.final_response
            outcome = self._answered(spec, outcome)
            changes = await self._look()
            outcome = _unproved(spec, outcome, changes)
            if not isinstance(outcome, Completed) or not spec.checks:
                break
            results = await checks.run(place.cwd, env, changes.tree if changes else None)
            self._facts["verification"] = verification_of(results)
            if not (names := failed(results)):
                break
            if attempt >= spec.limits.get("fix_attempts", 0):
                outcome = Failed(code="checks_failed", message=f"{', '.join(names)} did not pass")
                break
            attempt += 1
            outcome = await self._mended(asked, attempt, checks.mending(results))
            used = _sum(used, _usage_of(outcome))
        if isinstance(outcome, Completed):
            return replace(outcome, usage=used)
        if said:  # it said that it was done, and it is not
            self._facts["final_response"] = said
        return outcome

    def _make_place(self, spec: RunSpec, env: Mapping[str, str]) -> Place:
        place = Place(self._life.log.dir, spec, env)
        if place.mode != "shared" or "attach" not in self._backend.abilities:  # an agent elsewhere changes nothing here
            place.prepare()
        self._reports = Reports(place.cwd)
        self._place = place
        return place

    async def _mended(self, asked: RunSpec, attempt: int, words: str) -> Outcome:
        """Gives what the checks found back to the agent, in its session."""
        message = Message.of_text(words)
        assert self._place is not None
        await asyncio.to_thread(self._place.reopen)
        native = await self._life.begin_attempt(message, f"fix attempt {attempt}")
        again = replace(asked, message=message, session_mode="resume", native_session_id=native, attempt=attempt)
        return await self._backend.run(replace(again, attach=None), self._life)

    def _answered(self, spec: RunSpec, outcome: Completed) -> Outcome:
        if not spec.acceptance:
            return outcome
        structured = outcome.structured_output
        if structured is None:
            structured = json_in(outcome.final_response)
        found = answered(spec, outcome, structured)
        if isinstance(found, str):
            return Failed(code="invalid_output", message=f"{found}: {outcome.final_response[:2_000]}")
        self._facts["acceptance"] = found.answers
        return found.outcome

    async def _look(self) -> Changes | None:
        """The changes so far, stored and told."""
        assert self._place is not None
        self._looked = True
        try:
            changes = await asyncio.to_thread(self._place.finish)
        except (StoreError, OSError) as error:
            if self._place.mode != "shared":
                raise StoreError(f"what the agent left cannot be read: {error}") from error
            logger.warning("the changes of %s are not known: %s", self._life.spec.run_id, error)
            return None
        if changes is not None:
            self._facts["changes"] = changes.told
        return changes

    async def facts(self, end: Outcome | Exception | object) -> JsonObject:
        """What the last event says beside how the run ended. Never raises; bounded."""
        if self._place is None:
            return {}
        if self._life.shut_down:  # there is no time; whoever asks for the patch makes it
            return unlooked(self._place)
        try:
            async with asyncio.timeout(FINISH_S):
                if not self._looked:
                    await self._look()
                await asyncio.to_thread(self._conclude, end)
        except Exception as error:  # noqa: BLE001  the run is over all the same
            logger.warning("what came of %s is not known: %r", self._life.spec.run_id, error)
            self._facts.setdefault("notices", [f"what came of the run is not known: {error}"[:500]])
        return self._facts

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
            answer = end.final_response if isinstance(end, Completed) else life.log.run.summary
            names = deliverables.write(life.log.dir, life.spec, answer, self._facts, life.log.masked)
            self._facts["deliverables"] = names
            if life.log.holds_secret(place.patch):
                self._facts["changes"] = {**self._facts["changes"], "holds_secret": True}

    def _brought(self, cwd: Path, written: list[str]) -> list[str]:
        """Reports that were written elsewhere, copied to where the caller finds them."""
        home = self._life.spec.cwd
        for name in written if cwd != home else ():
            target = home / name
            with contextlib.suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(cwd / name, target)
        return written

    async def close(self) -> None:
        """The last event is written: the place goes, if it may."""
        if self._place is not None:
            life = self._life
            await asyncio.to_thread(leave_behind, life.log.dir, life.spec, self._facts.get("workspace"))


def unlooked(place: Place) -> JsonObject:
    """What the last event says of the place of a run that nobody could look at: it stays."""
    told = place.told
    return {"workspace": {**told, "kept": True, "why": "nobody looked at what is in it yet"}} if told else {}


def leave_behind(run_dir: RunDir, spec: RunSpec, told: JsonObject | None) -> None:
    """The last event of a run is written: its place goes, if it was said so. Blocks; raises nothing.

    Args:
        told: what the last event said of the place.
    """
    run_id = spec.run_id
    try:
        place = Place(run_dir, spec, {})
        place.close()
        if told and not told.get("kept", True) and (why := place.remove()):
            logger.warning("the workspace of %s stays: %s", run_id, why)
    except (OrchestratorError, OSError) as error:
        logger.warning("the workspace of %s stays: %s", run_id, error)


def _unproved(spec: RunSpec, outcome: Outcome, changes: Changes | None) -> Outcome:
    """The outcome, or why it is not believed."""
    if not isinstance(outcome, Completed):
        return outcome
    if changes is not None and not changes.applies:
        return Failed(code="conflict", message="the patch of what the agent did does not give the same files again")
    if spec.require_changes and (changes is None or not changes.files):
        return Failed(code="invalid_output", message="the agent says that it is done, and no file has changed")
    return outcome


def _usage_of(outcome: Outcome) -> Usage | None:
    return outcome.usage if isinstance(outcome, Completed) else None


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    """Together; a number that only one of them knows is that."""
    if one is None or other is None:
        return one or other
    both = {name: (getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__}
    return Usage.from_json({name: sum(n for n in pair if n is not None) for name, pair in both.items() if any(pair)}
                           | {"input_tokens": one.input_tokens + other.input_tokens,
                              "output_tokens": one.output_tokens + other.output_tokens})  # fmt: skip
