"""Messages between agents, and between agents and their callers: who may write to whom, and how a message arrives.

Above: the tools of the sets `agent` and `team`. Below: inboxes in files, and live runs that can be steered or resumed.
An agent writes and reads within its own tree; a caller, in a directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import orjson

from orchestrator.clip import how_many
from orchestrator.engine.caller import Caller
from orchestrator.engine.spawn import CALLER
from orchestrator.errors import (
    AgentNotFound,
    LimitExceeded,
    NotFound,
    OrchestratorError,
    RunNotFound,
    StoreError,
    Unsupported,
    WrongState,
    nearest,
)
from orchestrator.model import JsonObject, Message, Run, RunSpec, Status, compact
from orchestrator.store.inbox import Inbox
from orchestrator.store.layout import AGENT_NAME, RUN_ID, RunDir, Workspace
from orchestrator.store.masking import Mask, secrets_of
from orchestrator.store.reader import sealed_spec
from orchestrator.store.sessions import newest_run

if TYPE_CHECKING:
    from orchestrator.engine.engine import Engine
    from orchestrator.engine.life import Life

Deliver = Literal["queue", "now", "wake"]
MESSAGE_BYTES = 8_000
PAGE_BYTES = 9_000
"""Of messages in one answer: known clients cut a result at about 12,000 characters."""
MOST = 50
"""Messages in one answer."""
_LOOK_S = 0.05


class Agent(NamedTuple):
    """An agent with its newest run, or with the one that was named."""

    run_dir: RunDir
    run: Run


class Mail:
    """The messages of one caller.

    Args:
        life: of the run whose agent the caller is; None for a caller from outside.
    """

    def __init__(self, engine: Engine, caller: Caller, life: Life | None) -> None:
        self._engine = engine
        self._caller = caller
        self._life = life
        self._own = life.spec if life else None

    async def agents(self) -> list[Agent]:
        """Whom it may write to, the newest first."""
        run_dirs = await asyncio.to_thread(self._run_dirs)
        newest: dict[str, Agent] = {}
        for run_dir in run_dirs:
            with contextlib.suppress(NotFound, StoreError):  # a damaged one is nobody's agent
                run = await self._engine.state(run_dir)
                newest.setdefault(run.agent_name, Agent(run_dir, run))
        return list(newest.values())

    def _run_dirs(self) -> list[RunDir]:
        """The runs of its tree, or of its directory, the newest first."""
        if self._own is None:
            return _of_directory(self._caller.cwd)
        return _of_tree(self._engine, self._engine.kin.tree_of(self._caller))

    async def send(
        self, to: str, message: Message, *, reply_to: str | None = None, deliver: Deliver = "queue"
    ) -> JsonObject:
        """Sends a message. Returns how it arrived.

        Args:
            to: an agent by name, one run of it by id, or CALLER.
            deliver: `queue` until it is fetched; `now`, into the work of an agent that can be steered; `wake` an agent
                whose runs are over.

        Raises:
            AgentNotFound, RunNotFound: nobody whom it may write to is called so.
            WrongState: the run that was named is over.
        """
        if len(orjson.dumps(message.parts)) > MESSAGE_BYTES:
            raise LimitExceeded(f"a message may have {MESSAGE_BYTES:,} bytes; put large material into files in cwd")
        letter = compact({"id": f"msg_{secrets.token_hex(6)}", "from": self._sender(), "reply_to": reply_to})
        letter = self._masked({**letter, "parts": message.parts})
        if to == CALLER and self._own is not None:
            workspace = await asyncio.to_thread(callers_place, self._engine, self._own)
            return await self._queued(Inbox(workspace, None), letter, {})
        agent = await self._find(to)
        named = {"run_id": agent.run.run_id} if RUN_ID.fullmatch(to) else {}
        if deliver == "wake" and agent.run.terminal:
            if self._own is not None and not self._caller.delegates:
                raise Unsupported("waking an agent starts a run, which needs backend_config.delegate; queue it instead")
            parts = [{"type": "text", "text": self._in_words(letter)}, *message.parts]
            woken, _ = await self._engine.resume(agent.run_dir, {"input_message": {"parts": parts}}, self._caller)
            return {"id": letter["id"], "delivered": "woken", "run_id": woken.run_id}
        if agent.run.terminal and named:
            raise WrongState(
                f"{to} is over; write to {agent.run.agent_name!r} for its next run, or wake it by deliver 'wake'"
            )
        plain = all(part["type"] == "text" for part in message.parts)
        if deliver == "now" and plain and agent.run.status is Status.RUNNING:
            life = self._engine.lives.get(agent.run.run_id)
            try:
                if life is not None:
                    await life.steer(Message.of_text(f"{self._in_words(letter)} {message.text}"))
                    return {"id": letter["id"], "delivered": "steered", "run_id": agent.run.run_id}
            except OrchestratorError:
                pass  # it takes nothing just now: it finds the message when it looks
        inbox = Inbox(agent.run_dir.workspace, agent.run.session_id)
        return await self._queued(inbox, {**letter, **named}, {"run_id": agent.run.run_id})

    def _masked(self, letter: JsonObject) -> JsonObject:
        life = self._life
        env = life.lent_env if life else self._caller.env
        secrets_known = secrets_of(life.spec.backend_config if life else {}, env, self._caller.settings.mask_env)
        keys = frozenset(live.face.key for live in self._engine.lives if live.face)
        return Mask(secrets_known).plus(keys).value(letter)

    async def _queued(self, inbox: Inbox, letter: JsonObject, about: JsonObject) -> JsonObject:
        await asyncio.to_thread(inbox.append, letter)
        return {"id": letter["id"], "delivered": "queued", **about}

    def _sender(self) -> JsonObject:
        own = self._own
        return {"agent_name": own.agent_name, "run_id": own.run_id} if own else {"agent_name": CALLER}

    def _in_words(self, letter: JsonObject) -> str:
        name = letter["from"]["agent_name"]
        answers = f" to {letter['reply_to']}" if "reply_to" in letter else ""
        return f"Message {letter['id']}{answers} from {name}, to be answered by send_message to {name!r}:"

    async def _find(self, to: str) -> Agent:
        if RUN_ID.fullmatch(to):
            run_dir = await asyncio.to_thread(self._engine.home.find, to)
            if run_dir and (
                self._own is None or await asyncio.to_thread(self._engine.kin.is_in_tree, to, self._caller)
            ):
                return Agent(run_dir, await self._engine.state(run_dir))
            raise RunNotFound(f"no run {to!r} that you may write to; call list_agents")
        agents = {agent.run.agent_name: agent for agent in await self.agents()}
        if to in agents:
            return agents[to]
        if self._own is None and AGENT_NAME.fullmatch(to):  # older than the newest runs of its directory
            workspace = Workspace(self._caller.cwd)
            with contextlib.suppress(NotFound, StoreError):
                run_dir = workspace.run(await asyncio.to_thread(newest_run, workspace, to))
                return Agent(run_dir, await self._engine.state(run_dir))
        raise AgentNotFound(f"no agent {to[:80]!r} that you may write to{nearest(to, [*agents, CALLER])}")

    async def fetch(self, after_seq: int | None, wait_s: float) -> JsonObject:
        """Its own messages, oldest first, waiting while there are none.

        Args:
            after_seq: acknowledges all up to this number; None for what was not acknowledged yet.
        """
        workspace = Workspace(self._own.cwd if self._own else self._caller.cwd)
        inbox = Inbox(workspace, self._own.session_id if self._own else None)
        if self._life and self._life.face and not self._life.face.has_fetched:
            await asyncio.to_thread(_bring_back, inbox, self._life.spec.run_id)
            self._life.face.has_fetched = True
        if after_seq is not None:
            await asyncio.to_thread(inbox.acknowledge, after_seq)
            start = min(after_seq, await asyncio.to_thread(lambda: inbox.last))
        else:
            start = await asyncio.to_thread(lambda: inbox.acknowledged)
        clock = asyncio.get_running_loop()
        deadline, size = clock.time() + wait_s, -1
        found: list[JsonObject] = []
        while True:
            if (grown := await asyncio.to_thread(lambda: inbox.size)) != size:
                size = grown
                found = await asyncio.to_thread(inbox.after, start)
                if mine := [letter for letter in found if self._is_mine(letter)]:
                    return _page(mine, found)
            if clock.time() >= deadline:
                return {"messages": [], "next_after_seq": found[-1]["seq"] if found else start, "has_more": False}
            await asyncio.sleep(_LOOK_S)

    def _is_mine(self, letter: JsonObject) -> bool:
        """What was sent to a run is not for the next one of the same agent."""
        return "run_id" not in letter or self._own is None or letter["run_id"] == self._own.run_id


def _bring_back(inbox: Inbox, run_id: str) -> None:
    """Adds the messages to a run anew that came while it was queued and the run before it acknowledged those around."""
    acknowledged = inbox.acknowledged
    for letter in inbox.after(0) if acknowledged else ():
        if letter.get("run_id") == run_id and letter["seq"] <= acknowledged:
            inbox.append({name: value for name, value in letter.items() if name not in ("seq", "ts")})


def _page(mine: list[JsonObject], found: list[JsonObject]) -> JsonObject:
    """As many messages as an answer holds, one at least."""
    sizes = (len(orjson.dumps(letter)) for letter in mine[:MOST])
    shown = mine[: how_many(sizes, PAGE_BYTES)]
    more = len(shown) < len(mine)
    return {"messages": shown, "next_after_seq": (shown if more else found)[-1]["seq"], "has_more": more}


def own_life(engine: Engine, caller: Caller) -> Life | None:
    """The run whose agent a caller is, by its pass or by the kernel's word; None for one from outside.

    Raises:
        WrongState: the run is over.
    """
    if caller.parent_run_id is None:
        return None
    life = engine.lives.get(caller.parent_run_id)
    if life is None:
        raise WrongState("your run is over")
    return life


def callers_place(engine: Engine, own: RunSpec) -> Workspace:
    """Where the client was that spawned the root of a run's tree."""
    root = engine.home.find(own.root_run_id or own.run_id)
    spec = sealed_spec(engine.home, root) if root else own
    workspace = Workspace(spec.client_cwd or spec.cwd)
    workspace.open()
    return workspace


