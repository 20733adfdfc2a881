"""The form of a new debate: problems next to their fields, a quote first, and one job, sent once or twice."""

import re

import pytest
from support import sample_debates
from support.shown_jobs import worker

from aragora_q import JobFilter
from aragora_q.base import Job
from aragora_q.errors import ConfigError, RedisUnreachable
from aragora_q.web.pages.new import values_of
from aragora_q.web.roles import Role

PRICE = {"input_usd_per_million": 1, "output_usd_per_million": 10}
SETTINGS = {
    "agents": {
        "ann": {"model": "openai:gpt-6.1-terra"},
        "bob": {"model": "anthropic:claude-sonnet-5-5"},
    },
    "prices": {"ann": PRICE, "bob": PRICE},
}
DEBATE = {
    "question": "Tea or coffee?",
    "agents": "ann, bob",
    "rounds": "1",
    "consensus": "majority",
}
DEBATE |= {"answer_form": "text", "debate": "auto"}


@pytest.fixture
async def producer(new_console):
    return new_console(**SETTINGS).browser(Role.PRODUCER)


async def jobs_of(harness):
    return [job_id async for page in harness.queue.find(JobFilter()) for job_id in page]


def enqueue_of(page, values):
    """The fields that the button of a quote sends."""
    return {**values, **dict(page.fields("/new")), "step": "enqueue"}


async def test_a_debate_is_quoted_then_enqueued_once(harness, producer):
    """The first step shows the quote and enqueues nothing; the second enqueues, once, even if sent twice."""
    page = await producer.post("/new", DEBATE, step="quote")
    assert page.status == 200
    assert re.search(r"Enqueue for about \$0\.\d+", page.words)
    assert "least" in page.words
    assert "based on the form of the debate" in page.words
    assert await jobs_of(harness) == []
    fields = enqueue_of(page, DEBATE)
    done = await producer.done("/new", fields)
    [job_id] = await jobs_of(harness)
    assert f"Job {job_id} is enqueued." in done.words
    again = await producer.done("/new", fields)
    assert f"Job {job_id} was in the queue already: nothing was enqueued." in again.words
    assert await jobs_of(harness) == [job_id]
    job = await harness.queue.get_job(job_id)
    assert (job.payload["agents"], job.payload["rounds"]) == (["ann", "bob"], 1)


async def test_what_was_edited_after_its_quote_is_quoted_again(harness, producer):
    """A debate that differs from its quote is not enqueued: its own quote is shown."""
    page = await producer.post("/new", DEBATE, step="quote")
    edited = {**DEBATE, "rounds": "9"}
    answer = await producer.post("/new", enqueue_of(page, edited))
    assert "The debate has changed since its quote: nothing was enqueued." in answer.words
    assert await jobs_of(harness) == []
    await producer.done("/new", enqueue_of(answer, edited))
    [job_id] = await jobs_of(harness)
    assert (await harness.queue.get_job(job_id)).payload["rounds"] == 9


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("question", " ", "question is empty"),
        ("question", "x" * 20_001, "at most 20000"),
        ("agents", "", "number of agents is 0"),
        ("agents", ",".join(["ann"] * 17), "number of agents is 17"),
        ("agents", "ann, zed", "unknown agent 'zed'"),
        ("rounds", "many", "'many' is not a whole number"),
        ("rounds", "99", "rounds is 99"),
        ("consensus", "guess", "consensus is 'guess'"),
        ("consensus", "judge", "requires a judge"),
        ("judge", "ann", "judge"),
        ("answer_form", "choice", "options"),
        ("answer_form", "poem", "answer_form"),
        ("debate", "maybe", "debate is 'maybe'"),
        ("max_cost_usd", "cheap", "'cheap' is not US dollars"),
        ("max_cost_usd", "nan", "max_cost_usd"),
        ("max_cost_usd", "-1", "max_cost_usd"),
        ("max_cost_usd", "0.0000001", "max_cost_usd"),
        ("approve_above_usd", "-1", "approve_above_usd"),
        ("service_tier", "gold", "service_tier is 'gold'"),
        ("priority", "9" * 5_000, "is not a whole number"),
        ("priority", "1001", "priority is 1001"),
        ("delay", "soon", "invalid duration 'soon'"),
        ("delay", "999d", "delay_seconds is"),
        ("group", "a b", "invalid group 'a b'"),
        ("tenant", "<b>", "invalid tenant '<b>'"),
        ("tags", "env", "'env' is not NAME=VALUE"),
        ("tags", "e v=x", "invalid tag name"),
        ("id", "a:b", "invalid job id 'a:b'"),
    ],
)
async def test_a_problem_is_next_to_its_field(harness, producer, field, value, said):
    """What breaks a rule is refused with 422, said next to its field, and everything typed is kept."""
    answer = await producer.post("/new", {**DEBATE, "tenant": "acme", field: value}, step="enqueue")
    assert answer.status == 422
    problem = re.search(rf'id="problem-{field}"[^>]*>(.*?)</span>', answer.text, re.DOTALL)
    assert problem, answer.words[-1500:]
    assert said.replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;") in problem[1]
    assert f'aria-describedby="problem-{field}"' in answer.text
    if field != "tenant":
        assert 'value="acme"' in answer.text
    assert await jobs_of(harness) == []


