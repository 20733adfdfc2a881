"""The command lines that do what a page does, to copy: quoted for a shell, and never with a secret."""

from __future__ import annotations

import shlex

from aragora_q.config.settings import QueueConfig

DEFAULT_QUEUE = QueueConfig.model_fields["queue"].default


def command(config: QueueConfig, *words: str, reason: str = "") -> str:
    """Return `aragora-q` with `words`, the reason, and the queue unless it is the default one."""
    options = ["--reason", reason] if reason else []
    options += ["--queue", config.queue] if config.queue != DEFAULT_QUEUE else []
    return shlex.join(("aragora-q", *words, *options))
