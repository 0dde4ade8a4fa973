"""Budgets: what a run and all below it may use together, and who is ended when it is used up.

Above: a run's life, which reports what it used, and the engine, which asks before it lets a run spawn another one.
Below: the files of a tree, read once when the first of its runs that live here begins. One event loop, no locks.

A child with a budget of its own has it reserved: to those above it that much counts as used from its beginning to its
end, and what it really used after that. A child without one takes from what its parent has left, like the parent.

What an agent asks of its model is told only when it is answered. So a run goes on only if there is something left
beside what all the others may be just using: as much as the largest step of each so far. The last uses what is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from orchestrator.backend import Ability
from orchestrator.errors import LimitExceeded, OrchestratorError, Unsupported
from orchestrator.limits import BUDGETS, KEPT_BY_BACKENDS
from orchestrator.model import JsonObject, Run, RunSpec, Usage
from orchestrator.store.artifacts import stored_bytes
from orchestrator.store.layout import Home
from orchestrator.store.log import RunLog
from orchestrator.store.members import member_ids
from orchestrator.store.reader import RunReader, sealed_spec

logger = logging.getLogger(__name__)

MB = 1_000_000


def amounts_of(usage: Usage) -> dict[str, float]:
    """What an agent used, by the names of the budgets."""
    return {
        "max_turns": usage.turns or 0,
        "max_tokens": usage.input_tokens + usage.output_tokens,
        "max_cost_usd": usage.cost_usd or 0.0,
    }


class Account:
    """What one run may use, used, and holds back for those below it.

    Args:
        limits: its own budgets.
        parent: the account of the run that spawned it.
        used: what the run used before.
    """

    def __init__(
        self,
        run_id: str,
        limits: Mapping[str, float],
        parent: Account | None,
        used: Mapping[str, float] | None = None,
    ) -> None:
        self.run_id = run_id
        self.limits = {name: limits[name] for name in BUDGETS if name in limits}
        self.parent = parent
        self.children: list[Account] = []
        self.used: dict[str, float] = {}
        self._steps: dict[str, float] = {}
        """The most that its agent used from one count to the next."""
        self.stop: Callable[[str], None] | None = None
        """Ends the run, which is live; None for one that is not."""
        self._spent: dict[str, float] = {}
        self._living = 0
        self._reserving = frozenset[str]()
        """The budgets that some run below has of its own: only of these anything can be held back."""
        if parent is not None:
            parent.children.append(self)
            for above in parent.lineage:
                above._reserving |= self.limits.keys()
        self._add(used or {})

    def begin(self, stop: Callable[[str], None]) -> None:
        """The run lives."""
        if self.stop is None:
            for account in self.lineage:
                account._living += 1
        self.stop = stop

    def close(self) -> None:
        """The run uses nothing more: what was reserved and not used is free again."""
        if self.stop is not None:
            self.stop = None
            for account in self.lineage:
                account._living -= 1

    @property
    def lineage(self) -> Iterator[Account]:
        """This account and those above it."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.parent

    @property
    def below(self) -> Iterator[Account]:
        """This account and those below it."""
        yield self
        for child in self.children:
            yield from child.below

    @property
    def live(self) -> bool:
        """Whether it or anything below it may still use something."""
        return self._living > 0

    def spent(self, name: str) -> float:
        """What the run and those below it used."""
        return self._spent.get(name, 0.0)

    def held(self, name: str) -> float:
        """The same, with what is reserved for those below it and not used."""
        return self.spent(name) + self._ahead(name)

    def under_way(self, name: str) -> float:
        """What those that draw on it may be just using, beside what is reserved."""
        return self._ahead(name, steps=name in KEPT_BY_BACKENDS) - self._ahead(name)

    def _ahead(self, name: str, *, steps: bool = False, but: Account | None = None) -> float:
        """What is reserved for those below it.

        Args:
            steps: also what all may use before they are counted again.
            but: not of this one.
        """
        if not steps and name not in self._reserving:
            return 0.0
        ahead = self._step(name) if steps and self.stop and self is not but else 0.0
        for child in self.children:
            if child.live:
                reserved = child.limits[name] - child.spent(name) if name in child.limits else 0.0
                over = child._step(name) if steps and reserved > 0 else 0.0
                ahead += max(reserved + over, child._ahead(name, steps=steps, but=but))
        return ahead

    def _step(self, name: str) -> float:
        """What it may use at once, as far as it is known; of one that was not counted yet, what its parent did."""
        return next((account._steps[name] for account in self.lineage if name in account._steps), 0.0)

    def _add(self, amounts: Mapping[str, float]) -> None:
        for name, amount in amounts.items():
            more = amount - self.used.get(name, 0.0)
            self.used[name] = amount
            for account in self.lineage:
                account._spent[name] = account._spent.get(name, 0.0) + more

    def _measure(self, amounts: Mapping[str, float]) -> None:
        """Remembers the largest steps of the agent."""
        for name in amounts.keys() & set(KEPT_BY_BACKENDS):
            if (step := amounts[name] - self.used.get(name, 0.0)) > self._steps.get(name, 0.0):
                self._steps[name] = step

    def watches(self, names: tuple[str, ...]) -> bool:
        """Whether a budget of one of these names holds for the run."""
        return any(name in account.limits for account in self.lineage for name in names)

    def left(self, name: str) -> tuple[float, Account] | None:
        """The least that it and those above it have left, and who has it; None if there is no such budget."""
        with_one = [account for account in self.lineage if name in account.limits]
        # of what is reserved for it nothing is held back from it, but it may be spent all the same
        bounds = [(a.limits[name] - (a.held(name) if a is with_one[0] else a.spent(name)), a) for a in with_one]
        return min(bounds, key=lambda bound: bound[0]) if bounds else None

    def use(self, amounts: Mapping[str, float], *, more: bool) -> bool:
        """The run has used this much in all. Ends whoever may go on no longer.

        Args:
            more: the run goes on from here. One that is just coming to its end is let come to it.

        Returns:
            False if it may begin nothing more.
        """
        self._measure(amounts)
        self._add(amounts)
        spared = None if more else self
        over = False
        for account in self.lineage:
            for name in amounts.keys() & account.limits.keys():
                if account.spent(name) >= account.limits[name]:
                    account._end(name, spared)
                    over = True
                elif more and self._draws_on(account, name):
                    ahead = account._ahead(name, steps=name in KEPT_BY_BACKENDS, but=self)
                    if account.spent(name) + ahead >= account.limits[name]:
                        self._stop(account, name, ahead)
                        over = True
        return not (over and more)

    def _draws_on(self, account: Account, name: str) -> bool:
        """Whether nothing is reserved for the run, or for one between, out of an account above it."""
        below = next((a for a in self.lineage if a is account or name in a.limits), account)
        return below is account

    def _end(self, name: str, spared: Account | None) -> None:
        """Ends the live runs below: those too for which a part is reserved."""
        for account in list(self.below):
            if account is not spared:
                account._stop(self, name)

    def _stop(self, account: Account, name: str, ahead: float = 0.0) -> None:
        """Ends the run, if it lives, because of the budget of an account.

        Args:
            ahead: how much of it is for others.
        """
        if self.stop:
            whose = "" if account is self else f" of {account.run_id}"
            kept = f", and {ahead:g} reserved for others of its tree" if ahead else ""
            self.stop(f"limits.{name} = {account.limits[name]:g}{whose} is used up: {account.spent(name):g}{kept}")


