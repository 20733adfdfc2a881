"""What runs a job: chosen by name, imported when chosen.

`debate` runs debates among language models, `command` a program of the operator's,
`package.module:factory` whatever the factory makes. Called by the launcher and by library users;
an executor knows jobs and `current_attempt()`, never queues or Redis.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, cast

from aragora_q.config.settings import QueueConfig, get_queue_config
from aragora_q.context import Executor
from aragora_q.errors import ConfigError


async def create_default_executor(config: QueueConfig | None = None) -> Executor:
    """The debate executor, its agents resolved by `config` (default: the process-wide one).

    Raises ConfigError if the configuration names an agent that cannot be built.
    """
    from aragora_q.executors import debate  # noqa: PLC0415 - imported where it is used

    return debate.create(config or get_queue_config())


async def load_executor(config: QueueConfig) -> Executor:
    """The executor that `config.executor` names. Raises ConfigError if there is none to be had."""
    if config.executor == "debate":
        return await create_default_executor(config)
    if config.executor == "command":
        from aragora_q.executors import command  # noqa: PLC0415 - imported where it is used

        return command.create(config)
    return await _made_by_factory(config.executor)


async def _made_by_factory(name: str) -> Executor:
    """The executor that `package.module:factory` makes: the factory takes nothing, and may be async."""
    module_name, colon, factory_name = name.partition(":")
    if not colon:
        raise ConfigError(
            f"executor is {name!r}, must be debate, command or package.module:factory"
        )
    try:
        made: Any = getattr(import_module(module_name), factory_name)()
        if inspect.isawaitable(made):
            made = await made
    except Exception as error:
        raise ConfigError(
            f"executor {name}: {type(error).__name__}: {error}",
            hint="is the module on PYTHONPATH, and does the factory take no arguments?",
        ) from error
    if not callable(made):
        raise ConfigError(
            f"executor {name}: the factory made a {type(made).__name__}, not a function"
        )
    return cast("Executor", made)
