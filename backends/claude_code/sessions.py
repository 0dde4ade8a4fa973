"""What Claude Code keeps of its conversations on disk, as far as a run must know it: whether there is one, its cost.

Blocks on the disk: to be called in a thread. The files are Claude Code's own, so nothing is written, and whatever is
not understood counts as absent.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from orchestrator.model import as_object

_STATE = b'{"type":"cost-state"'


class Spent(NamedTuple):
    """What a conversation used over all its runs, with its sub-agents. Costs in US dollars."""

    cost_usd: float = 0.0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, cost_usd: Any, by_model: Any) -> Spent:
        """From what Claude Code says: the cost, and for each model what it was told and said."""
        models = [as_object(used) or {} for used in (as_object(by_model) or {}).values()]
        cached = sum(_number(used.get("cacheReadInputTokens")) for used in models)
        fresh = sum(_number(used.get(name)) for used in models for name in ("inputTokens", "cacheCreationInputTokens"))
        return cls(
            cost_usd=float(cost_usd) if isinstance(cost_usd, (int, float)) else 0.0,
            input_tokens=fresh + cached,
            cached_input_tokens=cached,
            output_tokens=sum(_number(used.get("outputTokens")) for used in models),
        )


def config_of(env: Mapping[str, str]) -> Path:
    """Where Claude Code keeps its settings, its conversations and its memory."""
    given = env.get("CLAUDE_CONFIG_DIR")
    return Path(given) if given else Path(env.get("HOME") or Path.home()) / ".claude"


def transcript_of(session_id: str, env: Mapping[str, str]) -> Path | None:
    """The file of a conversation; None if Claude Code has not begun to write it, or keeps it elsewhere."""
    config = config_of(env)
    return next((path for path in config.glob(f"projects/*/{session_id}.jsonl") if path.is_file()), None)


def spent_until_now(session_id: str, env: Mapping[str, str]) -> Spent:
    """What a conversation used before this run: Claude Code counts on from there."""
    path = transcript_of(session_id, env)
    if path is None or not path.stat().st_size:
        return Spent()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for line in _states(text):
            try:
                state = as_object(orjson.loads(line)) or {}
            except orjson.JSONDecodeError:  # torn by a crash: the one before counts
                continue
            return Spent.of(state.get("totalCostUSD"), state.get("modelUsage"))
    return Spent()


def _states(text: mmap.mmap) -> Iterator[bytes]:
    """The lines that tell of costs, the last one first."""
    end = len(text)
    while (place := text.rfind(_STATE, 0, end)) >= 0:
        if place == 0 or text[place - 1 : place] == b"\n":
            stop = text.find(b"\n", place)
            yield text[place : stop if stop >= 0 else len(text)]
        end = place


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
