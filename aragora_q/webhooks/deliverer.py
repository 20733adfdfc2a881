"""`Deliverer`: the worker's task that delivers messages from the outbox to webhooks, at least once.

It takes what is due, sends each message in a thread, and records how that ended. A process that dies in
between leaves a lease in the outbox; when it ends, another process sends the message again, with the same id.
Must not know Redis.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Thread

from aragora_q.backoff import Backoff, jittered
from aragora_q.config import QueueConfig
from aragora_q.config.tables import WebhookConfig
from aragora_q.contracts import ClaimRequest, Delivery, Settled, SettleResult
from aragora_q.errors import SERVER_ERRORS, AragoraQError, CommandRefused, ConfigError
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.webhooks import messages
from aragora_q.webhooks.sending import Sent, send
from aragora_q.work_queue import WorkQueue

logger = get_logger(__name__)

POLL_SECONDS, MAX_POLL_SECONDS = 1.0, 15.0
"""Pause between two looks into the outbox. Of a large fleet each worker looks more rarely: all together ten
times a second."""

MIN_PAUSE_SECONDS = 0.05

MAX_PER_TARGET = 4
"""Messages under way to one target; only one until it has taken one. More threads do not deliver more: they
compete for the interpreter, also with the event loop."""

MAX_SENDING = 16
"""Messages under way at which a target gets at most one: so none waits for others."""

DELAYS_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800)
"""Delays after the first failed attempt, after the second, and so on; ten attempts take a day."""

MAX_PAUSE_SECONDS = 256.0
"""Longest pause between attempts to deliver any message to a target that fails: 2 s at first, then twice as
long each time."""

LEASE_SPARE_SECONDS = 15.0
"""What an attempt's lease has beyond the time of the delivery, to record how it ended."""

LOOK_UP_SPARE_SECONDS = 1.0
"""A look-up cannot be interrupted: this long after its time a delivery is given up without its thread."""

LAST_PASS_SECONDS = 5.0
"""How long a stopping worker delivers what is due."""

REPEAT_LOG_SECONDS = 60.0
"""Interval at which failures of a webhook are logged again."""


