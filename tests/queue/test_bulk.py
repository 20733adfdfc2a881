"""Many lines go in batch by batch: the server works on one while the next is read and checked."""

import json

import pytest

from aragora_q import codec
from aragora_q.errors import RedisUnreachable
from aragora_q.intake.bulk import BulkEnqueuer, BulkSummary, LineChecker
from aragora_q.intake.checks import NO_THRESHOLDS
from aragora_q.intake.lines import BATCH_LINES
from aragora_q.intake.quoter import Quoter


def _enqueuer(queue):
    checker = LineChecker(Quoter(queue), {}, NO_THRESHOLDS, BulkSummary(), id_from_content=False)
    return BulkEnqueuer(checker)


def _items(first, count):
    lines = (json.dumps({"payload": {"n": n}}).encode() for n in range(first, first + count))
    return [(n, lambda line=line: codec.decode(line)) for n, line in enumerate(lines, first)]


async def test_the_next_batch_is_read_while_the_server_works(harness, monkeypatch):
    """A full batch is on its way before the next one is read, and answered after that was checked."""
    run, seen = harness.queue.connection.run, []

    async def logged_run(*args, **kwargs):
        seen.append("sent")
        return await run(*args, **kwargs)

    def batches():
        for first in range(3):
            seen.append("read")
            yield _items(1 + first * BATCH_LINES, BATCH_LINES)

    await harness.queue.get_queue_stats()  # connected
    monkeypatch.setattr(harness.queue.connection, "run", logged_run)
    enqueuer = _enqueuer(harness.queue)
    await enqueuer.enqueue_all(batches(), lambda results: seen.append(results[0]["line"]))
    assert seen == ["read", "sent", "read", 1, "sent", "read", 101, "sent", 201]
    assert enqueuer.summary.created == 3 * BATCH_LINES


async def test_a_batch_that_is_not_full_is_answered_before_the_next_is_read(harness):
    """The next line may take long to come. An empty batch says so, too."""
    seen = []

    def batches():
        for number, count in enumerate((BATCH_LINES, 0, 1, 2, BATCH_LINES)):
            seen.append(f"read {number}")
            yield _items(1 + number * BATCH_LINES, count)

    enqueuer = _enqueuer(harness.queue)
    await enqueuer.enqueue_all(batches(), lambda results: seen.append(len(results)))
    assert seen == ["read 0", "read 1", 100, "read 2", 1, "read 3", 2, "read 4", 100]


async def test_an_error_of_a_later_line_leaves_no_batch_unanswered(harness):
    """The results of a batch that was sent are passed on before the error is raised."""

    def fail():
        raise RedisUnreachable("the server of `from` is away")

    batches = [_items(1, BATCH_LINES), [*_items(101, 49), (150, fail)]]
    answered = []
    enqueuer = _enqueuer(harness.queue)
    with pytest.raises(RedisUnreachable, match="away"):
        await enqueuer.enqueue_all(batches, answered.extend)
    assert [each["line"] for each in answered] == list(range(1, BATCH_LINES + 1))
    assert enqueuer.summary.last_line == BATCH_LINES == len(harness.entries())