class Asked(NamedTuple):
    """A run that is to be spawned: what it would use, and by which agent."""

    limits: JsonObject
    backend: str
    abilities: frozenset[Ability]


class Budgets:
    """The accounts of all trees with a live run here that a budget holds for."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._accounts: dict[str, Account] = {}

    async def open(self, spec: RunSpec, log: RunLog) -> Account | None:
        """The account of a run that begins to live here; None if no budget holds for it. To be closed."""
        if not spec.budgeted:
            return None
        if spec.root_run_id and spec.parent_run_id not in self._accounts:
            await self._load(spec.root_run_id)
        return self._enter(spec, log.run, await asyncio.to_thread(stored_bytes, log.dir))

    def close(self, run_id: str) -> None:
        """The run is over, and what it used is told: what was reserved and not used is free again."""
        if (account := self._accounts.get(run_id)) is None:
            return
        account.close()
        root = list(account.lineage)[-1]
        if not root.live:
            for one in root.below:
                self._accounts.pop(one.run_id, None)

    async def check(self, parent: RunSpec, asked: Asked) -> None:
        """Refuses a child for which its parent has not enough left.

        Raises:
            LimitExceeded: with what is left.
            Unsupported: its agent does not say how much of a budget it uses.
        """
        if not parent.budgeted:
            return
        if parent.run_id not in self._accounts:
            await self._load(parent.root_run_id or parent.run_id)
        account = self._accounts.get(parent.run_id)
        if account is None:  # its files are gone
            return
        for name in BUDGETS:
            if (bound := account.left(name)) is None:
                continue
            left, whose = bound
            if name in KEPT_BY_BACKENDS and name not in asked.abilities:
                raise Unsupported(
                    f"backend {asked.backend!r} does not say what it uses of limits.{name}, which {whose.run_id} has; "
                    "use another backend"
                )
            busy = whose.under_way(name)
            left -= busy
            wanted = asked.limits.get(name, 0)
            leaves_nothing = wanted and account.stop and wanted >= left
            if left <= 0 or wanted > left or leaves_nothing:
                least = f"give the new run less than {left:g}" if left > 0 else "finish with what there is"
                raise LimitExceeded(
                    f"{whose.run_id} has {max(left, 0):g} left of limits.{name} = {whose.limits[name]:g}"
                    f"{f' beside {busy:g} for what is under way' if busy else ''}"
                    f"{f', and {wanted:g} would leave it nothing' if wanted and left > 0 else ''}; {least}"
                )

    def left(self, run_id: str) -> JsonObject | None:
        """What a live run and those below it may still use, by the names of the budgets that hold for it."""
        account = self._accounts.get(run_id)
        if account is None or account.stop is None:
            return None
        bounds = {name: bound[0] for name in BUDGETS if (bound := account.left(name))}
        return {name: max(0, round(left, 6)) for name, left in bounds.items()}

    async def _load(self, root_run_id: str) -> None:
        """Enters those of a tree that are not known here."""
        for spec, run, stored in await asyncio.to_thread(self._read, root_run_id):
            self._enter(spec, run, stored)

    def _read(self, root_run_id: str) -> list[tuple[RunSpec, Run, int]]:
        root = self._home.find(root_run_id)
        found: list[tuple[RunSpec, Run, int]] = []
        for run_id in member_ids(root) if root else ():
            try:
                if run_dir := self._home.find(run_id):
                    run = RunReader(run_dir).state().run
                    found.append((sealed_spec(self._home, run_dir), run, stored_bytes(run_dir)))
            except (OrchestratorError, OSError) as error:
                logger.warning("what %s used is not known: %s", run_id, error)
        return found

    def _enter(self, spec: RunSpec, run: Run, stored: int) -> Account:
        account = self._accounts.get(spec.run_id)
        if account is None:
            parent = self._accounts.get(spec.parent_run_id or "")
            used = {"max_events": run.last_seq, "max_artifact_mb": stored / MB}
            used |= amounts_of(run.usage) if run.usage else {}
            account = self._accounts[spec.run_id] = Account(spec.run_id, spec.limits, parent, used)
        return account
