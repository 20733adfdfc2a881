"""`enqueue --quote`, `enqueue --max-quote USD`, and quotes next to what debates cost."""

import json
import re

import pytest
from support.docs import blocks

from aragora_q.errors import AccessDenied
from aragora_q.executors import debate
from aragora_q.executors.debate import agents, prices
from aragora_q.history import CallHistory, CallKind, CallSums
from aragora_q.streams.queue import RedisStreamsQueue

CONFIG = """
default_agents = ["ann", "bob"]
[agents]
ann = "openai:m1"
bob = { model = "openai:m2", service_tier = "flex" }
cyd = "openai:m3"
dan = { model = "openai:m1", fallback = ["cyd"] }
[prices]
"openai:m1" = { input_usd_per_million = 3, output_usd_per_million = 15 }
"openai:m2" = { input_usd_per_million = 1, output_usd_per_million = 5 }
"""
ASK = ("enqueue", "Tea or coffee?")
LEVELS = ("least", "expected", "most")


@pytest.fixture
def run(run_cli, tmp_path):
    """Runs a command with agents whose prices are known, except for that of `cyd`."""
    config = tmp_path / "priced.toml"
    config.write_text(CONFIG)

    def start(*args, **options):
        return run_cli(*args, "--config", config, **options)

    return start


def lines(*objects):
    return "\n".join(map(json.dumps, objects))


def test_a_quote_enqueues_nothing(run, redis_client):
    """Least, expected and most are in order; the parts add up to what is expected."""
    quote = run(*ASK, "--quote", "--json").object
    usd = [quote[level]["usd"] for level in LEVELS]
    assert 0 < usd[0] <= usd[1] <= usd[2]
    for name in ("calls", "input_tokens", "output_tokens", "usd"):
        parts = sum(part[name] for part in quote["lines"])
        assert parts == pytest.approx(quote["expected"][name], rel=0.01), name
    assert {(part["agent"], part["service_tier"]) for part in quote["lines"]} == {
        ("ann", None),
        ("bob", "flex"),
    }
    assert (quote["debates"], quote["unpriced_agents"]) == (0, [])
    assert not [key for key in redis_client.scan_iter() if b":job:" in key or b"stream" in key]
    assert run("list", "-q").out == ""


def test_a_quote_for_people_and_for_scripts(run):
    """The first line has the answer; --quiet is the expected US dollars as a plain number."""
    expected = run(*ASK, "--quote", "--json").object["expected"]["usd"]
    shown = run(*ASK, "--quote")
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0].startswith(f"Quote: ${expected:.4f} expected, $")
    assert "based on the form of the debate: no history" in shown.lines
    assert max(map(len, shown.lines)) < 80
    quiet = run(*ASK, "--quote", "--quiet")
    assert float(quiet.out) == pytest.approx(expected, abs=2e-6)


def test_the_example_of_the_page(run_cli, monkeypatch):
    """docs/debates.md shows what its command prints."""
    monkeypatch.setenv("COLUMNS", "80")
    [shown] = (block.text for block in blocks("docs/debates.md") if block.language == "text")
    quote = run_cli(*ASK, "--agents", "claude,gpt,claude", "--quote").out
    assert quote.startswith(shown.strip())


def test_an_unknown_price_is_never_0(run):
    """The quote says which agent has none; the JSON has null."""
    args = (*ASK, "-a", "ann,cyd", "--quote")
    quote = run(*args, "--json").object
    assert [quote[level]["usd"] for level in LEVELS] == [None] * 3
    assert quote["unpriced_agents"] == ["cyd"]
    assert quote["expected"]["input_tokens"] > 0
    shown = run(*args)
    assert shown.lines[0] == "Quote: unknown"
    assert "unknown: no price for agent cyd" in shown.lines
    quiet = run(*args, "-q")
    assert (quiet.code, quiet.out) == (0, "unknown\n")
    assert quiet.err == "unknown: no price for agent cyd\n"


def test_a_fallback_without_a_price_leaves_only_the_most_unknown(run):
    """It is possible, not expected: scripts get the number, and nothing on stderr."""
    args = (*ASK, "-a", "ann,dan", "--quote")
    quote = run(*args, "--json").object
    assert quote["expected"]["usd"] > 0
    assert (quote["most"]["usd"], quote["unpriced_agents"]) == (None, [])
    assert "unknown: no price for a fallback" in run(*args).lines
    quiet = run(*args, "-q")
    assert (float(quiet.out) > 0, quiet.err) == (True, "")


LINES = (
    {"question": "a?", "id": "a"},
    {"payload": {"x": 1}},
    {"question": "b?", "agents": ["ann", "cyd"]},
    {"question": "c?", "rounds": 99},
    {"question": "d?"},
)


