"""Settings: declared once, read from layers."""

from aragora_q.config.settings import AgentConfig, QueueConfig, get_queue_config, set_queue_config

__all__ = ["AgentConfig", "QueueConfig", "get_queue_config", "set_queue_config"]
