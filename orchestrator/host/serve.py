"""The host's process: from its lock to its end.

It takes the lock, listens, recovers what dead owners left, and serves until nobody needs it: no live run and no
client for a while, its home gone, a signal, or a word from `orchestrator host stop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, NoReturn

from orchestrator import __version__
from orchestrator.errors import OrchestratorError
from orchestrator.host import watch
from orchestrator.host.launch import find, greet
from orchestrator.host.place import API, HostError, Place, within_reach
from orchestrator.logs import JsonLines
from orchestrator.process import ProcessId

logger = logging.getLogger(__name__)

IDLE_S = 600.0
"""How long a host without clients and live runs stays, unless the setting `host_idle_s` says otherwise."""
LOOK_S = 2.0
"""How often it looks whether it is still needed."""
RECOVER_S = 30.0
"""How often it looks for runs that lost their owner."""
REAPING_S = 5.0
"""How long the first clients wait until nothing is left of dead owners' agents. What follows goes on while they are
served: questions about a run wait until it has been looked at, and new runs until all were."""
LEAVE_S = 3.0
"""How long the end may take once somebody asked for it at once."""
THREADS = 32
BACKLOG = 128
LOG_BYTES = 1_000_000


def serve(*, key: str | None, lock: int | None, status: int | None, detach: bool) -> int:
    """Is the host until it ends. Returns the exit code; a host that has served ends the process itself.

    Args:
        key: of the place whose lock is inherited.
        lock: descriptor of the lock that the starter took for us.
        status: descriptor of a pipe to say `listening` on, or why not.
        detach: go on in a process that is nobody's child.
    """
    if detach and os.fork():
        os._exit(0)
    try:
        opened = _open(key, lock)
    except Exception as error:
        _say(status, str(error) or repr(error))
        sys.stderr.write(f"orchestrator: {error}\n")
        if isinstance(error, (HostError, OSError)):
            return 6
        raise
    _say(status, "listening")
    if opened is None:
        return 0
    _log_to(opened[0])
    try:
        asyncio.run(_Host(*opened).run())
    except BaseException:
        logger.exception("the host ends by a defect")
        _leave(1)
    return 0


def _leave(code: int) -> NoReturn:
    """Ends the process at once: a thread that hangs on a dead disk keeps nobody alive."""
    logging.shutdown()
    os._exit(code)


def _say(status: int | None, text: str) -> None:
    if status is not None:
        with contextlib.suppress(OSError):
            os.write(status, text.encode())
            os.close(status)


class _PrivateLog(RotatingFileHandler):
    """A log that nobody else may read, after it was rotated too."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")


