"""Budgets: what a run and all below it may use together, and who is ended when it is used up.

Above: a run's life, which reports what it used, and the engine, which asks before it lets a run spawn another one.
Below: the files of a tree, read once when the first of its runs that live here begins. One event loop, no locks.

A child with a budget of its own has it reserved: to those above it that much counts as used from its beginning to its
end, and what it really used after that. A child without one takes from what its parent has left, like the parent.
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
from orchestrator.store.layout import Home
from orchestrator.store.members import member_ids
from orchestrator.store.reader import RunReader, sealed_spec

logger = logging.getLogger(__name__)


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
    """

    def __init__(self, run_id: str, limits: Mapping[str, float], parent: Account | None) -> None:
        self.run_id = run_id
        self.limits = {name: limits[name] for name in BUDGETS if name in limits}
        self.parent = parent
        self.children: list[Account] = []
        self.used: dict[str, float] = {}
        self.stop: Callable[[str], None] | None = None
        """Ends the run, which is live; None for one that is not."""
        if parent is not None:
            parent.children.append(self)

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
        """Whether anything may still be used."""
        return any(account.stop for account in self.below)

    def spent(self, name: str) -> float:
        """What the run and those below it used."""
        return sum(account.used.get(name, 0.0) for account in self.below)

    def held(self, name: str) -> float:
        """The same, with what is reserved for those below it."""
        return self.used.get(name, 0.0) + sum(child.charge(name) for child in self.children)

    def charge(self, name: str) -> float:
        """What counts as used to those above it."""
        if name in self.limits and self.live:
            return max(self.limits[name], self.spent(name))
        return self.held(name)

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
        self.used |= amounts
        spared = None if more else self
        over = False
        for account in self.lineage:
            for name in amounts.keys() & account.limits.keys():
                limit = account.limits[name]
                if everybody := account.spent(name) >= limit:
                    over = True
                elif account.held(name) >= limit:
                    over |= self._draws_on(account, name)
                else:
                    continue
                account._end(name, spared, everybody=everybody)
        return not (over and more)

    def _draws_on(self, account: Account, name: str) -> bool:
        """Whether nothing is reserved for the run, or for one between, out of an account above it."""
        below = next((a for a in self.lineage if a is account or name in a.limits), account)
        return below is account

    def _end(self, name: str, spared: Account | None, *, everybody: bool) -> None:
        """Ends the live runs that draw on this account.

        Args:
            everybody: those too for which a part of it is reserved.
        """
        spent, held = self.spent(name), self.held(name)
        used = f"is used up: {spent:g}" + (f", and {held - spent:g} reserved for runs below it" if held > spent else "")
        for account in list(self.below):
            if account.stop and account is not spared and (everybody or account._draws_on(self, name)):
                whose = "" if account is self else f" of {self.run_id}"
                account.stop(f"limits.{name} = {self.limits[name]:g}{whose} {used}")


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

    async def open(self, spec: RunSpec, run: Run) -> Account | None:
        """The account of a run that begins to live here; None if no budget holds for it. To be closed."""
        if not spec.budgeted:
            return None
        if spec.root_run_id and spec.parent_run_id not in self._accounts:
            await self._load(spec.root_run_id)
        return self._enter(spec, run)

    def close(self, run_id: str) -> None:
        """The run is over, and what it used is told: what was reserved and not used is free again."""
        if (account := self._accounts.get(run_id)) is None:
            return
        account.stop = None
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
            wanted = asked.limits.get(name, 0)
            leaves_nothing = wanted and account.stop and wanted >= left
            if left <= 0 or wanted > left or leaves_nothing:
                least = f"give the new run less than {left:g}" if left > 0 else "finish with what there is"
                raise LimitExceeded(
                    f"{whose.run_id} has {max(left, 0):g} left of limits.{name} = {whose.limits[name]:g}"
                    f"{f', and {wanted:g} would leave it nothing' if wanted and left > 0 else ''}; {least}"
                )

    def left(self, run_id: str) -> JsonObject | None:
        """What a live run and those below it may still use, by the names of the budgets that hold for it."""
        account = self._accounts.get(run_id)
        if account is None:
            return None
        bounds = {name: bound[0] for name in BUDGETS if (bound := account.left(name))}
        return {name: max(0, round(left, 6)) for name, left in bounds.items()}

    async def _load(self, root_run_id: str) -> None:
        """Enters those of a tree that are not known here."""
        for spec, run in await asyncio.to_thread(self._read, root_run_id):
            self._enter(spec, run)

    def _read(self, root_run_id: str) -> list[tuple[RunSpec, Run]]:
        root = self._home.find(root_run_id)
        found: list[tuple[RunSpec, Run]] = []
        for run_id in member_ids(root) if root else ():
            try:
                if run_dir := self._home.find(run_id):
                    found.append((sealed_spec(self._home, run_dir), RunReader(run_dir).state().run))
            except (OrchestratorError, OSError) as error:
                logger.warning("what %s used is not known: %s", run_id, error)
        return found

    def _enter(self, spec: RunSpec, run: Run) -> Account:
        account = self._accounts.get(spec.run_id)
        if account is None:
            parent = self._accounts.get(spec.parent_run_id or "")
            account = self._accounts[spec.run_id] = Account(spec.run_id, spec.limits, parent)
            account.used["max_events"] = run.last_seq
            if run.usage:
                account.used |= amounts_of(run.usage)
        return account
