"""The gates of a prefix on a real server: with workers' clients, calls to ask with, and what Redis holds."""

import json

from support.queue_harness import QueueHarness

from aragora_q.base import Job
from aragora_q.config.tables import BudgetConfig
from aragora_q.context import Call, Settlement
from aragora_q.gates.policy import budget_rule
from aragora_q.money import MICROS
from aragora_q.redis.keys import GateKeys

ROW = (
    "calls",
    "faults",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "usd",
    "unpriced_calls",
    "estimated",
)
ACCOUNT = "acme@00000000"


def micros(usd):
    return round(usd * MICROS)


def new_call(call_id="c1", usd=1.0, **fields):
    """A call that costs at most `usd`; None: its price is not known."""
    fields = {
        "agent": "a", "provider": "acme", "account": ACCOUNT, "model": "m",
        "max_input_tokens": 60, "max_output_tokens": 40, "max_cost_usd": usd, **fields,
    }  # fmt: skip
    return Call(id=call_id, **fields)


class Gates:
    """The gates of a prefix as several workers use them; `redis` is a client with every right."""

    def __init__(self, harness, budgets=None, **settings):
        self.harness = harness
        self._made = []
        self.keys = GateKeys(harness.config.key_prefix, cluster=harness.queue.connection.is_cluster)
        self.redis = harness.redis
        self.prefix = self.keys.gates_prefix
        self.client = self.worker("w1", budgets, **settings)
        self.job = Job(payload={}, id="j1")

    @classmethod
    def on(cls, backend, **options):
        return cls(QueueHarness.on(backend), **options)

    def worker(self, worker_id="w2", budgets=None, **settings):
        """The gates of a worker whose configuration has these budgets: fields of BudgetConfig by name."""
        queue = self.harness.other_client(budgets=budgets or {}, **settings)
        self._made.append(queue.gates(worker_id))
        return self._made[-1]

    async def close(self):
        for gates in self._made:
            await gates.close()
        await self.harness.close()

    # -- what a worker does

    async def acquire(self, call, job=None, client=None):
        return await (client or self.client).acquire(job or self.job, call)

    async def settle(self, call, usd=None, outcome="ok", job=None, client=None, **fields):
        """Settle a call; the script's answer."""
        settlement = Settlement(outcome, cost_usd=usd, **fields)
        client = client or self.client
        answers = []
        run = client._connection.run

        async def noting(name, *args, **kwargs):
            answers.append(await run(name, *args, **kwargs))
            return answers[-1]

        client._connection.run = noting
        try:
            await client.settle(job or self.job, call, settlement)
        finally:
            client._connection.run = run
        return answers[-1][0].decode()

    async def override(self, kind, name, value=None):
        """Set a budget or a pause for all workers; end that without a value."""
        if kind == "budget" and value:
            value = {"rule": budget_rule(BudgetConfig(**value))}
        text = json.dumps(value) if value is not None else ""
        return await self.client._connection.run(
            "gate_override", kind=kind, name=name, value=text, by="", reason="", detail=""
        )

    def pass_time_limit(self, call):
        """Make the time limit of a granted call end now."""
        reservations = f"{self.prefix}reservations"
        assert self.redis.zscore(reservations, self.call_id(call)) is not None
        self.redis.zadd(reservations, {self.call_id(call): 1})

    # -- what Redis holds

    def call_id(self, call):
        return f"{self.harness.config.queue}/{call.id}"

    def record(self, call):
        text = self.redis.get(f"{self.prefix}call:{self.call_id(call)}")
        return json.loads(text) if text else None

    def counters(self):
        """The counters of budgets in whole micro-dollars, without zeros, by `<budget>:<window>`."""
        return self._hashes("spent:")

    def jobs(self):
        """The counters of jobs with limits, by `<queue>/<id>`."""
        return self._hashes("job:")

    def counter(self, ref):
        """The counter of a budget that has one window so far."""
        [counter] = [
            value for name, value in self.counters().items() if name.rpartition(":")[0] == ref
        ] or [{}]
        return counter

    def spend(self):
        """Rows of all days together, by (queue, tenant, group, agent, provider, model)."""
        rows = {}
        for key in self.keys_of("spend:"):
            if self.redis.type(key) != "hash":  # the sum of a queue
                continue
            for name, text in self.redis.hgetall(key).items():
                row = tuple(json.loads(name)) if name != "other" else name
                values = dict(zip(ROW, map(int, text.split()), strict=True))
                known = rows.setdefault(row, dict.fromkeys(ROW, 0))
                rows[row] = {field: known[field] + values[field] for field in ROW}
        return rows

    def total(self, field):
        return sum(row[field] for row in self.spend().values())

    def reservations(self):
        return set(self.redis.zrange(f"{self.prefix}reservations", 0, -1))

    def permits(self, account=ACCOUNT):
        return set(self.redis.zrange(f"{self.prefix}permits:{account}", 0, -1))

    def keys_of(self, start):
        escaped = self.prefix.replace("[", "\\[")
        return sorted(self.redis.scan_iter(match=f"{escaped}{start}*", count=1000))

    def _hashes(self, start):
        found = {}
        for key in self.keys_of(start):
            values = {name: int(n) for name, n in self.redis.hgetall(key).items()}
            found[key.removeprefix(self.prefix + start)] = {n: v for n, v in values.items() if v}
        return found
