"""arq."""

from arq import create_pool
from arq.connections import RedisSettings
from peer import PAYLOAD, URL, ran

SETTINGS = RedisSettings.from_dsn(URL)


async def task(_context, _payload):
    ran()


class Worker:
    """Read by the command `arq`."""

    functions = (task,)
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = 0.01
    log_results = False


async def client(measure):
    pool = await create_pool(SETTINGS)

    async def enqueue():
        await pool.enqueue_job("task", PAYLOAD)

    await measure(enqueue)
