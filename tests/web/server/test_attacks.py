"""Each claim of the console's security, attacked on a real process with the Redis users of its roles."""

import asyncio
import json
import re

import pytest
from starlette.routing import Mount
from support import consoles
from support.wait import wait_until_sync

from aragora_q.web.api import create_api
from aragora_q.web.app import create_app
from aragora_q.web.guard import HEADERS
from aragora_q.web.problems import API
from aragora_q.web.roles import Role

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
CHANGES = {Role.VIEWER: (Role.PRODUCER, Role.OPERATOR), Role.PRODUCER: (Role.OPERATOR,)}
"""Of each role, the Redis users that it must not reach."""

VERBS = ("cancel", "hold", "pause", "purge", "requeue", "resume", "unhold")
"""What stands for a `verb` in a path."""

BODIES = {
    "application/json": json.dumps({"question": "?", "agents": ["demo:bold", "demo:careful"]}),
    "application/x-www-form-urlencoded": "question=x&ids=j1&expected_count=0&name=j1&confirm=yes",
}

PUBLIC = ("/login", "/logout", "/metrics", "/healthz", "/static")


def routes(app, prefix=""):
    """Every path of an application with its methods, also of what is mounted and included."""
    for route in app.routes:
        if included := getattr(route, "original_router", None):
            yield from routes(included, prefix)
        elif isinstance(route, Mount):
            yield from routes(route, prefix + route.path) if route.routes else ()
        else:
            for method in route.methods:
                yield method, prefix + route.path


@pytest.fixture(scope="session")
def app_routes(acl_server):
    """Every route of the application, with values in place of the names in its path."""
    from aragora_q.config.settings import QueueConfig
    from aragora_q.web.console import open_console

    async def read():
        async with open_console(QueueConfig(redis_url=acl_server.urls[Role.VIEWER])) as console:
            # The application loads the API later, and knows none of its routes.
            found = {*routes(create_app(console)), *routes(create_api(console), API)}
            return sorted(found)

    found = asyncio.run(read())
    assert {("GET", "/metrics"), ("POST", "/login"), ("POST", "/logout")} < set(found)
    assert ("POST", f"{API}/queues/{{queue}}/jobs/{{job_id}}/cancel") in found
    return [
        (method, filled(path.replace("{verb}", verb)))
        for method, path in found
        for verb in (VERBS if "{verb}" in path else ("",))
    ]


def filled(path):
    """A path with values in place of its names."""
    return re.sub(r"\{[^}]*\}", "j1", path.replace("{queue}", "debates"))


def send_all(console, app_routes, headers):
    """Send every request that may change something, but logins and logouts, with bodies of each kind."""
    for method, path in app_routes:
        for kind, body in BODIES.items():
            if method in UNSAFE and path not in ("/login", "/logout"):
                sent = headers | {"Content-Type": kind}
                answer = console.request(method, path, body.encode(), sent)
                assert answer.status < 500, (method, path, answer.text)


def bearer(token, **more):
    return {"Authorization": f"Bearer {token}", **more}


@pytest.mark.parametrize("role", CHANGES)
@pytest.mark.parametrize("with_cookie", [False, True], ids=["token", "cookie"])
def test_no_request_reaches_the_user_of_a_higher_role(
    console, acl_server, app_routes, role, with_cookie
):
    """Every route, with every method that changes something, as a lower role: Redis receives nothing from the
    higher roles' users, and refuses nothing to the lower one."""
    headers = bearer(console.tokens[role])
    if with_cookie:
        cookie = console.post("/login", token=console.tokens[role]).cookie
        headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    with acl_server.client() as admin, consoles.Monitor(acl_server) as monitor:
        admin.acl_log_reset()
        send_all(console, app_routes, headers)
        assert not monitor.users() & set(CHANGES[role])
        assert admin.acl_log() == []


def test_an_operator_reaches_its_redis_user(console, acl_server, app_routes):
    """The same requests as the operator reach Redis, and none is refused: the tests above can fail."""
    with acl_server.client() as admin, consoles.Monitor(acl_server) as monitor:
        admin.acl_log_reset()
        send_all(console, app_routes, bearer(console.tokens[Role.OPERATOR]))
        assert Role.OPERATOR in monitor.users()
        assert admin.acl_log() == []


