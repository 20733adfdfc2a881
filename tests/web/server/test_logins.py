"""Logins: by token, by the link at a terminal, and how they end."""

import os
import pty
import re
from json import loads

from support import consoles
from support.wait import wait_until_sync

from aragora_q.web.roles import Role
from aragora_q.web.tokens import token_line

OUTSIDE = {"X-Forwarded-For": "203.0.113.7"}
"""A request that did not begin on this machine: reading needs a login, too."""


def is_logged_in(console, cookie):
    """Whether a cookie lets its browser in: a page that does not exist is answered 404, not 401."""
    answer = console.request("GET", "/no-such-page", headers={"Cookie": cookie, **OUTSIDE})
    assert answer.status in (404, 401)
    return answer.status == 404


def test_a_login_ends_by_logout_also_for_copies_of_its_cookie(console):
    """The cookie is HttpOnly and SameSite=Strict, for 12 hours; after a logout, no copy of it works."""
    answer = console.post("/login", token=console.tokens[Role.OPERATOR])
    words = {word.strip().lower() for word in answer.headers["Set-Cookie"].split(";")[1:]}
    assert words == {"httponly", "samesite=strict", "max-age=43200", "path=/"}
    assert is_logged_in(console, answer.cookie)
    other = console.post("/login", token=console.tokens[Role.OPERATOR]).cookie
    assert console.post("/logout", answer.cookie).status == 303
    assert not is_logged_in(console, answer.cookie)
    assert is_logged_in(console, other)
    name, _, value = other.partition("=")
    head, _, tail = value.rpartition(".")
    for forged in (
        f"{name}=",
        f"{name}={head}.",
        f"{name}={head}.A{tail[1:]}x",
        f"{name}=x.y.z",
        f"{name}=W10.a.b",
    ):
        assert not is_logged_in(console, forged)


def test_a_token_that_is_removed_stops_working_at_once(acl_server, start_console, tmp_path):
    """Its cookies, too; in a file with a wrong line, the others work; one that is not safe has none."""
    file = tmp_path / "tokens"
    tokens = consoles.write_tokens(file, Role.VIEWER, Role.OPERATOR)
    variables = consoles.settings(acl_server.urls, ARAGORA_QUEUE_WEB_TOKENS_FILE=str(file))
    console = start_console(**variables)
    cookie = console.post("/login", token=tokens[Role.OPERATOR]).cookie
    assert is_logged_in(console, cookie)

    def status(role):
        headers = {"Authorization": f"Bearer {tokens[role]}"}
        return console.request("GET", "/no-such-page", headers=headers).status

    file.write_text(f"oops\n{token_line('v', Role.VIEWER, tokens[Role.VIEWER])}\n")
    assert (status(Role.OPERATOR), status(Role.VIEWER)) == (401, 404)
    assert not is_logged_in(console, cookie)
    assert 'fault="line 1: must be NAME ROLE sha256:HEX"' in console.log
    file.chmod(0o666)
    assert status(Role.VIEWER) == 401
    file.chmod(0o600)
    assert status(Role.VIEWER) == 404
    file.unlink()
    assert status(Role.VIEWER) == 401


def test_the_link_at_a_terminal_logs_one_browser_in_once(acl_server, tmp_path):
    """The link's page has one button and changes nothing; the button logs in as the highest role, once."""
    terminal, end = pty.openpty()
    try:
        console = consoles.ConsoleProcess(
            tmp_path, stderr=end, **consoles.settings(acl_server.urls)
        ).start()
        try:
            printed = ""
            while "?code=" not in printed or not printed.endswith("\n"):
                printed += os.read(terminal, 4096).decode()
            assert "to log in as operator, " in printed
            code = re.search(r"/login\?code=(\S+)", printed)[1]
            for _ in range(2):
                page = console.get(f"/login?code={code}")
                assert (page.status, page.text.count("<button"), code in page.text) == (
                    200,
                    1,
                    True,
                )
                assert page.cookie == ""
            assert console.post("/login", code="wrong").status == 401
            cookie = console.post("/login", code=code).cookie
            assert is_logged_in(console, cookie)
            again = console.post("/login", code=code)
            assert (again.status, again.cookie) == (401, "")
            assert "printed in its terminal" in again.text
        finally:
            console.stop()
    finally:
        os.close(terminal)
        os.close(end)


def test_reading_needs_no_login_at_the_desk_only(console):
    """On loopback, this machine's own requests are read; those that came through a proxy are not."""
    assert console.get("/no-such-page").status == 404
    for name, value in (("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=::1"), ("Via", "1.1 proxy"),
                        ("X-Real-IP", "127.0.0.1"), ("X-Forwarded-Host", "localhost")):  # fmt: skip
        assert console.request("GET", "/no-such-page", headers={name: value}).status == 401
    ignored = {"X-Forwarded-User": "root", "X-Forwarded-Groups": "operators"}
    assert console.request("POST", "/api/v1/x", b"", {**ignored, **OUTSIDE}).status == 401


