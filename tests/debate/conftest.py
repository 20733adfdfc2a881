"""A provider on loopback, agents that use it, and debates as attempts in memory."""

import pytest
from support.llm_stub import Stub
from support.memory_session import MemorySession, make_attempt
from support.scripted_agents import ScriptedAgent

from aragora_q import codec as wire
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Completed
from aragora_q.executors import debate
from aragora_q.executors.debate import demo
from aragora_q.job import create_debate_job


@pytest.fixture
def new_stub(monkeypatch):
    """Starts providers on loopback, and sets their API key in the environment."""
    monkeypatch.setenv("STUB_KEY", "sk-secret-of-the-stub")
    started = []

    def start(**options):
        started.append(Stub(**options))
        return started[-1]

    yield start
    for stub in started:
        stub.close()


@pytest.fixture
def stub(new_stub):
    """A provider without faults."""
    return new_stub()


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch):
    """Demo agents wait between messages for human readers; tests do not need that."""
    monkeypatch.setattr(demo, "PAUSE_SECONDS", 0)


@pytest.fixture
def seat_scripted_agents(monkeypatch):
    """Replaces the agents: `seat_scripted_agents(name=function of a request, …)`; returns them by name."""
    from aragora_q.executors.debate import agents, quote

    def seat(**replies):
        made = {name: ScriptedAgent(name, reply) for name, reply in replies.items()}

        def terms_of(names, config, service_tier=None):
            return [
                quote.Terms(
                    max_output_tokens=made[name].max_output_tokens,
                    larger_output_tokens=made[name].larger_output_tokens,
                    price=made[name].price,
                )
                for name in names
            ]

        async def agent(self, name, seat, service_tier=None):
            return made[name]

        def resolve(self, names):
            assert set(names) <= set(made)

        monkeypatch.setattr(agents.AgentRegistry, "agent", agent)
        monkeypatch.setattr(agents.AgentRegistry, "resolve", resolve)
        monkeypatch.setattr(quote, "terms_of", terms_of)
        return made

    return seat


@pytest.fixture
def run_debate():
    """Runs a debate as one attempt of a job; returns outcome, session, and the result if it completed."""

    async def run(
        *,
        agents=(),
        session=None,
        job=None,
        settings=None,
        question="Tea or coffee?",
        gates=None,
        **fields,
    ):
        session = session or MemorySession()
        config = QueueConfig(**(settings or {}))
        job_fields = {
            name: fields.pop(name) for name in ("attempts", "max_attempts") if name in fields
        }
        if job is None:
            payload = create_debate_job(question, agents, job_id="job", **fields).payload
            job = Job({}, id="job", raw_payload=wire.encode(payload))
        job.attempts = job_fields.get("attempts", 1)
        job.max_attempts = job_fields.get("max_attempts", 3)
        attempt = make_attempt(
            debate.create(config),
            session=session,
            job=job,
            max_result_bytes=1_000_000,
            gates=gates,
        )
        outcome = await attempt.run()
        result = wire.decode(outcome.result) if isinstance(outcome, Completed) else None
        return outcome, session, result

    return run