def test_a_role_without_credential_does_not_exist(acl_server, app_routes, start_console, tmp_path):
    """In a console that only has the viewer's credential, an operator's token reaches no other Redis user."""
    tokens = consoles.write_tokens(tmp_path / "tokens", Role.OPERATOR)
    console = start_console(
        REDIS_URL=acl_server.urls[Role.VIEWER],
        ARAGORA_QUEUE_WEB_TOKENS_FILE=str(tmp_path / "tokens"),
    )
    with consoles.Monitor(acl_server) as monitor:
        send_all(console, app_routes, bearer(tokens[Role.OPERATOR]))
        assert console.get("/healthz").status == 200
        assert not monitor.users() & {Role.PRODUCER, Role.OPERATOR}


def test_no_route_answers_without_login(console, app_routes):
    """From another address than this machine's, every route but the public ones answers 401 without a token.

    Errors of these say neither the version nor how the console is set up.
    """
    outside = [("X-Forwarded-For", "203.0.113.7")]
    for method, path in app_routes:
        if not path.startswith(PUBLIC):
            answer = console.request(method, path, b"", outside)
            assert answer.status == 401, (method, path)
    assert "<footer" in console.get("/static/no-such-file").text
    assert "<footer" not in console.request("GET", "/static/no-such-file", headers=outside).text
    for accept in ("text/html", "*/*"):
        answer = console.request("GET", "/jobs", headers=[*outside, ("Accept", accept)])
        assert (answer.status, "aragora-q token NAME" in answer.text) == (401, True)


def test_rebound_names_are_refused(console):
    """A host that is not the console's is answered 421, one that is not a host 400; probes may use any name."""
    port = console.port
    for host in (
        f"127.0.0.1:{port}",
        f"localhost:{port}",
        "LOCALHOST",
        f"[::1]:{port}",
        "127.0.0.2",
    ):
        assert console.get("/login", Host=host).status == 200, host
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example",
                 "192.0.2.1", "0.0.0.0", "[::]", "2130706433"):  # fmt: skip
        assert console.get("/login", Host=host).status == 421, host
        assert console.get("/healthz", Host=host).status == 200
    for host in (
        "",
        "a b",
        "localhost/evil",
        "user@localhost",
        "localhost:x",
        "[::1",
        "local\x7fhost",
    ):
        assert console.get("/login", Host=host).status == 400, host
    twice = (
        b"GET /login HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert console.raw(twice).startswith("HTTP/1.1 400")
    assert console.raw(b"GET /login HTTP/1.0\r\n\r\n").startswith("HTTP/1.1 400")
    target = (
        b"GET http://evil.example/login HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert console.raw(target).startswith("HTTP/1.1 4")


def test_changes_that_other_sites_send_are_refused(console):
    """With a cookie, a change needs Sec-Fetch-Site of this site, or its Origin; nothing changes without."""
    cookie = console.post("/login", token=console.tokens[Role.OPERATOR]).cookie
    own = f"http://127.0.0.1:{console.port}"
    refused = [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": own},
        {"Sec-Fetch-Site": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{own}.evil.example"},
        {"Origin": f"http://127.0.0.1:{console.port + 1}"},
        {"Origin": "http://["},
    ]
    for headers in refused:
        answer = console.request("POST", "/logout", b"", {"Cookie": cookie, **headers})
        assert answer.status == 403, headers
    foreign_login = {**consoles.FORM, "Sec-Fetch-Site": "cross-site"}
    body = f"token={console.tokens[Role.VIEWER]}".encode()
    assert console.request("POST", "/login", body, foreign_login).status == 403
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": own}):
        cookie = console.post("/login", token=console.tokens[Role.OPERATOR]).cookie
        answer = console.request("POST", "/logout", b"", {"Cookie": cookie, **headers})
        assert answer.status == 303, headers


def test_other_sites_only_link_to_pages(console):
    """A page of another site opens no stream, and reads nothing: a browser at the desk needs no login."""
    for path in ("/jobs", "/api/v1/queues/debates/stats", "/events"):
        for site in ("cross-site", "same-site"):
            sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}
            assert console.request("GET", path, headers=sent).status == 403
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    program = bearer(console.tokens[Role.VIEWER], **{"Sec-Fetch-Site": "cross-site"})
    for sent in (linked, own, program):
        assert console.request("GET", "/jobs", headers=sent).status == 200


def test_get_changes_nothing(console, app_routes):
    """Paths that change something refuse GET; opening the login link does not log in."""
    for path in ("/logout",):
        assert console.get(path).status == 405
    assert console.get("/login?token=" + console.tokens[Role.OPERATOR]).cookie == ""


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/login", {}),
        ("/no-such-page", {}),
        ("/jobs", {"X-Forwarded-For": "203.0.113.7", "Accept": "text/html"}),
        ("/api/v1/no", {"Authorization": "Bearer wrong"}),
        ("/login", {"Host": "evil.example"}),
        ("/static/idiomorph.min.js", {}),
        ("/metrics", {}),
    ],
)
def test_every_answer_forbids_scripts_and_frames(console, path, headers):
    """Every answer, also a refusal, has the policy without inline scripts, and may not be framed or sniffed."""
    answer = console.request("GET", path, headers=headers)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = answer.headers["Content-Security-Policy"]
    assert ("frame-ancestors 'none'" in policy, "unsafe" in policy) == (True, False)
    assert "server" not in answer.headers
    assert (answer.headers["Cache-Control"] == "no-store") == (not path.startswith("/static"))