async def test_several_problems_are_shown_at_once(producer):
    """What cannot be read is shown with all else that is wrong."""
    answer = await producer.post(
        "/new", {**DEBATE, "rounds": "x", "delay": "x", "group": "a b", "agents": "ann,zed"}
    )
    assert {"problem-rounds", "problem-delay", "problem-group", "problem-agents"} <= set(
        re.findall(r'<span class="problem" id="([^"]*)"', answer.text)
    )


async def test_all_fields_reach_the_job(harness, producer):
    """The job has what was typed; one that can cost more than allowed is held for an approval."""
    values = {
        **DEBATE, "consensus": "judge", "judge": "claude", "agents": "ann,bob\nann", "answer_form": "choice",
        "options": "tea\ncoffee\n", "debate": "always", "service_tier": "flex", "priority": "5", "delay": "15m",
        "group": "g", "tenant": "acme", "tags": "env=prod, team=x", "id": "mine", "approve_above_usd": "0",
    }  # fmt: skip
    page = await producer.post("/new", values)
    assert "It will be held until it is approved" in page.words
    done = await producer.done("/new", enqueue_of(page, values))
    assert "Job mine is enqueued and held" in done.words
    job = await harness.queue.get_job("mine")
    assert (job.status, job.priority, job.group, job.tenant) == ("held", 5, "g", "acme")
    assert dict(job.tags) == {"env": "prod", "team": "x"}
    assert job.payload["options"] == ["tea", "coffee"]
    assert job.payload["agents"] == ["ann", "bob", "ann"]
    assert job.payload["judge"] == "claude"
    taken = await producer.post("/new", values)
    assert taken.status == 422
    assert "job mine exists: it is held" in taken.words


async def test_webhooks_of_a_debate(harness, new_console):
    """The form begins with the default; unknown names are a problem; a cleared field is none."""
    target = {"url": "https://example.com/", "secret_file": "secret"}
    settings = {"webhooks": {"ops": target, "chat": target}, "default_notify": ("chat",)}
    producer = new_console(**SETTINGS, **settings).browser(Role.PRODUCER)
    page = await producer.get("/new")
    assert 'name="notify" value="chat"' in page.text
    answer = await producer.post("/new", {**DEBATE, "notify": "opps"})
    problem = re.search(r'id="problem-notify"[^>]*>(.*?)</span>', answer.text, re.DOTALL)
    assert "opps is not a webhook" in problem[1]
    for job_id, notify in (("both", "ops, chat"), ("none", "")):
        values = {**DEBATE, "notify": notify, "id": job_id}
        quoted = await producer.post("/new", values)
        assert ("--notify" in quoted.words) == bool(notify)
        assert ('"notify": []' in quoted.words) != bool(notify)
        await producer.done("/new", enqueue_of(quoted, values))
    jobs = [await harness.queue.get_job(job_id) for job_id in ("both", "none")]
    assert [job.notify for job in jobs] == [("ops", "chat"), ()]
    assert "notify ops" in (await producer.get("/jobs/both")).words
    assert values_of(jobs[0])["notify"] == "ops, chat"


async def test_a_schema_is_an_answer_form(harness, producer):
    """A JSON schema is taken as the form of answers, and what is not JSON is refused."""
    values = {
        **DEBATE,
        "answer_form": "schema",
        "schema": '{"type": "object", "properties": {"n": {"type": "integer"}}}',
    }
    page = await producer.post("/new", values)
    await producer.done("/new", enqueue_of(page, values))
    [job_id] = await jobs_of(harness)
    assert (await harness.queue.get_job(job_id)).payload["answer_form"]["type"] == "object"
    wrong = await producer.post("/new", {**values, "schema": "{"})
    assert wrong.status == 422
    assert "problem-schema" in wrong.text


