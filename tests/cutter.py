"""A unix socket that leads to the engine until it is cut."""
from __future__ import annotations

import contextlib
import os
import socket
import threading


class Cutter:
    """Leads to the engine of DOCKER_HOST until `cut`: then nothing does any more, until `listen`."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self.path, self._ends, self._lock = str(path), list[socket.socket](), threading.Lock()
        self._engine = os.environ["DOCKER_HOST"].partition("://")[2]
        self.listen()

    def listen(self) -> None:
        """Lead to the engine (again)."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(50)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def on_request(self, data: bytes, near: socket.socket) -> bool:
        """Whether these bytes for the engine are passed on."""
        return True

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                with self._lock:
                    if listener.fileno() < 0:  # it was cut meanwhile
                        return self._close(near, far)
                    self._ends += [near, far]
                for source, goal in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, goal, source is near), daemon=True).start()

    def _carry(self, source: socket.socket, goal: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_request and not self.on_request(data, source):
                    return
                goal.sendall(data)
            goal.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Lead nowhere."""
        os.unlink(self.path)
        with self._lock:
            self._close(self._listener, *self._ends)
            self._ends = []

    @staticmethod
    def _close(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
