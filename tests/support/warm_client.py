"""A process of `warm_server.py` with the arguments, directory, environment and streams of this one.

`warm_client.py SOCKET ARGUMENTS` ends as `python ARGUMENTS` would; signals are passed on.
"""

import array
import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv.pop(1))
    request = {"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    data = json.dumps(request).encode() + b"\n"
    sent = server.sendmsg([data], rights)
    server.sendall(data[sent:])
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"):
        signal.signal(getattr(signal, name), lambda number, _: server.sendall(bytes([number])))
    status = int(server.makefile().readline() or 1)
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
