"""Workers, a server, and a nemesis that injects random faults into both; writes a history to judge.

    python tests/reliability/nemesis.py --seconds 1800 --seed 7 --history /tmp/history.jsonl

It judges nothing: `checker.py` does, from the history alone. Faults: workers killed, frozen for longer
than their lease, stopped; connections killed, reset, black-holed, replies dropped after the command was
executed; the server frozen, killed and restarted on its append-only file, its writes paused, its scripts
flushed.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis
from support import invariants, processes, servers
from support.proxy import Proxy
from support.queue_harness import connect
from support.worker_processes import WorkerProcess

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import TRANSIENT_ERRORS
from aragora_q.streams.queue import RedisStreamsQueue

WORKERS = 4
LEASE_MS = 1000
SETTLE_SECONDS = 120
PREFIX = "aragora:queue:debates:"


class History:
    """Lines of JSON, in the order in which they happened."""

    def __init__(self, path):
        self._file = Path(path).open("a")  # noqa: SIM115 - open as long as we are

    def add(self, what, **facts):
        self._file.write(json.dumps({"at": round(time.time(), 3), "what": what, **facts}) + "\n")
        self._file.flush()


class Nemesis:
    def __init__(self, seconds, seed, history, directory):
        self.seconds, self.random = seconds, random.Random(seed)
        self.history, self.directory = History(history), Path(directory)
        self.server = servers.Server(
            servers.any_server(), "--appendonly", "yes", "--appendfsync", "always",
            "--enable-debug-command", "yes",
        )  # fmt: skip
        self.workers = []
        self.enqueued = 0
        self.history.add("seed", seed=seed, seconds=seconds)

    async def run(self):
        self.server.start()
        self.proxy = await Proxy(self.server.port).start()
        try:
            for n in range(WORKERS):  # half of them behind the proxy
                self.workers.append(self._worker(n, self.proxy.url if n % 2 else self.server.url))
            client = asyncio.create_task(self._enqueue())
            recorder = asyncio.create_task(self._record_events())
            try:
                await self._break_things()
                client.cancel()
                await asyncio.gather(client, return_exceptions=True)
                await self._settle()
                await asyncio.sleep(0.5)
            finally:
                client.cancel()
                recorder.cancel()
                await asyncio.gather(client, recorder, return_exceptions=True)
            self._conclude()
        finally:
            for worker in self.workers:
                if worker.is_alive:
                    worker.kill()
            await self.proxy.stop()
            self.server.stop()

    def _worker(self, n, url):
        environment = processes.env(
            REDIS_URL=url,
            RUN_LOG_FILE=str(self.directory / "runs"),
            ARAGORA_QUEUE_MAX_CRASHES="1000",
            ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS="0.3",
            ARAGORA_QUEUE_LOG_LEVEL="warning",
        )
        return WorkerProcess(
            self.directory, f"w{n}", environment, lease_ms=LEASE_MS, slots=6
        ).start()

    async def _enqueue(self):
        """Enqueue jobs of all kinds, up to 60 a second; each is repeated until it is acknowledged."""
        queue = RedisStreamsQueue(QueueConfig(redis_url=self.proxy.url, claim_idle_ms=LEASE_MS))
        queue.connection.failover_seconds = 0
        try:
            while True:
                job = self._any_job()
                while True:
                    try:
                        async with asyncio.timeout(3):
                            await queue.enqueue(job)
                        break
                    except (*TRANSIENT_ERRORS, TimeoutError) as error:
                        self.history.add("enqueue", id=job.id, answer=type(error).__name__)
                        await asyncio.sleep(0.1)
                self.history.add("enqueue", id=job.id, answer="ok", do=job.payload["do"])
                self.enqueued += 1
                await asyncio.sleep(self.random.uniform(0, 0.03))
        finally:
            await queue.close()

    def _any_job(self):
        steps = [["note"]]
        roll = self.random.random()
        if roll < 0.15:
            steps.append(["fail", self.random.randint(1, 2)])
        elif roll < 0.25:
            steps.append(["later", self.random.randint(1, 2)])
        elif roll < 0.28:
            steps.append(["permanent"])
        steps.append(["sleep", self.random.choice([0, 0.01, 0.1, 0.5, 2.0 if roll > 0.95 else 0])])
        return Job(
            payload={"do": steps},
            id=f"n{self.enqueued}",
            priority=self.random.choice([0, 0, 0, 1, -1]),
            delay_seconds=self.random.choice([0, 0, 0, 0.5]),
            max_attempts=3,
        )

    async def _break_things(self):
        faults = [
            self.kill_a_worker, self.freeze_a_worker, self.stop_a_worker, self.kill_connections,
            self.drop_replies, self.cut_connections, self.blackhole, self.freeze_the_server,
            self.restart_the_server, self.pause_writes, self.forget_scripts,
        ]  # fmt: skip
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            await asyncio.sleep(self.random.uniform(0.1, 1.0))
            fault = self.random.choice(faults)
            self.history.add("fault", name=fault.__name__)
            with suppress(redis.RedisError):
                await fault()

    def _any_worker(self):
        return self.random.choice(self.workers)

    async def kill_a_worker(self):
        worker = self._any_worker()
        worker.kill()
        worker.start()

    async def freeze_a_worker(self):
        worker = self._any_worker()
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_MS / 1000 * self.random.uniform(1.2, 3))
        worker.signal(signal.SIGCONT)

    async def stop_a_worker(self):
        worker = self._any_worker()
        worker.signal(signal.SIGTERM)
        await asyncio.to_thread(worker.process.wait, 40)
        worker.start()

    async def kill_connections(self):
        with self.server.client(socket_timeout=5) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    async def drop_replies(self):
        self.proxy.mode, self.proxy.match = "drop_reply", self.random.choice([b"", b"EVALSHA"])
        await asyncio.sleep(self.random.uniform(0.1, 0.6))
        self.proxy.mode = "pass"

    async def cut_connections(self):
        self.proxy.cut()

    async def blackhole(self):
        self.proxy.mode = "blackhole"
        await asyncio.sleep(self.random.uniform(0.2, 1.5))
        self.proxy.mode = "pass"
        self.proxy.cut()  # what was swallowed never comes: end the connections that wait for it

    async def freeze_the_server(self):
        self.server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(0.2, 2.5))
        self.server.process.send_signal(signal.SIGCONT)

    async def restart_the_server(self):
        self.server.kill()
        await asyncio.sleep(self.random.uniform(0, 1.5))
        await asyncio.to_thread(self.server.start)

    async def pause_writes(self):
        with self.server.client(socket_timeout=5) as client:
            client.execute_command("CLIENT", "PAUSE", self.random.randint(100, 1500), "WRITE")

    async def forget_scripts(self):
        with self.server.client(socket_timeout=5) as client:
            client.script_flush()

    async def _record_events(self):
        """Record all events before their stream is trimmed."""
        after = "0-0"
        while True:
            with suppress(redis.RedisError, OSError):
                async with redis.asyncio.Redis(
                    port=self.server.port, decode_responses=True, socket_timeout=5
                ) as client:
                    while True:
                        reply = await client.xread({f"{PREFIX}events": after}, count=500, block=200)
                        for _, rows in reply or ():
                            for event_id, fields in rows:
                                after = event_id
                                ids = fields.get("ids", "").split()
                                self.history.add("event", event=fields["event"], ids=ids)
            await asyncio.sleep(0.1)

    async def _settle(self):
        """After the last fault, every accepted job must end."""
        self.history.add("healed")
        deadline = time.monotonic() + SETTLE_SECONDS
        with self.server.client() as client:
            while time.monotonic() < deadline:
                waiting = sum(
                    client.xlen(f"{PREFIX}{s}") for s in ("stream", "stream:high", "stream:low")
                )
                if not waiting + client.zcard(f"{PREFIX}delayed"):
                    self.history.add("settled")
                    return
                await asyncio.sleep(0.1)

    def _conclude(self):
        redis_client = connect(self.server.url)
        for key in redis_client.scan_iter(match=f"{PREFIX}job:*", count=1000):
            job_id = key.removeprefix(f"{PREFIX}job:")
            if ":" not in job_id:
                self.history.add("final", id=job_id, **redis_client.hgetall(key))
        counters = {name: int(n) for name, n in redis_client.hgetall(f"{PREFIX}counters").items()}
        self.history.add("counters", **counters)
        self.history.add("problems", found=invariants.problems(redis_client, PREFIX))
        for line in (self.directory / "runs").read_text().splitlines():
            job_id, fence, attempt, pid = line.split()
            self.history.add("run", id=job_id, fence=int(fence), attempt=int(attempt), pid=int(pid))
        for worker in self.workers:
            self.history.add(
                "worker", id=worker.worker_id, alive=worker.is_alive,
                tracebacks=worker.text().count("Traceback"),
                tail=worker.text()[-4000:] if "Traceback" in worker.text() else "",
            )  # fmt: skip
        redis_client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--history", required=True)
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"nemesis: seed {seed}, {args.seconds:g} s, history {args.history}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory(prefix="aq-nemesis-") as directory:
        asyncio.run(Nemesis(args.seconds, seed, args.history, directory).run())


if __name__ == "__main__":
    main()