async def test_hostile_text_is_kept_and_escaped(producer):
    """Text that could be code is shown as it was typed, in the fields, the command line and the messages."""
    text = '"><script>alert(1)</script></textarea>\n{{ 7 * 7 }}'
    answer = await producer.post(
        "/new", {**dict.fromkeys(DEBATE, text), "id": text, "schema": text, "group": text}
    )
    assert answer.status == 422
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "{{ 7 * 7 }}" in answer.text
    page = await producer.post("/new", {**DEBATE, "question": text})
    assert page.status == 200
    assert "<script>alert" not in page.text


async def test_no_price_without_the_extra(harness, producer, monkeypatch):
    """Without the list of prices, the debate can be enqueued, and the page says what is missing."""
    from aragora_q.executors import debate

    def agents_without_price(*_):
        raise ConfigError(
            "the price of agent ann needs an extra that is not installed", hint="pip install x"
        )

    monkeypatch.setattr(debate, "agents_without_price", agents_without_price)
    page = await producer.post("/new", DEBATE)
    assert "needs an extra that is not installed (pip install x)" in page.words
    assert "Enqueue at an unknown price" in page.words
    await producer.done("/new", enqueue_of(page, DEBATE))
    assert len(await jobs_of(harness)) == 1


async def test_redis_goes_away_between_quote_and_enqueue(harness, producer, monkeypatch):
    """If the enqueue is not confirmed, the page keeps the id, so that sending it again enqueues one job."""
    page = await producer.post("/new", DEBATE)
    fields = enqueue_of(page, DEBATE)
    queue = producer.console.roles[Role.PRODUCER].queue
    send = queue.enqueue_many

    async def enqueue_many(jobs, **options):
        await send(jobs, **options)
        raise RedisUnreachable("the connection was lost")

    monkeypatch.setattr(queue, "enqueue_many", enqueue_many)
    answer = await producer.post("/new", fields)
    assert answer.status == 503
    assert "Enqueue again: the id stays the same" in answer.words
    monkeypatch.undo()
    assert "nothing was enqueued" in (await producer.done("/new", enqueue_of(answer, DEBATE))).words
    assert len(await jobs_of(harness)) == 1


async def test_a_group_that_is_sealed(harness, producer):
    """A group that takes no more jobs is a problem of the field group."""
    await harness.enqueue("j1", group="g")
    await harness.queue.seal_group("g")
    values = {**DEBATE, "group": "g"}
    page = await producer.post("/new", values)
    answer = await producer.post("/new", enqueue_of(page, values))
    assert answer.status == 422
    assert "is sealed" in answer.words


@pytest.mark.parametrize("role", [Role.VIEWER])
async def test_only_producers_enqueue(harness, new_console, role):
    """A viewer gets neither the form nor a quote."""
    browser = new_console(**SETTINGS).browser(role)
    assert (await browser.get("/new")).status == 403
    assert (await browser.post("/new", DEBATE)).status == 403
    assert 'href="/new"' not in (await browser.get("/groups")).text


async def test_line_breaks_of_a_browser_are_line_feeds(harness, producer):
    """A browser sends two characters for each line break: the debate stays the one that was quoted."""
    lines = {"question": "Tea?\r\nOr coffee?", "answer_form": "choice", "options": "tea\r\ncoffee"}
    page = await producer.post("/new", {**DEBATE, **lines}, step="quote")
    assert "u000d" not in page.text
    assert "\ntea\ncoffee</textarea>" in page.text
    await producer.done("/new", enqueue_of(page, {**DEBATE, **lines}))
    [job_id] = await jobs_of(harness)
    job = await harness.queue.get_job(job_id)
    assert (job.payload["question"], job.payload["options"]) == (
        "Tea?\nOr coffee?",
        ["tea", "coffee"],
    )
    other = Job({**job.payload, "question": "Tea?\r\nOr coffee?"}, id="d1")
    assert values_of(other)["question"] == "Tea?\nOr coffee?"


async def test_a_forged_id_is_no_key(harness, producer):
    """The id that the form carries is checked like any other."""
    page = await producer.post("/new", DEBATE)
    answer = await producer.post("/new", {**enqueue_of(page, DEBATE), "quoted_id": "a:payload"})
    assert answer.status == 422
    assert await jobs_of(harness) == []


