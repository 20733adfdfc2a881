"""Settings: declared in `settings`, read from files and environment by `sources`."""

from aragora_q.config.settings import QueueConfig, get_queue_config, set_queue_config

__all__ = ["QueueConfig", "get_queue_config", "set_queue_config"]
