"""Every block of docs/money.md is executed, in order, in one shell, with providers that bill what they serve.

The reader's computer is an empty directory with `aragora-q` and API keys. The providers are those that the
page names, at their own addresses: the clients reach them through a proxy that answers itself. So the prices
are those of the list. Each `toml` block is added to ./aragora-q.toml; `text` and `json` blocks are what the
block before them prints, where … stands for anything.
"""

import csv
import json
import os
import re
import ssl
import subprocess
import sys
import tomllib
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price
from support.certificates import Certificates
from support.docs import blocks
from support.llm_stub import Stub, billing
from support.paths import ROOT
from support.servers import Unavailable
from support.wait import stay_in_one_day

from aragora_q.config.tables import AgentConfig
from aragora_q.contracts import HOLD_CLOSED_SECONDS
from aragora_q.executors.debate.requests import MIN_PREFIX_TOKENS
from aragora_q.redis.keys import SPEND_DAYS

pytestmark = pytest.mark.timeout(600)

PAGE = "docs/money.md"
TOKENS = (480, 320, 160)
"""Of each call: input, output, and the part of the input that comes from the provider's cache."""
HOSTS = "api.anthropic.com", "api.openai.com"
MARK = "\f"


def session(some):
    """A shell session that does with each block what its reader does; prints a mark before each."""
    for block in some:
        yield f"printf '{MARK}%s\\n' '{block}'"
        match block.language:
            case "sh":
                yield block.text
            case "toml":
                yield f"cat >>aragora-q.toml <<'END'\n{block.text}\nEND"
            case "python":
                yield f"python - <<'END'\n{block.text}END"
    yield "aragora-q config check --settings-only >&2"


def is_executed(block):
    return block.language in {"sh", "toml", "python"}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    """The providers of the page, which note what they bill."""
    try:
        certificates = Certificates(tmp_path_factory.mktemp("tls"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    certificates.make("provider", {"subjectAltName": ",".join(f"DNS:{host}" for host in HOSTS)})
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates["provider.crt"], certificates["provider.key"])
    stub = Stub(lambda number, model: billing(*TOKENS), tls=tls)
    stub.authority = certificates["ca.crt"]
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def reader(provider, tmp_path_factory):
    """What the blocks of the page have printed, by block; and a function that runs more on that computer."""
    here = tmp_path_factory.mktemp("reader")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HOME": str(here),
        "HTTPS_PROXY": provider.address,
        "SSL_CERT_FILE": provider.authority,
        "OPENAI_API_KEY": "sk-reader",
        "ANTHROPIC_API_KEY": "sk-ant-reader",
        "ARAGORA_QUEUE_METRICS_PORT": "0",  # other tests may run a worker, too
    }

    def run(script):
        return subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{script}"],
            capture_output=True, text=True, timeout=300, check=False, cwd=here, env=environment,
        )  # fmt: skip

    stay_in_one_day(240)
    done = run("\n".join(session(filter(is_executed, blocks(PAGE)))))
    assert done.returncode == 0, done.stdout.split(MARK)[-1] + done.stderr
    printed = dict(part.split("\n", 1) for part in done.stdout.split(MARK)[1:])
    return printed, run


def test_each_block_is_executed_or_compared():
    """Blocks of other languages, or places, would be neither; expected output follows what prints it."""
    before = None
    for block in blocks(PAGE):
        assert is_executed(block) or block.language in {"text", "json"}, f"{block}: never executed"
        assert not block.place, f"{block}: runs elsewhere"
        if not is_executed(block):
            assert before is not None, f"{block}: nothing prints it"
            assert is_executed(before), f"{block}: nothing prints it"
        before = block


def test_blocks_print_what_the_page_shows(reader):
    """All commands succeed in order, and print the `text` and `json` blocks."""
    printed, _ = reader
    before = None
    for block in blocks(PAGE):
        if block.language == "text":
            said = printed[str(before)]
            assert is_like(block.text.strip(), said.strip()), f"{block}: {said}"
        elif block.language == "json":
            shown, said = json.loads(block.text), json.loads(printed[str(before)].splitlines()[-1])
            assert is_part(shown, said), f"{block}: {said}"
        before = block


def is_part(shown, said):
    """Whether all that is shown was printed; objects may have more fields."""
    if isinstance(shown, dict):
        return isinstance(said, dict) and all(
            name in said and is_part(value, said[name]) for name, value in shown.items()
        )
    if isinstance(shown, list):
        return isinstance(said, list) and len(shown) == len(said) and all(map(is_part, shown, said))
    if isinstance(shown, str) and "…" in shown:
        return is_like(shown, str(said))
    return shown == said


