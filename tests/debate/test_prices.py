"""What a call costs: by the configuration, else by the list; what is not known is not 0."""

import pytest
from support.llm_stub import APIS
from support.requests import requests_of, topic_of

from aragora_q.answer_form import AnswerForm
from aragora_q.base import MAX_HOLD_BY_BYTES
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import override_file
from aragora_q.config.tables import AgentConfig
from aragora_q.errors import ConfigError
from aragora_q.executors import debate
from aragora_q.executors.debate import prices
from aragora_q.executors.debate.agents import AgentRegistry, agent_price
from aragora_q.executors.debate.prices import FREE, price_of
from aragora_q.executors.debate.providers import account_of, provider_of
from aragora_q.executors.debate.requests import PLAIN, Manner
from aragora_q.history import CallHistory

pytest.importorskip("genai_prices", reason="the extra `llm` is not installed")

PRICES = {"input_usd_per_million": 3, "output_usd_per_million": 15.0}
EACH_API = pytest.mark.parametrize("api", APIS)


def usage(taken, output, cached=0):
    """Token counts as pydantic-ai has them."""
    from pydantic_ai.usage import RequestUsage

    return RequestUsage(input_tokens=taken, output_tokens=output, cache_read_tokens=cached)


def config(tmp_path, text):
    """The settings in a file with that text."""
    path = tmp_path / "given.toml"
    path.write_text(text)
    with override_file(path):
        return QueueConfig()


def test_the_price_of_the_configuration_comes_before_the_list():
    """By the agent's name, then by its model, then by a built-in name of the model."""
    settings = QueueConfig(
        agents={"mine": "openai:gpt-5", "other": "openai:gpt-5", "third": "claude"},
        prices={
            "mine": PRICES,
            "openai:gpt-5": {**PRICES, "output_usd_per_million": 20},
            "claude": {**PRICES, "cached_input_usd_per_million": 0.5},
        },
    )
    mine, other, third = (agent_price(name, settings) for name in ("mine", "other", "third"))
    assert (mine.output_usd_per_million, other.output_usd_per_million) == (15, 20)
    assert {each.source for each in (mine, other, third)} == {"configuration"}
    assert mine.cached_input_usd_per_million == 3
    assert third.cost_usd(1_000_000, 100_000, 400_000) == pytest.approx(1.8 + 0.2 + 1.5)
    assert third.worst_usd(1_000_000, 100_000) == pytest.approx(3 + 1.5)


def test_a_cached_token_that_is_dearer_counts_in_the_worst_case():
    """A bound holds whatever the configuration says."""
    dear = {**PRICES, "cached_input_usd_per_million": 9}
    price = agent_price("gpt", QueueConfig(prices={"gpt": dear}))
    assert price.worst_usd(1_000_000, 0) == 9


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("openai:gpt-5", True),
        ("openai-chat:gpt-5", True),
        ("anthropic:claude-sonnet-4-5", True),
        ("openai:sold-by-no-provider", False),
        ("gateway/openai:gpt-5", False),
        ("ollama:gpt-oss-20b", False),
    ],
)
def test_the_list_has_the_prices_of_known_models(model, known):
    """Of a model in it, at its provider; nothing else has a price by accident of its name."""
    price = price_of(AgentConfig(model=model), QueueConfig())
    assert (price is not None) == known
    if known:
        assert price.source.startswith("genai-prices ")
        assert 0 < price.cached_input_usd_per_million < price.input_usd_per_million
        assert price.input_usd_per_million < price.output_usd_per_million


@EACH_API
def test_a_model_at_another_address_has_only_a_configured_price(api, monkeypatch):
    """A proxy with the model's name may have other prices: also one that the environment names."""
    agent = AgentConfig(model=f"{api}:gpt-5", base_url="http://127.0.0.1:1/v1")
    assert price_of(agent, QueueConfig()) is None
    assert (
        price_of(agent, QueueConfig(prices={f"{api}:gpt-5": PRICES})).output_usd_per_million == 15
    )
    names = {"anthropic": ("ANTHROPIC", "claude-sonnet-4-5")}
    variable, model = names.get(api, ("OPENAI", "gpt-5"))
    agent = AgentConfig(model=f"{api}:{model}")
    assert price_of(agent, QueueConfig()) is not None
    monkeypatch.setenv(f"{variable}_BASE_URL", "http://127.0.0.1:1/v1")
    assert price_of(agent, QueueConfig()) is None


@pytest.mark.parametrize("name", ["demo", "demo:bold", "local:smollm2"])
def test_demo_and_local_agents_are_free(name):
    """Free is a known price, unless the configuration has another one."""
    assert agent_price(name, QueueConfig()) is FREE
    assert agent_price(name, QueueConfig(prices={name: PRICES})).output_usd_per_million == 15


