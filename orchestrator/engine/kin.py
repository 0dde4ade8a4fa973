"""Which runs belong together: what an agent may see, and what it may command.

Looks at the disk, where agents can write, so what a run itself was sealed with counts: one without a seal, which an
agent may have put there, belongs to nobody.
"""

from __future__ import annotations

import contextlib

from orchestrator.engine.caller import Caller
from orchestrator.engine.lives import Lives
from orchestrator.errors import OrchestratorError, PermissionCeiling
from orchestrator.model import RunSpec
from orchestrator.store.layout import Home
from orchestrator.store.members import member_ids
from orchestrator.store.reader import sealed_spec


class Kin:
    """The trees of the runs of one home, as agents of live runs see them. Blocks on the disk."""

    def __init__(self, home: Home, lives: Lives) -> None:
        self._home = home
        self._lives = lives

    def tree_of(self, caller: Caller) -> frozenset[str]:
        """The runs of the tree that an agent belongs to."""
        own = self._own_root(caller)
        return frozenset(self.members(own)) if own else frozenset()

    def members(self, root_run_id: str) -> list[str]:
        """The runs of a tree, its root first, by what they were sealed with."""
        root = self._home.find(root_run_id)
        return [run_id for run_id in member_ids(root) if self._root_of(run_id) == root_run_id] if root else []

    def is_agent(self, caller: Caller) -> bool:
        """Whether a caller is a process of a live run's agent, as its shell is."""
        return self._lives.get(caller.parent_run_id or "") is not None

    def is_in_tree(self, run_id: str, caller: Caller) -> bool:
        """Whether a run is of the tree that an agent belongs to."""
        own = self._own_root(caller)
        return own is not None and self._root_of(run_id) == own

    def _own_root(self, caller: Caller) -> str | None:
        life = self._lives.get(caller.parent_run_id or "")
        return (life.spec.root_run_id or life.spec.run_id) if life else None

    def _root_of(self, run_id: str) -> str | None:
        spec = self._spec_of(run_id)
        return (spec.root_run_id or spec.run_id) if spec else None

    def _spec_of(self, run_id: str) -> RunSpec | None:
        if life := self._lives.get(run_id):
            return life.spec
        with contextlib.suppress(OrchestratorError):
            if run_dir := self._home.find(run_id):
                return sealed_spec(self._home, run_dir, self._home.seal(run_dir))
        return None

    def check_descends(self, run_id: str, caller: Caller) -> None:
        """Refuses a command of an agent on a run that is not below its own.

        Raises:
            PermissionCeiling: it is the agent's own run, one above it, or one beside it.
        """
        above: str | None = run_id
        while above and (spec := self._spec_of(above)):
            above = spec.parent_run_id
            if above == caller.parent_run_id:
                return
        raise PermissionCeiling(f"{run_id} was not spawned by you; only who spawned it can answer or end it")
