"""The files of one run, read without any code of the store: what the oracle believes."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.model import TERMINAL, JsonObject

ENDS = ("run_completed", "run_failed", "rejected")


class Damaged(Exception):
    """The files of a run are not what they have to be."""


def read_log(run: Path) -> list[JsonObject]:
    """All events of a run, in the order of the file.

    Raises:
        Damaged: it is not made of whole lines of JSON.
    """
    with suppress(FileNotFoundError):
        content = (run / "events.jsonl").read_bytes()
        if content and not content.endswith(b"\n"):
            raise Damaged(f"{run.name} ends in half a line: {content[-80:]!r}")
        try:
            return [json.loads(line) for line in content.splitlines()]
        except ValueError as error:
            raise Damaged(f"{run.name} holds a line that is no JSON: {error}") from error
    return []


def read_document(path: Path) -> JsonObject:
    """A JSON object; empty where there is none."""
    with suppress(OSError, ValueError):
        document: Any = json.loads(path.read_bytes())
        if isinstance(document, dict):
            return document  # pyright: ignore[reportUnknownVariableType]
    return {}


def read_text(path: Path) -> str:
    """A small file; empty where there is none."""
    with suppress(OSError):
        return path.read_text()
    return ""


def is_end(event: JsonObject) -> bool:
    """Whether an event is a last one."""
    return event["type"] in ENDS or (event["type"] == "status_changed" and event["data"].get("status") in TERMINAL)


def is_locked(run: Path) -> bool:
    """Whether a process owns the run."""
    try:
        descriptor = os.open(run / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def leftovers(run: Path) -> list[str]:
    """What must not be there once a run is over: temporary files, the reserve, artifacts that no event names."""
    found = [path for path in run.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".incoming-")]
    found += [path for path in (run / "reserve",) if path.exists()]
    with suppress(Damaged):
        known = {f"{event['seq']:06d}-{event['type']}" for event in read_log(run) if "artifact_refs" in event["data"]}
        found += [path for path in (run / "artifacts").glob("[0-9]*") if path.name not in known]
    return sorted(str(path.relative_to(run)) for path in found)
