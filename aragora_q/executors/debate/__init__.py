"""The debate executor: several agents answer a question, criticise, revise and vote.

Made by `create_default_executor`. `protocol.py` is the debate itself; `agents.py` finds who is meant
by a name; `journal.py` lets an interrupted debate go on where it was; `consensus.py` counts votes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Executor, current_attempt
from aragora_q.executors.debate.agents import AgentRegistry, check_agents, choose_agents
from aragora_q.executors.debate.protocol import Debate
from aragora_q.job import DebateJobPayload

__all__ = ["check_agents", "choose_agents", "create"]


def create(config: QueueConfig) -> Executor:
    """The executor that debates with the agents of `config`.

    Raises ConfigError if a configured agent cannot be built: unknown provider, missing key or extra.
    """
    roster = AgentRegistry(config)
    roster.check()

    async def run_debate(job: Job) -> Mapping[str, Any]:
        payload = DebateJobPayload.from_dict(job.payload)
        debate = Debate(job, payload, roster, current_attempt(), config.max_result_bytes)
        return (await debate.run()).to_dict()

    return run_debate
