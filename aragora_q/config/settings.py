"""Declare every setting once: name, type, range, default and description.

`sources` reads the values and derives the names of variables. Only `create_redis_queue`,
`create_default_executor` and the command line read the process-wide configuration; they pass it to
everything else.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aragora_q.base import GATES, MAX_USD, QUEUE_NAME_PATTERN
from aragora_q.config.messages import explain
from aragora_q.config.redis_url import DEFAULT_REDIS_URL, RedisUrl, parse_address
from aragora_q.config.sources import LayeredSource
from aragora_q.job import AGENTS_RANGE, MAX_AGENT_CHARS, is_agent
from aragora_q.retry import RetryPolicy

DAY_MS = 86_400_000
WEB_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]{2,45}")
MAX_USD_PER_MILLION = 100_000.0
MIN_BUDGET_USD = 0.000_001
MAX_NAMED = 100
"""Maximum number of budgets, and of providers with limits."""

SCOPES = ("all", "queue", "tenant", "group", "provider", "agent")
SCOPE_VALUE = re.compile(r"[!-~]{1,200}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,47}")
"""Name of a budget."""

FLEX_SILENCE_SECONDS = 900.0
"""How long a provider may keep a call of the flex tier waiting before it answers: OpenAI's advice."""
FLEX_CALL_SECONDS = 1_800.0
"""How long a call of the flex tier may take, its wait for capacity included."""

MAX_DATA_BYTES = 64 * 1024 * 1024
"""Upper limit of max_payload_bytes and max_result_bytes; the scripts accept no more."""


