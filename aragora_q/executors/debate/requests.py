"""What a debate asks of an agent, and the agent's reply.

The protocol creates requests. Agents answer them: a language model with the help of `prompts.py`, a
demo agent by fixed rules. Other seats' answers appear under labels (A, B, C, …), so an agent does not
learn who wrote which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Propose:
    """Answer the question independently. Reply: `text`."""

    question: str


@dataclass(frozen=True)
class Review:
    """Review the answers. Reply: `points`, `best` (a label or None), `stop` (no further round is useful)."""

    question: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Revise:
    """Keep or change your own answer, labeled `own`, in view of `reviews`. Reply: `text`."""

    question: str
    answers: Mapping[str, str]
    own: str
    reviews: Sequence[str]


@dataclass(frozen=True)
class Vote:
    """Choose the best answer. Reply: `choice` (a label), `confidence` (0 to 100)."""

    question: str
    answers: Mapping[str, str]
    as_judge: bool = False


AgentRequest = Propose | Review | Revise | Vote


@dataclass(frozen=True)
class Reply:
    """An agent's reply as JSON data, and its cost.

    `value` is None if the reply was not in the requested form. `cost_usd` follows the provider's
    price list; it is 0 if the price is not known.
    """

    value: dict[str, Any] | None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class Agent(Protocol):
    """A participant that answers requests."""

    name: str

    async def reply(self, request: AgentRequest) -> Reply:
        """Answer one request.

        Raises:
            PermanentError: asking again cannot help. The agent drops out of the debate.
            RetryLater: the provider named a time to wait. The attempt is retried after it, uncharged.
            AgentUnavailable: a fault that may be temporary. The attempt is retried.

        """
