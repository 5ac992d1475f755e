"""A container engine's HTTP API, for what tests prepare and look after; on purpose not the code under test."""
from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from typing import IO, Any, Iterator
from urllib.parse import urlencode

DEFAULT = "unix:///var/run/docker.sock"


class EngineFailed(Exception):
    """The engine refused, in its own words."""


class Engine:
    """One engine at unix://PATH or tcp://HOST:PORT; every call is a connection of its own."""

    def __init__(self, address: str = "", *, timeout: float = 1800) -> None:
        self.address = address or os.environ.get("COG_TEST_ENGINE") or os.environ.get("DOCKER_HOST") or DEFAULT
        self._timeout = timeout

    def _connect(self) -> http.client.HTTPConnection:
        kind, _, place = self.address.partition("://")
        if kind != "unix":
            return http.client.HTTPConnection(place, timeout=self._timeout)
        connection = http.client.HTTPConnection("engine", timeout=self._timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(self._timeout)
        connection.sock.connect(place)
        return connection

    def answers(self) -> bool:
        """True when something answers /_ping."""
        try:
            self.call("GET", "/_ping")
        except (OSError, http.client.HTTPException, EngineFailed):
            return False
        return True

    def call(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """The answer's JSON (bytes where it is none). A dict goes as JSON, bytes and files as a tar.

        Raises EngineFailed: for a status of 400 or more.
        """
        connection = self._connect()
        try:
            content = b"".join(self._answer(connection, method, path, query, body))
        finally:
            connection.close()
        try:
            return json.loads(content)
        except ValueError:
            return content

    def run(self, body: dict[str, Any]) -> Any:
        """What a container says on its stdout until it ends, its JSON if it is any; the container is removed."""
        container = self.call("POST", "/containers/create", None, body)["Id"]
        try:
            self.call("POST", f"/containers/{container}/start")
            self.call("POST", f"/containers/{container}/wait")
            return self.call("GET", f"/containers/{container}/logs", {"stdout": 1})
        finally:
            self.call("DELETE", f"/containers/{container}", {"force": 1})

    def stream(self, method: str, path: str, query: dict[str, Any], body: Any = None) -> Iterator[dict[str, Any]]:
        """The JSON lines of an answer that comes bit by bit.

        Raises EngineFailed: for a refusal, and for an error line in the stream.
        """
        connection = self._connect()
        try:
            rest = b""
            for piece in self._answer(connection, method, path, query, body):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        message = json.loads(line)
                        if "error" in message:
                            raise EngineFailed(message["error"])
                        yield message
        finally:
            connection.close()

    @staticmethod
    def _answer(connection: http.client.HTTPConnection, method: str, path: str, query: dict[str, Any] | None,
                body: bytes | IO[bytes] | dict[str, Any] | None) -> Iterator[bytes]:
        where = path + ("?" + urlencode(query, doseq=True) if query else "")
        headers = {"Content-Type": "application/x-tar"}
        if isinstance(body, dict):
            headers, body = {"Content-Type": "application/json"}, json.dumps(body).encode()
        connection.request(method, where, body=body, headers=headers if body is not None else {})
        response = connection.getresponse()
        if response.status >= 400:
            content = response.read()
            try:
                content = json.loads(content)["message"]
            except (ValueError, KeyError, TypeError):
                content = content.decode(errors="replace")
            raise EngineFailed(f"{method} {path}: {response.status}: {content}")
        while True:
            piece = response.read1(1 << 16)
            if not piece:
                return
            yield piece

    def is_podman(self) -> bool:
        """Whether it is Podman's service of the API."""
        components = self.call("GET", "/version")["Components"]
        return any("Podman" in component["Name"] for component in components)

    def image(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of an image; None when it has none of that name."""
        try:
            found: dict[str, Any] = self.call("GET", f"/images/{name}/json")
        except EngineFailed as failure:
            if ": 404: " in str(failure):
                return None
            raise
        return found

    def remove_image(self, name: str) -> None:
        """Remove an image under all its names, as soon as no container runs it: one that was killed takes a moment."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self.call("DELETE", f"/images/{name}", {"force": 1})
                return
            except EngineFailed as failure:
                if ": 404: " in str(failure):
                    return
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)
