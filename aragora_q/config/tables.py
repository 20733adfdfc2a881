"""Declare the entries of tables of named values, such as `[agents]`; `settings` declares the tables.

Loaded by `values.Table` for the first entry.
"""

import re
from datetime import date, time
from ipaddress import ip_network
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from aragora_q import codec
from aragora_q.base import MAX_USD
from aragora_q.config.values import (
    SCOPE_VALUE,
    check_agents,
    check_name,
    check_provider,
    check_queue,
    from_text,
    plain,
)
from aragora_q.cron import CronTimes
from aragora_q.job_rules import AGENTS_RANGE

MAX_USD_PER_MILLION = 100_000.0
MIN_BUDGET_USD = 0.000_001
SCOPES = ("all", "queue", "tenant", "group", "provider", "agent")
FLEX_SILENCE_SECONDS = 900.0
"""How long a provider may keep a call of the flex tier waiting before it answers: OpenAI's advice."""
FLEX_CALL_SECONDS = 1_800.0
"""How long a call of the flex tier may take, its wait for capacity included."""


class TableConfig(BaseModel):
    """An entry of one of the tables of named values."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        defer_build=True,
    )

    Name: ClassVar[Any] = str
    """Type of the name of an entry."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any, info: ValidationInfo) -> Any:
        return plain(value, cls.model_fields[info.field_name or ""])


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
        return from_text(value)

    @field_validator("fallback")
    @classmethod
    def _are_agents(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > AGENTS_RANGE[1] or len(set(value)) < len(value):
            raise ValueError(f"must be at most {AGENTS_RANGE[1]} different agents")
        return check_agents(value)

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

    Name: ClassVar[Any] = Annotated[str, AfterValidator(check_name)]

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

    Name: ClassVar[Any] = Annotated[str, AfterValidator(check_provider)]

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


ANY_CRON = "0 0 * * *"
"""A cron expression to try a time zone with."""


class ScheduleConfig(TableConfig):
    """A schedule of the `[schedules]` table: a job that is enqueued at the times of a cron expression."""

    Name: ClassVar[Any] = Annotated[str, AfterValidator(check_name)]

    cron: str = Field(
        description="Minute, hour, day of month, month, day of week, as in `0 6 * * MON`; by the rules of "
        "Debian's cron."
    )
    time_zone: str = Field("UTC", description="Time zone of these times, such as Europe/Berlin.")
    catch_up: Literal["none", "last"] = Field(
        "none",
        description="What is done about times that passed while no worker and no `reap` ran: `none`, or the "
        "`last` of them is enqueued late.",
    )
    queue: str | None = Field(
        None,
        description="The queue it belongs to. Default: every queue whose workers read this configuration.",
    )
    job: dict[str, Any] = Field(
        description="What to enqueue: fields as in a line for `enqueue`, without id, from and delay_seconds."
    )

    @field_validator("cron")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        CronTimes(value).check()
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        CronTimes(ANY_CRON, value).check()
        return value

    @field_validator("queue")
    @classmethod
    def _is_queue(cls, value: str | None) -> str | None:
        return value if value is None else check_queue(value)

    @field_validator("job")
    @classmethod
    def _has_no_identity(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("id", "from", "delay_seconds"):
            if name in value:
                raise ValueError(f"must not have {name}: each time makes a job with its own id")
        return value

    @field_validator("job")
    @classmethod
    def _is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        codec.encode(value)
        if at := _time_in(value):
            raise ValueError(f"{at} is a date or time, which JSON does not have: put it in quotes")
        return value

    @property
    def times(self) -> CronTimes:
        """When it is due."""
        return CronTimes(self.cron, self.time_zone)


JobEvent = Literal["completed", "failed", "cancelled"]


class WebhookConfig(TableConfig):
    """A target of the `[webhooks]` table: where to report ends of jobs and groups. Jobs name it in `notify`."""

    Name: ClassVar[Any] = Annotated[str, AfterValidator(check_name)]

    url: str = Field(description="Address, which must begin with https://.")
    secret_file: str = Field(
        min_length=1,
        description="File with the secret that signs messages, `whsec_` and base64; a second line is the "
        "secret before it. A name without a slash is that of a systemd credential.",
    )
    events: tuple[JobEvent, ...] = Field(
        ("completed", "failed", "cancelled"),
        description="Ends of jobs that are reported; those of groups always are. As text, separated by commas.",
    )
    include_result: bool = Field(
        False, description="Send payload and result, too. Default: status, labels, times, cost."
    )
    allow_networks: tuple[str, ...] = Field(
        (),
        description="Networks that are not public, such as 10.0.0.0/8, in which the address may be; as text, "
        "separated by commas.",
    )
    ca_file: str | None = Field(
        None,
        description="CA certificate (PEM) that signed the target's. Default: the system's CAs.",
    )
    timeout_seconds: float = Field(
        15.0, gt=0, le=120, description="Maximum duration of a delivery."
    )

    @field_validator("events", "allow_networks", mode="before")
    @classmethod
    def _are_listed(cls, value: Any) -> Any:
        return from_text(value)

    @field_validator("url")
    @classmethod
    def _is_https(cls, value: str) -> str:
        if not re.fullmatch("[!-~]*", value):
            raise ValueError("must be ASCII without blanks: other characters are written as %XX")
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"is not an address: {error}") from None
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("must begin with https:// and a host")
        if parts.port == 0:
            raise ValueError("must not have port 0")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ValueError("must not contain user, password or fragment")
        return value

    @field_validator("secret_file")
    @classmethod
    def _is_file(cls, value: str) -> str:
        if value.startswith("whsec_"):
            raise ValueError("must be the name of a file, not the secret itself")
        return value

    @property
    def shown_url(self) -> str:
        """The address without path and query, which may be all that protects the target."""
        parts = urlsplit(self.url)
        has_more = parts.path not in ("", "/") or parts.query
        return f"https://{parts.netloc}{'/…' if has_more else parts.path}"

    @field_validator("allow_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ip_network(text)
            except ValueError:
                raise ValueError(f"{text!r:.60} is not a network such as 10.0.0.0/8") from None
        return value


def _time_in(value: Any, at: str = "") -> str:
    """Return where a table has a date or a time, such as `metadata.day`; empty if it has none."""
    if isinstance(value, date | time):
        return at
    parts: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        parts = enumerate(value)
    inside = (_time_in(part, f"{at}.{name}".lstrip(".")) for name, part in parts)
    return next(filter(None, inside), "")