def test_quotes_of_lines(run, redis_client):
    """JSON: one object per line, then the sum of those that could be quoted; invalid lines as by enqueue."""
    result = run("enqueue", "-", "--quote", "--json", stdin=lines(*LINES))
    assert result.code == 3
    *rows, last = result.objects
    assert [set(row) for row in rows] == [
        {"line", "id", "quote"},
        {"line", "error"},
        {"line", "quote"},
        {"line", "error"},
        {"line", "quote"},
    ]
    assert rows[1]["error"] == "this job cannot be quoted: it is not a debate"
    assert rows[3]["error"].startswith("rounds is 99")
    found = last["sum"]
    assert (found["quoted"], found["refused"], found["unpriced"]) == (3, 2, 1)
    quotes = [row["quote"] for row in rows if "quote" in row]
    for level in LEVELS:
        assert found[level]["usd"] is None
        for name in ("calls", "input_tokens", "output_tokens"):
            assert found[level][name] == pytest.approx(sum(each[level][name] for each in quotes))
    assert "2 lines refused; the first: line 2: this job cannot be quoted" in result.err
    assert run("list", "-q").out == ""


def test_the_sum_of_lines(run, tmp_path):
    """For people and for scripts; debates without a known price are counted, and the others summed."""
    file = tmp_path / "jobs.jsonl"
    file.write_text(lines(LINES[0], LINES[4], LINES[4]))
    whole = run("enqueue", file, "--quote", "--json").objects[-1]["sum"]
    usd = whole["expected"]["usd"]
    assert float(run("enqueue", file, "--quote", "-q").out) == pytest.approx(usd, abs=2e-6)
    shown = run("enqueue", file, "--quote")
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0].startswith(f"Quote of 3 debates: ${usd:.4f} expected, $")
    file.write_text(lines(*LINES))
    shown = run("enqueue", file, "--quote")
    assert (shown.code, shown.lines[0]) == (3, "Quote of 3 debates: unknown")
    text = " ".join(shown.out.split())
    assert (
        "unknown: 1 of 3 debates, the first on line 3: no price for agent cyd; the others: $"
        in text
    )
    quiet = run("enqueue", file, "--quote", "-q")
    assert (quiet.code, quiet.out) == (3, "unknown\n")


def test_one_read_of_the_history(run, monkeypatch):
    """However many lines are quoted; each of them is quoted once, also to be compared with a limit."""
    reads, read, quotes, quote = [], RedisStreamsQueue.call_history, [], debate.quote_of
    monkeypatch.setattr(debate, "quote_of", lambda *args: quotes.append(args) or quote(*args))

    async def counted(self):
        reads.append(self)
        return await read(self)

    monkeypatch.setattr(RedisStreamsQueue, "call_history", counted)
    run("enqueue", "-", "--quote", "--json", "--max-quote", "9", stdin=lines(*[LINES[4]] * 110))
    assert (len(reads), len(quotes)) == (1, 110)
    run(*ASK, "--quote", "--max-quote", "9")
    assert (len(reads), len(quotes)) == (2, 111)
    run("enqueue", "-", stdin=lines(*[LINES[4]] * 3))
    run(*ASK)
    assert len(reads) == 2


def test_a_history_that_may_not_be_read(run, monkeypatch):
    """The quote follows from the form of the debate, and says so; --max-quote compares with that."""

    async def denied(self):
        raise AccessDenied("the server denies access: NOPERM")

    monkeypatch.setattr(RedisStreamsQueue, "call_history", denied)
    shown = run(*ASK, "--quote")
    assert shown.code == 0
    assert "based on the form of the debate: this user may not read the history" in shown.lines
    assert shown.err.startswith("warning: quotes are based on the form of the debate, not on hist")
    assert run(*ASK, "--quote", "-q").err == ""
    assert run(*ASK, "--max-quote", "0.000001").code == 65


def test_without_the_price_list(run, monkeypatch):
    """A model whose price the list may have needs the extra; one with a price of the configuration does not."""
    monkeypatch.setattr(prices, "_listed", lambda *_: None)
    monkeypatch.setattr(agents, "price_list", lambda: None)
    for args in (["--quote"], ["--max-quote", "5"]):
        refused = run(*ASK, "-a", "ann,gpt", *args)
        assert (refused.code, refused.out) == (78, "")
        assert "the price of agent gpt needs an extra that is not installed" in refused.err
        assert "  hint: pip install 'aragora-q[llm]'" in refused.err
        assert run(*ASK, "-a", "ann,demo", *args).code == 0


@pytest.mark.parametrize(
    ("args", "code"),
    [(["--quote", "--wait"], 2), (["--quote", "--rounds", "99"], 65), (["--max-quote", "-1"], 65)],
)
def test_what_cannot_be_quoted(run, args, code):
    """Usage errors and invalid debates, as without a quote."""
    refused = run(*ASK, *args)
    assert (refused.code, refused.out) == (code, "")
    assert refused.err.count("\n") <= 2


