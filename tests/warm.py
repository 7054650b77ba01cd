"""Commands run in forks of one process that has loaded its libraries.

What a command does with a test's data takes less time than the imports before it. So a workflow,
or an example of the README, finds other programs named `genobird` and `python`, which pass their
arguments, folder, environment and streams on to this process, and end as its fork does.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
name, *words = os.path.basename(sys.argv[0]), *sys.argv[1:]
if name == "python" and not (words[:1] == ["-m"] and words[1].startswith("pipelines.")):
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"-"], [0, 1, 2])
server.sendall(json.dumps([[name, *words], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
sys.exit(server.recv(1)[0])
"""


@contextmanager
def warm_commands(folder: Path, working: Path) -> Iterator[None]:
    """Make the programs in a folder, and run what they are given until the end."""
    folder.mkdir()
    address = str(folder / "socket")
    for name in ("genobird", "python"):
        program = folder / name
        program.write_text(CLIENT.format(python=sys.executable, address=address))
        program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        code = "from tests.warm import serve; serve()"
        root = Path(__file__).resolve().parents[1]
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=listener.fileno(),
            cwd=working,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def serve() -> None:
    """Fork for each request to the socket at file descriptor 0."""
    import pytorch_lightning  # noqa: F401

    import genobird.cli  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the tests' terminal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for forks
    listener = socket.socket(fileno=os.dup(0))
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            code = 1
            try:
                code = _run(connection)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                connection.sendall(bytes([code]))
                os._exit(code)
        connection.close()


def _run(connection: socket.socket) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of the server may be files: what they know of themselves is not true of a pipe.
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
    )
    argv, folder, environment = json.loads(connection.makefile().readline())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        if argv[0] == "genobird":
            from genobird.cli import main

            sys.argv = argv
            return main(argv[1:])
        sys.argv = argv[2:]
        runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