class TableConfig(BaseModel):
    """An entry of one of the tables of named values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any, info: ValidationInfo) -> Any:
        return _plain(value, cls.model_fields[info.field_name or ""])


NOT_ASKED_WITH = {"model", "base_url", "api_key_env", "provider", "fallback"}
"""Settings of an agent that say who is asked, not how."""


class AgentConfig(TableConfig):
    """An agent of the `[agents]` table: a model, how to reach it, and how to ask it.

    Settings that are None are not sent: the provider's default applies.
    """

    model: str = Field(
        min_length=1,
        description="`provider:model`, as in pydantic-ai. With base_url, the name of the model is enough.",
    )
    base_url: str | None = Field(
        None,
        description="Address of the server. The prefix of model names the protocol: `openai:` is Responses, "
        "`openai-chat:` chat completions, `anthropic:` Messages; without a prefix, chat completions.",
    )
    api_key_env: str | None = Field(None, description="Variable that holds the API key.")
    provider: str | None = Field(
        None,
        description="Name of the provider whose limits apply. Default: the host of base_url, else the "
        "prefix of the model.",
    )
    effort: Literal["off", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="How much the model thinks."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Randomness of the answers.")
    seed: int | None = Field(None, description="Seed, for providers that take one.")
    service_tier: Literal["auto", "default", "flex", "priority"] | None = Field(
        None,
        description="Service tier of the provider, also for jobs that name another one. Default: that of the "
        "job, if the provider has it.",
    )
    structured: Literal["auto", "native", "tool", "prompted"] = Field(
        "auto",
        description="How the form of replies is enforced: JSON schema, tool call, or words. `auto`: the "
        "first of these that the model supports.",
    )
    stream: bool = Field(
        True, description="Receive replies as a stream, where the provider has one."
    )
    store: bool = Field(False, description="Let OpenAI store the replies.")
    timeout_seconds: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="Maximum silence during a call; without stream, maximum duration of a call. Default in "
        "the flex tier: 900.",
    )
    call_timeout_seconds: float = Field(
        900.0,
        gt=0,
        le=86_400,
        description="Maximum duration of a call. Default in the flex tier: 1,800.",
    )
    max_tokens: int = Field(
        8_000, ge=1, description="Maximum output of a call, including thinking, in tokens."
    )
    fallback: tuple[str, ...] = Field(
        (),
        description="Agents that are asked instead, in this order, while the provider takes no calls or the "
        "account's credit is used up; as text, separated by commas.",
    )

    @field_validator("fallback", mode="before")
    @classmethod
    def _are_names(cls, value: Any) -> Any:
        return _from_text(value)

    @field_validator("fallback")
    @classmethod
    def _are_agents(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > AGENTS_RANGE[1] or len(set(value)) < len(value):
            raise ValueError(f"must be at most {AGENTS_RANGE[1]} different agents")
        return _check_agents(value)

    @property
    def silence_seconds(self) -> float:
        """`timeout_seconds`, or what the flex tier needs if that is not set."""
        return self._time("timeout_seconds", FLEX_SILENCE_SECONDS)

    @property
    def call_seconds(self) -> float:
        """`call_timeout_seconds`, or what the flex tier needs if that is not set."""
        return self._time("call_timeout_seconds", FLEX_CALL_SECONDS)

    def _time(self, name: str, in_flex: float) -> float:
        is_set = self.service_tier != "flex" or name in self.model_fields_set
        seconds: float = getattr(self, name)
        return seconds if is_set else in_flex

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]", value):
            raise ValueError("must begin with http:// or https://")
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "must not contain user or password: set api_key_env to the name of a variable"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of a variable, not the key itself")
        return value

    @field_validator("provider")
    @classmethod
    def _is_provider(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", value):
            raise ValueError(
                "must be 1 to 40 of a-z, 0-9, '.', '_' or '-', and begin with a letter or digit"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_model_string(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class PriceConfig(TableConfig):
    """What a model costs, in the `[prices]` table, in US dollars per million tokens."""

    model_config = ConfigDict(strict=True)

    input_usd_per_million: float = Field(
        ge=0, le=MAX_USD_PER_MILLION, description="Price of input, in USD per million tokens."
    )
    output_usd_per_million: float = Field(
        ge=0,
        le=MAX_USD_PER_MILLION,
        description="Price of output, thinking included, in USD per million tokens.",
    )
    cached_input_usd_per_million: float | None = Field(
        None,
        ge=0,
        le=MAX_USD_PER_MILLION,
        description="Price of input from the provider's cache. Default: that of other input.",
    )
    cache_write_usd_per_million: float | None = Field(
        None,
        ge=0,
        le=MAX_USD_PER_MILLION,
        description="Price of input that enters the provider's cache, as Anthropic and OpenAI charge it. "
        "Default: that of other input.",
    )


class BudgetConfig(TableConfig):
    """A budget of the `[budgets]` table: what all calls in its scope may cost in a window of time."""

    limit_usd: float = Field(
        ge=MIN_BUDGET_USD, le=MAX_USD, description="Limit of each window, in US dollars."
    )
    window: Literal["hour", "day", "month", "total"] = Field(
        description="Time after which spending counts from zero again, in UTC; `total`: never."
    )
    scope: str = Field(
        "all",
        description="Calls that count: `all`, or those of a `queue`, `tenant`, `group`, `provider` or `agent`. "
        "`tenant:acme`: of this one; `tenant`: each tenant has this budget.",
    )
    on_full: Literal["hold", "fail", "warn"] = Field(
        "hold",
        description="What becomes of a job whose next call does not fit: it is held until there is room, it "
        "fails, or it goes on and the metrics show it.",
    )

    @field_validator("scope")
    @classmethod
    def _is_scope(cls, value: str) -> str:
        kind, colon, name = value.partition(":")
        if kind not in SCOPES or (colon and (kind == "all" or not SCOPE_VALUE.fullmatch(name))):
            kinds = ", ".join(SCOPES[1:])
            raise ValueError(
                f"must be all, or one of {kinds}, alone or with a value, as in tenant:acme"
            )
        return value


class ProviderConfig(TableConfig):
    """Limits of a provider in the `[providers]` table, for each of its accounts. Unset: no limit."""

    max_concurrent: int | None = Field(
        None, ge=1, le=100_000, description="Maximum number of calls under way, of all workers."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, le=10_000_000, description="Maximum number of calls per minute."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, le=100_000_000_000, description="Maximum number of tokens per minute."
    )
    adaptive: bool = Field(
        True, description="Send fewer calls at once after a rate limit, and slowly more again."
    )


def check_budget_name(name: str) -> str:
    """Return `name` if a budget may have it. Raises ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(
            "a name must be 1 to 48 letters, digits and ._@-, and begin with a letter or digit"
        )
    return name