def test_a_debate_above_the_limit_is_refused(run):
    """65 with quote, limit and what to do; the expected cost counts, not the most that it can be."""
    usd = run(*ASK, "--quote", "--json").object["expected"]["usd"]
    assert run(*ASK, "--max-quote", usd * 1.01).code == 0
    refused = run(*ASK, "--max-quote", usd * 0.99, "--id", "dear")
    assert (refused.code, refused.out) == (65, "")
    first, hint = refused.err.splitlines()
    assert first.startswith("aragora-q: error: max_quote_usd is 0.0")
    assert "but this debate is expected to cost 0.0" in first
    assert hint.startswith("  hint: raise it, or ask fewer or cheaper agents")
    assert run("status", "dear").code == 3


def test_what_has_no_quote_is_refused(run, monkeypatch):
    """Unknown is not cheap: debates without a known price, and jobs that are not debates."""
    refused = run(*ASK, "-a", "ann,cyd", "--max-quote", "1000")
    assert refused.code == 65
    assert "max_quote_usd is 1000, but there is no price for agent cyd" in refused.err
    assert "[prices]" in refused.err
    monkeypatch.setenv("ARAGORA_QUEUE_EXECUTOR", "command")
    monkeypatch.setenv("ARAGORA_QUEUE_EXEC_COMMAND", "true")
    refused = run(*ASK, "--max-quote", "1000")
    assert (refused.code, "cannot be quoted: it is not a debate" in refused.err) == (65, True)


def test_lines_may_have_their_own_limit(run):
    """Lines above it are refused, the others enqueued; the option is for lines that lack the field."""
    given = [
        {"question": "a?", "id": "a"},
        {"question": "b?", "id": "b", "max_quote_usd": 5},
        {"payload": {"x": 1}, "id": "c"},
        {"payload": {"x": 1}, "id": "d", "max_quote_usd": None},
        {"question": "e?", "id": "e", "max_quote_usd": "much"},
    ]
    result = run("enqueue", "-", "--max-quote", "0.000001", stdin=lines(*given))
    assert result.code == 3
    assert ["error" in row for row in result.objects] == [True, False, True, True, True]
    assert "(raise it, or ask fewer" in result.objects[0]["error"]
    assert "max_quote_usd must be US dollars from 0" in result.objects[4]["error"]
    assert run("list", "-q").lines == ["b"]


def test_a_job_that_exists_is_not_refused(run):
    """Enqueueing it again changes nothing and costs nothing, so a repeated run has the same outcome."""
    for args in (("--id", "tea"), ("--id-from-content",)):
        job_id = run(*ASK, *args, "-q").out.strip()
        again = run(*ASK, *args, "--max-quote", "0", "--json")
        assert (again.code, again.object) == (0, {"id": job_id, "created": False})
    again = run("enqueue", "-", "--max-quote", "0", stdin=lines({"question": "x?", "id": "tea"}))
    assert (again.code, again.object) == (0, {"line": 1, "id": "tea", "created": False})


def test_a_quote_with_limits(run):
    """--quote with --max-quote says what would be refused, with the exit code of a refusal."""
    refused = run(*ASK, "--quote", "--max-quote", "0.000001")
    assert refused.code == 65
    assert refused.lines[0].startswith("Quote: $")
    result = run("enqueue", "-", "--quote", "--max-quote", "0", "--json", stdin=lines(LINES[4]))
    assert result.code == 3
    assert "is expected to cost" in result.objects[0]["error"]
    assert result.objects[1]["sum"]["quoted"] == 0


def test_an_approval_is_asked_for_below_the_limit(run):
    """--max-quote refuses by what is expected, --approve-above holds by what is possible.

    What is refused is not held, and a quote says so, too.
    """
    both = ("--approve-above", "0.001", "--max-quote")
    assert run(*ASK, *both, "0.000001").code == 65
    refused = run(*ASK, *both, "0.000001", "--quote", "--json")
    assert (refused.code, "held" in refused.object) == (65, False)
    assert "would be held" not in run(*ASK, *both, "0.000001", "--quote").err
    assert run(*ASK, *both, "1000", "--json").object["held"] is True
    quoted = run(*ASK, *both, "1000", "--quote", "--json").object
    assert (quoted["held"], quoted["most_usd"] > 0.001) == (True, True)
    assert "it would be held: it may cost up to $" in run(*ASK, *both, "1000", "--quote").err
    result = run("enqueue", "-", *both, "1000", "--quote", "--json", stdin=lines(*LINES[::4]))
    assert [row.get("held", False) for row in result.objects] == [True, True, False]
    assert "2 jobs would be held; the first, line 1: it may cost up to $" in result.err


