"""Fixtures of the console's tests: a console on a real queue, and browsers in front of it."""

import pytest
from support.browsers import ConsoleOf


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
