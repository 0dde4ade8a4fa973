"""An agent's process: how it is started, and how what it says arrives. Real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator import line_process as module
from orchestrator.errors import BackendError
from orchestrator.process import MARKER, start_of
from orchestrator.updates import AgentProcess
from tests.conftest import wait_until
from tests.unit.line_agents import HURRIED, Place, first, place_at, runs, said


@pytest.fixture
async def place(cwd: Path) -> AsyncGenerator[Place]:
    """A place of this test."""
    async with place_at(cwd) as place:
        yield place


# ---- lines


async def test_lines_are_read_whole_and_in_order(place: Place) -> None:
    script = (
        "for piece in ('a', 'b\\nc\\n', '\\n', '\\u00e9', '\\u6f22\\r\\n', 'no end'): print(piece, end='', flush=True)"
    )
    async with place.python(script) as process:
        assert await said(process) == [b"ab\n", b"c\n", b"\n", "é漢\r\n".encode(), b"no end"]
        assert process.exit_code == 0


async def test_a_line_of_several_megabytes_is_one_line(place: Place) -> None:
    async with place.python("print('x' * 5_000_000, flush=True); print('after')") as process:
        assert await said(process) == [b"x" * 5_000_000 + b"\n", b"after\n"]


@pytest.mark.parametrize("end", ["", "\\nafter\\n"])
async def test_a_line_that_is_too_long_ends_the_run(place: Place, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(module, "LINE_BYTES", 100_000)
    place.ctx.grace_s = HURRIED
    script = f"print('x' * 300_000, end='{end}', flush=True); time.sleep(60)"
    async with place.python(script) as process:
        with pytest.raises(BackendError, match="over 100,000 bytes") as fault:
            await said(process)
    assert fault.value.code == "agent_protocol"


async def test_what_is_said_at_the_same_time_is_not_mixed(place: Place) -> None:
    lines = [letter.encode() * 300_000 + b"\n" for letter in "abcd"]
    async with place.python("for line in sys.stdin: print(line, end='', flush=True)") as process:
        listening = asyncio.create_task(said(process))
        await asyncio.gather(*map(process.write, lines))
        process.close_stdin()
        assert sorted(await listening) == lines


async def test_saying_something_to_a_process_that_is_gone_is_no_fault(place: Place) -> None:
    async with place.python("sys.exit(3)") as process:
        assert await said(process) == []
        for _ in range(3):
            await process.write(b"x" * 100_000)
        process.close_stdin()
        await process.write(b"x")
        assert process.exit_code == 3


@pytest.mark.parametrize(("script", "code"), [("pass", 0), ("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)])
async def test_the_exit_code_is_known_when_the_lines_have_ended(place: Place, script: str, code: int) -> None:
    async with place.python(script) as process:
        assert await said(process) == []
        assert process.exit_code == code


async def test_a_large_stderr_is_drained_and_its_end_is_kept(place: Place) -> None:
    script = "for n in range(60_000): sys.stderr.write(f'line {n} ' + 'y' * 90 + '\\n')\nprint('said')"
    async with place.python(script) as process:
        assert await said(process) == [b"said\n"]
        assert [line.split()[1] for line in process.errors] == [str(n) for n in range(59_950, 60_000)]


async def test_an_odd_stderr_is_kept_in_short(place: Place) -> None:
    script = "sys.stderr.buffer.write(b'z' * 3_000_000 + b'end\\n\\n \\n\\xff\\xfe\\nlast')"
    async with place.python(script) as process:
        await said(process)
        long, *rest = process.errors
        assert len(long) <= 2000
        assert rest == ["\ufffd\ufffd", "last"]


# ---- the end of what it says


HOLDER = "import time; print('held', flush=True); time.sleep(1000)"


async def test_a_grandchild_that_keeps_stdout_open_does_not_hold_up_the_end(place: Place) -> None:
    script = f"subprocess.Popen([sys.executable, '-c', {HOLDER!r}], start_new_session=True); print('said'); sys.exit(4)"
    async with place.python(script) as process:
        assert sorted(await said(process)) in ([b"said\n"], [b"held\n", b"said\n"])
        assert process.exit_code == 4
        assert len(place.marked()) == 1, "it is ended with the block"


CHATTERERS = ["import time\nwhile True: print('more', flush=True); time.sleep(0.01)", "while True: print('more' * 99)"]


@pytest.mark.parametrize("script", CHATTERERS, ids=["now and then", "all the time"])
async def test_a_grandchild_that_goes_on_talking_does_not_hold_up_the_end(
    place: Place, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HURRY_S", 0.2)
    heard: set[bytes] = set()
    async with place.python(
        f"print('said', flush=True); subprocess.Popen([sys.executable, '-c', {script!r}])"
    ) as process:
        async with asyncio.timeout(5):
            async for line in process.lines():
                heard.add(line[:4])
        assert process.exit_code == 0
    assert b"said" in heard


async def test_what_was_said_before_the_end_is_told_to_a_slow_listener_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_BYTES", 100)
    monkeypatch.setattr(module, "HURRY_S", 0.1)
    async with place.python(
        "os.write(1, b'early\\n' * 50); sys.stdin.readline(); os.write(1, b'late\\n' * 50)"
    ) as process:
        assert await first(process) == b"early\n"
        await process.write(b"go\n")
        await wait_until(lambda: process.exit_code is not None, "the process has ended")
        late = asyncio.get_running_loop().time() + 4 * module.HURRY_S
        await wait_until(lambda: asyncio.get_running_loop().time() > late, "whoever is impatient would have given up")
        assert await said(process) == [b"early\n"] * 49 + [b"late\n"] * 50


# ---- the beginning


async def test_the_process_is_told_before_anything_else(place: Place) -> None:
    async with place.python("print(os.getpgid(0), os.getsid(0), os.getcwd(), flush=True); sys.stdin.read()") as process:
        (told,) = place.ctx.told
        assert isinstance(told, AgentProcess)
        assert told == AgentProcess(pid=process.pid, pgid=process.pid, start_time=process.start_time)
        assert abs(start_of(process.pid) - told.start_time) < 0.02
        assert await first(process) == f"{process.pid} {process.pid} {place.cwd}\n".encode()


async def test_nothing_is_left_when_the_process_cannot_be_told(place: Place) -> None:
    place.ctx.fault = RuntimeError("the disk is full")
    place.ctx.grace_s = HURRIED
    with pytest.raises(RuntimeError, match="disk is full"):
        await place.shell("sleep 1000").__aenter__()
    (told,) = place.ctx.told
    assert isinstance(told, AgentProcess)
    assert not runs(told.pid)


async def test_it_gets_its_environment_and_the_marker_and_no_more(place: Place) -> None:
    async with place.start("/usr/bin/env", "-0") as process:
        (line,) = await said(process)
    assert sorted(line.decode().strip("\0").split("\0")) == sorted(
        [f"PATH={os.environ['PATH']}", f"{MARKER}={place.run_id}"]
    )


async def test_it_inherits_the_descriptor_that_it_is_to_keep_and_no_other(place: Place) -> None:
    reader, writer = os.pipe()
    try:
        os.set_inheritable(writer, True)
        os.write(writer, b"x")
        script = f"import os; print(os.read({reader}, 99), *os.listdir('/dev/fd'))"
        async with place.start(sys.executable, "-c", script, keep=(reader,)) as process:
            (line,) = await said(process)
    finally:
        os.close(reader)
        os.close(writer)
    heard, *numbers = line.decode().split()
    assert heard == "b'x'"
    assert {"0", "1", "2", str(reader)} <= set(numbers)
    assert str(writer) not in numbers


@pytest.mark.parametrize("words", [("./missing",), ("./text",), ("/bin/echo", "x" * 200_000)])
async def test_what_cannot_be_started_is_unavailable(place: Place, words: tuple[str, ...]) -> None:
    (place.cwd / "text").touch(mode=0o644)
    with pytest.raises(BackendError, match=f"cannot start {words[0]} in ") as fault:
        await place.start(*words).__aenter__()
    assert fault.value.code == "backend_unavailable"
    assert place.ctx.told == []


async def test_a_place_that_is_gone_is_not_blamed_on_the_program(place: Place) -> None:
    place.cwd = place.cwd / "gone"
    with pytest.raises(BackendError, match="gone") as fault:
        await place.shell("true").__aenter__()
    assert fault.value.code == "backend_unavailable"