async def test_a_debate_is_changed_and_run_again(harness, producer):
    """The form begins with what a debate was enqueued with; its experiment it leaves."""
    note = {"experiment": {"arm": "one", "number": 1}}
    payload = {
        "question": "<b>Tea</b>?", "agents": ["ann", "bob"], "rounds": 1, "consensus": "unanimous",
        "answer_form": "choice", "options": ["tea", "coffee"], "max_cost_usd": 0.5, "metadata": note,
    }  # fmt: skip
    labels = {"tenant": "acme", "tags": {"arm": "one", "env": "prod"}}
    await harness.queue.enqueue(Job(payload, id="d1", group="g", priority=3, **labels))
    await harness.queue.enqueue(Job({"n": 1}, id="n1"))
    assert 'href="/new?from=d1"' in (await producer.get("/jobs/d1")).text
    assert "/new?from" not in (await producer.get("/jobs/n1")).text
    page = await producer.get("/new?from=d1")
    assert "with your changes. It stays as it is" in page.words
    assert page.fields("/new") == [("from", "d1")]
    values = values_of(await harness.queue.get_job("d1"))
    assert {name: value for name, value in values.items() if value} == {
        "from": "d1", "question": "<b>Tea</b>?", "agents": "ann, bob", "rounds": "1",
        "consensus": "unanimous", "debate": "auto", "answer_form": "choice", "options": "tea\ncoffee",
        "max_cost_usd": "0.5", "priority": "3", "tenant": "acme", "tags": "env=prod",
    }  # fmt: skip
    assert "&lt;b&gt;Tea&lt;/b&gt;?</textarea>" in page.text
    quoted = await producer.post("/new", values, step="quote")
    assert "Enqueue for about" in quoted.words
    assert ("from", "d1") in quoted.fields("/new")
    assert (await producer.get("/new?from=n1")).status == 422
    assert (await producer.get("/new?from=none")).status == 404
    assert (await producer.get("/new?from=%00")).status == 404


async def test_what_is_cleared_is_not_as_before(harness, producer):
    """Blank rounds are the default, and blank options are a problem, whatever the debate before had."""
    payload = {
        "question": "Tea?", "agents": ["ann", "bob"], "rounds": 1, "answer_form": "choice",
        "options": ["tea", "coffee"],
    }  # fmt: skip
    await harness.queue.enqueue(Job(payload, id="d1"))
    values = values_of(await harness.queue.get_job("d1"))
    refused = await producer.post("/new", values | {"options": ""}, step="quote")
    assert refused.status == 422
    assert "options" in refused.words.partition("Nothing was enqueued.")[2][:200]
    values |= {"rounds": "", "options": "", "answer_form": "boolean", "id": "d2"}
    page = await producer.post("/new", values, step="quote")
    await producer.done("/new", enqueue_of(page, values))
    job = await harness.queue.get_job("d2")
    assert (job.payload["rounds"], job.payload.get("options")) == (3, None)


@pytest.mark.parametrize("form", [{"type": "object"}, 7, None, ["x"]])
async def test_any_debate_can_be_changed(harness, producer, form):
    """Whatever another client wrote into a debate, the form is shown."""
    payload = {
        "question": "Why?",
        "agents": [1, {"a": 2}],
        "answer_form": form,
        "rounds": [1],
        "options": {},
    }
    await harness.queue.enqueue(Job(payload, id="d1"))
    page = await producer.get("/new?from=d1")
    assert page.status == 200
    assert "Why?</textarea>" in page.text


async def test_calls_of_the_debate_before_are_taken_over(harness, producer):
    """What the form has not is as in that debate, what is blank is not; calls are taken over if it has any."""
    payload = {
        "question": "Tea?",
        "agents": ["ann", "bob"],
        "rounds": 1,
        "max_cost_usd": 9,
        "max_tokens": 90_000,
    }
    await harness.queue.enqueue(Job(payload, id="d1", group="g"))
    values = values_of(await harness.queue.get_job("d1")) | {"max_cost_usd": "", "rounds": "2"}

    async def run_again():
        page = await producer.post("/new", values, step="quote")
        assert page.status == 200, page.words
        done = await producer.post("/new", enqueue_of(page, values))
        job = await harness.queue.get_job(done.headers["location"].rpartition("/")[2])
        assert (job.payload["max_tokens"], job.payload["rounds"]) == (90_000, 2)
        assert job.payload.get("max_cost_usd") is None
        return job.payload.get("forked_from"), page

    assert (await run_again())[0] is None
    session = await worker(harness.queue)
    [started] = [job for job in (await session.start(5)).jobs if job.id == "d1"]
    await session.checkpoint(started, "begun", {"at": 1, "nonce": "n"})
    assert (await run_again())[0] is None
    name, entry = sample_debates.call(
        "propose", 0, {"answer": "tea"}, step=0, number=0, agent="ann"
    )
    await session.checkpoint(started, name, entry)
    source, page = await run_again()
    assert source == "d1"
    assert "everything is paid for" in page.words or "upper bound" in page.words
    await harness.queue.cancel("d1")
    await harness.queue.purge_many(["d1"])
    gone = await producer.post("/new", values, step="quote")
    assert gone.status == 422
    assert "d1 not found" in gone.words
