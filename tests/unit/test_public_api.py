"""The public names are those of the specification, and all exist."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import aragora_q

SPECIFIED_NAMES = {
    "create_redis_queue",
    "create_debate_job",
    "DebateWorker",
    "create_default_executor",
    "QueueConfig",
    "set_queue_config",
    "RetryPolicy",
    "JobQueue",
    "Job",
    "JobStatus",
    "RedisStreamsQueue",
    "DebateJobPayload",
    "DebateResult",
    "JobStatusTracker",
}
SPECIFIED_MODULES = {
    "base": {"JobQueue", "Job", "JobStatus"},
    "streams": {"RedisStreamsQueue"},
    "worker": {"DebateWorker"},
    "job": {"DebateJobPayload", "DebateResult"},
    "retry": {"RetryPolicy"},
    "status": {"JobStatusTracker"},
    "config": {"QueueConfig"},
}


def test_all_is_sorted_and_complete():
    """`__all__` is sorted and has each name once; `dir` and the table of homes agree."""
    assert aragora_q.__all__ == sorted(set(aragora_q.__all__))
    assert dir(aragora_q) == aragora_q.__all__
    assert {*aragora_q._HOMES, "__version__"} == set(aragora_q.__all__)


def test_specified_names_are_public():
    """Everything the specification imports or lists among its components."""
    assert set(aragora_q.__all__) >= SPECIFIED_NAMES


@pytest.mark.parametrize("name", aragora_q.__all__)
def test_every_name_exists_and_has_a_docstring(name):
    """Each public name exists, and every class and function has a docstring."""
    value = getattr(aragora_q, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__, name


@pytest.mark.parametrize("module", SPECIFIED_MODULES)
def test_components_are_where_the_specification_says(module):
    """The modules of the specification's table exist, under the package's new name."""
    for name in SPECIFIED_MODULES[module]:
        module_of_name = importlib.import_module(f"aragora_q.{module}")
        assert getattr(aragora_q, name) is getattr(module_of_name, name)


def test_type_checkers_see_the_names_that_exist():
    """The names imported for type checkers only are those that exist at run time, from the same modules."""
    tree = ast.parse(Path(aragora_q.__file__).read_text())
    [block] = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imported = {
        alias.name: node.module.removeprefix("aragora_q.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert imported == aragora_q._HOMES


def test_unknown_name_is_an_attribute_error():
    """Lazy names do not turn a typing mistake into something else."""
    with pytest.raises(AttributeError, match="has no attribute 'create_redis_que'"):
        _ = aragora_q.create_redis_que
