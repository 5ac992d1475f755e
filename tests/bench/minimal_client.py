"""The least that one cold prediction costs: create, start, exec, wait for READY inside, post, kill. No checks, no logs.

    python3 minimal_client.py IMAGE '{"text": "bob"}' [SOCKET]

It is what cold.py measures cog.pyz against.
"""
import http.client
import json
import socket
import sys

INSIDE = '''
import os, socket, time
def ask(request):
    with socket.create_connection(("127.0.0.1", 5000)) as s:
        s.sendall(request)
        return b"".join(iter(lambda: s.recv(65536), b""))
while True:
    try:
        if b'"READY"' in ask(b"GET /health-check HTTP/1.1\\r\\nHost: model\\r\\nConnection: close\\r\\n\\r\\n"):
            break
    except OSError:
        pass
    time.sleep(0.003)
os.write(1, b"ready")
os.write(1, ask(os.read(0, 65536)))
os.read(0, 1)
'''
IMAGE, INPUT, SOCKET = (sys.argv[1:] + ["/var/run/docker.sock"])[:3]


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def call(method, path, body=None):
    connection = Connection("engine")
    connection.request(method, path, json.dumps(body) if body is not None else None,
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    data = response.read()
    assert response.status < 300, (method, path, response.status, data)
    return json.loads(data or b"null")


def exec_stream(container, command):
    made = call("POST", f"/containers/{container}/exec",
                {"Cmd": command, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True})
    connection = Connection("engine")
    connection.request("POST", f"/exec/{made['Id']}/start", json.dumps({"Detach": False, "Tty": False}),
                       {"Content-Type": "application/json", "Connection": "Upgrade", "Upgrade": "tcp"})
    assert connection.getresponse().status == 101
    return connection.sock


container = call("POST", "/containers/create", {"Image": IMAGE, "HostConfig": {"AutoRemove": True}})["Id"]
call("POST", f"/containers/{container}/start")
stream = exec_stream(container, ["python", "-ISc", INSIDE])
stream.recv(65536)
body = json.dumps({"input": json.loads(INPUT)}).encode()
stream.sendall(b"POST /predictions HTTP/1.1\r\nHost: model\r\nConnection: close\r\nContent-Type: application/json\r\n"
               b"Content-Length: %d\r\n\r\n" % len(body) + body)
print(stream.recv(65536)[8:].split(b"\r\n\r\n", 1)[-1].decode())
call("POST", f"/containers/{container}/kill")
