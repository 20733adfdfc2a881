"""Agents that are language models, called through pydantic-ai. The only package that imports it.

`agent.py` asks a model and judges what came back; `models.py` builds the model that a configuration names;
`faults.py` turns errors into those that the queue understands; `streaming.py` collects streamed replies;
`instrumentation.py` makes a span of each request if the program traces.
"""

from aragora_q.executors.debate.llm.agent import ModelAgent

__all__ = ["ModelAgent"]
