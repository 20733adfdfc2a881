"""Stages: a queue on a real server, and invariant Z checked when the test is over; workers on them."""

import invariants
import pytest
from crew import Crew
from stage import Stage


async def _close(*stages):
    try:
        for stage in stages:
            invariants.check(stage.raw, stage.keys.stem)
    finally:
        for stage in stages:
            await stage.close()


@pytest.fixture
async def stage(backend):
    """A queue on every backend; its leases are far longer than a test."""
    stage = Stage.on(backend, claim_idle_ms=60_000)
    yield stage
    await _close(stage)


@pytest.fixture
async def new_stage(redis_url):
    """Makes stages with settings of the test's own on the fast server."""
    made = []

    def make(**settings):
        made.append(Stage(settings.pop("redis_url", redis_url), **settings))
        return made[-1]

    yield make
    await _close(*made)


@pytest.fixture
async def crew():
    """Hires workers in this process, and dismisses them when the test is over."""
    crew = Crew()
    yield crew
    await crew.dismiss()
