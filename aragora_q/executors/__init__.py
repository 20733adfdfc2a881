"""Choose and build the executor that runs jobs.

`debate` runs debates among language models, `command` runs a program for each job, and
`package.module:factory` runs the function that a factory returns. Called by the launcher and by
library users. Executors know jobs and `current_attempt()`; they must not know queues or Redis.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, cast

from aragora_q.config.settings import QueueConfig, get_queue_config
from aragora_q.context import Executor
from aragora_q.errors import ConfigError


async def create_default_executor(config: QueueConfig | None = None) -> Executor:
    """Build the executor that runs debates with the agents of `config`.

    Without `config`, the process-wide configuration is used. The executor takes a job and returns
    its result as a JSON object; `aragora_q.executors.debate.create` lists what it raises. It can
    also be called without a queue or a worker; checkpoints are then kept in memory.

    Raises:
        ConfigError: an agent in the configuration cannot be built (unknown provider, missing key or
            extra). Agents that only a job names are checked when that job runs.

    Example:
        executor = await create_default_executor()
        result = await executor(create_debate_job("Tea or coffee?", ["demo"] * 3))
        print(result["final_answer"])

    """
    from aragora_q.executors import debate  # noqa: PLC0415 - imported where it is used

    return debate.create(config or get_queue_config())


async def load_executor(config: QueueConfig) -> Executor:
    """Build the executor that `config.executor` names.

    Imports only the chosen executor.

    Raises:
        ConfigError: the name is unknown, the module or its factory fails, or the chosen executor
            rejects the configuration. A worker must not start.

    """
    if config.executor == "debate":
        return await create_default_executor(config)
    if config.executor == "command":
        from aragora_q.executors import command  # noqa: PLC0415 - imported where it is used

        return command.create(config)
    return await _call_factory(config.executor)


async def _call_factory(name: str) -> Executor:
    """Import `package.module:factory`, call the factory without arguments, and await it if needed."""
    module_name, colon, factory_name = name.partition(":")
    if not colon:
        raise ConfigError(
            f"executor is {name!r}, must be debate, command or package.module:factory"
        )
    try:
        executor: Any = getattr(import_module(module_name), factory_name)()
        if inspect.isawaitable(executor):
            executor = await executor
    except Exception as error:
        raise ConfigError(
            f"executor {name}: {type(error).__name__}: {error}",
            hint="check that the module is on PYTHONPATH and that the factory takes no arguments",
        ) from error
    if not callable(executor):
        raise ConfigError(
            f"executor {name}: the factory returned a {type(executor).__name__}, not a function"
        )
    return cast("Executor", executor)