def test_a_long_prompt_costs_what_long_prompts_cost():
    """Some models are dearer from a length on, or charge for what enters their cache: the bound covers it."""
    price = price_of(AgentConfig(model="anthropic:claude-sonnet-4-5"), QueueConfig())
    short, long = (price.worst_usd(tokens, 0) / tokens for tokens in (1_000, 1_000_000))
    assert long > short
    assert short >= price.input_usd_per_million / 1e6


@pytest.mark.parametrize("model", ["anthropic:claude-sonnet-4-5", "openai:gpt-6.1-terra"])
@pytest.mark.parametrize("tokens", [0, 1_000, 1_000_000])
def test_a_bound_is_what_the_dearest_call_costs(model, tokens):
    """With all input written to the cache, whatever its length and that of the output."""
    price = price_of(AgentConfig(model=model), QueueConfig())
    for output in (0, 7, 32_000):
        dearest = max(price.cost_usd(tokens, output, 0, written) for written in (0, tokens))
        assert price.worst_usd(tokens, output) == pytest.approx(dearest, abs=1e-12)


def test_a_reply_is_priced_by_the_model_that_answered():
    """Else, if the list does not have it, by the configured one: as its call was reserved."""
    price = price_of(AgentConfig(model="openai:gpt-5"), QueueConfig())
    counts = usage(1_000, 1_000, 200)
    own = price.reply_usd(counts, "gpt-5-2025-08-07", None, None)
    assert own == pytest.approx(price.cost_usd(1_000, 1_000, 200))
    assert price.reply_usd(counts, "gpt-5-mini", None, None) < own
    assert price.reply_usd(counts, "gpt-5-preview-of-tomorrow", None, None) == pytest.approx(own)


def test_a_service_tier_has_its_price():
    """A reply of the flex tier is cheaper, one of the priority tier dearer than its bound without it."""
    standard, flex, priority = (
        price_of(AgentConfig(model="openai:gpt-5", service_tier=tier), QueueConfig())
        for tier in (None, "flex", "priority")
    )
    assert flex.cost_usd(1_000, 1_000) < standard.cost_usd(1_000, 1_000)
    assert priority.worst_usd(1_000, 1_000) > standard.worst_usd(1_000, 1_000)
    answered = standard.reply_usd(usage(1_000, 1_000), "gpt-5", None, {"service_tier": "flex"})
    assert answered == pytest.approx(flex.cost_usd(1_000, 1_000))


@EACH_API
async def test_a_built_agent_has_the_price_of_its_name(stub, api):
    """What the worker reserves is what a client quotes."""
    name, model = ("claude", "claude-sonnet-4-5") if api == "anthropic" else ("gpt", "gpt-5")
    agents = {
        name: {"model": f"{api}:{model}", "api_key_env": "STUB_KEY"},
        "proxied": stub.agent(api, model),
        "priced": stub.agent(api, model),
    }
    settings = QueueConfig(agents=agents, prices={"priced": PRICES})
    registry = AgentRegistry(settings)
    for each in agents:
        agent = await registry.agent(each, 0)
        assert agent.price == agent_price(each, settings)
        assert (agent.price is None) == (each == "proxied")
    await registry.close()


def test_providers_and_accounts():
    """One account per provider, address and key; protocols of one provider share it. No key can be read."""
    named = {
        "openai:m": "openai", "openai-chat:m": "openai", "openai-responses:m": "openai",
        "anthropic:m": "anthropic", "gateway/openai:m": "gateway", "demo:bold": "demo",
    }  # fmt: skip
    for model, provider in named.items():
        assert provider_of(AgentConfig(model=model)) == provider
    proxied = AgentConfig(model="openai:m", base_url="https://LLM.example.com:8443/v1")
    assert provider_of(proxied) == "llm.example.com"
    assert provider_of(proxied.model_copy(update={"provider": "azure-eu"})) == "azure-eu"
    accounts = {
        account_of("openai", address, key)
        for address in ("https://api.openai.com/v1/", "https://eu.api.openai.com/v1/")
        for key in ("sk-one", "sk-two", None)
    }
    assert len(accounts) == 6
    assert all(len(account) == len("openai@01234567") for account in accounts)
    far = [account_of(f"{'é' * 30}.{'a' * 200}", f"https://{n}.example", None) for n in range(2)]
    assert max(len(account.encode()) for account in far) <= MAX_HOLD_BY_BYTES
    assert far[0] != far[1], "a held job names the whole account"


