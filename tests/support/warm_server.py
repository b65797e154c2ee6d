"""A Python that has imported torch, Lightning and ldm, of which processes are forked: 0.1 s instead of 13 s.

`warm_server.py SOCKET EXECUTABLE` listens until its standard input ends. For each request (arguments,
directory, environment and the three standard streams) a supervisor is forked, and of it the process itself,
which runs the arguments as a new interpreter does. Signals reach it through the supervisor; it dies with its
client.
"""

import array
import atexit
import contextlib
import importlib
import json
import multiprocessing.spawn
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from typing import Any

import numpy as np
import torch

PRELOADED = [
    "torch.utils.flop_counter",
    "ldm.cli.train",
    "ldm.cli.hydra_internals",
    "ldm.cli.help",
    "ldm.training.run",
    "ldm.evaluation.report",
    "ldm.training.callbacks.checkpoints",
    "nbmake.pytest_plugin",
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
]


def _standard_streams() -> None:
    """New text streams on the descriptors 0, 1 and 2, buffered as those of a new interpreter."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        line = fd == 2 or os.isatty(fd)
        errors = "backslashreplace" if fd == 2 else "strict"
        options = {"buffering": 1 if line else -1, "encoding": "utf-8", "errors": errors, "closefd": False}
        stream = open(fd, mode, **options)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _execute(arguments: list[str]) -> None:
    """What `python ARGUMENTS` runs: -c CODE, -m MODULE or FILE, with -W before it."""
    filters = [f for f in os.environ.get("PYTHONWARNINGS", "").split(",") if f]
    while arguments[0].startswith("-W"):
        joined, arguments = arguments[0][2:], arguments[1:]
        filters.append(joined or arguments.pop(0))
    warnings._processoptions(filters)  # type: ignore[attr-defined]
    sys.path[1:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    kind, *rest = arguments
    if kind == "-c":
        code, *rest = rest
        sys.argv, sys.path[0] = ["-c", *rest], ""
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), module.__dict__)
    elif kind == "-m":
        name, *rest = rest
        sys.argv, sys.path[0] = [name, *rest], os.getcwd()
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *rest], os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name="__main__")


def _process(request: dict[str, Any], streams: list[int]) -> None:
    """The process that was asked for; does not return."""
    for fd, stream in enumerate(streams):
        os.dup2(stream, fd)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    _standard_streams()
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.default_generator.seed()
    status = 0
    try:
        _execute(request["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _supervise(connection: socket.socket) -> None:
    """Forks the process of a connection and waits for it; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fds = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * fds.itemsize))
    for _, _, part in ancillary:
        fds.frombytes(part)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _process(json.loads(data), list(fds))
    for fd in fds:
        os.close(fd)
    end = os.pidfd_open(pid)
    while end not in (ready := select.select([end, connection], [], [])[0]):
        assert connection in ready
        said = connection.recv(1)
        os.kill(pid, said[0] if said else signal.SIGKILL)  # an end of the client
        if not said:
            os.waitpid(pid, 0)
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _reap(*_: Any) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(path: str, executable: str) -> None:
    """Imports, listens and forks until standard input ends.

    Args:
        path: of the socket.
        executable: `sys.executable` of the processes, so that their own children start warm.
    """
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:  # which a fork would lose
        print("a package has started threads", flush=True)
        return
    multiprocessing.spawn.set_executable(sys.executable)  # needs descriptors that a client does not pass
    sys.executable = executable
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _supervise(connection)
            connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
