"""Fixtures of the console's tests: a console on a real queue, and browsers in front of it."""

import pytest
from support.browsers import ConsoleOf
from support.web_api import application, client_of


@pytest.fixture
async def api(harness):
    """A client of the API, as an operator."""
    async with (
        application(harness.config) as app,
        client_of(app, harness.config.queue) as client,
    ):
        yield client


@pytest.fixture
async def new_console(harness):
    """Opens consoles of the harness' queue, with other settings or roles."""
    made = []

    def make(**options):
        made.append(ConsoleOf(harness, **options))
        return made[-1]

    yield make
    for console in made:
        await console.close()


@pytest.fixture
async def operator(new_console):
    """The browser of an operator."""
    return new_console().browser()
