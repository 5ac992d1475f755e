"""A model in a container of python:3.11-slim, without Cog: what the container's tests of the helper talk to.

POST /do with {"get": URL}, {"put": URL, "size": N}, {"say": TEXT} or {"fork": N} does that and answers with the
outcome. With "deaf" in its arguments it ignores SIGTERM and keeps a core busy.
"""
import hashlib
import http.client
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Zeros:
    """A file of zeros that is read in big pieces."""

    def __init__(self, size):
        self.left = size

    def read(self, limit):
        data = bytes(min(limit, self.left))
        self.left -= len(data)
        return data


def get(url):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request("GET", parts.path)
    reply, size, digest = connection.getresponse(), 0, hashlib.blake2b()
    buffer = memoryview(bytearray(1 << 18))
    while True:
        count = reply.readinto(buffer)
        if not count:
            return {"status": reply.status, "size": size, "digest": digest.hexdigest()}
        size += count
        if size < 1 << 26:
            digest.update(buffer[:count])


def put(url, size):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, blocksize=1 << 16)
    connection.request("PUT", parts.path, body=Zeros(size), headers={"Content-Length": str(size)})
    reply = connection.getresponse()
    return {"status": reply.status, "location": reply.getheader("Location")}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"status": "READY", "setup": {}})

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        done = {"uid": os.getuid()}
        if "get" in order:
            done = get(order["get"])
        if "put" in order:
            done = put(order["put"], order["size"])
        if "say" in order:
            print(order["say"], flush=True)
            print(order["say"], file=sys.stderr, flush=True)
        for _ in range(order.get("fork", 0)):
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.setsid()
                while True:
                    signal.pause()
        self.answer(done)


def spin():
    while True:
        pass


if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=spin, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", 5000), Handler).serve_forever()
