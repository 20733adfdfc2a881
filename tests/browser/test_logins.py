"""Logins in a real browser, and what those see who may only read."""

import os
import pty
import re

import pytest
from playwright.sync_api import expect
from support import consoles

from aragora_q.base import Job
from aragora_q.web.roles import Role

ACTIONS = "main form[method=post], details.action"


@pytest.fixture(scope="module", autouse=True)
def _job(desk):
    desk.run(lambda queue: queue.enqueue(Job({"n": 1}, id="j1", group="g")))


def test_a_token_logs_in_and_out(desk, new_window):
    """A wrong token is refused; a right one logs in, with a cookie that no script reads; logout ends it."""
    window = new_window(desk.address)
    page = window.page
    window.open("/jobs/j1")
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("Token").fill("aq_wrong")
    page.get_by_role("button", name="Log in").click()
    assert page.get_by_role("alert").inner_text() == "This token is not valid."
    assert window.faults() + window.too_wide() == []
    page.get_by_label("Token").fill(desk.tokens[Role.OPERATOR])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")
    assert page.locator(".actor").inner_text() == "the-operator, operator"
    assert (page.evaluate("document.cookie"), len(window.context.cookies())) == ("", 1)
    window.open("/jobs/j1")
    assert page.locator("#cancel").count() == 1
    [stolen] = window.context.cookies()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    window.context.add_cookies([stolen])
    window.open("/jobs/j1")
    assert (page.locator(ACTIONS).count(), page.locator(".actor").inner_text()) == (
        0,
        "anonymous, viewer",
    )


def test_the_link_logs_in_once(desk, new_window, tmp_path):
    """The link that a terminal shows logs one browser in, by its button; a second browser is refused."""
    terminal, end = pty.openpty()
    console = consoles.ConsoleProcess(tmp_path, stderr=end, **consoles.settings(desk.urls))
    try:
        console.start()
        printed = ""
        while not (link := re.search(r"(http://\S+/login\?code=\S+)\s", printed)):
            printed += os.read(terminal, 4096).decode()
        first, second = (new_window(f"http://127.0.0.1:{console.port}") for _ in range(2))
        for window in (first, second):
            window.open(link[1])
            window.page.get_by_role("button").click()
        expect(first.page.locator(".actor")).to_have_text(re.compile(", operator$"))
        assert second.page.get_by_role("alert").inner_text() == "This link was used, or is too old."
    finally:
        console.stop()
        os.close(terminal)
        os.close(end)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.PRODUCER])
def test_a_lower_role_sees_why_it_cannot_act(desk, new_window, role):
    """Pages have no actions, and say which login has them; only a producer enqueues."""
    window = new_window(desk.address, state=desk.state(role))
    for address in ("/", "/jobs", "/jobs/j1", "/groups/g", "/money", "/held", "/failed"):
        window.open(address)
        assert window.page.locator(ACTIONS).count() == 0, address
        assert (
            "Actions need a login with a token of role operator."
            in window.page.locator("footer").inner_text()
        )
    assert window.page.get_by_role("link", name="New debate").count() == (role is Role.PRODUCER)
    assert window.open("/new") == (200 if role is Role.PRODUCER else 403)


def test_a_console_that_only_reads(desk, new_window, tmp_path):
    """Without the credential of operators nothing can be changed, whatever the token: pages say so."""
    tokens = consoles.write_tokens(tmp_path / "tokens", *Role)
    urls = {Role.VIEWER: desk.urls[Role.VIEWER]}
    variables = consoles.settings(urls, ARAGORA_QUEUE_WEB_TOKENS_FILE=str(tmp_path / "tokens"))
    console = consoles.ConsoleProcess(tmp_path, **variables)
    try:
        window = new_window(f"http://127.0.0.1:{console.start().port}")
        window.open("/login?next=/jobs/j1")
        window.page.get_by_label("Token").fill(tokens[Role.OPERATOR])
        window.page.get_by_role("button", name="Log in").click()
        window.page.wait_for_url("**/jobs/j1")
        for address in ("/", "/jobs", "/jobs/j1", "/groups/g", "/money", "/held", "/failed"):
            window.open(address)
            assert window.page.locator(ACTIONS).count() == 0, address
            assert (
                "this console has no web_operator_redis_url"
                in window.page.locator("footer").inner_text()
            )
        assert window.open("/new") == 403
        assert "web_producer_redis_url" in window.page.locator("main").inner_text()
    finally:
        console.stop()