async def tell_of_end(engine: Engine, spec: RunSpec, to: str, message_id: str, text: str) -> None:
    """Writes to an agent, or to the caller, that a run is over: to its inbox, and into its work if it takes that.

    Args:
        message_id: a message of this id that is there already is not written again.

    Raises:
        AgentNotFound: nobody in the run's tree, or of its directory where it has none, is called so.
        StoreError, LimitExceeded: the inbox takes nothing.
    """
    sender = {"agent_name": spec.agent_name, "run_id": spec.run_id}
    letter: JsonObject = {"id": message_id, "from": sender, "parts": [{"type": "text", "text": text}]}
    if to == CALLER:
        workspace = await asyncio.to_thread(callers_place, engine, spec)
        await asyncio.to_thread(_append_once, Inbox(workspace, None), letter)
        return
    agent = await _newest(engine, spec, to)
    inbox = Inbox(agent.run_dir.workspace, agent.run.session_id)
    new = await asyncio.to_thread(_append_once, inbox, letter)
    life = engine.lives.get(agent.run.run_id)
    if new and life is not None and agent.run.status is Status.RUNNING:
        with contextlib.suppress(OrchestratorError):  # it takes nothing just now: it finds the message when it looks
            await life.steer(Message.of_text(f"Message {message_id} from {spec.agent_name}: {text}"))