class Deliverer:
    """Delivers messages to the webhooks of the configuration.

    `count_workers` returns how many workers the queue has.
    """

    def __init__(
        self,
        queue: WorkQueue,
        config: QueueConfig,
        metrics: WorkerMetrics,
        count_workers: Callable[[], int],
    ) -> None:
        self._queue = queue
        self._config = config
        self._metrics = metrics
        self._count_workers = count_workers
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._failures: dict[str, int] = {}
        """Failed attempts here since the last message of a webhook was delivered."""
        self._changed = asyncio.Event()
        self._last_step: asyncio.Task[bool] | None = None
        self._log = _FailureLog()

    def reconfigure(self, config: QueueConfig) -> None:
        """Deliver to the webhooks of `config` from the next message on."""
        self._config = config
        self._changed.set()

    async def run(self) -> None:
        """Deliver until cancelled. While Redis is unavailable, messages wait."""
        while True:
            pause_seconds = self._poll_seconds()
            try:
                if await self._whole_step():
                    pause_seconds = MIN_PAUSE_SECONDS
            except CommandRefused as error:
                self._log.refused(error)
            except SERVER_ERRORS:
                pass  # other parts of the worker log an outage
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._changed.wait()
            self._changed.clear()

    async def finish(self) -> None:
        """Deliver what is due and what is under way, for at most LAST_PASS_SECONDS. `run` must have ended."""
        with suppress(TimeoutError, *SERVER_ERRORS):
            async with asyncio.timeout(LAST_PASS_SECONDS):
                if self._last_step is not None:
                    await asyncio.wait([self._last_step])
                while await self._step() or self._under_way:
                    if self._under_way:
                        await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Give up what is under way: it stays in the outbox, and is sent again when its lease ends."""
        if self._under_way:
            logger.warning(
                "messages to webhooks are still under way, they may be sent twice",
                extra={"messages": len(self._under_way)},
            )
        tasks = [*self._under_way, *([self._last_step] if self._last_step else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _whole_step(self) -> bool:
        """As `_step`, to its end, even if `run` is cancelled: what it took would wait for its lease."""
        self._last_step = asyncio.create_task(self._step())
        return await asyncio.shield(self._last_step)

    async def _step(self) -> bool:
        """Take what is due and begin to send it. Returns True if more is due that could be sent now."""
        webhooks = self._config.webhooks  # a reload meanwhile may remove one that has messages here
        claimed = await self._queue.outbox.claim(self._requests(webhooks))
        wanted: list[Delivery] = []
        unwanted: list[Delivery] = []
        for each in claimed.deliveries:
            events = webhooks[each.webhook].events
            (wanted if each.kind == "group" or each.event in events else unwanted).append(each)
        if unwanted:
            await self._queue.outbox.settle([Settled(each, "skip") for each in unwanted])
        bodies = await self._bodies(wanted, webhooks)
        for delivery, body in zip(wanted, bodies, strict=True):
            sending = self._deliver(delivery, webhooks[delivery.webhook], body)
            task = asyncio.create_task(sending, name="deliver")
            self._under_way[task] = delivery.webhook
            task.add_done_callback(self._forget)
        return bool(claimed.deliveries) and claimed.next_due_seconds == 0

    def _requests(self, webhooks: Mapping[str, WebhookConfig]) -> list[ClaimRequest]:
        """Return what may be taken of each webhook: a target that hangs leaves room for the others."""
        under_way = Counter(self._under_way.values())
        room = max(0, MAX_SENDING - len(self._under_way))
        requests = []
        for name, webhook in webhooks.items():
            most = MAX_PER_TARGET if self._failures.get(name) == 0 else 1
            limit = max(min(most - under_way[name], room), int(not under_way[name]))
            room = max(0, room - limit)
            if limit > 0:
                lease_seconds = webhook.timeout_seconds + LEASE_SPARE_SECONDS
                requests.append(ClaimRequest(name, limit, lease_seconds))
        return requests

    async def _bodies(
        self, deliveries: Sequence[Delivery], webhooks: Mapping[str, WebhookConfig]
    ) -> list[Callable[[], bytes]]:
        """Return what makes the messages, of jobs and groups as they are now."""
        job_ids = {each.subject for each in deliveries if each.kind == "job"}
        jobs = await self._queue.get_jobs(list(job_ids), max_bytes=messages.MAX_CONTENT_BYTES)
        found = dict(zip(job_ids, jobs, strict=True))
        queue = self._config.queue
        bodies: list[Callable[[], bytes]] = []
        for each in deliveries:
            if each.kind == "job":
                with_result = webhooks[each.webhook].include_result
                job = found[each.subject]
                bodies.append(
                    partial(messages.job_message, queue, each, job, with_result=with_result)
                )
            else:
                group = await self._queue.get_group(each.subject)
                bodies.append(partial(messages.group_message, queue, each, group))
        return bodies

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._changed.set()

    def _poll_seconds(self) -> float:
        if not self._config.webhooks:
            return MAX_POLL_SECONDS
        return jittered(min(POLL_SECONDS * max(1.0, self._count_workers() / 10), MAX_POLL_SECONDS))

    async def _deliver(
        self, delivery: Delivery, webhook: WebhookConfig, body: Callable[[], bytes]
    ) -> None:
        """Send one message, and record how that ended."""
        sending = asyncio.wrap_future(_started(webhook, delivery, body))
        seconds = webhook.timeout_seconds + LOOK_UP_SPARE_SECONDS
        try:
            ended, _ = await asyncio.wait([sending], timeout=seconds)
            sent = sending.result() if ended else Sent("failed", "no result of the look-up in time")
            self._note(delivery.webhook, sent)
            settled = _settled(delivery, sent, self._failures[delivery.webhook])
            result = await self._settle(settled)
            self._log.delivered(settled, sent, result)
            await asyncio.wait([sending])  # its thread counts until it ends
        finally:
            sending.cancel()  # so that a thread that ends later does not report to a closed event loop

    def _note(self, webhook: str, sent: Sent) -> None:
        is_delivered = sent.result == "delivered"
        self._failures[webhook] = 0 if is_delivered else self._failures.get(webhook, 0) + 1
        self._metrics.deliveries["delivered" if is_delivered else "failed"].observe(sent.seconds)

    async def _settle(self, settled: Settled) -> SettleResult | None:
        """Record how an attempt ended; try again while its lease lasts. None: Redis does not record it."""
        backoff = Backoff(MIN_PAUSE_SECONDS, LEASE_SPARE_SECONDS / 5)
        deadline = time.monotonic() + LEASE_SPARE_SECONDS
        while True:
            try:
                [result] = await self._queue.outbox.settle([settled])
            except CommandRefused as error:
                self._log.refused(error)
                return None
            except SERVER_ERRORS:
                if time.monotonic() > deadline:
                    return None
                await asyncio.sleep(backoff.next_seconds())
            else:
                return result


def _settled(delivery: Delivery, sent: Sent, failures: int) -> Settled:
    answer = f"{sent.text}: {sent.body}" if sent.body else sent.text
    if sent.result == "delivered":
        return Settled(delivery, "ok", answer)
    delay_seconds = DELAYS_SECONDS[min(max(delivery.attempts, 1), len(DELAYS_SECONDS)) - 1]
    return Settled(
        delivery,
        "gone" if sent.result == "gone" else "retry",
        answer,
        max(jittered(delay_seconds, 0.8, 1.2), sent.retry_after_seconds),
        max(min(2.0 ** min(failures, 10), MAX_PAUSE_SECONDS), sent.retry_after_seconds),
    )


def _started(webhook: WebhookConfig, delivery: Delivery, body: Callable[[], bytes]) -> Future[Sent]:
    """Send a message in a daemon thread: neither the event loop nor the end of the process waits for it."""
    sending: Future[Sent] = Future()
    sending.set_running_or_notify_cancel()  # from now on, it cannot be cancelled

    def run() -> None:
        try:
            sending.set_result(send(webhook, delivery.id, body()))
        except ConfigError as error:
            sending.set_result(Sent("failed", str(error)))
        except Exception as error:
            logger.exception("message to a webhook not sent", extra={"message_id": delivery.id})
            sending.set_result(Sent("failed", f"unexpected error: {type(error).__name__}"))

    try:
        Thread(target=run, name=f"webhook {delivery.webhook}", daemon=True).start()
    except RuntimeError:  # at the limit on threads
        sending.set_result(Sent("failed", "this process cannot start another thread"))
    return sending


class _FailureLog:
    """Log lines of deliveries: when a webhook begins to fail, periodically until it takes messages again.

    They contain no URL and no text of the target or of a job.
    """

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}
        self._refused_at = -math.inf

    def delivered(self, settled: Settled, sent: Sent, result: SettleResult | None) -> None:
        """An attempt has ended, and was recorded as `result`."""
        delivery = settled.delivery
        fields = {
            "webhook": delivery.webhook,
            "message_id": delivery.id,
            delivery.kind: delivery.subject,
            "outcome": delivery.event,
            "attempts": delivery.attempts,
            "seconds": sent.seconds,
        }
        if settled.result == "ok":
            if self._logged_at.pop(delivery.webhook, None) is not None:
                logger.info("webhook takes messages again", extra={"webhook": delivery.webhook})
            logger.debug("message delivered to a webhook", extra=fields)
            return
        fields["error"] = sent.text
        if settled.result == "gone":
            remedy = f"aragora-q webhook enable {delivery.webhook}"
            logger.error(
                "webhook disabled: its target wants no more messages",
                extra={**fields, "remedy": remedy},
            )
        elif result == "failed":
            remedy = f"aragora-q webhook redeliver {delivery.id}"
            logger.error("message to a webhook given up", extra={**fields, "remedy": remedy})
        elif self._is_due(delivery.webhook):
            retry_in = round(settled.delay_seconds, 1)
            logger.warning(
                "message to a webhook not delivered, to be sent again",
                extra={**fields, "retry_in_seconds": retry_in},
            )

    def refused(self, error: AragoraQError) -> None:
        """Redis refused a command for good; logged once per REPEAT_LOG_SECONDS."""
        if time.monotonic() - self._refused_at >= REPEAT_LOG_SECONDS:
            self._refused_at = time.monotonic()
            logger.warning("outbox of webhooks cannot be used", extra={"error": str(error)})

    def _is_due(self, webhook: str) -> bool:
        now = time.monotonic()
        if now - self._logged_at.get(webhook, -math.inf) < REPEAT_LOG_SECONDS:
            return False
        self._logged_at[webhook] = now
        return True
