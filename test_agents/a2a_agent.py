"""Serves any backend of ours as a real A2A agent over HTTP, at protocol 1.0 or 0.3.

The card declares the orchestration extension: a client that activates it says where to work and gets commands, file
changes and tools as they happen; any other A2A client gets messages, artifacts and states.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, get_args

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
from orchestrator.model import JsonObject, Message, Permission, RunSpec, as_array, as_object, new_id, now
from test_agents.listening import listening
from test_agents.tck import TckExecutor
from test_agents.work import Work

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RPC_PATH = "/a2a/jsonrpc"
MAX_BODY = 32 * 2**20
CONTENT_TYPE_NOT_SUPPORTED = -32005
"""JSON-RPC's code for A2A's ContentTypeNotSupportedError, which the SDK tells as a parse error instead."""


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
    tck: bool = False
    """Also play the script of the compatibility kit."""
    env: Mapping[str, str] | None = None
    """The environment of the agents; None for that of this process."""
    backend_config: JsonObject | None = None
    """What every run gets."""


class Executor(AgentExecutor):
    """Runs a backend for A2A tasks. One `Work` per task that is not over; a context keeps its directory
    and its session."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._env = dict(os.environ) if settings.env is None else settings.env
        self._works: dict[str, Work] = {}
        self._contexts: dict[str, Path] = {}
        self._sessions: dict[str, str] = {}

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
        tools = [tool for tool in as_array(_about(context).get("tools")) or () if as_object(tool)]
        work = self._works[task_id] = Work(self._backend, spec, self._env, rich=rich, tools=tools)
        await self._pump(task_id, work, updater)

    async def _continue(self, context: RequestContext, updater: TaskUpdater) -> None:
        work = self._works.get(updater.task_id)
        if work is None or work.parked is None:
            await updater.failed(updater.new_agent_message([Part(text="this task is not waiting for anything")]))
            return
        await updater.start_work()
        work.answer(context.get_user_input(), as_object(_about(context).get("answer")) or {})
        await self._pump(updater.task_id, work, updater)

    async def _pump(self, task_id: str, work: Work, updater: TaskUpdater) -> None:
        over = True
        try:
            over = await work.pump(updater)
        finally:
            if work.native_session_id is not None:
                self._sessions[updater.context_id] = work.native_session_id
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
            session_mode="resume" if context_id in self._sessions else "new",
            native_session_id=self._sessions.get(context_id),
            permission=permission if permission in known else None,
            output_schema=as_object(about.get("outputSchema")),
            backend_config=self._settings.backend_config or {},
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
    """ASGI wrapper: host check against DNS rebinding, bearer token, body limit, content type, the age of the card,
    echo of the activated extension."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._expected = f"Bearer {settings.token}".encode() if settings.token else None
        self._since = formatdate(time.time(), usegmt=True).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {key.lower(): value for key, value in scope["headers"]}
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        # A2A 0.3 has the older name; each client is answered by its own
        asked = {name: headers[name] for name in (b"a2a-extensions", b"x-a2a-extensions") if name in headers}
        added = [(name, URI.encode()) for name, uris in asked.items() if _names(uris, URI)]
        if _is_public(scope):
            added.append((b"last-modified", self._since))

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> JSONResponse | None:
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")[0] or headers.get(b"host", b"").decode(
            "latin-1"
        )
        if host not in ("127.0.0.1", "localhost", "[::1]", self._settings.host):
            return JSONResponse({"error": "unknown host"}, 421)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return JSONResponse({"error": "body too large"}, 413)
        given = headers.get(b"authorization", b"")
        if self._expected and not _is_public(scope) and not hmac.compare_digest(given, self._expected):
            return JSONResponse({"error": "unauthorized"}, 401, headers={"WWW-Authenticate": "Bearer"})
        kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and not kind.endswith(b"json"):
            error = {"code": CONTENT_TYPE_NOT_SUPPORTED, "message": "the content type must be application/json"}
            return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error})
        return None


def _names(uris: bytes, uri: str) -> bool:
    """Whether a header's list has the URI."""
    return uri in [name.strip() for name in uris.decode("latin-1").split(",")]


def _is_public(scope: Scope) -> bool:
    return scope["path"].startswith("/.well-known/")


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
    handler = DefaultRequestHandler(
        agent_executor=TckExecutor(executor) if settings.tck else executor,
        task_store=InMemoryTaskStore(),
        agent_card=card,
    )
    routes: list[Any] = list(create_agent_card_routes(card, cache_control="max-age=0, must-revalidate"))
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
    async with listening(lambda base: make_app(backend, settings, base), settings.host, settings.port) as base:
        yield base
