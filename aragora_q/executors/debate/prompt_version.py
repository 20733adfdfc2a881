"""The version of all prompts, computed from their wording. Used by the protocol to key the journal."""

from __future__ import annotations

from functools import cache

from aragora_q.executors.debate import prompts
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.local import prompts as local_prompts
from aragora_q.executors.debate.requests import Propose, Review, Revise, Vote


@cache
def prompt_version() -> str:
    """Return a digest that changes with the wording of any prompt or the form of any reply."""
    answers = {"A": "a", "B": "b"}
    requests = (
        Propose("q"),
        Review("q", answers),
        Revise("q", answers, "A", ("r",)),
        Vote("q", answers),
        Vote("q", answers, as_judge=True),
    )
    built = [
        prompt_for(request)
        for prompt_for in (prompts.prompt_for, local_prompts.prompt_for)
        for request in requests
    ]
    forms = [prompt.form.model_json_schema() for prompt in built if prompt.form]
    return stable_hash([(prompt.instructions, prompt.text) for prompt in built], forms)
