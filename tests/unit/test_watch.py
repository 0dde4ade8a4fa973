"""What a host watches about itself: a loop that stands still, and children that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import subprocess
import sys
import threading

import pytest

from orchestrator.host import watch

DEADLINE_S = 10.0


class _Heard(logging.Handler):
    """Notes what is logged, and lets others wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.one = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Notes a record."""
        self.said.append(record.getMessage())
        self.one.set()


def stand_still(until: threading.Event) -> None:
    """Blocks, as no function may that runs in a loop."""
    until.wait(DEADLINE_S)


async def test_a_loop_that_stands_still_is_logged_with_its_stack_once() -> None:
    heard = _Heard()
    watch.logger.addHandler(heard)
    lag = watch.LagWatch(asyncio.get_running_loop())
    try:
        for number in range(2):
            heard.one.clear()
            stand_still(heard.one)
            assert heard.one.is_set(), "nothing was logged"
            assert len(heard.said) == number + 1
            assert "stand_still" in heard.said[number]
            await asyncio.sleep(0)
    finally:
        lag.close()
        watch.logger.removeHandler(heard)


_ORPHANS = """
import json, os, subprocess, sys
from orchestrator.host import watch
import psutil

watch.adopt_orphans()
parent = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], "
parent += "stdin=0, stdout=2); print(p.pid)"
reader, writer = os.pipe()
first = subprocess.run([sys.executable, "-c", parent], stdin=reader, stdout=subprocess.PIPE, check=True)
orphan = psutil.Process(int(first.stdout))
adopted = orphan.ppid() == os.getpid()
os.close(writer)
os.waitid(os.P_PID, orphan.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not buried
graves = watch.Zombies()
graves.bury()
before = orphan.is_running()
own = subprocess.Popen([sys.executable, "-c", ""])
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
graves.bury()
print(json.dumps([adopted, before, orphan.is_running(), own.wait()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the first process of the system adopts orphans")
def test_orphans_are_adopted_and_buried_but_no_child_that_somebody_waits_for() -> None:
    out = subprocess.run([sys.executable, "-c", _ORPHANS], stdout=subprocess.PIPE, check=True, timeout=30)
    assert json.loads(out.stdout) == [True, True, False, 0]


def test_the_limit_on_open_files_is_raised_as_far_as_allowed() -> None:
    script = (
        "import resource; from orchestrator.host import watch; resource.setrlimit(resource.RLIMIT_NOFILE, (64, {0}));"
    )
    script += "watch.allow_many_files(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    out = subprocess.run([sys.executable, "-c", script.format(most)], stdout=subprocess.PIPE, check=True, timeout=30)
    assert int(out.stdout) == most
