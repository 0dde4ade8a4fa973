"""What one run uses, over all its attempts: told in its log, and charged to its budgets as it goes."""

from __future__ import annotations

from orchestrator.engine.budget import MB, Account, amounts_of
from orchestrator.limits import KEPT_BY_BACKENDS
from orchestrator.model import Usage
from orchestrator.store.log import RunLog


class Meter:
    """Of one run.

    Args:
        account: None where no budget holds for it.
    """

    def __init__(self, log: RunLog, account: Account | None) -> None:
        self._log = log
        self._account = account
        self._before: Usage | None = None
        """What the attempts before this one used."""
        self._now: Usage | None = log.run.usage
        """What this one did, as far as it is known."""
        self.metered = account is not None and account.watches(KEPT_BY_BACKENDS)
        self._counting = account is not None and account.watches(("max_events", "max_artifact_mb"))
        self._stored_before = account.used.get("max_artifact_mb", 0.0) if account else 0.0
        """Megabytes, by the owners before this one."""

    @property
    def total(self) -> Usage | None:
        """What the run used so far, as far as it is known."""
        return self._now.plus(self._before) if self._now else self._before

    async def spend(self, usage: Usage, *, more: bool) -> bool:
        """See `RunContext.spend`."""
        self._now = usage
        total = self.total
        assert total is not None
        if total != self._log.run.usage:
            told = total.to_json()
            await self._log.append("status_changed", lambda run: {"status": run.status, "usage": told})
        return self._charge(total, more=more)

    def _charge(self, total: Usage, *, more: bool) -> bool:
        return self._account is None or self._account.use(amounts_of(total), more=more)

    def end_attempt(self, usage: Usage | None) -> None:
        """The agent is done, for this time, and says what it used; the run's last event tells it."""
        self._now = usage or self._now
        self._before, self._now = self.total, None
        if self._before:
            self._charge(self._before, more=False)

    def may_go_on(self) -> bool:
        """Whether there is budget for another attempt. If not, the run is being ended."""
        return self.total is None or self._charge(self.total, more=True)

    def count(self) -> None:
        """Something was written to the log."""
        if self._counting and self._account:
            stored = self._stored_before + self._log.stored_bytes / MB
            self._account.use({"max_events": self._log.run.last_seq, "max_artifact_mb": stored}, more=True)

    def close(self) -> None:
        """The run uses nothing more: what was reserved for it is free, before anybody hears that it is over."""
        if self._account:
            self._account.close()