def _check_provider(name: str) -> str:
    if not SCOPE_VALUE.fullmatch(name):
        raise ValueError("a name must be 1 to 200 ASCII characters without blanks")
    return name


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
    default_agents: tuple[str, ...] = Field(
        (),
        description="Agents of debates that name none: at most 16; in the variable separated by commas.",
    )
    agents: dict[str, AgentConfig] = Field(
        default_factory=dict,
        description="Agents by name; also ARAGORA_AGENT_<NAME>=model.",
    )
    prices: dict[str, PriceConfig] = Field(
        default_factory=dict,
        description="Prices by agent or model; they replace those of the built-in list.",
    )

    budgets: dict[Annotated[str, AfterValidator(check_budget_name)], BudgetConfig] = Field(
        default_factory=dict, description="Budgets by name, for the calls of all workers."
    )
    providers: dict[Annotated[str, AfterValidator(_check_provider)], ProviderConfig] = Field(
        default_factory=dict,
        description="Limits by provider, or by account as `aragora-q providers list` shows them.",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explain(error, values, type(self).model_fields) from None

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any, info: ValidationInfo) -> Any:
        return _plain(value, cls.model_fields[info.field_name or ""])

    @field_validator("default_agents", "web_hosts", "web_proxies", mode="before")
    @classmethod
    def _are_names(cls, value: Any) -> Any:
        return _from_text(value)

    @field_validator("web_proxy_roles", mode="before")
    @classmethod
    def _are_roles(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.rpartition("=") for pair in _from_text(value)]
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
    def _roles_have_proxies(self) -> QueueConfig:
        if self.web_proxy_roles and not self.web_proxies:
            raise ValueError("web_proxy_roles is set without web_proxies")
        return self

    @field_validator("default_agents")
    @classmethod
    def _is_debate(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > AGENTS_RANGE[1]:
            raise ValueError(f"must be at most {AGENTS_RANGE[1]} agents")
        return _check_agents(value)

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
        if not QUEUE_NAME_PATTERN.fullmatch(value):
            raise ValueError(
                "must be 1 to 64 of a-z, 0-9, '.', '_' or '-', and begin with a letter or digit"
            )
        return value

    @field_validator("queue")
    @classmethod
    def _is_not_reserved(cls, value: str) -> str:
        if value == GATES:
            raise ValueError(f"must not be {GATES}: keys of budgets and providers have this name")
        return value

    @field_validator("budgets", "providers")
    @classmethod
    def _are_few(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) > MAX_NAMED:
            raise ValueError(f"must be at most {MAX_NAMED}, got {len(value)}")
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


def _plain(value: Any, field: FieldInfo) -> Any:
    """Return the value of a setting if its kind may be right. Raises ValueError."""
    _check_text(value)
    if isinstance(value, bool) and field.annotation is not bool:  # to Python, true is the number 1
        raise ValueError("must not be true or false")
    return value


def _from_text(value: Any) -> Any:
    """Return names that are separated by commas as a list; anything else as it is."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _check_agents(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        _check_text(name)
        if not is_agent(name):
            raise ValueError(f"must be names of 1 to {MAX_AGENT_CHARS} characters")
    return names


def _check_text(value: Any) -> None:
    """Raise ValueError for text that files, Redis and the operating system do not take."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("must be UTF-8")
        if "\0" in value:
            raise ValueError("must not contain a null character")


_process_wide: QueueConfig | None = None


def set_queue_config(config: QueueConfig | None) -> None:
    """Set the process-wide configuration; None removes it, so that files and environment apply again."""
    global _process_wide  # noqa: PLW0603 - the one global of the package, as its users know it
    _process_wide = config


def get_queue_config() -> QueueConfig:
    """Return the configuration of `set_queue_config`, or a new one from files and environment."""
    return _process_wide or QueueConfig()
