"""The host's socket: each connection is an MCP session for one client, or one question about the host itself.

Above: bridges, other processes of ours that pass a command on, and `orchestrator host`. Below: the tools, once per
client, over one engine. A client that does not read or does not make sense is dropped, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import orjson

from orchestrator import __version__
from orchestrator.doors.mcp import Calls, fault_of, refusal, serve_lines
from orchestrator.doors.schemas import TOOLSETS
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.engine.face import PASS, Door
from orchestrator.errors import Internal
from orchestrator.host.client import call
from orchestrator.host.lines import LINE_BYTES, Heard, OpenCalls, hear, parsed
from orchestrator.host.place import API, dial, peer_pid, peer_uid
from orchestrator.model import JsonObject, RunSpec, as_array, as_object
from orchestrator.process import MARKER, ancestor_among
from orchestrator.queries import Queries

logger = logging.getLogger(__name__)

HELLO_S = 5.0
WRITE_S = 30.0
"""How long a client may leave an answer unread before it is dropped."""
IN_FLIGHT = 256
"""Requests of one client that are worked on at a time; it is not read any further before one is answered."""
FAREWELL_S = 20.0
_DEFECT = "the host met a defect of the orchestrator as you came; `orchestrator host logs` has the details"


class Session:
    """The lines of one client. Reads as an async iterator, writes as a text file, as the SDK's transport wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._open = OpenCalls[Heard]()
        self._answered = asyncio.Event()
        self.run_id = ""
        """Whose agent it serves, if it serves one."""
        self._leaving = False
        """No further line is taken in."""

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await self._next_line()) and not self._leaving:
            heard = hear(line)
            if heard.kind == "cancel":
                self._close(heard)
            elif heard.kind == "request":
                while len(self._open) >= IN_FLIGHT:
                    await self._next_answer()
                    if self._leaving:
                        return
                self._open.open(heard, heard)
            fault = fault_of(line)
            if fault is None:
                yield line.decode()
            elif heard.kind == "request":  # the SDK would drop it without a word
                await self.write(refusal(heard.id, fault))

    async def _next_line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ValueError:
            logger.warning("a client sent a line over %d bytes and is dropped", LINE_BYTES)
            self._writer.transport.abort()
        except OSError:
            logger.debug("a client went away")
        return b""

    async def write(self, text: str) -> None:
        """Writes one line. A client that does not read for WRITE_S is dropped."""
        if self._writer.is_closing():
            return
        line = text.encode()
        self._writer.write(line)
        try:
            async with asyncio.timeout(WRITE_S):
                await self._writer.drain()
        except TimeoutError:
            logger.warning("a client has not read for %g s and is dropped", WRITE_S)
            self._writer.transport.abort()
        except ConnectionError:
            logger.debug("a client went away before it was answered")
        if (heard := hear(line)).kind == "answer":
            self._close(heard)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def farewell(self, bye: JsonObject) -> None:
        """Ends the session. Nothing new is begun; what is under way comes to its end, and reads are asked again by
        the bridge elsewhere, like everything that was sent and not taken in."""
        self._leaving = True
        try:
            async with asyncio.timeout(FAREWELL_S):
                while any(heard.is_command for heard in self._open):
                    await self._next_answer()
        except TimeoutError:
            logger.warning("a command did not come to its end in %g s", FAREWELL_S)
        else:
            self._writer.write(orjson.dumps(bye, option=orjson.OPT_APPEND_NEWLINE))
        self._writer.close()

    def abandon(self) -> None:
        """Ends the session without a word, so that the bridge takes it for a crash."""
        self._leaving = True
        self._writer.close()

    def _close(self, heard: Heard) -> None:
        if self._open.close(heard):
            self._answered.set()

    async def _next_answer(self) -> None:
        self._answered.clear()
        await self._answered.wait()


