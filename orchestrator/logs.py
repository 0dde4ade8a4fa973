"""What this program says of itself: JSON lines in a file, readable lines on a terminal, the run's id on each.

What agents say is never logged, and neither is what callers send; so no secret of theirs is.
"""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar

RUN_ID: ContextVar[str | None] = ContextVar("run_id", default=None)
"""The run that the current task works for. Tasks and threads that it starts inherit it."""


class JsonLines(logging.Formatter):
    """One JSON object a line: `ts, level, logger, message`, and `run_id` and `error` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if run_id := RUN_ID.get():
            line["run_id"] = run_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Plain(logging.Formatter):
    """The same for a person."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        text = super().format(record)
        run_id = RUN_ID.get()
        return f"{text} [{run_id}]" if run_id and run_id not in text else text
