"""The worker: a chain from the queue to the queue.

    Fetcher ─▶ JobRunner ─▶ Attempt ─▶ Reporter ─▶ lease ends
       ▲           │
       └── slots ──┴── LeaseKeeper (thread)     OutageTracker: whether Redis is available

`DebateWorker` builds the parts, starts them and stops them in the order that `_shut_down` gives. Each
attempt is one task in `JobRunner._run`. The worker knows the queue's contract (`contracts.py`), not Redis.
"""

from aragora_q.worker.debate_worker import DebateWorker

__all__ = ["DebateWorker"]