async def learned(harness):
    """The history of a debate in which `ann` proposed."""
    sums = CallSums(
        requests=2.0, calls=2.0, output_tokens=600.0, output_squares=180_000.0, input_tokens=400.0,
        max_input_tokens=800.0, seconds=8.0, seconds_squares=32.0, answer_bytes=1_200.0, words=400.0,
    )  # fmt: skip
    history = CallHistory({CallKind("openai:m1", "", "propose"): sums})
    gates = harness.queue.gates("w1")
    await gates.learn(history)
    await gates.close()


def test_a_quote_says_what_it_is_based_on(run, on_queue):
    """On finished debates of the queue; it names agents that they do not show, and counts lines without any."""
    on_queue(learned)
    args = (*ASK, "--quote", "-a", "ann,ann")
    assert run(*args, "--json").object["debates"] == 1
    shown = run(*args)
    assert "based on 1 debate of queue debates" in shown.lines
    assert "Time" in shown.lines[2]
    quote = run(*ASK, "--quote", "--json").object
    assert (quote["debates"], quote["agents_without_history"]) == (1, ["bob"])
    basis = "based on 1 debate of queue debates; no history of agent bob"
    assert basis in run(*ASK, "--quote").lines
    assert basis in run("enqueue", "-", "--quote", stdin=lines(LINES[0])).lines
    both = lines(
        {"question": "a?", "agents": ["ann", "ann"]}, {"question": "b?", "agents": ["cyd"] * 2}
    )
    last = run("enqueue", "-", "--quote", "--json", stdin=both).objects[-1]["sum"]
    assert (last["debates"], last["without_history"]) == (1, 1)
    text = " ".join(run("enqueue", "-", "--quote", stdin=both).out.split())
    assert "based on 1 debate of queue debates; 1 on the form of the debate" in text


def test_a_table_fits_the_terminal(run_cli, tmp_path, monkeypatch):
    """16 agents with long names, cheap and expensive: no number is broken, and no line is too long."""
    config = tmp_path / "wide.toml"
    names = [f"agent-{n}-of-the-department-for-research-and-development" for n in range(16)]
    usd = (100_000, 0.0001)
    config.write_text(
        "".join(
            f'[agents.{name}]\nmodel = "openai:a-model-with-quite-a-long-name-{n}"\n'
            f"[prices.{name}]\ninput_usd_per_million = {usd[n % 2]}\noutput_usd_per_million = {usd[n % 2]}\n"
            for n, name in enumerate(names)
        )
    )
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    args = (*ASK, "-a", ",".join(names), "--rounds", "20", "--quote", "--config", config)
    shown = run_cli(*args, terminal=True)
    assert max(map(len, shown.lines)) <= 80
    quote = run_cli(*args, "--json").object
    text = shown.out
    for part in quote["lines"]:
        assert f"{part['input_tokens']:,}" in text
        assert part["usd"] < 0.0001 or f"${part['usd']:,.2f}" in text
    assert f"${quote['most']['usd']:,.2f}" in text
    assert "< $0.0001" in text


@pytest.mark.parametrize("others", [(), ("gpt",)])
def test_agents_that_are_called_as_their_models_have_one_line(run_cli, monkeypatch, others):
    """Names of usual length are not broken, also next to a tier, another name and prices close to 0.

    Where others have names, "-" says that they have none: they are no part of the agent above.
    """
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    names = ("openai:gpt-6.1-terra", "openai:gpt-6-luna")
    agents = ",".join((*names, *others))
    args = ("-a", agents, "--service-tier", "flex", "--rounds", "20")
    shown = run_cli(*ASK, *args, "--quote", terminal=True)
    mark = "- +" if others else ""
    for name in names:
        assert any(re.match(rf"{mark}{name} +flex ", line) for line in shown.lines), name


def test_from_quote_to_result(run_cli, cli_command, tmp_path):
    """The worker keeps the quote that `enqueue --quote` showed, and the next one is based on that debate."""
    config = tmp_path / "priced.toml"
    config.write_text(
        "[prices.demo]\ninput_usd_per_million = 3000\noutput_usd_per_million = 15000\n"
    )

    def run(*args):
        return run_cli(*args, "--config", config)

    ask = (*ASK, "-a", "demo,demo", "--rounds", "1", "--options", "tea,coffee")
    usd = run(*ask, "--quote", "--json").object["expected"]["usd"]
    run(*ask, "--id", "tea")
    cli_command("worker", "--burst", "--metrics-port", "0", "--config", config)
    job = run("status", "tea", "--json").object
    assert job["quote_usd"] == job["result"]["quote_usd"] == pytest.approx(usd, abs=1e-6)
    shown = run("status", "tea").out
    assert re.search(rf"^cost +\$\d+\.\d\d \(quoted \${usd:,.2f}\)$", shown, re.MULTILINE)
    assert run(*ask, "--quote", "--json").object["debates"] == 1
