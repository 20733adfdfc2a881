"""Declare every setting once: name, type, range, default and description.

`sources` reads the values and derives the names of variables. Only `create_redis_queue`,
`create_default_executor` and the command line read the process-wide configuration; they pass it to
everything else.
"""

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aragora_q.base import Job
from aragora_q.config.redis_url import DEFAULT_REDIS_URL, RedisUrl, parse_address
from aragora_q.config.sources import LayeredSource, suggestion_for
from aragora_q.config.values import (
    SCHEDULE_TAG,
    Table,
    check_agents,
    check_queue,
    from_text,
    plain,
)
from aragora_q.errors import InvalidPayload
from aragora_q.job_rules import AGENTS_RANGE, check_job
from aragora_q.labels import check_notify
from aragora_q.retry import RetryPolicy

if TYPE_CHECKING:
    from aragora_q.config.tables import (
        AgentConfig,
        BudgetConfig,
        PriceConfig,
        ProviderConfig,
        ScheduleConfig,
        WebhookConfig,
    )

DAY_MS = 86_400_000
WEB_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]{2,45}")
MAX_NAMED = 100
"""Maximum number of budgets, of providers with limits, of schedules, and of webhooks."""


MIN_KEY_CHARS = 32
"""Shortest key that signs receipts."""

MAX_DATA_BYTES = 64 * 1024 * 1024
"""Upper limit of max_payload_bytes and max_result_bytes; the scripts accept no more."""