def is_like(shown, said):
    """Whether a text was printed, where … stands for anything in a line."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), said) is not None


def test_what_was_spent_is_what_the_providers_billed(reader, provider):
    """`spend --by model` has the calls, tokens and US dollars of every reply, at the prices of the list."""
    _, run = reader
    rows = csv.DictReader(
        run("REDIS_URL=embedded:// aragora-q spend --by model --csv").stdout.splitlines()
    )
    taken, made, cached = TOKENS
    usage = Usage(input_tokens=taken, output_tokens=made, cache_read_tokens=cached)
    billed = defaultdict(lambda: (0, 0, 0, 0, 0))
    for request in provider.asked:
        tier = {"service_tier": request["body"].get("service_tier", "default")}
        usd = calc_price(usage, request["model"], price_context=tier).total_price
        row = (1, taken, made, cached, usd)
        billed[request["model"]] = tuple(map(sum, zip(billed[request["model"]], row, strict=True)))
    numbers = ["calls", "input_tokens", "output_tokens", "cached_tokens"]
    spent = {
        row["model"].partition(":")[2]: (*(int(row[name]) for name in numbers), Decimal(row["usd"]))
        for row in rows
    }
    assert spent == billed


def test_the_page_says_what_a_call_takes():
    """A reader can compute what the page shows as spent from what it says of each call."""
    taken, made, cached = TOKENS
    said = f"{taken} tokens of input, {cached} of them cached, and {made} of output in each call"
    assert said in " ".join((ROOT / PAGE).read_text().split())


def test_quotes_learn_from_what_the_providers_billed(reader):
    """A quote after the debates of the page is nearer to what they cost than the one that the page shows."""
    printed, run = reader
    [shown] = (
        block for block in blocks(PAGE) if block.section == "Quotes" and block.language == "sh"
    )
    ask = "REDIS_URL=embedded:// " + shown.text.splitlines()[-1]
    before, after = (
        json.loads(text.splitlines()[-1]) for text in (printed[str(shown)], run(ask).stdout)
    )
    taken, made, cached = TOKENS
    usage = Usage(input_tokens=taken, output_tokens=made, cache_read_tokens=cached)
    usd = 3 * float(calc_price(usage, "gpt-6.1-terra").total_price)
    assert after["debates"] == 4
    assert after["least"]["usd"] <= usd <= after["most"]["usd"]
    errors = [abs(quote["expected"]["usd"] - usd) for quote in (before, after)]
    assert errors[1] < errors[0] / 2, (before["expected"], after["expected"], usd)


def test_numbers_in_the_text_are_those_of_the_code():
    """Times, bounds and the thresholds of alerts."""
    usual, flex = (AgentConfig(model="m", service_tier=tier) for tier in (None, "flex"))
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    nearly_used = re.search(r"budget:aragora_q_spent:ratio > (\S+)\n", alerts)[1]
    burns_fast = re.search(r"ratio1h\S* > (\S+) unless", alerts)[1]
    text = " ".join((ROOT / PAGE).read_text().split())
    for said in (
        f"{usual.call_seconds / 60:.0f} minutes, {flex.call_seconds / 60:.0f} in the flex tier",
        f"has {MIN_PREFIX_TOKENS:,} tokens, the least that providers keep",
        f"for {SPEND_DAYS} days",
        f"names more than {HOLD_CLOSED_SECONDS / 3600:.0f} hours",
        f"one fires at {float(nearly_used):.0%} of a limit".replace("%", " %"),
        f"would bring the window to {float(burns_fast):.0%} of it".replace("%", " %"),
    ):
        assert said in text, said


def tables(section):
    """The tables of a section of the page, as lists of rows of cells without marks."""
    text = (ROOT / PAGE).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [row.replace("*", "").strip("|").split("|") for row in table.splitlines()]
        yield [[cell.strip() for cell in row] for row in rows if "---" not in row]


def number(cell):
    return Decimal(re.sub("[$,]", "", cell))


def test_the_month_adds_up():
    """The printed tokens and prices lead to the printed costs, to the cent, and these to the budgets."""
    seat, models, month = tables("A month of debates")
    _, taken, cached, written, made = ([number(cell) for cell in row[1:]] for row in seat[1:])
    debates = [Decimal(0), Decimal(0)]
    for model, *cells in models[1:-1]:
        plain, cheap, dear, output, *costs = map(number, cells)
        for kind, cost in enumerate(costs):
            usd = (taken[kind] - cached[kind] - written[kind]) * plain + made[kind] * output
            usd += cached[kind] * cheap + written[kind] * dear
            assert abs(usd / 1_000_000 - cost) <= Decimal("0.000005"), model
            usage = Usage(
                input_tokens=int(taken[kind]),
                cache_read_tokens=int(cached[kind]),
                cache_write_tokens=int(written[kind]),
                output_tokens=int(made[kind]),
            )
            listed = calc_price(usage, model, provider_id="openai").total_price
            assert abs(listed - cost) <= Decimal("0.000005"), model
            debates[kind] += cost
    assert [number(cell) for cell in models[-1][-2:]] == debates
    sums = []
    for row, cost in zip(month[1:3], debates, strict=True):
        count, each = map(number, row[1].split(" at "))
        assert each == cost
        assert number(row[2]) == round(count * each, 2)
        sums.append((count, number(row[2])))
    assert (number(month[3][1]), number(month[3][2])) == tuple(map(sum, zip(*sums, strict=True)))
    assert sums[0][0] + sums[1][0] == 40 * 30
    others = {row[0]: number(row[2]) for row in month[4:]}
    assert others.pop("all go one round") == round(1200 * debates[1], 2)
    flex = others.pop('the same, with `service_tier = "flex"`')
    assert abs(flex - number(month[3][2]) / 2) < Decimal("0.02"), "half, but for what is rounded"
    assert all(usd >= number(month[3][2]) for usd in others.values())
    [limits] = (
        tomllib.loads(each.text)["budgets"] for each in blocks(PAGE)
        if each.section == "A month of debates" and each.language == "toml"
    )  # fmt: skip
    expected = number(month[3][2])
    assert limits["month"]["limit_usd"] > expected * Decimal("1.25")
    assert limits["day"]["limit_usd"] > expected / 30 * 2
