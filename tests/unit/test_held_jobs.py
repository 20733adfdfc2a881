"""Which held jobs a pass frees: never more than fit, in order, and in the end every job that can."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aragora_q import held_jobs
from aragora_q.contracts import BudgetRoom, HeldJob, HeldPage
from aragora_q.held_jobs import HeldJobs
from aragora_q.money import LITTLE_SHARE

LIMIT = 10.0


class Queue:
    """Held jobs, and those that were freed and wait, as `HeldJobs` sees them."""

    def __init__(self, needs):
        self.held = [
            HeldJob(f"j{n:03}", "budget", by, usd, None) for n, (by, usd) in enumerate(needs)
        ]
        self.freed = []

    async def list_held(self, causes, after, *, limit):
        rest = [job for job in self.held if job.id > after]
        page, more = rest[:limit], rest[limit:]
        return HeldPage(page, page[-1].id if more else "")

    async def unhold_many(self, ids, causes):
        freed = [job for job in self.held if job.id in ids]
        self.held = [job for job in self.held if job not in freed]
        self.freed += freed
        return ["unheld"] * len(freed)

    async def get_statuses(self, ids):
        waiting = {job.id for job in self.freed}
        return {each: "pending" if each in waiting else "processing" for each in ids}


class Budgets:
    """Budgets of one limit, with what is spent of each."""

    def __init__(self, spent):
        self.spent = spent

    async def budget_rooms(self, names):
        return [BudgetRoom(LIMIT, self.spent.get(name, 0.0), turns=True) for name in names]

    async def free_calls(self, accounts):
        return [None] * len(accounts)


names = st.sampled_from("ab")
needs = st.lists(st.tuples(names, st.integers(1, 12).map(float)), max_size=40)


@given(needs, st.dictionaries(names, st.integers(0, 12).map(float)))
async def test_a_pass_frees_what_fits_in_half_of_what_is_left(needs, spent):
    """In order: others are passed over. The first may need all that is left, if little is used."""
    queue, gates = Queue(needs), Budgets(spent)
    jobs = list(queue.held)
    await HeldJobs(queue, gates).unhold_pass()
    for name in "ab":
        used = spent.get(name, 0.0)
        half, is_first = (LIMIT - used) / 2, True
        is_little = used <= LITTLE_SHARE * LIMIT
        for job in (each for each in jobs if each.by == name):
            fits = half > 0 and (
                job.usd <= half or (is_first and is_little and job.usd <= LIMIT - used)
            )
            assert (job in queue.freed) == fits, job
            if fits:
                half, is_first = half - job.usd, False


@settings(max_examples=50)
@given(needs, st.integers(1, 7))
async def test_every_job_that_fits_the_limit_is_freed_some_day(needs, page):
    """Whatever the others need, and however few jobs a pass looks at, if windows turn."""
    queue, gates = Queue(needs), Budgets({})
    held = HeldJobs(queue, gates)
    before = held_jobs.HELD_PAGE, held_jobs.MAX_HELD_PAGES
    held_jobs.HELD_PAGE, held_jobs.MAX_HELD_PAGES = page, 1
    try:
        for _ in range(4 * len(needs) * (len(needs) // page + 2)):
            await held.unhold_pass()
            queue.freed = []  # they run and end, and the next window begins
    finally:
        held_jobs.HELD_PAGE, held_jobs.MAX_HELD_PAGES = before
    assert {job.usd > LIMIT for job in queue.held} <= {True}


async def test_a_job_tries_where_a_pass_begins_again(monkeypatch):
    """The pass that finds its budget in the middle of the jobs frees none: the try is that of the next one."""
    monkeypatch.setattr(held_jobs, "TRY_SECONDS", 0.0)
    monkeypatch.setattr(held_jobs, "HELD_PAGE", 1)
    monkeypatch.setattr(held_jobs, "MAX_HELD_PAGES", 1)
    queue = Queue([("a", 12.0), ("b", LIMIT)])
    held = HeldJobs(queue, Budgets({"b": 0.5}))
    for _ in range(4):
        await held.unhold_pass()
    assert [job.by for job in queue.freed] == ["b"]
