"""What is asked of an agent in a debate, and what it answers.

The protocol makes tasks, agents answer them: a language model by a prompt (`prompts.py`), a demo
agent by computing. Answers of other seats appear under labels (A, B, C …), so that no agent knows
who wrote what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Propose:
    """Answer the question by yourself. Reply: `text`."""

    question: str


@dataclass(frozen=True)
class Review:
    """Criticise the answers. Reply: `points`, `best` (a label or None), `stop` (more rounds are idle)."""

    question: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Revise:
    """Keep or change your answer, which has the label `own`, after `reviews`. Reply: `text`."""

    question: str
    answers: Mapping[str, str]
    own: str
    reviews: Sequence[str]


@dataclass(frozen=True)
class Vote:
    """Pick the best answer. Reply: `choice` (a label), `confidence` (0 to 100)."""

    question: str
    answers: Mapping[str, str]
    as_judge: bool = False


Task = Propose | Review | Revise | Vote


@dataclass(frozen=True)
class Reply:
    """An answer as JSON data, and what it took. `value` None: it was not in the form asked for.

    `cost_usd` is what the provider's price list says, 0 where no price is known.
    """

    value: dict[str, Any] | None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class Agent(Protocol):
    """Somebody with a seat in a debate."""

    name: str

    async def reply(self, task: Task) -> Reply:
        """Do the task.

        Raises PermanentError when asking again cannot help, RetryLater when the provider said so,
        AgentUnavailable for what may pass.
        """
