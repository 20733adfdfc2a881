"""Divides a Sentinel deployment while a client enqueues on the side of the old primary.

    unshare -n python tests/reliability/partition.py DURABILITY REPLICAS SECONDS

Runs in a separate network namespace, where it may drop packets. With durability `replica`, REPLICAS of
the two must confirm an enqueue. Prints JSON: how many enqueues were confirmed or accepted without
confirmation, and how many of either the new primary lost.
Side A (127.0.0.1): primary, one Sentinel, the client. Side B (127.0.0.2): two replicas, two Sentinels.
"""

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis
from support import servers
from support.topologies import AT_ONCE
from support.wait import wait_until, wait_until_sync

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import AragoraQError
from aragora_q.redis import connection
from aragora_q.streams.queue import RedisStreamsQueue

A, B = "127.0.0.1", "127.0.0.2"
DOWN_MS = 1000
CONFIRM_MS = 200


class _Server(servers.Server):
    """Listens on, and connects from, the address of its side."""

    def __init__(self, host, *args, sentinel=""):
        super().__init__(servers.any_server())
        self.host = host
        if sentinel:
            file = self.directory / "sentinel.conf"
            file.write_text(f"port {self.port}\nbind {host}\nbind-source-addr {host}\n{sentinel}")
            self._command = [str(servers.any_server()), str(file), "--sentinel"]
        else:
            self._command += ["--bind", host, "--bind-source-addr", host,
                              "--replica-announce-ip", host, "--protected-mode", "no", *args]  # fmt: skip

    def client(self, **options):
        return redis.Redis(host=self.host, port=self.port, decode_responses=True, **options)


def _start():
    primary = _Server(A, *AT_ONCE)
    replicaof = ["--replicaof", A, str(primary.port), *AT_ONCE]
    replicas = [_Server(B, *replicaof) for _ in range(2)]
    for server in (primary, *replicas):
        server.start()
    wait_until_sync(lambda: all(_is_linked(replica) for replica in replicas), 60, "the replicas")
    sentinels = [
        _Server(
            host,
            sentinel=f"sentinel announce-ip {host}\nsentinel monitor q {A} {primary.port} 2\n"
            f"sentinel down-after-milliseconds q {DOWN_MS}\nsentinel failover-timeout q 3000\n",
        ).start()
        for host in (A, B, B)
    ]
    wait_until_sync(
        lambda: all(_knows_all(sentinel) for sentinel in sentinels), 60, "the Sentinels"
    )
    return primary, replicas, sentinels


def _is_linked(replica):
    with replica.client() as client:
        return client.info("replication")["master_link_status"] == "up"


def _knows_all(sentinel):
    with sentinel.client() as client:
        state = client.execute_command("SENTINEL", "MASTER", "q")
    return int(state["num-slaves"]) == 2 and int(state["num-other-sentinels"]) == 2


def _cut(action):
    for source, target in ((A, B), (B, A)):
        rule = ["-s", source, "-d", target, "-j", "DROP"]
        subprocess.run(["iptables", action, "INPUT", *rule], check=True)


async def _enqueue(config, answers):
    """Keep enqueueing on the primary that this side's Sentinel names."""
    queue = RedisStreamsQueue(config)
    n = 0
    while True:
        job = Job(payload={"n": n}, id=f"j{n}")
        n += 1
        try:
            async with asyncio.timeout(2):  # wait_for of Python 3.11 may lose the cancel at the end
                [answer] = await queue.enqueue_many([job])
            answers[job.id] = answer.durable
        except (AragoraQError, TimeoutError):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.001)


async def _run(durability, replicas_to_confirm, seconds):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    connection.DURABILITY_TIMEOUT_MS = CONFIRM_MS
    primary, replicas, sentinels = await asyncio.to_thread(_start)
    answers = {}
    config = QueueConfig(
        redis_url=f"redis+sentinel://{A}:{sentinels[0].port}/q",
        durability=durability,
        durability_replicas=replicas_to_confirm,
    )
    client = asyncio.create_task(_enqueue(config, answers))
    try:
        await wait_until(lambda: len(answers) > 20, what="some jobs before the partition")
        _cut("-A")
        await asyncio.sleep(seconds)
        await wait_until(lambda: any(map(_is_promoted, replicas)), what="the failover")
        _cut("-D")
        await asyncio.sleep(1)  # the old primary takes writes until a Sentinel demotes it
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        # Whatever the new primary lacks is lost: the old one has to follow it.
        leader = await wait_until(lambda: _leader(replicas), what="the new primary to answer")
        with leader.client() as redis_client:
            kept = {
                job_id
                for job_id in answers
                if redis_client.exists(f"aragora:queue:debates:job:{job_id}")
            }
    finally:
        for server in (*sentinels, *replicas, primary):
            server.stop()
    confirmed = {job_id for job_id, durable in answers.items() if durable}
    print(json.dumps({  # noqa: T201
        "durability": durability,
        "replicas": replicas_to_confirm,
        "confirmed": len(confirmed),
        "confirmed_and_lost": len(confirmed - kept),
        "unconfirmed": len(answers) - len(confirmed),
        "unconfirmed_and_lost": len(set(answers) - confirmed - kept),
    }))  # fmt: skip


def _is_promoted(replica):
    """Whether a replica is the new primary, asked from its side of the partition."""
    with suppress(OSError), socket.create_connection((B, replica.port), 1, (B, 0)) as link:
        link.sendall(b"ROLE\r\n")
        return b"master" in link.recv(100)
    return False


def _leader(replicas):
    """The replica that was promoted, None before that."""
    return next((replica for replica in replicas if _role(replica) == "master"), None)


def _role(server):
    with suppress(redis.RedisError), server.client(socket_timeout=1) as client:
        return client.info("replication")["role"]
    return ""


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
