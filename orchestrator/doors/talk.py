"""The tools by which agents talk: to their caller, to each other, and their callers to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.clip import how_many, json_chars
from orchestrator.doors.results import Route
from orchestrator.engine.caller import Caller
from orchestrator.engine.engine import Engine
from orchestrator.engine.face import Face
from orchestrator.engine.mail import PAGE_BYTES, Agent, Mail, own_life
from orchestrator.engine.spawn import message_of
from orchestrator.model import JsonObject, compact
from orchestrator.questions import with_context

SUMMARY_CHARS = 160


class Talk:
    """The handlers for one caller, by the names of their tools."""

    def __init__(self, engine: Engine, caller: Caller) -> None:
        self._engine = engine
        self._caller = caller
        self.routes: Mapping[str, Route] = {
            "ask_caller": self._ask_caller,
            "report_progress": self._report_progress,
            "send_message": self._send,
            "send_agent_message": self._send,
            "fetch_messages": self._fetch,
            "fetch_agent_messages": self._fetch,
            "list_agents": self._list_agents,
        }

    async def _ask_caller(self, given: JsonObject) -> JsonObject:
        face = self._face()
        answer = await face.ask(with_context(given), given.get("options", ()))
        reason = answer.message.text if answer.message else None
        if answer.decision == "deny" and "deny" not in given.get("options", ()):
            return compact({"declined": True, "reason": reason})
        return {"answer": answer.text}

    async def _report_progress(self, given: JsonObject) -> JsonObject:
        await self._face().report(given["text"], given.get("percent"))
        return {"reported": True}

    def _face(self) -> Face:
        life = own_life(self._engine, self._caller)
        assert life is not None
        assert life.face is not None, "who has a pass has a face"
        return life.face

    @property
    def _mail(self) -> Mail:
        return Mail(self._engine, self._caller, own_life(self._engine, self._caller))

    async def _send(self, given: JsonObject) -> JsonObject:
        parts = {"input_message": {"parts": given["parts"]}} if "parts" in given else {}
        message = message_of({"text": given.get("text"), **parts}, required=True, text="text")
        assert message is not None
        more: dict[str, Any] = {key: given[key] for key in ("reply_to", "deliver") if key in given}
        return await self._mail.send(given["to"], message, **more)

    async def _fetch(self, given: JsonObject) -> JsonObject:
        return await self._mail.fetch(given.get("after_seq"), given["wait_ms"] / 1000)

    async def _list_agents(self, _given: JsonObject) -> JsonObject:
        own = self._caller.parent_run_id if self._caller.bound else None
        agents = sorted(await self._mail.agents(), key=lambda agent: agent.run.run_id != own)
        rows = [_row(agent, own) for agent in agents]
        shown = rows[: how_many(map(json_chars, rows), PAGE_BYTES)]
        return compact({"agents": shown, "more": len(rows) - len(shown) or None})


def _row(agent: Agent, own: str | None) -> JsonObject:
    run = agent.run
    return compact(
        {
            "agent_name": run.agent_name,
            "run_id": run.run_id,
            "role": run.role,
            "backend": run.backend,
            "status": run.status,
            "summary": run.summary and run.summary[:SUMMARY_CHARS],
            "progress": run.progress,
            "you": True if run.run_id == own else None,
        }
    )
