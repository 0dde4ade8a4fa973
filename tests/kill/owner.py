"""An MCP client as a process: it owns a bridge as its child, as real clients do, and passes lines on both ways.

Its first line says which process the bridge is. It ends when its bridge ends, or its own input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading


def main() -> None:
    """Starts the bridge with the arguments given, and serves until one of both sides ends."""
    command = [sys.executable, "-m", "orchestrator", "mcp", *sys.argv[1:]]
    bridge = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert bridge.stdin is not None
    _say(json.dumps({"bridge": bridge.pid}).encode() + b"\n")
    threading.Thread(target=_pass_up, args=(bridge,), daemon=True).start()
    try:
        for line in sys.stdin.buffer:
            bridge.stdin.write(line)
            bridge.stdin.flush()
        bridge.stdin.close()
    except OSError:  # the bridge is gone, which the other thread sees too
        pass
    bridge.wait()
    os._exit(0)


def _pass_up(bridge: subprocess.Popen[bytes]) -> None:
    assert bridge.stdout is not None
    for line in bridge.stdout:
        _say(line)
    bridge.wait()
    os._exit(0)


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
