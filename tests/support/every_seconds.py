"""An executor whose process has other times: schedules are due every 5 s, whatever their cron expression.

`--executor support.every_seconds:make` gives a worker process the executor of `support.executors`, and times
that a test can wait for: cron has none within a minute.
"""

from itertools import count

from support import executors

from aragora_q.cron import CronTimes

SECONDS = 5
"""More than the jitter of a worker's scheduler: without faults, no time passes before it is enqueued."""


def make():
    CronTimes.after = _after
    return executors.make()


def _after(self, at):
    step = SECONDS * 1000
    return count((at // step + 1) * step, step)
