"""The exceptions: the tree in the docstring is the tree in the code."""

import inspect
import re

import pytest

from aragora_q import errors


def documented_tree():
    """(class, parent, exit code) of every line of the docstring's tree."""
    path = []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^    ([│├└─ ]*)(\w+) +(\d+)(?:  |$)", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            yield found[2], path[depth - 1] if depth else "Exception", int(found[3])


def classes():
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and cls.__module__ == errors.__name__:
            yield name, cls.__bases__[0].__name__, cls.exit_code


def test_documented_tree_matches_the_classes():
    """The tree has every exception under its parent, with its exit code."""
    assert sorted(documented_tree()) == sorted(classes())


ARGUMENTS = {
    "GateClosed": {"delay_seconds": 1},
    "GroupNotFound": {"queue": "debates"},
    "HoldJob": {"cause": "executor"},
    "JobLimitReached": {"limit": "max_tokens"},
    "JobNotEnded": {"status": "processing"},
    "JobNotFound": {"queue": "debates"},
    "RetryLater": {"delay_seconds": 1},
    "NotDurable": {"durability": "fsync"},
    "QueueFull": {"max_backlog": 9},
    "ScheduleNotFound": {"known": ()},
    "WebhookNotFound": {"known": ()},
}


@pytest.mark.parametrize("name", [name for name, _, _ in classes()])
def test_every_exception_has_a_docstring(name):
    """Each exception is a subclass of one base class, with a message and a hint."""
    cls = getattr(errors, name)
    error = cls("what", **ARGUMENTS.get(name, {"hint": "do this"}))
    assert isinstance(error, errors.AragoraQError)
    assert "what" in str(error)
    assert isinstance(error.hint, str)
    assert name in ARGUMENTS or error.hint == "do this"
    assert cls.__doc__


def test_bad_payload_is_a_value_error():
    """An executor that meets one fails its job permanently."""
    assert issubclass(errors.InvalidPayload, ValueError)


def test_transient_errors_are_not_errors_of_the_caller():
    """A worker waits for transient errors; it never waits for wrong configuration or data."""
    transient = set(errors.TRANSIENT_ERRORS)
    assert transient == {errors.RedisUnreachable, errors.TryAgain, errors.AccessDenied}
    for permanent in (errors.ConfigError, errors.InvalidPayload, errors.LeaseLost):
        assert not issubclass(permanent, errors.TRANSIENT_ERRORS)
