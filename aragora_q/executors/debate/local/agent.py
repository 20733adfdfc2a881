"""Agents that are local models. Imported when a debate first uses a `local:` agent."""

from __future__ import annotations

from socket import gethostname

from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.llm import ModelAgent
from aragora_q.executors.debate.local import model_files, prompts, server
from aragora_q.executors.debate.prices import price_of
from aragora_q.executors.debate.prompts import Prompt
from aragora_q.executors.debate.providers import account_of, provider_of
from aragora_q.executors.debate.requests import AgentRequest


class LocalAgent(ModelAgent):
    """A small model on this machine. It gets prompts that are made for it, and costs nothing."""

    def prompt_for(self, request: AgentRequest) -> Prompt:
        return prompts.prompt_for(request)

    def served_by(self) -> str:
        """Return the digest of the model's file: the server's address differs in every process."""
        return model_files.MODELS[self._config.model].sha256


def create(name: str, config: AgentConfig, settings: QueueConfig) -> LocalAgent:
    """Build the agent `name` for `config.model`, which is `local:<model>`; start its server if needed.

    Raises:
        PermanentError: the extra `local` is not installed, or the model is not on this machine.

    """
    model = config.model.partition(":")[2]
    address, key = server.connect(model, config)
    agent = LocalAgent(name, address, key)
    agent.model = config.model
    agent.price = price_of(config, settings, name=name)
    agent.provider = provider_of(config)
    # Each machine has its own server.
    agent.account = account_of(agent.provider, gethostname(), None)
    return agent
