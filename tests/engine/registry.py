"""A registry on 127.0.0.1 that gives images to who shows a token, and a token to who knows the password."""
from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import secrets
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cogpredict

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"  # not compressed


class Handler(BaseHTTPRequestHandler):
    """One request. Source: distribution's specifications of its API and of its token authentication."""

    server: Registry

    def handle(self) -> None:
        if self.connection.recv(1, socket.MSG_PEEK) != b"\x16":  # the engine tries TLS first
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, kind: str, body: bytes | Path, **headers: str) -> None:
        self.send_response(status)
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        for name, value in {"Content-Type": kind, "Content-Length": str(size), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, Path):
            with body.open("rb") as file:
                self.connection.sendfile(file)
        else:
            self.wfile.write(body)

    def say(self, status: int, said: dict[str, Any], **headers: str) -> None:
        self.answer(status, "application/json", json.dumps(said).encode(), **headers)

    def do_GET(self) -> None:
        path, registry = urlsplit(self.path).path, self.server
        kind, _, shown = self.headers.get("Authorization", "").partition(" ")
        who = base64.b64decode(shown).decode() if kind == "Basic" else ""
        if path == "/token":
            self.give_token(who)
        elif who not in registry.known if registry.basic else shown != registry.token:
            bearer = f'Bearer realm="http://{registry.place}/token",service="test",scope="repository:x:pull"'
            self.say(401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                     WWW_Authenticate='Basic realm="test"' if registry.basic else bearer)
        elif "/manifests/" in path and path in registry.manifests:
            body = registry.manifests[path]
            self.answer(200, MANIFEST, body, Docker_Content_Digest=f"sha256:{hashlib.sha256(body).hexdigest()}")
        elif "/blobs/" in path and (registry.folder / path.rpartition(":")[2]).is_file():
            self.answer(200, "application/octet-stream", registry.folder / path.rpartition(":")[2])
        elif path == "/v2/":
            self.say(200, {})
        else:
            self.say(404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})

    do_HEAD = do_GET

    def do_POST(self) -> None:  # the token again, asked for as OAuth does
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        words = [form.get(name, [""])[0] for name in ("username", "password", "refresh_token")]
        self.give_token(words[2] or ":".join(words[:2]))

    def give_token(self, who: str) -> None:
        self.server.asked.append(who)
        if who in self.server.known:
            self.say(200, {"token": self.server.token, "access_token": self.server.token, "expires_in": 300})
        else:
            self.say(401, {"details": "incorrect username or password"})


class Registry(ThreadingHTTPServer):
    """The registry while it runs: `known` are USER:PASSWORD and identity tokens, `asked` those it was asked with."""

    daemon_threads = True
    basic = False  # ask for the password itself at every request

    def __init__(self, folder: Path, known: set[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.known, self.token = folder, known, secrets.token_hex()
        self.place = f"127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.manifests: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()

    def add(self, image: str, name: str) -> str:
        """The name under which an image of the engine's can be had from here."""
        saved = self.folder / "saved.tar"
        with cogpredict.dial(cogpredict.parse_address(os.environ["DOCKER_HOST"]), 300) as connection:
            connection.sendall(f"GET /images/{image}/get HTTP/1.0\r\n\r\n".encode())
            with http.client.HTTPResponse(connection) as response, saved.open("wb") as file:
                response.begin()
                assert response.status == 200, response.read()
                while piece := response.read(1 << 20):
                    file.write(piece)
        with tarfile.open(saved) as tar:
            listed = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            config, *layers = (self._store(tar, member) for member in [listed["Config"], *listed["Layers"]])
        saved.unlink()
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG, **config},
                               "layers": [{"mediaType": LAYER, **layer} for layer in layers]}).encode()
        for reference in ("1", f"sha256:{hashlib.sha256(manifest).hexdigest()}"):
            self.manifests[f"/v2/{name}/manifests/{reference}"] = manifest
        return f"{self.place}/{name}:1"

    def _store(self, tar: tarfile.TarFile, member: str) -> dict[str, Any]:
        digest, size, part = hashlib.sha256(), 0, self.folder / "part"
        source = tar.extractfile(member)
        assert source is not None
        with source, part.open("wb") as file:
            while piece := source.read(1 << 20):
                digest.update(piece)
                size += file.write(piece)
        part.rename(self.folder / digest.hexdigest())
        return {"digest": f"sha256:{digest.hexdigest()}", "size": size}
