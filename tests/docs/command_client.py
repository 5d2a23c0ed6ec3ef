"""Hands a command, its folder, environment and open files to `command_server.py`, and ends with its status."""

import json
import os
import socket
import sys


def main() -> int | str:
    """Wait for the end of the command; return its status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + os.environ["HF_FRAMESEG_TEST_COMMANDS"])
        request = {"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
        message = json.dumps(request).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(message)
        status = connection.recv(1)
    return status[0] if status else "command_client.py: the server ended before the command did"


if __name__ == "__main__":
    sys.exit(main())
