"""`python pipe.py SOCKET` joins its own stdin and stdout with a Unix socket until either side ends. Standard library
only: an agent starts it as its MCP server."""

from __future__ import annotations

import os
import socket
import sys
import threading

PIECE = 64 * 1024


def main() -> None:
    """Bytes both ways."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(sys.argv[1])
    threading.Thread(target=_send, args=(connection,), daemon=True).start()
    while piece := connection.recv(PIECE):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    os._exit(0)  # the thread may still wait for stdin


def _send(connection: socket.socket) -> None:
    while piece := os.read(0, PIECE):
        connection.sendall(piece)
    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
