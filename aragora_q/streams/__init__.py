"""The queue on Redis Streams."""

from aragora_q.streams.queue import RedisStreamsQueue, create_redis_queue

__all__ = ["RedisStreamsQueue", "create_redis_queue"]
