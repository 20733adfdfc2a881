"""The queue on Redis Streams: clients, a worker's session, filters."""

from aragora_q.streams.queue import RedisStreamsQueue, create_redis_queue

__all__ = ["RedisStreamsQueue", "create_redis_queue"]