def test_on_another_address_only_probes_are_served_without_tokens(acl_server, tmp_path):
    """Pages and the API answer 401 with the line that makes a token; metrics and health are served."""
    console = consoles.ConsoleProcess(
        tmp_path, host="0.0.0.0", REDIS_URL=acl_server.urls[Role.VIEWER]
    ).start()
    try:
        assert console.get("/healthz").text == "ok\n"
        assert "aragora_q_queue_jobs" in console.get("/metrics").text
        for path in ("/", "/jobs", "/api/v1/queues/debates/stats"):
            answer = console.get(path)
            assert (answer.status, "aragora-q token NAME" in answer.text) == (401, True)
        page = console.get("/", Accept="text/html")
        assert (page.status, "no tokens yet" in page.text) == (401, True)
        assert "printed in its terminal" not in page.text
        wait_until_sync(lambda: "without tokens, only /metrics and /healthz" in console.log)
    finally:
        console.stop()


def test_a_listed_proxy_names_the_user(acl_server, start_console):
    """X-Forwarded-User of a listed peer is believed, with the client's address from X-Forwarded-For.

    X-Forwarded-Proto too: no redirection leads out of https.
    """
    console = start_console(
        **consoles.settings(
            acl_server.urls,
            ARAGORA_QUEUE_WEB_PROXIES="127.0.0.1, 10.0.0.0/8",
            ARAGORA_QUEUE_WEB_PROXY_ROLES="ann=operator, @devs=viewer",
            ARAGORA_QUEUE_WEB_HOSTS="console.example",
        )
    )
    own = {"Host": "console.example", "Origin": "https://console.example"}

    def answer(*headers):
        return console.request("POST", "/no-such-page", b"", [*own.items(), *headers]).status

    ann, chain = ("X-Forwarded-User", "ann"), ("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 10.0.0.9")
    assert answer(ann, chain) == 404
    assert answer(ann, ann) == 401
    assert answer(("X-Forwarded-User", "eve")) == 401
    assert answer(("X-Forwarded-User", "eve"), ("X-Forwarded-Groups", "a, devs")) == 404
    assert answer() == 401
    secure = [("Host", "console.example"), ("X-Forwarded-Proto", "https"), ann]
    moved = console.request("GET", "/jobs/", b"", secure)
    assert moved.headers["location"] == "https://console.example/jobs"
    foreign = [("Host", "console.example"), ("Sec-Fetch-Site", "cross-site"), ann]
    assert console.request("POST", "/no-such-page", b"", foreign).status == 403
    assert console.get("/no-such-page").status == 401
    wait_until_sync(lambda: "actor=ann address=203.0.113.7 method=POST" in console.log)


def test_nobody_is_named_in_changes_for_another(console, acl_server, start_console):
    """A token, a login and a proxy's user are named with their address; headers and fields name nobody else."""
    tokens = console.tokens
    lie = {
        "X-Forwarded-User": "eve", "X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6", "X-Forwarded-Groups": "devs", "By": "eve", "X-User": "eve",
    }  # fmt: skip
    api = "/api/v1/queues/debates"
    bearer = {"Authorization": f"Bearer {tokens[Role.OPERATOR]}"}
    of_api = {**lie, **bearer, "Content-Type": "application/json"}
    assert console.request("POST", f"{api}/pause", b'{"by": "eve"}', of_api).status == 422
    assert console.request("POST", f"{api}/pause", b'{"reason": "r1"}', of_api).status == 200
    cookie = console.post("/login", token=tokens[Role.OPERATOR]).cookie
    form = b"reason=r2&by=eve&actor=eve&name=eve&to=/"
    of_page = {**lie, **consoles.FORM, "Cookie": cookie}
    assert console.request("POST", "/queue/resume?by=eve", form, of_page).status == 303
    behind = start_console(
        **consoles.settings(
            acl_server.urls,
            ARAGORA_QUEUE_WEB_PROXIES="127.0.0.1",
            ARAGORA_QUEUE_WEB_PROXY_ROLES="ann=operator, *=operator",
        )
    )
    chain = [("X-Forwarded-For", "6.6.6.6, 203.0.113.7"), *consoles.FORM.items()]
    for reason, user in (
        ("r3", "ann"),
        ("r4", "ann\u202e from 1.1.1.1".encode().decode("latin-1")),
    ):
        pairs = [("X-Forwarded-User", user), ("X-Real-IP", "6.6.6.6"), *chain]
        body = f"reason={reason}&by=eve".encode()
        path = "/queue/pause" if reason == "r3" else "/queue/resume"
        assert behind.request("POST", path, body, pairs).status == 303
    page = console.request("GET", f"{api}/changes?limit=4", headers=bearer).text
    made = {each["reason"]: each["by"] for each in loads(page)["changes"]}
    operator = f"the-{Role.OPERATOR} from 127.0.0.1"
    assert made == {
        "r1": operator, "r2": operator, "r3": "ann from 203.0.113.7",
        "r4": "ann? from 1.1.1.1 from 203.0.113.7",
    }  # fmt: skip