class QueueConfig(BaseSettings):
    """The settings. Precedence: arguments > environment > configuration files > defaults.

    Raises:
        ConfigError: settings are invalid. Lists each with value, rule and origin, without secrets.

    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    redis_url: str = Field(
        DEFAULT_REDIS_URL,
        repr=False,
        description="Redis server: redis://, rediss://, unix://, redis+sentinel://, "
        "redis+cluster://, or embedded:// for a private one.",
    )
    redis_password: SecretStr | None = Field(
        None, description="Password; overrides the one in redis_url. Prefer a file or a credential."
    )
    redis_sentinel_username: str | None = Field(
        None, description="User name at the Sentinels, if they have ACL users."
    )
    redis_sentinel_password: SecretStr | None = Field(
        None, description="Password of the Sentinels, if they require one."
    )
    redis_tls_ca_file: str | None = Field(
        None,
        description="CA certificate (PEM) that signed the server's; unset: the system's CAs.",
    )
    redis_tls_cert_file: str | None = Field(
        None, description="Client certificate (PEM), for servers that require one."
    )
    redis_tls_key_file: str | None = Field(
        None, description="Key of redis_tls_cert_file, unless that file contains it."
    )
    key_prefix: str = Field(
        "aragora:queue:",
        max_length=64,
        pattern=r"^[^\s{}]+$",
        description="Prefix of all Redis keys.",
    )
    queue: str = Field("debates", description="Queue name.")

    retry_max_attempts: int = Field(
        3, ge=1, le=1000, description="Attempts before a job fails, including the first."
    )
    retry_base_delay: float = Field(
        1.0, ge=0, le=30 * 86_400, description="Delay before the first retry, in seconds."
    )
    retry_max_delay: float = Field(
        300.0, ge=0, le=30 * 86_400, description="Maximum delay before a retry, in seconds."
    )
    claim_idle_ms: int = Field(
        60_000,
        ge=200,
        le=DAY_MS,
        description="Lease in ms: jobs of a worker without a heartbeat for this long are reclaimed.",
    )
    max_crashes: int = Field(
        3,
        ge=1,
        le=1000,
        description="Worker crashes before a job fails as a poison pill.",
    )
    max_job_ttl_days: float = Field(
        7, gt=0, le=3650, description="Retention: days to keep the data of ended jobs."
    )
    max_payload_bytes: int = Field(
        262_144, ge=1, le=MAX_DATA_BYTES, description="Maximum payload of a job, in bytes."
    )
    max_result_bytes: int = Field(
        1_048_576, ge=1, le=MAX_DATA_BYTES, description="Maximum result of a job, in bytes."
    )
    max_backlog: int = Field(
        0,
        ge=0,
        description="Maximum number of waiting and delayed jobs; enqueue then exits with 75. 0: no limit.",
    )
    durability: Literal["none", "replica", "fsync"] = Field(
        "none",
        description="Durability required before enqueue succeeds: none, replica (WAIT) or fsync "
        "(WAITAOF).",
    )
    durability_replicas: int = Field(
        1,
        ge=1,
        le=100,
        description="How many replicas must confirm an enqueue with durability replica. If it is the number of "
        "the primary's replicas, a failover loses no confirmed job, unless a server lost its data.",
    )
    allow_eviction: bool = Field(
        False, description="Accept a server that may evict jobs when its memory is full."
    )

    concurrency: int = Field(3, ge=1, le=10_000, description="Jobs that a worker runs at once.")
    executor: str = Field(
        "debate",
        description="Executor: debate, command, or package.module:factory.",
    )
    exec_command: str = Field("", description="Command line of the `command` executor.")
    exec_env_allowlist: str = Field(
        "",
        description="Variables to pass to the command although they may hold secrets, such as REDIS_URL.",
    )
    drain_timeout_seconds: float = Field(
        600.0,
        ge=0,
        le=7 * 86_400,
        description="Time for running jobs to finish when a worker stops; then they are released.",
    )
    metrics_host: str = Field("127.0.0.1", description="IPv4 or IPv6 address to serve metrics on.")
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        None,
        description="Port to serve metrics on; 0: off; unset: first free port of 9464 to 9473.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum log level."
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of log lines.")
    web_listen: str = Field(
        "127.0.0.1:8080",
        description="Address that `aragora-q web` serves: HOST:PORT or [IPV6]:PORT.",
    )
    web_hosts: tuple[str, ...] = Field(
        (),
        description="Names under which browsers reach the console, besides localhost and the address it "
        "listens on; as text, separated by commas.",
    )
    web_producer_redis_url: SecretStr | None = Field(
        None,
        description="Redis URL of the console's role producer, with a user that may enqueue. Unset: it "
        "has no such role.",
    )
    web_operator_redis_url: SecretStr | None = Field(
        None,
        description="Redis URL of the console's role operator. Unset: it has no such role.",
    )
    web_tokens_file: str | None = Field(
        None,
        description="File with the hashes of the console's tokens, as `aragora-q token` writes it.",
    )
    web_proxies: tuple[str, ...] = Field(
        (),
        description="Addresses or networks of reverse proxies whose headers X-Forwarded-User, -Groups, -For "
        "and -Proto are believed; as text, separated by commas.",
    )
    web_proxy_roles: dict[str, Literal["viewer", "producer", "operator"]] = Field(
        default_factory=dict,
        description="Role of each user, or @group, that these proxies name; `*` is any other user. As text: "
        "ann=operator,@devs=viewer.",
    )
    receipt_key: SecretStr | None = Field(
        None,
        description="Key that signs receipts, at least 32 characters. Prefer a file or a credential. Unset: "
        "receipts have a digest only.",
    )
    default_notify: tuple[str, ...] = Field(
        (),
        description="Webhooks that report the end of jobs which name none: at most 4; in the variable "
        "separated by commas.",
    )
    default_agents: tuple[str, ...] = Field(
        (),
        description="Agents of debates that name none: at most 16; in the variable separated by commas.",
    )
    agents: Table["AgentConfig"] = Field(
        default_factory=dict,
        description="Agents by name; also ARAGORA_AGENT_<NAME>=model.",
    )
    prices: Table["PriceConfig"] = Field(
        default_factory=dict,
        description="Prices by agent or model; they replace those of the built-in list.",
    )

    budgets: Table["BudgetConfig"] = Field(
        default_factory=dict, description="Budgets by name, for the calls of all workers."
    )
    providers: Table["ProviderConfig"] = Field(
        default_factory=dict,
        description="Limits by provider, or by account as `aragora-q providers list` shows them.",
    )
    schedules: Table["ScheduleConfig"] = Field(
        default_factory=dict,
        description="Jobs that are enqueued at given times, by name of the schedule.",
    )
    webhooks: Table["WebhookConfig"] = Field(
        default_factory=dict,
        description="Targets to which ends of jobs and groups are reported, by name.",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            from aragora_q.config.messages import explain  # noqa: PLC0415 - for errors only

            raise explain(error, values, type(self).model_fields) from None

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any, info: ValidationInfo) -> Any:
        return plain(value, cls.model_fields[info.field_name or ""])

    @field_validator("default_agents", "default_notify", "web_hosts", "web_proxies", mode="before")
    @classmethod
    def _are_names(cls, value: Any) -> Any:
        return from_text(value)

    @field_validator("web_proxy_roles", mode="before")
    @classmethod
    def _are_roles(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.rpartition("=") for pair in from_text(value)]
        if not all(name and equals for name, equals, _ in pairs):
            raise ValueError("must be NAME=ROLE, separated by commas")
        return {name.strip(): role.strip() for name, _, role in pairs}

    @field_validator("web_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("web_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not WEB_HOST.fullmatch(name):
                raise ValueError(f"{name!r:.60} is not a host: no scheme, no port, no wildcard")
        return value

    @field_validator("web_producer_redis_url", "web_operator_redis_url")
    @classmethod
    def _is_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and RedisUrl.parse(value.get_secret_value()).kind == "embedded":
            raise ValueError("must not be embedded://: there, the console makes these users itself")
        return value

    @field_validator("web_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                network = ip_network(text)
            except ValueError:
                raise ValueError(
                    f"{text!r:.60} is not an IP address, nor a network such as 10.0.0.0/24"
                ) from None
            if network.prefixlen == 0:
                raise ValueError(f"{text!r:.60} is every address: any client could name its user")
        return value

    @model_validator(mode="after")
    def _roles_have_proxies(self) -> Self:
        if self.web_proxy_roles and not self.web_proxies:
            raise ValueError("web_proxy_roles is set without web_proxies")
        return self

    @field_validator("default_agents")
    @classmethod
    def _is_debate(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > AGENTS_RANGE[1]:
            raise ValueError(f"must be at most {AGENTS_RANGE[1]} agents")
        return check_agents(value)

    @field_validator("redis_url")
    @classmethod
    def _is_endpoint(cls, value: str) -> str:
        RedisUrl.parse(value)
        return value

    @field_validator("metrics_host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if value.startswith("["):
            raise ValueError("must be an address without brackets and port, such as ::1")
        return value

    @field_validator("queue")
    @classmethod
    def _is_queue_name(cls, value: str) -> str:
        return check_queue(value)

    @field_validator("budgets", "providers", "schedules", "webhooks")
    @classmethod
    def _are_few(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) > MAX_NAMED:
            raise ValueError(f"must be at most {MAX_NAMED}, got {len(value)}")
        return value

    @field_validator("receipt_key")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().strip()) < MIN_KEY_CHARS:
            raise ValueError(
                f"must have at least {MIN_KEY_CHARS} characters, without blanks at its ends"
            )
        return value

    @model_validator(mode="after")
    def _schedules_and_notify_are_valid(self) -> Self:
        faults: dict[tuple[str, ...], str] = {}
        faults["default_notify",] = self._notify_fault(self.default_notify)
        for name in self.schedules:
            faults["schedules", name, "job"] = self._job_fault(name)
        if faults := {location: rule for location, rule in faults.items() if rule}:
            from aragora_q.config.messages import faults_at  # noqa: PLC0415 - for errors only

            raise faults_at(faults)
        return self

    def _job_fault(self, schedule: str) -> str:
        from aragora_q.job_fields import AGENTS_HINT  # noqa: PLC0415 - for schedules only

        try:
            job = self.scheduled_job(schedule, "1")
        except InvalidPayload as error:
            hint = error.hint if error.hint != AGENTS_HINT else ""
            return "; ".join(filter(None, (str(error), hint)))
        if job.tags[SCHEDULE_TAG] != schedule:
            return f"must not have the tag {SCHEDULE_TAG}: its value is the name of the schedule"
        if job.notify == self.default_notify:
            return ""  # whose fault is reported
        return self._notify_fault(job.notify)

    def _notify_fault(self, names: tuple[str, ...]) -> str:
        try:
            check_notify(names)
        except InvalidPayload as error:
            return str(error)
        unknown = next((name for name in names if name not in self.webhooks), None)
        if unknown is None:
            return ""
        return f"{unknown!r} is not in webhooks{suggestion_for(unknown, self.webhooks)}"

    def schedules_of(self, queue: str) -> "dict[str, ScheduleConfig]":
        """Return the schedules whose jobs go to this queue, by name."""
        return {name: each for name, each in self.schedules.items() if each.queue in (None, queue)}

    def scheduled_job(self, name: str, suffix: str) -> Job:
        """Return the job of a schedule, with the id `<name>@<suffix>` and the tag `schedule=<name>`.

        Raises:
            InvalidPayload: the job breaks a rule.
        """
        from aragora_q.job_fields import create_job, default_fields  # noqa: PLC0415 - likewise

        defaults = default_fields(self.default_agents, self.default_notify)
        defaults["tags"] = {SCHEDULE_TAG: name}
        job = create_job(dict(self.schedules[name].job), defaults, lambda *_: f"{name}@{suffix}")
        check_job(job)
        return job

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.redis_tls_key_file and not self.redis_tls_cert_file:
            raise ValueError("redis_tls_key_file is set without redis_tls_cert_file")
        return self

    @model_validator(mode="after")
    def _delays_fit(self) -> Self:
        if self.retry_base_delay > self.retry_max_delay:
            raise ValueError(
                f"retry_base_delay ({self.retry_base_delay}) must not exceed "
                f"retry_max_delay ({self.retry_max_delay})"
            )
        return self

    @property
    def retention_ms(self) -> int:
        """How long the data of an ended job is kept, in ms."""
        return round(self.max_job_ttl_days * DAY_MS)

    def retry_policy(self) -> RetryPolicy:
        """Return the retry policy that the settings define."""
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
        """Replace the sources of pydantic-settings, except arguments, with one that tracks origins."""
        return (init_settings, LayeredSource(settings_cls))


_process_wide: QueueConfig | None = None


def set_queue_config(config: QueueConfig | None) -> None:
    """Set the process-wide configuration; None removes it, so that files and environment apply again."""
    global _process_wide  # noqa: PLW0603 - the one global of the package, as its users know it
    _process_wide = config


def get_queue_config() -> QueueConfig:
    """Return the configuration of `set_queue_config`, or a new one from files and environment."""
    return _process_wide or QueueConfig()
