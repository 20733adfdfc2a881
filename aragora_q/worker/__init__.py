"""The worker and its parts."""

from aragora_q.worker.debate_worker import DebateWorker

__all__ = ["DebateWorker"]