def test_too_long_bodies_are_refused(console):
    """A declared length is refused before the body is read, a body of unknown length while it arrives."""
    declared = (
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\nContent-Length: 99999999\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    assert console.raw(declared).startswith("HTTP/1.1 413")
    chunk = b"%x\r\n%s\r\n" % (256 * 1024, b"a" * (256 * 1024))
    chunked = (
        declared.replace(b"Content-Length: 99999999", b"Transfer-Encoding: chunked") + 5 * chunk
    )
    assert "HTTP/1.1 413" in console.raw(chunked)[:20]
    for length in ("-1", "1e3", "9" * 30, "0x10"):
        answer = console.raw(declared.replace(b"99999999", length.encode()))
        assert answer.startswith("HTTP/1.1 4"), (length, answer)
    smuggled = declared.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert console.raw(smuggled).startswith("HTTP/1.1 4")
    logged_out = declared.replace(b"99999999", b"20000\r\nX-Forwarded-For: 10.0.0.7")
    for kind in (b"application/x-www-form-urlencoded", b"application/x-ndjson"):
        logged_out = logged_out.replace(b"application/x-www-form-urlencoded", kind)
        assert console.raw(logged_out).startswith("HTTP/1.1 413"), kind
    head = b"GET /login HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000
    assert "HTTP/1.1 2" not in console.raw(head)


@pytest.mark.parametrize(
    "address",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "///evil.example",
     "/\t/evil.example", "\t//evil.example", "javascript:alert(1)", "/\r\nSet-Cookie: a=b", "http:evil", "//",
     "/%5cevil\x00", "evil.example", "http://[", " /", "/\x7f"],
)  # fmt: skip
def test_a_login_leads_only_to_pages_of_the_console(console, address):
    """`next` with another site, in all spellings that browsers accept, leads to the first page."""
    answer = console.post("/login", token=console.tokens[Role.VIEWER], next=address)
    assert (answer.status, answer.headers.get_all("Location")) == (303, ["/"])
    assert len(answer.headers.get_all("Set-Cookie")) == 1


def test_a_login_leads_back_to_the_page(console):
    """A path of the console, with its query, is where the login leads."""
    answer = console.post(
        "/login", token=console.tokens[Role.VIEWER], next="/jobs?status=failed&q=a%2Fb"
    )
    assert answer.headers["Location"] == "/jobs?status=failed&q=a%2Fb"


