"""Runs `frameseg`, `accelerate` and `python SCRIPT`, each in a process of its own.

The processes are forks of this one, which has imported the libraries before: a command takes what it takes, without the
ten seconds of their import. Folder, environment and the three open files are those of the caller, see
`command_client.py`.

    python command_server.py ADDRESS CLIENT    # a name in the abstract name space; the `python` that accelerate starts
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import socket
import sys

LIBRARIES = (
    "accelerate.commands.accelerate_cli",
    "datasets",
    "hf_frameseg.cli",
    "hf_frameseg.prepared.builder",
    "hf_frameseg.training.evaluation",
    "hf_frameseg.sharing.adapter_folder",
    "hf_frameseg.sharing.frames_repo",
    "hf_frameseg.inference",
    "hf_frameseg.models.xgenmm",
    "hf_frameseg.training.trainer",
    "hf_frameseg.visualization",
    "torch.distributed.run",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
)


def serve(address: str, client: str) -> None:
    """Take commands until standard input ends, which it does with the process that started this one."""
    for library in LIBRARIES:
        importlib.import_module(library)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [], 1)[0]):
            if ready:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    attend(connection, client)
                connection.close()
            reap()


def reap() -> None:
    """Let go of the processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def attend(connection: socket.socket, client: str) -> None:
    """Run one command in a fork and tell the caller how it ended; only the fork returns, by `SystemExit`."""
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    command = os.fork()
    if command:
        status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        connection.sendall(bytes([status if status >= 0 else 128 - status]))
        os._exit(0)
    connection.close()
    request = json.loads(body)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    run(request["words"], client)


def run(words: list[str], client: str) -> None:
    """Do what the command does, to its `SystemExit`."""
    name, *arguments = words
    sys.argv = [name, *arguments]
    if name == "frameseg":
        sys.exit(importlib.import_module("hf_frameseg.cli").main())
    elif name == "accelerate":
        sys.executable = client  # the script that it launches comes back here
        importlib.import_module("accelerate.commands.accelerate_cli").main()
    elif name == "python":
        script = [word for word in arguments if word != "-u"]
        sys.argv, sys.path[0] = script, os.path.dirname(os.path.abspath(script[0]))  # noqa: PTH100, PTH120 - as Python does
        runpy.run_path(script[0], run_name="__main__")
    else:
        sys.exit(f"command_server.py: no command {name!r}")
    sys.exit()


if __name__ == "__main__":
    serve(*sys.argv[1:])
