"""Pages that follow the queue: a debate to its end, a hidden tab, and Redis going away."""

import re
import signal

import pytest
from playwright.sync_api import expect
from support import consoles, processes
from support.chromium import SECONDS
from support.wait import wait_until_sync

from aragora_q.base import Job

SET_HIDDEN = """is_hidden => {
    Object.defineProperty(document, "hidden", { get: () => is_hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def streams(console):
    """The number of streams of events that are open."""
    lines = console.get("/metrics").text.splitlines()
    [line] = [line for line in lines if line.startswith("aragora_q_web_event_streams{")]
    return float(line.rpartition(" ")[2])


def test_a_debate_is_followed_to_its_end(desk, window, worker_process):
    """From its enqueue to its answer a page follows without a reload, and keeps what its reader does."""
    page, jobs = window.page, window.new_page()
    desk.run(lambda queue: queue.enqueue(Job({"n": 1}, id="other", delay_seconds=600)))
    window.open("/new")
    page.get_by_label("Question").fill("Should we use microservices?")
    page.get_by_label("Rounds at most").fill("20")
    page.get_by_label(re.compile("^Debate")).select_option("always")
    page.get_by_role("button", name="Show the quote").click()
    page.get_by_role("button", name="Enqueue").click()
    page.wait_for_url("**/jobs/*")
    job_id = page.url.rpartition("/")[2]
    jobs.goto("/jobs")
    jobs.locator("#job-other input").check()
    jobs.get_by_label("Group").fill("typed")
    window.is_live()
    page.evaluate("window.isSame = true")
    jobs.evaluate("window.isSame = true")
    page.locator("#raw-payload > summary").click()
    page.locator("#cancel > summary").click()
    page.locator("#cancel [name=reason]").fill("half typed")
    assert page.locator("#meta .status").inner_text() == "pending"
    worker = worker_process(
        desk.admin_url,
        executor=None,
        lease_ms=60_000,
        environment={"ARAGORA_QUEUE_DEFAULT_AGENTS": "demo,demo"},
    )
    # It stands still until the page was looked at: a debate may end faster than a page follows.
    wait_until_sync(
        lambda: desk.run(lambda queue: queue.tracker.checkpoints(job_id)), SECONDS, "the debate"
    )
    worker.signal(signal.SIGSTOP)
    seen = set()

    def is_shown():
        seen.update(page.locator("h2").all_inner_texts())
        page.wait_for_timeout(50)  # lets the page work
        return "The debate so far" in seen

    wait_until_sync(is_shown, SECONDS, "the debate so far")
    assert page.evaluate("document.activeElement.name") == "reason"
    assert page.locator("#cancel [name=reason]").input_value() == "half typed"
    worker.signal(signal.SIGCONT)
    expect(page.locator("#meta .status")).to_have_text("completed")
    assert "20" in page.locator(".seats thead").inner_text()
    assert page.locator("#raw-payload").evaluate("e => e.open")
    assert page.locator("#cancel").count() == 0
    expect(jobs.locator(f"#job-{job_id} .status")).to_have_text("completed")
    assert jobs.locator("#job-other input").is_checked()
    assert jobs.get_by_label("Group").input_value() == "typed"
    assert jobs.evaluate("document.activeElement.name") == "group"
    assert jobs.locator("output").inner_text() == "1 selected"
    assert (page.evaluate("window.isSame"), jobs.evaluate("window.isSame")) == (True, True)


def test_a_hidden_tab_closes_its_stream(desk, window):
    """A page that is not seen follows nothing; it catches up when it is shown."""
    window.open("/jobs")
    window.is_live()
    wait_until_sync(lambda: streams(desk.console) == 1, SECONDS, "the stream")
    window.page.evaluate(SET_HIDDEN, True)
    wait_until_sync(lambda: streams(desk.console) == 0, SECONDS, "the end of the stream")
    desk.run(lambda queue: queue.enqueue(Job({"n": 1}, id="unseen")))
    assert window.page.locator("#job-unseen").count() == 0
    window.page.evaluate(SET_HIDDEN, False)
    expect(window.page.locator("#job-unseen")).to_be_visible()
    wait_until_sync(lambda: streams(desk.console) == 1, SECONDS, "the stream")


@pytest.fixture
def console_on(tmp_path):
    """Starts a console on a server, and stops it."""
    started = []

    def start(server, port=None):
        started.append(consoles.ConsoleProcess(tmp_path, port=port, REDIS_URL=server.url))
        return started[-1].start()

    yield start
    for console in started:
        console.stop()


@pytest.mark.parametrize("outage", ["frozen", "killed"])
def test_redis_goes_away(own_server, console_on, new_window, outage):
    """An open page keeps its content and says what is wrong, as one that is loaded then. Both recover."""
    server = own_server("--appendonly", "yes")
    assert (
        processes.run_command(
            "enqueue", "Is it away?", "-a", "demo,demo", "--id", "j1", url=server.url
        ).returncode
        == 0
    )
    window = new_window(f"http://127.0.0.1:{console_on(server).port}")
    window.open("/jobs/j1")
    window.is_live()
    window.page.evaluate("window.isSame = true")
    late = window.new_page()
    late.goto("/login")
    if outage == "frozen":
        server.process.send_signal(signal.SIGSTOP)
    else:
        server.kill()
    # The request goes on while the other page is looked at.
    late.evaluate("setTimeout(() => location.assign('/'))")
    window.says("Redis does not answer")
    assert "Is it away?" in window.page.locator("h1").inner_text()
    expect(late.locator("h1")).to_have_text("Redis does not answer")
    if outage == "frozen":
        server.process.send_signal(signal.SIGCONT)
    else:
        server.start()
    expect(late.locator("#attention")).to_be_visible()
    window.is_live()
    assert window.page.evaluate("window.isSame")


def test_the_console_goes_away(own_server, console_on, new_window):
    """A page whose console ends says that the connection is lost; it follows the next one there."""
    server = own_server()
    first = console_on(server)
    window = new_window(f"http://127.0.0.1:{first.port}")
    window.open("/")
    window.is_live()
    first.stop()
    window.says("Connection lost")
    console_on(server, port=first.port)
    window.is_live()
