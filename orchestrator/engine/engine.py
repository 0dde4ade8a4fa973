"""Commands: spawn, continue and cancel. Queries do not come here; they read the files.

Above: the doors, which bring checked arguments and a caller. Below: the register of live runs, the recovery of those
that lost their owner, and the store. The engine never imports a backend: it is given a function that loads one by
name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator import config, profiles
from orchestrator.backend import Backend
from orchestrator.ends import Stop
from orchestrator.engine import profiled, spawn, tree
from orchestrator.engine.budget import Asked
from orchestrator.engine.caller import Caller
from orchestrator.engine.kin import Kin
from orchestrator.engine.life import STOP_GRACE_S, Life
from orchestrator.engine.lives import Lives
from orchestrator.engine.mail import tell_of_end
from orchestrator.engine.recovery import Recovery
from orchestrator.errors import (
    HostUnavailable,
    InvalidArgument,
    NotOwner,
    PermissionCeiling,
    SessionNotFound,
    StoreError,
    Unsupported,
    WrongState,
    nearest,
)
from orchestrator.model import Answer, JsonObject, Message, ProfileRef, Run, RunSpec, Status, new_id, now
from orchestrator.on_finish import on_finish_of
from orchestrator.profiles import Profile
from orchestrator.store import sessions
from orchestrator.store.create import Created, create_run, find_run
from orchestrator.store.layout import Home, RunDir, Workspace
from orchestrator.store.log import RunLog, uninterrupted
from orchestrator.store.masking import Mask, renewed, secrets_of, without_credentials
from orchestrator.store.members import add_member
from orchestrator.store.owner import owner_alive, read_owner
from orchestrator.store.reader import sealed_spec

__all__ = ["Caller", "Engine"]

logger = logging.getLogger(__name__)


class Engine:
    """All live runs of this process and the commands on them. Used as `async with Engine(...)`.

    Args:
        load_backend: gives the backend of a name, or raises `InvalidArgument` or `BackendUnavailable`.
        socket: where this process takes commands from others; None if it does not.
        scope: recover only runs at or below this directory; None for all.
    """

    def __init__(
        self,
        home: Home,
        load_backend: Callable[[str], Awaitable[Backend]],
        *,
        socket: str | None = None,
        scope: Path | None = None,
    ) -> None:
        self.home = home
        self.lives = Lives(home, socket, self._tell_of_end)
        self.recovery = Recovery(self.lives, load_backend, scope)
        self.kin = Kin(home, self.lives)
        self._load_backend = load_backend
        self._children = asyncio.Lock()
        """Held while a child is spawned: each is counted before the next."""

    async def __aenter__(self) -> Self:
        with contextlib.suppress(InvalidArgument):  # which every spawn is refused with
            self.lives.use(await asyncio.to_thread(self.own_settings))
        await self.lives.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.lives.end()

    async def _tell_of_end(self, spec: RunSpec, to: str, message_id: str, text: str) -> None:
        await tell_of_end(self, spec, to, message_id, text)

    def log_of(self, run_id: str) -> RunLog | None:
        """The log of a run that lives in this process."""
        life = self.lives.get(run_id)
        return life.log if life else None

    def place(self, run_id: str) -> int | None:
        """The place of a run among those that wait for a slot."""
        return self.lives.place(run_id)

    def left(self, run_id: str) -> JsonObject | None:
        """What a live run may still use of its budgets; None if it has none."""
        return self.lives.budgets.left(run_id)

    async def state(self, run_dir: RunDir) -> Run:
        """The run now. One whose owner is gone is recovered first, so that nobody reads a state that is a lie."""
        log = self.log_of(run_dir.run_id)
        return log.run if log is not None else await self.recovery.state(run_dir)

    # ---- spawn ----

    async def spawn(self, arguments: Mapping[str, Any], caller: Caller) -> Run:
        """Starts a run. Its directory is durable and its owner known before this returns.

        Raises:
            OrchestratorError: the call was refused, and nothing is left of it.
        """
        profile = asked = None
        if {"profile", "workspace"} & arguments.keys():  # of which more is made than the call says
            asked = {**arguments, "backend_config": without_credentials(arguments.get("backend_config") or {})}
            known = await asyncio.to_thread(find_run, arguments["cwd"], arguments.get("idempotency_key"), asked)
            if known is not None:  # whatever became of its profile
                await asyncio.to_thread(self._check_visible, known.run_id, caller)
                return await self.state(known)
        if "profile" in arguments:
            profile = await asyncio.to_thread(self._profile, arguments["profile"], arguments["cwd"])
        name = arguments.get("backend") or (profile.fields.get("backend") if profile else None)
        if name is None:
            raise InvalidArgument("give backend, or a profile that names one")
        backend = await self._backend_for(name, caller)
        settings, request = await asyncio.to_thread(self._request, arguments, profile, backend, caller)
        return await self._launch(request._replace(asked=asked), backend, replace(caller, settings=settings))

    def _profile(self, given: str, cwd: str) -> Profile:
        return profiles.find(given, spawn.workspace_path(cwd), self.home.path)

    def _request(
        self, arguments: Mapping[str, Any], profile: Profile | None, backend: Backend, caller: Caller
    ) -> tuple[config.Settings, spawn.Request]:
        settings, parent = self._bounds(caller)
        tree.check_commands(arguments, parent)
        if (session_id := arguments.get("session_id")) is not None and caller.bound:
            workspace = Workspace(spawn.workspace_path(arguments["cwd"]))
            self._check_visible(sessions.last_run(workspace, session_id) or "", caller)
        ref = None
        if profile is not None:
            trusted = profiled.is_trusted(profile, settings)
            profiled.check_reach(profile, spawn.workspace_path(arguments["cwd"]), parent, trusted=trusted)
            ceiling = tree.ceiling_of(settings, parent)
            arguments, ref = profiled.profiled(arguments, profile, backend, ceiling, trusted=trusted)
        elif session_id := arguments.get("session_id"):
            ref = self._profile_of(Workspace(spawn.workspace_path(arguments["cwd"])), session_id)
        return settings, spawn.request_of(arguments, backend, caller.cwd, self.env_for(caller), settings, parent, ref)

    def _profile_of(self, workspace: Workspace, session_id: str) -> ProfileRef | None:
        """The profile of a session that goes on: its agent stays what it is."""
        if (run_id := sessions.last_run(workspace, session_id)) is None:
            return None
        return sealed_spec(self.home, workspace.run(run_id)).profile

    async def _backend_for(self, name: str, caller: Caller) -> Backend:
        if caller.backends is not None and name not in caller.backends:
            raise InvalidArgument(f"no backend {name!r}{nearest(name, caller.backends)}")
        return await self._load_backend(name)

    def _bounds(self, caller: Caller) -> tuple[config.Settings, tree.Parent | None]:
        """The settings in force for a caller, read anew, and the run that it is the agent of."""
        settings = config.load(self.home.path, caller.cwd, caller.env).settings
        parent = None
        if caller.parent_run_id is not None and (own := self.home.find(caller.parent_run_id)):
            life = self.lives.get(own.run_id)
            if life is None and caller.bound:
                raise WrongState("your run is over")
            spec = replace(life.spec, cwd=life.cwd) if life else sealed_spec(self.home, own)
            root = self.home.find(spec.root_run_id) if spec.root_run_id else own
            parent = tree.Parent(spec=spec, root=root or own)
        return settings, parent

    async def _launch(self, request: spawn.Request, backend: Backend, caller: Caller) -> Run:
        await self.recovery.first_round()  # what was there before comes first
        if self.lives.closing:
            raise HostUnavailable("the server is shutting down; spawn the run again in a moment")
        if self.lives.draining is not None and not (self.lives.handing_over and caller.bound):
            raise HostUnavailable(self.lives.draining)
        # finished even when the caller goes away: a run that is on disk has to have a life
        if request.spec.root_run_id is None:
            return await uninterrupted(self._begin(request, backend, caller))
        async with self._children:
            settings, parent = await asyncio.to_thread(self._bounds, caller)
            await asyncio.to_thread(tree.check_depth, settings, parent)
            if parent is not None and not await asyncio.to_thread(_is_known, request):
                wanted = Asked(request.spec.limits, backend.name, backend.abilities)
                await self.lives.budgets.check(parent.spec, wanted)
            return await uninterrupted(self._begin(request, backend, caller))

    def own_settings(self) -> config.Settings:
        """The settings of this process itself, read anew."""
        return config.load(self.home.path, None, os.environ).settings

    def settings_of(self, caller: Caller) -> config.Settings:
        """The settings for a caller that has just come. Files that are wrong are told of when it spawns."""
        try:
            return config.load(self.home.path, caller.cwd, caller.env).settings
        except InvalidArgument as error:
            logger.warning("settings are not used: %s", error)
            return config.Settings()

    async def _begin(self, request: spawn.Request, backend: Backend, caller: Caller) -> Run:
        spec = request.spec
        env = self.env_for(caller)
        secrets = secrets_of(spec.backend_config, {**caller.env, **env}, caller.settings.mask_env)
        mask = Mask(secrets).plus(frozenset(life.face.key for life in self.lives if life.face))
        own, created = await asyncio.to_thread(self._create, request, mask)
        self.lives.use(own)
        if created.log is None:
            assert created.existing is not None
            await asyncio.to_thread(self._check_visible, created.existing.run_id, caller)
            return await self.state(created.existing)
        spec, log = created.spec, created.log
        if spec.root_run_id:
            await asyncio.to_thread(self._join_tree, spec.root_run_id, spec.run_id)
        await self.lives.begin(spec, log, backend, env)
        return log.run

    def _create(self, request: spawn.Request, mask: Mask) -> tuple[config.Settings, Created]:
        own = self.own_settings()  # before anything is written: settings that are wrong refuse the run
        created = create_run(
            self.home,
            request.spec,
            mask,
            nickname=request.nickname,
            idempotency_key=request.idempotency_key,
            asked=request.asked,
            socket=self.lives.socket,
        )
        return own, created

    def _join_tree(self, root_run_id: str, run_id: str) -> None:
        if root := self.home.find(root_run_id):
            add_member(root, run_id)

    def check_writes(self, run_dir: RunDir, caller: Caller) -> None:
        """Refuses an agent that wants to change a repository where it may not; see `tree`. Looks at the disk."""
        tree.check_writes(run_dir.workspace.cwd, self._bounds(caller)[1])

    def _check_visible(self, run_id: str, caller: Caller) -> None:
        if caller.bound and not self.kin.is_in_tree(run_id, caller):
            raise SessionNotFound("no such session in your tree; call list_agents")

    def env_for(self, caller: Caller) -> Mapping[str, str]:
        """What an agent gets of the environment: of a parent that may not do everything that which it was given itself,
        for it could name programs and homes in its own."""
        parent = self.lives.get(caller.parent_run_id) if caller.parent_run_id else None
        if parent and (caller.bound or parent.spec.level != "full_access"):  # its tools have a small one of their own
            return parent.lent_env
        return caller.agent_env

    # ---- continue ----

    async def resume(self, run_dir: RunDir, arguments: Mapping[str, Any], caller: Caller) -> tuple[Run, str]:
        """`continue_run`: answers a waiting run, steers a running one, resumes the session of one that is over.

        Returns:
            The run that goes on, which is a new one after `resume`, and the mode.
        """
        message = spawn.message_of(arguments, required=False, text="text")
        config: JsonObject = arguments.get("backend_config") or {}
        request_id: str | None = arguments.get("request_id")
        decision: str | None = arguments.get("decision")
        run = await self.state(run_dir)
        if run.terminal:
            return await self._resume(run_dir, run, message, request_id or decision, config, caller), "resume"
        life = await self._owned(run_dir)
        if run.status is Status.QUEUED:
            raise WrongState(f"{run.run_id} is queued and takes nothing yet; call wait_runs, or cancel_run")
        if run.status is Status.RUNNING and request_id is None and decision is None:
            if message is None:
                raise InvalidArgument("there is nothing to say; give text or input_message")
            await life.steer(message)
            return life.log.run, "steer"
        credentials = life.check_credentials(config, caller.env) if config else {}
        answer = Answer(decision=decision, message=message, backend_config=credentials)
        if caller.parent_run_id is not None and answer.decision != "deny":
            await asyncio.to_thread(self._check_may_approve, life, request_id, caller)
        await life.answer(request_id, answer)
        return life.log.run, "answer"

    async def _resume(
        self,
        run_dir: RunDir,
        run: Run,
        message: Message | None,
        answering: str | None,
        config: JsonObject,
        caller: Caller,
    ) -> Run:
        if answering is not None:
            raise WrongState(
                f"{run.run_id} is {run.status} and waits for no answer; give only text to resume its session"
            )
        if message is None:
            raise InvalidArgument(f"{run.run_id} is {run.status}; give text or input_message to resume its session")
        old = await asyncio.to_thread(sealed_spec, self.home, run_dir)
        session = await asyncio.to_thread(sessions.load, run_dir.workspace, old.session_id)
        if session.native_session_id is None:
            raise SessionNotFound(f"{run.run_id} ended before its agent opened a session; spawn a new run")
        backend = await self._backend_for(old.backend, caller)
        if "resume" not in backend.abilities:
            raise Unsupported(f"backend {old.backend!r} cannot resume sessions; spawn a new run")
        settings, parent = await asyncio.to_thread(self._bounds, caller)
        await asyncio.to_thread(tree.check_depth, settings, parent)
        tree.check_programs(old.backend_config | config, parent)
        permission, on_approval = tree.under(tree.ceiling_of(settings, parent), old.permission, old.on_approval)
        tree.check_place(old.cwd, permission, parent)
        spec = replace(
            old,
            run_id=new_id("run"),
            message=message,
            created_at=now(),
            session_mode="resume",
            native_session_id=None,
            backend_config=renewed(old.backend_config, config),
            resumed_from_run_id=run.run_id,
            client_cwd=caller.cwd,
            workspace=spawn.going_on(old),
            on_finish=on_finish_of(old.on_finish or {}, None if parent else settings),
            permission=permission,
            on_approval=on_approval,
            **spawn.lineage(parent, old.limits),
        )
        await asyncio.to_thread(spawn.workspace_path, str(spec.cwd))
        spawn.check_abilities(spec, backend, settings)
        return await self._launch(spawn.Request(spec, None, None), backend, replace(caller, settings=settings))

    def _check_may_approve(self, life: Life, request_id: str | None, caller: Caller) -> None:
        """An agent gives its child nothing that it would have to ask for itself."""
        if life.pending(request_id).kind != "approval":
            return
        _, parent = self._bounds(caller)
        if parent and parent.spec.level != "full_access" and parent.spec.on_approval != "allow":
            raise PermissionCeiling(
                f"{parent.spec.run_id} would have to ask for this itself, so it cannot approve it; "
                f"the caller who spawned {parent.root.run_id} can, or deny it"
            )

    # ---- cancel ----

    async def cancel(self, run_dir: RunDir, reason: str | None) -> Run:
        """Ends a run, once its agent's processes are gone. A run that is over stays as it is."""
        run = await self.state(run_dir)
        if run.terminal:
            return run
        life = await self._owned(run_dir)
        life.stop(Stop("cancel", reason))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE_S + 5):
                await life.over()
        return await self.state(run_dir)

    # ---- ownership ----

    async def _owned(self, run_dir: RunDir) -> Life:
        life = self.lives.get(run_dir.run_id)
        if life is not None:
            return life
        owner = await asyncio.to_thread(read_owner, run_dir)
        if await asyncio.to_thread(owner_alive, run_dir) is False:
            raise StoreError(
                f"the process that owned {run_dir.run_id} is gone, and it cannot be taken over now, as on a full disk; "
                "make room, then try again"
            )
        raise NotOwner(
            f"{run_dir.run_id} belongs to process {owner.get('pid', '?')} on {owner.get('host', '?')}, "
            "which takes no commands from here; use the client that spawned it",
            socket=owner.get("socket"),
        )


def _is_known(request: spawn.Request) -> bool:
    """Whether a run was made by the same idempotency key: it is found again, whatever is left for others."""
    if request.idempotency_key is None:
        return False
    digest = sessions.key_digest(request.idempotency_key)
    return sessions.find_key(Workspace(request.spec.cwd), digest) is not None
