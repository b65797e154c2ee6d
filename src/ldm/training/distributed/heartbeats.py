"""Connections between the ranks of a run: one that dies takes the others with it in seconds, and is named."""

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

BEAT, LEFT, LOST = b"beat", b"left", b"lost "


class Line:
    """A connection to another rank, with a thread that listens.

    Args:
        peer: the other rank's name, for messages.
        connection: the socket.
        silence: seconds without a word after which the other one is lost.
        lost: told which rank is lost, and how.
    """

    def __init__(
        self, peer: str, connection: socket.socket, silence: float, lost: Callable[[str], None]
    ) -> None:
        self.peer, self.connection, self.silence, self.lost = peer, connection, silence, lost
        self._closing = threading.Event()
        connection.settimeout(silence)
        for work in (self._listen, self._beat):
            threading.Thread(target=work, name=f"peer {peer}", daemon=True).start()

    def say(self, word: bytes) -> None:
        """Sends a word, if the other side is still there."""
        with contextlib.suppress(OSError):  # the listener will notice
            self.connection.sendall(word + b"\n")

    def _beat(self) -> None:
        while not self._closing.wait(self.silence / 5):
            self.say(BEAT)

    def _listen(self) -> None:
        word, reader = BEAT, self.connection.makefile("rb")
        while word == BEAT:
            try:
                word = reader.readline().strip()
            except TimeoutError:
                return self._end(f"{self.peer} has said nothing for {self.silence:.0f} s")
            except OSError:
                word = b""
        if word == LEFT:
            self._closing.set()
        else:
            told = word.removeprefix(LOST).decode(errors="replace")
            self._end(told if word.startswith(LOST) else f"{self.peer} is gone")
        return None

    def _end(self, what: str) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self.lost(what)

    def leave(self) -> None:
        """Announces a regular end, after which a closed connection means no failure."""
        self._closing.set()
        self.say(LEFT)


class Heartbeats:
    """Ends this process when another rank of the run dies, rather than wait for it in a collective operation.

    Each rank keeps a connection to the first one, which breaks when a process dies, in whatever way, and
    beats, so that a node without power or network is noticed, too. What is on the disk stays whole:
    checkpoints appear at once or not at all.

    Args:
        rank: of this process.
        world: number of ranks.
        address: of the first rank's host.
        broadcast: gives all ranks what the first one has.
        silence: seconds without a word from a rank after which it is taken for dead.
    """

    def __init__(
        self, rank: int, world: int, address: str, broadcast: Callable[[Any], Any], silence: float
    ) -> None:
        self.silence = silence
        self._lines: list[Line] = []
        self._ending = threading.Lock()
        self._me = f"rank {rank} ({socket.gethostname()}, process {os.getpid()})"
        server = socket.create_server(("", 0)) if rank == 0 else None
        port = server and server.getsockname()[1]
        port, secret, hub = broadcast((port, secrets.token_hex(), self._me))
        if server is None:
            connection = socket.create_connection((address, port), timeout=silence)
            connection.sendall(f"{secret} {self._me}\n".encode())
            self._lines.append(Line(hub, connection, silence, self._lost))
            return
        with server:
            server.settimeout(silence)
            while len(self._lines) < world - 1:
                self._accept(server, secret)

    def _accept(self, server: socket.socket, secret: str) -> None:
        """Waits for a rank; others who call are not listened to."""
        connection, _ = server.accept()
        connection.settimeout(self.silence)
        said = connection.makefile("rb").readline(500).decode(errors="replace").strip()
        told, _, peer = said.partition(" ")
        if secrets.compare_digest(told.encode(), secret.encode()):
            self._lines.append(Line(peer, connection, self.silence, self._lost))
        else:
            connection.close()

    def _lost(self, what: str) -> None:
        """Notifies the other ranks and ends this process."""
        if not self._ending.acquire(blocking=False):
            return
        log.error("%s: %s ends, too", what, self._me)
        for line in self._lines:
            line.say(LOST + what.encode())
        for handler in logging.getLogger().handlers:
            handler.flush()
        os._exit(1)

    def fail(self) -> None:
        """Notifies the other ranks of this rank's failure, unless a dead one ends it first."""
        threading.Event().wait(2.0)
        for line in self._lines:
            line.say(LOST + f"{self._me} has failed".encode())
        self.leave()

    def leave(self) -> None:
        """Announces a regular end."""
        for line in self._lines:
            line.leave()
