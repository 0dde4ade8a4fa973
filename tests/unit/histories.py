"""A strategy for the lives of runs: what may stand in a log, in any order, over or not."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from orchestrator.ends import FailureCode
from orchestrator.model import JsonObject
from tests.unit.runs import texts

Step = tuple[str, JsonObject]


def _record(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional)


def _events(event_type: str, data: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return data.map(lambda data: (event_type, data))


def _asked(request: JsonObject) -> Step:
    return "auth_required" if request["kind"] == "auth" else "input_required", {"request": request}


def _history(steps: list[Step], ending: list[Step]) -> list[Step]:
    return [*steps, *ending]


clean = texts.map(lambda text: text.encode(errors="replace").decode())
details = st.dictionaries(clean, clean, max_size=2)
_ids = st.sampled_from(["r1", "r2", "r3"])
_kinds = st.sampled_from(["approval", "question", "input", "auth"])
_failure = _record(
    {"code": st.sampled_from(get_args(FailureCode)), "message": clean, "resumable": st.booleans(), "next_step": clean}
)
_resolved = _record({"request_id": _ids, "outcome": st.sampled_from(["answered", "withdrawn"])})
_steps = st.one_of(
    _events("run_started", _record({}, native_session_id=clean, cwd=clean)),
    _events("agent_message", _record({"text": clean})),
    _events("tool_started", details),
    _events("unheard_of", details),
    _events(
        "status_changed",
        _record(
            {"status": st.sampled_from(["queued", "running", "input_required"])},
            detail=clean,
            remote_ref=details,
            resolved=_resolved,
        ),
    ),
    _record({"request_id": _ids, "kind": _kinds, "text": clean}, detail=details).map(_asked),
)
_endings = st.one_of(
    _events("run_completed", _record({"final_response": clean}, structured_output=details)),
    _events("run_failed", _failure),
    _events("rejected", _failure),
    _events("status_changed", _record({"status": st.just("cancelled")}, reason=clean)),
)
histories = st.builds(_history, st.lists(_steps, max_size=12), st.lists(_endings, max_size=1))