@EACH_API
@pytest.mark.parametrize("structured", ["native", "tool", "prompted"])
@pytest.mark.parametrize(
    "text", ["Tea or coffee? " * 50, "茶かコーヒーか" * 50, "🫖" * 50, "1 2 3 " * 50]
)
async def test_the_input_bound_covers_the_prompt_and_its_form(stub, api, structured, text):
    """Whatever the question: more tokens than a tokenizer of OpenAI counts in it, where one is at hand, and at
    least half the bytes that are sent.
    """
    from aragora_q.executors.debate.llm import ModelAgent

    agent = ModelAgent("a", AgentConfig(**stub.agent(api, structured=structured)), "sk-test")
    form = AnswerForm()
    for request in requests_of(form, topic_of(form, text)):
        prompt = agent.prompt_for(request)
        sent = len((prompt.instructions + prompt.text).encode())
        for manner in (PLAIN, Manner(prompted=True), Manner(repair="the reply was blank")):
            bound = agent.max_input_tokens(request, manner)
            assert sent / 2 < bound < sent * 2 + 1_000
    await agent.close()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[prices."gpt-6"]\n{}', "unknown agent 'gpt-6'"),
        ('[prices."openia:gpt-6"]\n{}', "did you mean"),
        ("[prices.mine]\n{}", "unknown agent 'mine'"),
    ],
)
def test_a_price_without_a_model_is_an_error(tmp_path, text, fault):
    """A misspelled name would leave calls unpriced: workers do not start, clients do not enqueue."""
    rows = "\n".join(f"{name} = {value}" for name, value in PRICES.items())
    settings = config(tmp_path, text.format(rows))
    payload = {"question": "x", "agents": ["demo", "demo"]}
    for check in (debate.create, lambda each: debate.check_payload_agents(payload, each)):
        with pytest.raises(ConfigError) as caught:
            check(settings)
        assert "a price without a model" in str(caught.value)
        assert fault in f"{caught.value} {caught.value.hint}"
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("-1", "= -1 ({}:3): must be greater than or equal to 0"),
        ("1e6", "= 1000000.0 ({}:3): must be less than or equal to 100000"),
        ("nan", "= nan ({}:3): must be a finite number"),
        ("inf", "= inf ({}:3): must be a finite number"),
        ('"3"', "= '3' ({}:3): must be a number"),
        ("true", "= True ({}:3): must not be true or false"),
    ],
)
def test_a_price_that_cannot_be_is_refused(tmp_path, value, rule):
    """With the setting, its value, the rule and the line of the file's table."""
    text = '\n\n[prices."openai:gpt-5"]\ninput_usd_per_million = 3\noutput_usd_per_million = '
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text + value)
    name = "prices.openai:gpt-5.output_usd_per_million"
    assert str(caught.value) == f"{name} {rule.format(tmp_path / 'given.toml')}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("input_usd_per_million = 3", "output_usd_per_million ({}:1): field required"),
        (
            "input_usd_per_million = 3\noutput_usd_per_million = 3\ncurrency = 'EUR'",
            "currency ({}:1): unknown setting",
        ),
    ],
)
def test_a_price_has_two_fields_at_least(tmp_path, text, fault):
    """In US dollars: there is no other currency."""
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, f"[prices.gpt]\n{text}")
    assert str(caught.value) == f"prices.gpt.{fault.format(tmp_path / 'given.toml')}"


def test_a_price_that_is_not_a_table_is_refused(tmp_path):
    """A number alone does not say for what."""
    with pytest.raises(ConfigError, match=": must be a table"):
        config(tmp_path, "[prices]\ngpt = 3")


def test_prices_of_several_files_are_merged(tmp_path):
    """As agents are: the later source wins, entry by entry."""
    text = "[prices.gpt]\ninput_usd_per_million = 1\noutput_usd_per_million = 2\n"
    assert list(config(tmp_path, text).prices) == ["gpt"]


def test_quotes_of_many_debates_compute_few_prices(monkeypatch):
    """The list computes slowly: debates with questions of about the same length share what it says."""
    computed = []
    compute = prices.ListPrice._cost
    monkeypatch.setattr(
        prices.ListPrice, "_cost", lambda *given: computed.append(given) or compute(*given)
    )
    agents = ["openai:gpt-5", "anthropic:claude-sonnet-4-5"]
    for length in range(4_000, 4_020):
        payload = {"question": "x" * length, "agents": agents}
        made = debate.quote_of(payload, QueueConfig(), CallHistory())
    assert len(computed) < 5 * 20
    exact = sum(
        line.calls * price_of(AgentConfig(model=line.model), QueueConfig()).cost_usd(
            round(line.input_tokens / line.calls), round(line.output_tokens / line.calls)
        )
        for line in made.lines
    )  # fmt: skip
    assert made.expected.usd == pytest.approx(exact, rel=0.01)
