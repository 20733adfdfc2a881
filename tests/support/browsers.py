"""A person's browser in front of the console's application: pages, forms and cookies, without a network."""

import re
from dataclasses import dataclass
from html import unescape
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urlsplit

from aragora_q.observability.web_metrics import WebMetrics
from aragora_q.web.app import create_app
from aragora_q.web.auth import Auth, Proxies
from aragora_q.web.console import Console, RoleConnections
from aragora_q.web.feed import Feed
from aragora_q.web.roles import Actor, Role
from aragora_q.web.snapshot import SharedReads


@dataclass
class Answer:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def words(self):
        """The page as text, without its elements."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.text)).split())

    def fields(self, action):
        """The hidden fields of the first form that leads to `action`, as pairs."""
        form = re.search(
            rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', self.text, re.DOTALL
        )
        assert form, f"no form leads to {action}: {self.words[:500]}"
        found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[1])
        return [(unescape(name), unescape(value)) for name, value in found]


class Browser:
    """Sends requests as `role` to the application of `console`; keeps cookies."""

    def __init__(self, console, role=Role.OPERATOR, name="alice"):
        self.console = console
        self._app = create_app(console)
        self._app.state.auth = Auth(
            None, Proxies([], {}), highest=Role.OPERATOR, port=8080, is_loopback=True
        )
        self._app.state.metrics = WebMetrics(console.config.queue)
        self.actor = Actor(name, role, "10.0.0.7")
        self.cookies = {}
        self.logged = {}
        """What the log line of the last request names."""

    async def get(self, address):
        return await self._send("GET", address)

    async def post(self, address, fields=(), **more):
        """Send a form; a value that is a list is sent several times."""
        pairs = [*(fields.items() if isinstance(fields, dict) else fields), *more.items()]
        return await self._send(
            "POST", address, urlencode(pairs, doseq=True, errors="surrogatepass").encode()
        )

    async def send(self, address, body, content_type=b"application/json"):
        """Send a body, as a program does."""
        return await self._send("POST", address, body, content_type)

    async def done(self, address, fields=(), **more):
        """Send a form, and return the page that it leads to, which says what was done."""
        answer = await self.post(address, fields, **more)
        assert answer.status == 303, (answer.status, answer.words[:800])
        return await self.get(answer.headers["location"])

    async def _send(
        self, method, address, body=b"", content_type=b"application/x-www-form-urlencoded"
    ):
        parts = urlsplit(address)
        headers = [
            (b"host", b"localhost"),
            (b"cookie", "; ".join(f"{n}={v}" for n, v in self.cookies.items()).encode()),
        ]
        if body or method == "POST":
            headers.append((b"content-type", content_type))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http",
            "path": parts.path, "raw_path": parts.path.encode(), "query_string": parts.query.encode(),
            "headers": headers, "client": ("10.0.0.7", 40_000), "server": ("localhost", 8080), "root_path": "",
            "state": {"actor": self.actor},
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        await self._app(scope, receive, send)
        self.logged = scope["state"].get("action", {})
        start = sent[0]
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        found = {}
        for name, value in start["headers"]:
            if name == b"set-cookie":
                for each in SimpleCookie(value.decode()).values():
                    self.cookies.pop(each.key, None)
                    if each["max-age"] != "0":
                        self.cookies[each.key] = each.coded_value
            found[name.decode()] = value.decode()
        return Answer(start["status"], found, text)


class ConsoleOf:
    """The console of one queue, as `harness` opens it. `roles`: those that have a credential."""

    def __init__(self, harness, roles=tuple(Role), **settings):
        self._gates = harness.queue.connection.for_gates()
        queue = harness.other_client(**settings) if settings else harness.queue
        self.console = Console(
            queue.config,
            {role: RoleConnections(queue, self._gates) for role in roles},
            Feed(queue),
            SharedReads(),
        )

    def browser(self, role=Role.OPERATOR, name="alice"):
        return Browser(self.console, role, name)

    async def close(self):
        await self.console.shared.close()
        await self.console.results.close()
        await self._gates.close()


def snapshot(redis):
    """All data in Redis."""
    read = {
        "hash": redis.hgetall,
        "stream": redis.xrange,
        "set": redis.smembers,
        "string": redis.get,
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        "list": lambda key: redis.lrange(key, 0, -1),
    }
    return {key: read[redis.type(key)](key) for key in redis.scan_iter()}