@pytest.mark.parametrize(
    "path",
    ["/static/../guard.py", "/static/%2e%2e/guard.py", "/static/..%2fguard.py", "/static/%2e%2e%2fguard.py",
     "/static/..%5cguard.py", "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/....//guard.py",
     "/static/%00", "/static/", "/static/%252e%252e/guard.py", "/static/idiomorph.min.js/../../guard.py"],
)  # fmt: skip
def test_static_serves_no_other_file(console, path):
    """No spelling of a path leaves the folder of static files."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = console.raw(request.encode())
    assert answer.startswith(("HTTP/1.1 404", "HTTP/1.1 400")), answer[:200]
    assert "SAFE_METHODS" not in answer


def test_other_methods(console):
    """HEAD answers without a body; OPTIONS gives other sites no right; unknown methods are refused."""
    head = console.request("HEAD", "/login")
    assert (head.status, head.text) == (200, "")
    options = console.request("OPTIONS", "/login", headers={"Origin": "https://evil.example"})
    assert not [name for name in options.headers if name.lower().startswith("access-control")]
    for method in ("TRACE", "CONNECT", "PROPFIND", "GETX"):
        raw = f"{method} /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert console.raw(raw.encode()).startswith("HTTP/1.1 405"), method
    upgrade = b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert not console.raw(upgrade).startswith("HTTP/1.1 101")


def test_no_request_hides_in_a_body(console):
    """A request with two lengths is refused, and what follows it on the connection is not answered."""
    for path in ("/login", "/healthz", "/api/v1/queues/debates/jobs"):
        raw = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = console.raw(raw.encode())
        assert answer.startswith("HTTP/1.1 400"), path
        assert answer.count("HTTP/1.1 ") == 1, path


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["abc", "1.x", "9" * 5000, "1.0.0;escaping=no", "9.9.9", ""])
def test_formats_of_metrics_that_do_not_exist(console, kind, version):
    """Metrics need no login, so no header of anyone may be a defect: another format is the answer."""
    answer = console.get("/metrics", Accept=f"{kind};version={version}")
    assert (answer.status, "aragora_q_queue_jobs" in answer.text) == (200, True)


def test_wrong_tokens_are_slow_and_counted_by_address(console):
    """A wrong token takes half a second; many get 429; the right one works all the time."""
    import time

    began_at = time.monotonic()
    answers = [console.get("/api/v1/x", Authorization="Bearer aq_wrong")]
    assert time.monotonic() - began_at > 0.4
    assert (answers[0].status, json.loads(answers[0].text)["exit_code"]) == (401, 77)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(14) as pool:
        wrong = list(
            pool.map(lambda n: console.get("/jobs", Authorization=f"Bearer {n}"), range(14))
        )
    limited = [answer for answer in wrong if answer.status == 429]
    assert limited
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in limited)
    wait_until_sync(lambda: console.post("/login", token="aq_wrong").status == 429)
    assert console.post("/login", token=console.tokens[Role.VIEWER]).status == 303
    assert "aragora_q_web_refused_logins_total" in console.get("/metrics").text


def test_no_secret_and_no_forged_line_is_logged(console):
    """Tokens, cookies and queries are in no log line; a path with line breaks does not begin another."""
    token = console.tokens[Role.OPERATOR]
    cookie = console.post("/login", token=token).cookie
    console.request("POST", f"/x?code=secret-code&token={token}", b"", bearer(token))
    forged = "/x%0a2026-01-01T00:00:00Z%20INFO%20forged%0d%0a%1b[31m"
    console.request("POST", forged, b"", bearer(token))
    console.request("POST", "/y", b"", {**bearer(token), "X-Forwarded-For": "1.1.1.1 forged=1"})
    wait_until_sync(lambda: "path=/y" in console.log)
    log = console.log
    for secret in (
        token,
        token[3:],
        cookie,
        cookie.partition("=")[2],
        "secret-code",
        consoles.PASSWORD,
    ):
        assert secret not in log
    assert "actor=the-operator" in log
    assert not re.search(r"^\S* ?INFO *forged", log, re.MULTILINE)
    assert "\x1b" not in log


def test_hostile_names_are_text(console):
    """What a request contains is text on the login page, never markup."""
    script = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
    for path in (f"/login?next=/{script}", f"/login?code={script}", f"/{script}"):
        text = console.get(path, Accept="text/html").text
        assert "<script>alert" not in text


def test_an_action_is_one_line_of_the_log(console):
    """A change by a page or a program is one line: who sent it, from where, the jobs, and the reason."""
    token = console.tokens[Role.OPERATOR]
    body = json.dumps({"ids": ["logged-1", "logged-2"], "reason": "too\nold=1"}).encode()
    headers = bearer(token, **{"Content-Type": "application/json"})
    console.request("POST", "/api/v1/queues/debates/jobs/cancel", body, headers)
    headers = bearer(token, **{"Content-Type": "application/x-ndjson"})
    console.request("POST", "/api/v1/queues/debates/jobs", b'{"payload": {}}\n{}', headers)
    cookie = console.post("/login", token=token).cookie
    console.post("/jobs/logged-3/hold", cookie, reason="by hand")
    who = "actor=the-operator address=127.0.0.1 method=POST"
    for path, named in [
        (
            "/api/v1/queues/debates/jobs/cancel",
            r'action=cancel ids="logged-1 logged-2" count=2 reason="too\\nold=1" changed=0',
        ),
        (
            "/api/v1/queues/debates/jobs",
            'action=enqueue ids="" count=0 reason="" changed=1',
        ),
        ("/jobs/logged-3/hold", 'action=hold ids=logged-3 count=1 reason="by hand"'),
    ]:
        line = rf"{who} path={path} status=\d+ seconds=[0-9.]+ {named}$"
        wait_until_sync(lambda line=line: re.search(line, console.log, re.MULTILINE), 30, line)