async def _newest(engine: Engine, spec: RunSpec, name: str) -> Agent:
    """The newest run of an agent of the tree of a run, or of its directory."""
    run_dirs = await asyncio.to_thread(_near, engine, spec)
    for run_dir in run_dirs:
        with contextlib.suppress(NotFound, StoreError):
            run = await engine.state(run_dir)
            if run.agent_name == name:
                return Agent(run_dir, run)
    raise AgentNotFound(f"no agent {name!r} near {spec.run_id}")


def _near(engine: Engine, spec: RunSpec) -> list[RunDir]:
    if spec.root_run_id is None:
        return _of_directory(spec.cwd)
    return _of_tree(engine, engine.kin.members(spec.root_run_id))


def _of_directory(cwd: Path) -> list[RunDir]:
    """Its newest runs, the newest first."""
    workspace = Workspace(cwd)
    return [workspace.run(run_id) for run_id in workspace.run_ids()[: 4 * MOST]]


def _of_tree(engine: Engine, ids: Iterable[str]) -> list[RunDir]:
    """Those of its runs that are there, the newest first."""
    return [run_dir for run_id in sorted(ids, reverse=True) if (run_dir := engine.home.find(run_id))]


def _append_once(inbox: Inbox, letter: JsonObject) -> bool:
    """Whether the letter is new there."""
    new = all(known.get("id") != letter["id"] for known in inbox.after(0))
    if new:
        inbox.append(letter)
    return new
