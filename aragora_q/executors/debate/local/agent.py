"""Agents that are local models. Imported when a debate first uses a `local:` agent."""

from __future__ import annotations

from typing import Any

from aragora_q.config.settings import AgentConfig
from aragora_q.executors.debate.llm import ModelAgent
from aragora_q.executors.debate.local import prompts, server
from aragora_q.executors.debate.prompts import Prompt
from aragora_q.executors.debate.requests import AgentRequest, Review


class LocalAgent(ModelAgent):
    """A small model on this machine. It reviews in plain text: no best answer, never a wish to stop."""

    def prompt_for(self, request: AgentRequest) -> Prompt:
        return prompts.prompt_for(request)

    def to_value(self, request: AgentRequest, output: Any) -> dict[str, Any]:
        value = super().to_value(request, output)
        if isinstance(request, Review):
            return {"points": value["text"], "best": None, "stop": False}
        return value


def create(name: str, config: AgentConfig) -> LocalAgent:
    """Build the agent `name` for `config.model`, which is `local:<model>`; start its server if needed.

    Raises:
        PermanentError: the extra `local` is not installed, or the model is not on this machine.

    """
    address, key = server.connect(config.model.partition(":")[2])
    return LocalAgent(name, address, key)