def _log_to(place: Place) -> None:
    """From now on there is a log, and nothing else that this process could write on."""
    handler = _PrivateLog(place.log, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("mcp").setLevel(logging.WARNING)  # it logs every request
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    logger.info("host %s of version %s listens", place.key, __version__)


def _open(key: str | None, lock: int | None) -> tuple[Place, socket.socket] | None:
    """Takes our place and listens there. None when another host of this version is there already.

    A starter whose version was replaced on disk holds the lock of a place that is not ours: it is told where we are.
    """
    place = Place.own()
    place.make()
    if key is not None and key != place.key:
        Place(str(Path(place.directory).with_name(key))).describe({"socket": place.socket})
        if lock is not None:
            os.set_inheritable(lock, False)  # kept for our life, or its starters would try again and again
        lock = None
    if lock is None and (lock := place.take()) is None:
        return None
    os.set_inheritable(lock, False)
    listener = _listen(place)
    place.describe(_about(place))
    return place, listener


def _about(place: Place) -> dict[str, Any]:
    process = ProcessId.own()
    return {
        "pid": process.pid,
        "start_time": process.start_time,
        "api": API,
        "build": __version__,
        "prefix": sys.prefix,
        "socket": place.socket,
    }


def _listen(place: Place) -> socket.socket:
    """The listening socket. What is in its way is removed only if it is a socket of ours, for we hold the lock."""
    path = Path(place.socket)
    with contextlib.suppress(FileNotFoundError):
        facts = path.lstat()
        if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != os.getuid():
            raise HostError(f"{path} is in the way and is no socket of ours; remove it")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with within_reach(place.socket) as short:
        listener.bind(short)
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


class _Host:
    """One host, while it serves."""

    def __init__(self, place: Place, listener: socket.socket) -> None:
        # slow, so not before the socket listens: a client's connection waits there
        from backends import BACKENDS, SCRIPTED, Backends
        from orchestrator.engine.engine import Engine
        from orchestrator.host.server import Server
        from orchestrator.store.layout import Home

        self._place = place
        self._listener = listener
        self._inode = _inode(place.socket)
        self._idle_s = IDLE_S
        self._how: Literal["drain", "cancel", "now", "idle"] | None = None
        self._asked = asyncio.Event()
        backends = Backends({**BACKENDS, **SCRIPTED})
        offered = {False: frozenset(BACKENDS), True: frozenset(backends.known)}
        self._engine = Engine(Home.default(), backends.load, socket=place.socket)
        self._server = Server(self._engine, lambda scripted: offered[scripted], _about(place), self.stop)
        self._server.hear_agents(place.socket)

    async def run(self) -> NoReturn:
        """Recovers, serves, ends the process."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "disk"))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop, "now")
        watch.adopt_orphans()
        watch.allow_many_files()
        watch.LagWatch(loop)
        self._use_settings()
        await self._engine.lives.open()
        self._recovering = asyncio.create_task(self._recover())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAPING_S):
                await self._engine.recovery.reaped.wait()
        serving = asyncio.create_task(self._server.serve(self._listener))
        chores = asyncio.create_task(self._chores())
        await asyncio.to_thread(self._take_over_from_others)
        await self._wait_for_the_end()
        chores.cancel()
        self._server.ending = True
        self._leave_place()
        if self._how != "now":
            await self._server.bid_farewell(self._how or "done")
        await self._engine.lives.close()
        self._server.abandon_sessions()
        serving.cancel()
        logger.info("the host ends")
        _leave(0)

    def stop(self, how: str) -> None:
        """Ends the host: `drain` when its live runs are over, `cancel` after cancelling them, `now` at once; `hand
        over` only makes room for a host of another version."""
        logger.info("asked to end: %s", how)
        match how:
            case "hand over":
                self._engine.lives.draining = "a host of another version takes over; try again in a moment"
                self._engine.lives.handing_over = True
                self._asked.set()
                return
            case "now":
                # if something hangs, this does not
                threading.Thread(target=_leave_after, args=(LEAVE_S,), daemon=True).start()
            case _:
                pass
        self._engine.lives.handing_over = False
        self._engine.lives.draining = "the host is being stopped and takes no new runs; try again in a moment"
        self._how = how  # type: ignore[assignment]  the words are checked where they come from
        self._asked.set()

    async def _wait_for_the_end(self) -> None:
        """Returns when nothing is left to do before the end."""
        while True:
            self._asked.clear()
            if self._server.successor is not None:
                await self._server.bid_farewell("another version takes over")
            if self._how in ("now", "idle"):
                return
            if self._how == "cancel":
                await self._engine.lives.cancel_all("the host was stopped")
                return
            if not self._engine.lives and (self._how == "drain" or self._server.successor is not None):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()

    def _leave_place(self) -> None:
        """Nobody connects any more. The lock goes with the process."""
        with contextlib.suppress(OSError):
            if _inode(self._place.socket) == self._inode:
                Path(self._place.socket).unlink()

    async def _recover(self) -> None:
        try:
            logger.info("recovered %d runs", await self._engine.recovery.recover())
        except Exception:
            logger.exception("recovery met a defect")

    async def _chores(self) -> None:
        zombies = watch.Zombies()
        recovered = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if _inode(self._place.socket) != self._inode:
                logger.warning("the home is gone")
                self.stop("now")
            elif self._is_idle():
                self.stop("idle")
            elif time.monotonic() - recovered > RECOVER_S:
                await asyncio.to_thread(zombies.bury)
                await self._recover()
                recovered = time.monotonic()

    def _is_idle(self) -> bool:
        since = self._server.idle_since
        busy = self._engine.lives or self._engine.lives.outbox
        return not busy and since is not None and time.monotonic() - since > self._idle_s

    def _use_settings(self) -> None:
        try:
            settings = self._engine.own_settings()
        except OrchestratorError as error:
            logger.warning("settings are not used: %s", error)
            return
        self._engine.lives.use(settings)
        self._idle_s = settings.host_idle_s
        logging.getLogger().setLevel(settings.log_level.upper())

    def _take_over_from_others(self) -> None:
        """Hosts of other versions in this Python environment take no new runs from now on."""
        line = {"orchestrator": API, "control": "drain", "socket": self._place.socket}
        for directory in Path(self._place.directory).parent.iterdir():
            other = Place(str(directory))
            if other.key == self._place.key or other.about().get("prefix") != sys.prefix:
                continue
            with contextlib.suppress(HostError, OSError):
                if connection := find(other):
                    with connection:
                        greet(connection, line, time.monotonic() + LOOK_S)
                    logger.info("host %s makes room", other.key)


def _leave_after(seconds: float) -> None:
    time.sleep(seconds)
    logger.error("the host hangs and is ended")
    _leave(1)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