class Server:
    """Answers at the socket.

    Args:
        backends: what clients may spawn on, by whether the scripted agent is offered to them.
        about: what the host says of itself.
        stop: called with `drain`, `cancel` or `hand over` when somebody asks the host to end.
    """

    def __init__(
        self,
        engine: Engine,
        backends: Callable[[bool], frozenset[str]],
        about: Mapping[str, Any],
        stop: Callable[[str], None],
        *,
        agents_only: bool = False,
    ) -> None:
        self._engine = engine
        self._agents_only = agents_only
        self._queries = Queries(engine)
        self._backends = backends
        self._about = about
        self._stop = stop
        self._sessions: set[Session] = set()
        self._started = time.time()
        self.successor: str | None = None
        """The socket of the host of another version that takes over from this one."""
        self.ending = False
        """No client is let in any more: the next host will be there in a moment."""
        self.idle_since: float | None = time.monotonic()
        """Since when no client is connected (monotonic); None while there is one."""

    def hear_agents(self, path: str) -> None:
        """From now on the agents of the runs that live here are heard: at this socket, and those elsewhere too."""
        self._engine.lives.door = Door(path, self._calls_of)

    def _calls_of(self, spec: RunSpec) -> Calls:
        caller = Caller(
            cwd=spec.cwd,
            env={MARKER: spec.run_id},
            settings=self._engine.lives.settings,
            backends=self._backends(False),
            toolsets=frozenset({"agent"}),
            bound=True,
            delegates=_delegates(spec),
            parent_run_id=spec.run_id,
        )
        return Calls(Tools(self._engine, caller, self._queries, call))

    async def serve(self, listener: socket.socket) -> None:
        """Accepts clients until it is cancelled, and then ends all sessions."""
        async with asyncio.TaskGroup() as clients:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                clients.create_task(self._client(reader, writer))

            server = await asyncio.start_unix_server(accept, sock=listener, limit=LINE_BYTES)
            try:
                await asyncio.get_running_loop().create_future()  # for ever; serve_forever waits for clients to leave
            finally:
                server.close()

    async def bid_farewell(self, why: str) -> None:
        """Ends all sessions but those of agents whose runs live here, each as soon as no command of it is under way."""
        bye: JsonObject = {"orchestrator": API, "bye": why}
        leaving = [session for session in self._sessions if session.run_id not in self._engine.lives]
        await asyncio.gather(*(session.farewell(bye) for session in leaving))

    def abandon_sessions(self) -> None:
        """Ends all sessions without a word: nothing that the end of this process makes up may reach a client."""
        for session in list(self._sessions):
            session.abandon()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, ValueError) as error:  # ValueError: a first line over LINE_BYTES
            logger.warning("a client is dropped: %s", error)
        except Exception as error:
            if _is_disconnect(error):
                logger.debug("a client went away")
            else:
                logger.exception("a session met a defect")
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (uid := peer_uid(writer.get_extra_info("socket"))) != os.getuid():
            logger.warning("user %d may not connect", uid)
            return
        try:
            async with asyncio.timeout(HELLO_S):
                first = parsed(await reader.readline())
        except TimeoutError:
            logger.warning("a client said nothing for %g s and is dropped", HELLO_S)
            return
        if self.successor is not None and first.get("forwarded") is not True:
            await self._check_successor()
        try:
            answer, caller = self._answer(first)
            if caller is not None:
                caller = await asyncio.to_thread(self._introduced, caller, peer_pid(writer.get_extra_info("socket")))
        except Exception:  # told, for a client that hears nothing takes the host for one that hangs
            logger.exception("a first line met a defect")
            answer, caller = {"error": _DEFECT, "code": Internal(_DEFECT).code}, None
        writer.write(orjson.dumps({"orchestrator": API, **answer}, option=orjson.OPT_APPEND_NEWLINE))
        await writer.drain()
        if caller is not None:
            await self._session(Session(reader, writer), caller)

    async def _check_successor(self) -> None:
        """A successor that is gone takes nothing over: this host serves its clients again."""
        assert self.successor is not None
        connection = await asyncio.to_thread(dial, self.successor, HELLO_S)
        if connection is not None:
            connection.close()
            return
        logger.warning("the host that was to take over is gone; this one goes on")
        self.successor = None
        self._engine.lives.draining = None

    def _answer(self, first: JsonObject) -> tuple[JsonObject, Caller | None]:
        """What to say to a first line, and the client that it introduces, if it does."""
        if not first:
            logger.warning("a client spoke no JSON and is dropped")
            return {"error": "the first line must be a JSON object"}, None
        if (question := first.get("control")) is not None:
            return self._control(question, first), None
        if first.get("orchestrator") != API:
            said = f"this host speaks version {API}, you speak {str(first.get('orchestrator'))[:40]}"
            return {"error": f"{said}; restart the older one"}, None
        forwarded = first.get("forwarded") is True  # from the process that has taken over: this one has the run
        of_agent = "agent" in (as_array(first.get("toolsets")) or ())  # whose run lives here, whoever takes over
        if self.successor is not None and not forwarded and not of_agent:
            return {"error": "another version takes over", "socket": self.successor}, None
        if self.ending and not of_agent:
            return {"ending": True}, None
        try:
            caller = self._caller_of(first, forwarded=forwarded)
        except ValueError as error:
            return {"error": str(error)}, None
        return {"ok": True, "build": __version__, "pid": os.getpid()}, caller

    def _caller_of(self, first: JsonObject, *, forwarded: bool) -> Caller:
        """The client that a first line introduces.

        Raises:
            ValueError: it says too little of itself, or what makes no sense.
        """
        cwd, env, toolsets = first.get("cwd"), as_object(first.get("env", {})), as_array(first.get("toolsets", []))
        if not isinstance(cwd, str) or not cwd.startswith("/"):
            raise ValueError("the first line needs cwd, an absolute path")
        if env is None or not all(isinstance(value, str) for value in env.values()):
            raise ValueError("env must be an object of strings")
        if toolsets is None or not all(isinstance(name, str) and name in TOOLSETS for name in toolsets):
            raise ValueError(f"toolsets must be an array of: {', '.join(TOOLSETS)}")
        bound = "agent" in toolsets
        parent = self._agent_of(env) if bound else None
        if self._agents_only and not bound:
            raise ValueError("this socket is for the agents of runs")
        return Caller(
            cwd=parent.cwd if parent else Path(cwd),
            env=env,
            backends=self._backends(first.get("scripted") is True),
            toolsets=frozenset(toolsets if parent is None or _delegates(parent) else ("agent",)),
            forwarded=forwarded,
            bound=bound,
            delegates=parent is not None and _delegates(parent),
            parent_run_id=env.get(MARKER) if bound else None,
        )

    def _agent_of(self, env: Mapping[str, str]) -> RunSpec:
        """The run whose pass a client has.

        Raises:
            ValueError: it has none, or that of a run that is over.
        """
        life = self._engine.lives.get(env.get(MARKER, ""))
        if life is None or life.face is None or not life.face.knows(env.get(PASS, "")):
            raise ValueError("the pass is that of no live run")
        return replace(life.spec, cwd=life.cwd)

    def _introduced(self, caller: Caller, pid: int | None) -> Caller:
        """The caller with its settings, and with the run whose agent it is, if it is one.

        The kernel's word on whose descendant a client is counts more than the marker in its environment, which an
        agent may have left out; Codex gives MCP servers a minimal environment.
        """
        if caller.bound:  # by its pass, which says more than whose descendant it is
            return replace(caller, settings=self._engine.settings_of(caller))
        agents = {life.log.agent["pid"]: life.spec.run_id for life in self._engine.lives if life.log.agent}
        ancestor = ancestor_among(pid, agents) if agents and pid is not None else None
        parent = agents[ancestor] if ancestor is not None else caller.env.get(MARKER)
        return replace(caller, settings=self._engine.settings_of(caller), parent_run_id=parent)

    def _control(self, question: Any, first: JsonObject) -> JsonObject:
        match question:
            case "status":
                return {"ok": True, **self._status()}
            case "drain":  # a host of another version takes over
                if first.get("orchestrator") == API:  # otherwise the clients of this one could not talk to it
                    self.successor = str(first.get("socket"))
                self._stop("hand over" if self.successor else "drain")
                return {"ok": True}
            case "stop":
                how = first.get("how")
                if how not in ("drain", "cancel"):
                    return {"error": "stop takes how: drain or cancel"}
                self._stop(how)
                return {"ok": True, "live": len(self._engine.lives), "pid": os.getpid()}
            case _:
                return {"error": f"no such question: {question!r}"}

    def _status(self) -> JsonObject:
        return {
            **self._about,
            "up_s": round(time.time() - self._started, 1),
            "live": len(self._engine.lives),
            "clients": len(self._sessions),
            "draining": self._engine.lives.draining is not None,
        }

    async def _session(self, session: Session, caller: Caller) -> None:
        self._sessions.add(session)
        session.run_id = caller.parent_run_id or "" if caller.bound else ""
        self.idle_since = None
        try:
            with self._engine.lives.client(caller):
                await serve_lines(Tools(self._engine, caller, self._queries, call), session)
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self.idle_since = time.monotonic()


def _delegates(spec: RunSpec) -> bool:
    return spec.backend_config.get("delegate") is True


def _is_disconnect(error: BaseException) -> bool:
    """Whether nothing but the end of a connection is behind an error."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_disconnect, cast(BaseExceptionGroup[BaseException], error).exceptions))
    return isinstance(error, (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError))
