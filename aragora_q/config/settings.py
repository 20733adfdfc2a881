"""Every setting, declared once: name, type, range, default, meaning. Environment names follow from it.

`QueueConfig` is what the rest of the program takes; where its values come from is
`config_layers.py`. Only `create_redis_queue`, `create_default_executor` and the command line read
the process-wide configuration; everything below them is handed one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aragora_q.base import QUEUE_NAME_PATTERN
from aragora_q.config.messages import explain
from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.sources import LayeredSource
from aragora_q.retry import RetryPolicy

DAY_MS = 86_400_000
MAX_DATA_BYTES = 64 * 1024 * 1024
"""The most that a payload or a result may be allowed to have; the scripts take no more."""


class AgentConfig(BaseModel):
    """One agent of the `[agents]` table: a model string, and how to reach it if that is not enough.

    `model` is `provider:model` in pydantic-ai's spelling; `base_url` any OpenAI-compatible server
    (or, for `anthropic:` models, one that speaks Anthropic's protocol); `api_key_env` the variable
    that holds its key. `timeout_seconds` bounds a call, `max_tokens` what is written in one, thinking
    included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    timeout_seconds: float = Field(120.0, gt=0, le=3600)
    max_tokens: int = Field(8_000, ge=1)

    @field_validator("base_url")
    @classmethod
    def _holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "must hold no user or password: name the key's variable in api_key_env"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_model_string(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class QueueConfig(BaseSettings):
    """Settings, from arguments > environment > configuration files > defaults.

    Raises ConfigError, naming value, rule and origin of everything that is wrong, secrets excepted.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    redis_url: str = Field(
        "redis://localhost:6379",
        repr=False,
        description="Server: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://, or "
        "embedded:// for a private one.",
    )
    redis_password: SecretStr | None = Field(
        None, description="Password, instead of one in redis_url. Better in a file or a credential."
    )
    redis_sentinel_password: SecretStr | None = Field(
        None, description="Password of the Sentinels, where they ask for one."
    )
    redis_tls_ca_file: str | None = Field(
        None,
        description="Authority (PEM) that signed the server's certificate; unset: the system's.",
    )
    redis_tls_cert_file: str | None = Field(
        None, description="Our certificate (PEM), for servers that ask clients for one."
    )
    redis_tls_key_file: str | None = Field(
        None, description="The key of redis_tls_cert_file, unless that file holds it, too."
    )
    key_prefix: str = Field(
        "aragora:queue:",
        max_length=64,
        pattern=r"^[^\s{}]+$",
        description="Prefix of every Redis key.",
    )
    queue: str = Field("debates", description="Name of the queue.")

    retry_max_attempts: int = Field(
        3, ge=1, le=1000, description="Starts charged to a job before it fails, the first included."
    )
    retry_base_delay: float = Field(
        1.0, ge=0, le=30 * 86_400, description="Seconds before the first retry."
    )
    retry_max_delay: float = Field(
        300.0, ge=0, le=30 * 86_400, description="Longest pause before a retry, seconds."
    )
    claim_idle_ms: int = Field(
        60_000,
        ge=200,
        le=DAY_MS,
        description="Lease: a worker silent for so long is dead and its jobs are taken over, ms.",
    )
    max_crashes: int = Field(
        3,
        ge=1,
        le=1000,
        description="Workers that may die on a job before it fails as a poison pill.",
    )
    max_job_ttl_days: float = Field(
        7, gt=0, le=3650, description="Retention: days that data of an ended job is kept."
    )
    max_payload_bytes: int = Field(
        262_144, ge=1, le=MAX_DATA_BYTES, description="Largest payload of a job, bytes."
    )
    max_result_bytes: int = Field(
        1_048_576, ge=1, le=MAX_DATA_BYTES, description="Largest result of a job, bytes."
    )
    max_backlog: int = Field(
        0,
        ge=0,
        description="Waiting jobs beyond which enqueue refuses (exit code 75); 0: no limit.",
    )
    durability: Literal["none", "replica", "fsync"] = Field(
        "none",
        description="What confirms an enqueue besides the server: nothing, a replica, or its disk.",
    )
    allow_eviction: bool = Field(
        False, description="Work on a server that may delete jobs when its memory is full."
    )

    concurrency: int = Field(3, ge=1, le=10_000, description="Jobs that a worker runs at once.")
    executor: str = Field(
        "debate",
        description="What runs jobs: debate, command, or package.module:factory of your own.",
    )
    exec_command: str = Field("", description="Command line of the `command` executor.")
    exec_env_allowlist: str = Field(
        "",
        description="Variables that the command gets although they may hold secrets, such as REDIS_URL.",
    )
    drain_timeout_seconds: float = Field(
        600.0,
        ge=0,
        le=7 * 86_400,
        description="How long a stopping worker lets running jobs finish before it hands them back.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address that metrics are served on.")
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        None, description="Port of the metrics; 0: off; unset: the first free one of 9464 to 9473."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log lines to write."
    )
    log_format: Literal["text", "json"] = Field("text", description="Form of log lines.")
    agents: dict[str, AgentConfig] = Field(
        default_factory=dict,
        description="Names of agents and the models behind them; also ARAGORA_AGENT_<NAME>=model.",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explain(error, values, type(self).model_fields) from None

    @field_validator("redis_url")
    @classmethod
    def _is_endpoint(cls, value: str) -> str:
        RedisUrl.parse(value)
        return value

    @field_validator("queue")
    @classmethod
    def _is_queue_name(cls, value: str) -> str:
        if not QUEUE_NAME_PATTERN.fullmatch(value):
            raise ValueError("must be 1 to 64 of a-z, 0-9 and ._-, a letter or digit first")
        return value

    @model_validator(mode="after")
    def _key_has_certificate(self) -> QueueConfig:
        if self.redis_tls_key_file and not self.redis_tls_cert_file:
            raise ValueError("redis_tls_key_file is set without redis_tls_cert_file")
        return self

    @model_validator(mode="after")
    def _delays_fit(self) -> QueueConfig:
        if self.retry_base_delay > self.retry_max_delay:
            raise ValueError(
                f"retry_base_delay ({self.retry_base_delay}) must not exceed "
                f"retry_max_delay ({self.retry_max_delay})"
            )
        return self

    @property
    def retention_ms(self) -> int:
        """How long data of an ended job is kept, ms."""
        return round(self.max_job_ttl_days * DAY_MS)

    def retry_policy(self) -> RetryPolicy:
        """The policy that the retry settings describe."""
        return RetryPolicy(
            max_attempts=self.retry_max_attempts,
            base_delay_seconds=self.retry_base_delay,
            max_delay_seconds=self.retry_max_delay,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first; environment and files in one source of ours, which knows origins."""
        return (init_settings, LayeredSource(settings_cls))


_process_wide: QueueConfig | None = None


def set_queue_config(config: QueueConfig | None) -> None:
    """Use `config` wherever none is given; None forgets it, and the environment rules again."""
    global _process_wide  # noqa: PLW0603 - the one global of the package, as its users know it
    _process_wide = config


def get_queue_config() -> QueueConfig:
    """What `set_queue_config` set, else a configuration from environment and files."""
    return _process_wide or QueueConfig()
