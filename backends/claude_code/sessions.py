"""What Claude Code keeps of its conversations on disk, as far as a run must know it: whether there is one, its cost.

Blocks on the disk: to be called in a thread. The files are Claude Code's own, so nothing is written, and whatever is
not understood counts as absent.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from orchestrator.model import as_object

_COST = b'{"type":"cost-state"'


def transcript_of(session_id: str, env: Mapping[str, str]) -> Path | None:
    """The file of a conversation; None if Claude Code has not begun to write it, or keeps it elsewhere."""
    given = env.get("CLAUDE_CONFIG_DIR")
    config = Path(given) if given else Path(env.get("HOME") or os.path.expanduser("~")) / ".claude"  # noqa: PTH111
    return next(iter(config.glob(f"projects/*/{session_id}.jsonl")), None)


def cost_until_now(session_id: str, env: Mapping[str, str]) -> float:
    """What a conversation has cost before this run, in US dollars: Claude Code counts on from there."""
    path = transcript_of(session_id, env)
    if path is None or not path.stat().st_size:
        return 0.0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        place = text.rfind(_COST)
        if place < 0:
            return 0.0
        end = text.find(b"\n", place)
        line = text[place : end if end >= 0 else len(text)]
    try:
        cost = (as_object(orjson.loads(line)) or {}).get("totalCostUSD")
    except orjson.JSONDecodeError:
        return 0.0
    return float(cost) if isinstance(cost, (int, float)) else 0.0
