"""The seam between the engine and the agents: a backend is one coroutine.

Above: the engine, which calls `run` and records what it emits. Below: one package per kind of agent. A backend knows
nothing of files, sequence numbers, locks or MCP; the engine knows nothing of Codex, Claude Code or A2A.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal, Protocol

from orchestrator.config import Settings
from orchestrator.ends import Outcome
from orchestrator.model import Answer, InputRequest, JsonObject, Message, RunSpec, Usage
from orchestrator.updates import Update

Ability = Literal[
    "steer", "resume", "fork", "permission", "images", "attach",
    "max_turns", "max_tokens", "max_cost_usd",
    "instructions", "model", "effort", "tools", "disallowed_tools",
    "agent_tools",
]  # fmt: skip
"""Those of the second line are budgets that hold for it, for it says what its agent uses. Those of the third are what
of a profile it takes in `backend_config`; `instructions` as `append_system_prompt`, otherwise the prompt tells them.
The last: it gives its agents our own tools."""


DENIED = "The caller denied this"


def denial(reason: str = "") -> str:
    """How an agent is told that something was denied; it begins with DENIED whatever the reason."""
    return f"{DENIED}: {reason}" if reason else f"{DENIED}."


class AgentTools(Protocol):
    """Our own tools in the hands of a run's agent: by them it asks its caller and talks to other agents.

    They need no permission, and may take as long as the caller does.
    """

    @property
    def server(self) -> JsonObject:
        """An MCP server that offers them, as in `mcp_servers`: for agents that can start one."""
        ...

    def listed(self) -> list[JsonObject]:
        """The tools as MCP lists them, `{name, description, inputSchema}`: for agents elsewhere."""
        ...

    async def call(self, call_id: str, name: str, arguments: JsonObject) -> JsonObject:
        """Calls one for such an agent. Returns MCP's result, `{content, isError?}`, whatever becomes of the call.

        Args:
            call_id: the same for the same call made again, as after a crash: it spawns nothing twice.
        """
        ...


class RunContext(Protocol):
    """Everything an agent may do to its run. Valid until `Backend.run` returns."""

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of the client that asked for the run. Held in memory only."""
        ...

    @property
    def agent_tools(self) -> AgentTools | None:
        """Our own tools for the agent; None if it is to have none."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings of this process: those that only the user's own file can widen are the same for everybody."""
        ...

    @property
    def metered(self) -> bool:
        """Whether a budget of what the agent uses holds: `spend` is to be told before each of its steps."""
        ...

    @property
    def grace_s(self) -> float:
        """How long cleaning up may take once the run is cancelled, in seconds; little when this process ends."""
        ...

    @property
    def leaving(self) -> bool:
        """Whether this process ends and the run goes on under its next owner: stop, and leave the remote work alone.

        Only for backends that can `attach`.
        """
        ...

    async def emit(self, update: Update) -> None:
        """Records one update. Returns once it is in the log, so that a slow disk slows the agent, not the memory.

        `AgentProcess`, `SessionBound` and `RemoteRef` are durable when it returns.
        """
        ...

    async def spend(self, usage: Usage, *, more: bool) -> bool:
        """What this call of `run` used so far, in all: recorded, and charged to the budgets that hold.

        Args:
            more: the agent goes on from here; otherwise it is just coming to its end, and is let come to it.

        Returns:
            False if a budget is used up: nothing more may be begun, and the run is being ended.
        """
        ...

    async def rest(self) -> None:
        """Waits until the provider, whose limit `RateLimited` told of, takes requests again.

        Raises:
            BackendError: that is too far away to wait for.
        """
        ...

    async def ask(self, request: InputRequest) -> Answer:
        """Pauses the run until the caller answers. Several may be pending at once.

        Cancelling the await withdraws the request. Request ids are deterministic per backend: an id that the log
        already shows as pending is joined, not asked anew.

        Raises:
            BackendError: nobody answered a question, an input or a login in time (`input_timeout`). An approval
                that nobody gave is answered with `deny` instead.
        """
        ...

    def steering(self) -> AsyncIterator[Message]:
        """What the caller says while the run is running, oldest first; only for backends that can `steer`."""
        ...

    async def end_steering(self, over: Callable[[], bool]) -> bool:
        """Whether the run is over, so that nothing more is accepted for it: what would be, nobody would hear.

        Returns when whoever reads `steering` has come back for more than was said.

        Args:
            over: whether there is nothing more to do, now that all was heard.
        """
        ...


class Backend(Protocol):
    """One kind of agent."""

    @property
    def name(self) -> str:
        """What callers write in `spawn_run(backend=...)`."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it supports; the engine refuses the rest as `unsupported`."""
        ...

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """Refuses what can be known to be wrong before anything starts. No I/O.

        Args:
            settings: those in force for the caller.

        Raises:
            InvalidArgument: `backend_config` or a limit is wrong.
            Unsupported: the agent cannot do what was asked.
            PermissionCeiling: the user's settings do not allow it.
        """
        ...

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """Whether an environment has what this run needs.

        Asked after a crash, when the environment of the run's client is lost: a run that is not ready with an empty
        one waits for a client at the same place.
        """
        ...

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """Drives one run from first prompt to outcome. Called once per run, by one task; many runs at a time.

        With `spec.attach` the run had begun under another owner: only backends that can `attach` get such a spec.

        Cancellation is the only stop signal: clean up in `finally`, every await there with a deadline. Expected
        trouble is raised as `BackendError`; any other exception is a defect and is recorded as one (`internal`).
        After returning, `ctx` must not be used.
        """
        ...
