"""Settings: declared in `settings`, read from files and environment by `sources`."""

from aragora_q.config.settings import QueueConfig, get_queue_config, set_queue_config
from aragora_q.config.tables import AgentConfig

__all__ = ["AgentConfig", "QueueConfig", "get_queue_config", "set_queue_config"]
