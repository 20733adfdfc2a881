"""`aragora-q web` as a process, and a Redis with a user for each role of it."""

import http.client
import re
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

from support import processes, servers
from support.wait import wait_until_sync

from aragora_q.redis.acl import rules
from aragora_q.redis.keys import QueueKeys
from aragora_q.web.console import ACL_ROLES
from aragora_q.web.roles import Role
from aragora_q.web.tokens import new_token, token_line

PASSWORD = "of-a-role"
HIDDEN = ("REDIS_", "ARAGORA_", "XDG_")
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Answer:
    """An answer of the console."""

    status: int
    headers: http.client.HTTPMessage = field(repr=False)
    text: str

    @property
    def cookie(self):
        """The cookie that it sets, as a browser sends it back; empty: none."""
        return (self.headers.get("Set-Cookie") or "").partition(";")[0]


class ConsoleProcess:
    """One console; its log is a file."""

    def __init__(self, directory, *args, host="127.0.0.1", port=None, stderr=None, **variables):
        self.host, self.port = "127.0.0.1", port or servers.free_port()
        self._log = directory / f"console-{self.port}.log"
        environment = processes.env(HOME=str(directory), **variables)
        for name in [name for name in environment if name.startswith(HIDDEN)]:
            if name not in variables:
                del environment[name]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                processes.cli("web", "--listen", f"{host}:{self.port}", *args),
                stdout=log, stderr=log if stderr is None else stderr, env=environment, cwd=directory,
            )  # fmt: skip

    def start(self):
        """Wait until it serves."""
        wait_until_sync(self._serves, 60, "a response of the console")
        return self

    def _serves(self):
        assert self.process.poll() is None, self.log
        try:
            self.request("GET", "/login")
        except OSError:
            return False
        return True

    @property
    def log(self):
        """What it wrote so far."""
        return self._log.read_text()

    def request(self, method, path, body=None, headers=()):
        """Send a request; header names may repeat in a list of pairs."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        has_host = any(name.lower() == "host" for name, _ in pairs)
        try:
            connection.putrequest(method, path, skip_host=has_host, skip_accept_encoding=True)
            if body is not None and "content-length" not in {name.lower() for name, _ in pairs}:
                pairs.append(("Content-Length", str(len(body))))
            for name, value in pairs:
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def get(self, path, **headers):
        """Send a GET request."""
        return self.request("GET", path, headers={_dashed(name): v for name, v in headers.items()})

    def post(self, path, cookie="", /, **fields):
        """Send a form as its own page does."""
        body = "&".join(f"{name}={quote(value)}" for name, value in fields.items()).encode()
        return self.request("POST", path, body, {**FORM, **({"Cookie": cookie} if cookie else {})})

    def raw(self, data):
        """Send bytes; return the answer until the connection is closed, or silent for half a second."""
        received = b""
        with socket.create_connection((self.host, self.port), 30) as client:
            with suppress(OSError):  # refused before all of it was read
                client.sendall(data)
            with suppress(OSError):
                while part := client.recv(65536):
                    received += part
                    client.settimeout(0.5)
        return received.decode(errors="replace")

    def stop(self, number=signal.SIGTERM):
        """End it; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def _dashed(name):
    return name.replace("_", "-")


def write_tokens(path, *roles):
    """Write a file of tokens, one for each role, named after it; return them by role."""
    tokens = {role: new_token() for role in roles}
    lines = [token_line(f"the-{role}", role, token) for role, token in tokens.items()]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return tokens


def make_users(server, queue="debates"):
    """Make a user for each role, and turn the default one off; return the URL of each role."""
    keys = QueueKeys("aragora:queue:", queue)
    with server.client() as admin:
        for role in Role:
            words = rules(ACL_ROLES[role], keys).split()
            admin.execute_command("ACL", "SETUSER", role, "on", f">{PASSWORD}", *words)
        admin.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
        admin.execute_command("ACL", "SETUSER", "default", "off")
    server.options |= {"username": "admin", "password": "admin"}
    return {role: f"redis://{role}:{PASSWORD}@127.0.0.1:{server.port}" for role in Role}


def settings(urls, **more):
    """Return the variables of a console with these URLs by role."""
    names = {
        Role.VIEWER: "REDIS_URL",
        Role.PRODUCER: "ARAGORA_QUEUE_WEB_PRODUCER_REDIS_URL",
        Role.OPERATOR: "ARAGORA_QUEUE_WEB_OPERATOR_REDIS_URL",
    }
    return {**{names[role]: url for role, url in urls.items()}, **more}


class Monitor:
    """What a server executes within the context, by the user that sent it."""

    def __init__(self, server):
        self._server = server

    def __enter__(self):
        self._client = self._server.client()
        self._stream = socket.create_connection(("127.0.0.1", self._server.port), 30)
        self._stream.sendall(b"AUTH admin admin\r\nMONITOR\r\n")
        self._lines = self._stream.makefile("r", errors="replace")
        assert [self._lines.readline() for _ in range(2)] == ["+OK\n", "+OK\n"]
        return self

    def users(self):
        """Return the users whose connections sent something since the start."""
        by_address = {row["addr"]: row["user"] for row in self._client.client_list()}
        self._client.execute_command("ECHO", "end of monitor")
        seen = set()
        for line in self._lines:
            if "end of monitor" in line:
                return seen
            if match := re.search(r"\[\d+ ([0-9.]+:\d+)\]", line):
                seen.add(by_address.get(match[1], "closed"))
        return seen

    def __exit__(self, *_):
        self._lines.close()
        self._stream.close()
        self._client.close()
