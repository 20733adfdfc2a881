"""Stages: a queue on a real server, and invariant Z checked when the test is over."""

import invariants
import pytest
from stage import Stage


async def _staged(url, made):
    try:
        for stage in made:
            invariants.check(stage.raw, stage.keys.stem)
    finally:
        for stage in made:
            await stage.close()


@pytest.fixture
async def stage(server_url):
    """A queue on every server at hand; its leases are far longer than a test."""
    stage = Stage(server_url, claim_idle_ms=60_000)
    yield stage
    await _staged(server_url, [stage])


@pytest.fixture
async def new_stage(redis_url):
    """Makes stages with settings of the test's own on the fast server."""
    made = []

    def make(**settings):
        made.append(Stage(settings.pop("redis_url", redis_url), **settings))
        return made[-1]

    yield make
    await _staged(redis_url, made)
