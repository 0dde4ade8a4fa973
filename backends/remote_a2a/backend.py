"""The backend `remote_a2a`: an agent anywhere that speaks A2A. What needs the SDK is loaded at first use."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from backends.remote_a2a.options import Options, read_options
from orchestrator.backend import Ability, RunContext
from orchestrator.config import Settings
from orchestrator.ends import Outcome
from orchestrator.errors import BackendError, InvalidArgument
from orchestrator.model import RunSpec

if TYPE_CHECKING:
    from backends.remote_a2a.drive import Drive

UNREACHED_S = 4.0
"""How long a cancellation may take to reach the task of a run that was just taken over."""


class RemoteA2A:
    """The backend `remote_a2a`."""

    name = "remote_a2a"
    abilities: frozenset[Ability] = frozenset({"resume", "permission", "attach", "agent_tools"})

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """See `Backend.check`."""
        read_options(spec.backend_config)

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`: a token that is named by its variable needs an environment, and so do the runs that its
        agent may spawn."""
        name = spec.backend_config.get("auth_token_env")
        if name is None:
            return bool(env) or not spec.backend_config.get("delegate")
        return bool(env.get(name))

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """See `Backend.run`."""
        options = read_options(spec.backend_config)
        try:
            token = options.token(ctx.env)
        except InvalidArgument as error:
            raise BackendError("auth_failed", str(error), resumable=False) from error
        async with AsyncExitStack() as stack:
            reaching = asyncio.ensure_future(self._reach(spec, ctx, options, token, stack))
            try:
                drive = await asyncio.shield(reaching)
            except asyncio.CancelledError:
                await _cancel_unreached(reaching, wanted=spec.attach is not None and not ctx.leaving)
                raise
            return await drive.run()

    async def _reach(
        self, spec: RunSpec, ctx: RunContext, options: Options, token: str | None, stack: AsyncExitStack
    ) -> Drive:
        agent, drive, updates, wire, self._tls = await asyncio.to_thread(_load, self._tls)
        connection = await stack.enter_async_context(agent.connect(options, token, self._tls))
        tracker = updates.Tracker(spec.native_session_id or spec.session_id, spec.attach)
        envelope = wire.Envelope(spec, options, connection.extended, ctx.agent_tools)
        return drive.Drive(spec, ctx, options, connection, tracker, envelope)


async def _cancel_unreached(reaching: asyncio.Future[Drive], *, wanted: bool) -> None:
    """The run is cancelled while its agent is being reached: a task that it has there already is cancelled as well."""
    if wanted:
        await asyncio.wait({reaching}, timeout=UNREACHED_S)
    if not reaching.done():
        reaching.cancel()
        await asyncio.wait({reaching})
    elif wanted and not reaching.cancelled() and reaching.exception() is None:
        await reaching.result().cancel()


def _load(tls: ssl.SSLContext | None) -> Any:
    """Imports what needs the A2A SDK, which takes about a second, and reads the certificates; called in a thread."""
    import httpx

    from backends.remote_a2a import agent, drive, updates, wire

    return agent, drive, updates, wire, tls or httpx.create_ssl_context(trust_env=False)
