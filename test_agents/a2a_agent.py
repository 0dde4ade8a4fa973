"""Serves any backend of ours as a real A2A agent over HTTP, at protocol 1.0 or 0.3.

The card declares the orchestration extension: a client that activates it says where to work and gets commands, file
changes and tools as they happen; any other A2A client gets messages, artifacts and states.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentExtension,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    Part,
    SecurityRequirement,
    SecurityScheme,
    StringList,
    Task,
    TaskState,
    TaskStatus,
)
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from backends.remote_a2a.extension import LEGACY_KEY, URI, whole_numbers
from backends.remote_a2a.updates import ENDED
from orchestrator import __version__
from orchestrator.backend import Backend
from orchestrator.model import JsonObject, Message, Permission, RunSpec, as_object, new_id, now
from test_agents.work import Work

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RPC_PATH = "/a2a/jsonrpc"
MAX_BODY = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the agent is served."""

    name: str = "scripted"
    host: str = "127.0.0.1"
    port: int = 0
    v03: bool = False
    """Speak protocol 0.3; otherwise 1.0."""
    token: str | None = None
    default_cwd: Path | None = None
    """Where to work for clients that do not say."""
    allow_root: Path | None = None
    """Refuse directories outside of it."""
    streaming: bool = True


class Executor(AgentExecutor):
    """Runs a backend for A2A tasks. One `Work` per task that is not over; a context keeps its directory."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._works: dict[str, Work] = {}
        self._contexts: dict[str, Path] = {}

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor.execute`: returns when the task is over or waits for its client."""
        current = context.current_task
        if current and current.status.state in ENDED:
            return  # queued behind a request that finished: its events would be dropped
        task_id = context.task_id or ""
        # on a continuation without contextId the SDK makes a new one up, so the task's own counts
        context_id = (current.context_id if current else context.context_id) or ""
        updater = TaskUpdater(event_queue, task_id, context_id)
        if current:
            await self._continue(context, updater)
            return
        status = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        history = [context.message] if context.message else []
        await event_queue.enqueue_event(Task(id=task_id, context_id=context_id, status=status, history=history))
        try:
            spec = self._spec(context, context_id)
        except ValueError as error:
            await updater.reject(updater.new_agent_message([Part(text=str(error))]))
            return
        await updater.start_work()
        rich = URI in (context.requested_extensions or ())
        work = self._works[task_id] = Work(self._backend, spec, dict(os.environ), rich=rich)
        await self._pump(task_id, work, updater)

    async def _continue(self, context: RequestContext, updater: TaskUpdater) -> None:
        work = self._works.get(updater.task_id)
        if work is None or work.parked is None:
            await updater.failed(updater.new_agent_message([Part(text="this task is not waiting for anything")]))
            return
        decision = (as_object(_about(context).get("answer")) or {}).get("decision")
        await updater.start_work()
        work.answer(context.get_user_input(), decision if isinstance(decision, str) else None)
        await self._pump(updater.task_id, work, updater)

    async def _pump(self, task_id: str, work: Work, updater: TaskUpdater) -> None:
        over = True
        try:
            over = await work.pump(updater)
        finally:
            if over:
                self._works.pop(task_id, None)
                await work.stop()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor.cancel`: the run is gone before the task says so."""
        task_id = context.task_id or ""
        if work := self._works.pop(task_id, None):
            await work.stop()
        current = context.current_task
        context_id = (current.context_id if current else context.context_id) or ""
        await TaskUpdater(event_queue, task_id, context_id).cancel()

    async def aclose(self) -> None:
        """Ends all work."""
        works = list(self._works.values())
        self._works.clear()
        await asyncio.gather(*(work.stop() for work in works))

    def _spec(self, context: RequestContext, context_id: str) -> RunSpec:
        about = _about(context)
        permission: Any = about.get("permission")
        known: tuple[Permission, ...] = get_args(Permission)
        return RunSpec(
            run_id=new_id("run"),
            session_id=new_id("ses"),
            agent_name=self._settings.name,
            backend=self._backend.name,
            role="worker",
            cwd=self._cwd(about.get("cwd"), context_id),
            message=Message.of_text(context.get_user_input()),
            created_at=now(),
            session_mode="resume" if context_id in self._contexts else "new",
            native_session_id=f"a2a-{context_id}",
            permission=permission if permission in known else None,
            output_schema=as_object(about.get("outputSchema")),
        )

    def _cwd(self, given: Any, context_id: str) -> Path:
        """The directory of a context: untrusted input, fixed once chosen.

        Raises:
            ValueError: it cannot be used; the message is for the client.
        """
        bound = self._contexts.get(context_id)
        if given is None:
            cwd = bound or self._settings.default_cwd
            if cwd is None:
                raise ValueError(f"this agent needs a directory to work in: metadata {URI} with an absolute cwd")
        else:
            if not isinstance(given, str) or not Path(given).is_absolute():
                raise ValueError("cwd must be an absolute path")
            cwd = Path(given).resolve()
        root = self._settings.allow_root
        if root is not None and not cwd.is_relative_to(root.resolve()):
            raise ValueError("cwd is outside of what this agent may work in")
        if bound is not None and cwd != bound:
            raise ValueError("the cwd of a context is fixed; use a new context for another directory")
        if not cwd.is_dir():
            raise ValueError("cwd is not an existing directory")
        self._contexts[context_id] = cwd
        return cwd


def _about(context: RequestContext) -> JsonObject:
    """What the client's message says in the extension's words, or in the predecessor's."""
    if context.message is None:
        return {}
    metadata: Any = whole_numbers(MessageToDict(context.message.metadata))
    return as_object(metadata.get(URI)) or as_object(metadata.get(LEGACY_KEY)) or {}


class Gate:
    """ASGI wrapper: host check against DNS rebinding, bearer token, body limit, echo of the activated extension."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._expected = f"Bearer {settings.token}".encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {key.lower(): value for key, value in scope["headers"]}
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        asked = headers.get(b"a2a-extensions") or headers.get(b"x-a2a-extensions") or b""
        active = URI in [name.strip() for name in asked.decode("latin-1").split(",")]

        async def echo(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and active:
                message["headers"] = [*message["headers"], (b"a2a-extensions", URI.encode())]
            await send(message)

        await self._app(scope, receive, echo)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> JSONResponse | None:
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")[0] or headers.get(b"host", b"").decode(
            "latin-1"
        )
        if host not in ("127.0.0.1", "localhost", "[::1]", self._settings.host):
            return JSONResponse({"error": "unknown host"}, 421)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return JSONResponse({"error": "body too large"}, 413)
        public = scope["path"].startswith("/.well-known/")
        given = headers.get(b"authorization", b"")
        if self._expected and not public and not hmac.compare_digest(given, self._expected):
            return JSONResponse({"error": "unauthorized"}, 401, headers={"WWW-Authenticate": "Bearer"})
        return None


def make_card(settings: Settings, base: str, description: str) -> AgentCard:
    """The agent's card. With 0.3, old clients find the fields that they look for as well."""
    version = "0.3" if settings.v03 else "1.0"
    extension = AgentExtension(
        uri=URI, description="directory, run ids and the events of a coding agent", required=False
    )
    card = AgentCard(
        name=settings.name,
        description=description,
        version=__version__,
        supported_interfaces=[
            AgentInterface(url=base + RPC_PATH, protocol_binding="JSONRPC", protocol_version=version)
        ],
        capabilities=AgentCapabilities(streaming=settings.streaming, push_notifications=False, extensions=[extension]),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain", "application/json"],
        skills=[AgentSkill(id="code", name="Code", description="Works in a directory", tags=["code"])],
    )
    if settings.token:
        scheme = SecurityScheme(http_auth_security_scheme=HTTPAuthSecurityScheme(scheme="Bearer"))
        card.security_schemes["bearer"].CopyFrom(scheme)
        card.security_requirements.append(SecurityRequirement(schemes={"bearer": StringList(list=[])}))
    return card


def make_app(backend: Backend, settings: Settings, base: str) -> Gate:
    """The ASGI application. Served with and without a trailing slash, for some clients add one."""
    card = make_card(settings, base, f"The backend {backend.name} as an A2A agent")
    executor = Executor(backend, settings)
    handler = DefaultRequestHandler(agent_executor=executor, task_store=InMemoryTaskStore(), agent_card=card)
    routes: list[Any] = list(create_agent_card_routes(card, cache_control="no-cache"))
    for path in (RPC_PATH, RPC_PATH + "/"):
        routes += create_jsonrpc_routes(handler, path, enable_v0_3_compat=settings.v03)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await executor.aclose()
            await handler.aclose()

    return Gate(Starlette(routes=routes, lifespan=lifespan), settings)


@contextlib.asynccontextmanager
async def serve(backend: Backend, settings: Settings) -> AsyncGenerator[str]:
    """Serves the agent while the block lasts; yields its base URL. The card names the real port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    base = f"http://{settings.host}:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        make_app(backend, settings, base), log_level="warning", timeout_graceful_shutdown=2, lifespan="on"
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="a2a agent")
    try:
        await asyncio.wait({task, asyncio.ensure_future(server.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield base
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, which belong to the process, and with a way to know that it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
