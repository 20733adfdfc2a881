"""What calls cost: the prices of the configuration, over the price list of genai-prices.

The only place that knows prices. Unknown is None, never 0: no list has a price for a model at a
`base_url`, so it has only the one that the configuration states.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.providers import ALIASES, split_model
from aragora_q.job import SERVICE_TIERS

if TYPE_CHECKING:
    from datetime import datetime

    from genai_prices.types import PriceCalculation

PER_MILLION = 1_000_000
CONFIGURED = "configuration"


@dataclass(frozen=True)
class Price:
    """The price of a model, in US dollars per million tokens, and where it comes from."""

    input_usd_per_million: float
    output_usd_per_million: float
    cached_input_usd_per_million: float
    source: str
    """`configuration`, or the price list with its version."""
    cache_write_usd_per_million: float | None = field(default=None, kw_only=True)
    """Price of input that enters the provider's cache; None: that of other input."""

    @property
    def is_free(self) -> bool:
        """True if calls cost nothing."""
        return self is FREE

    def cost_usd(
        self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
    ) -> float:
        """Return the price of a call.

        Of its input, `cached_tokens` came from the provider's cache, and `written_tokens` entered it.
        """
        cached = min(cached_tokens, input_tokens)
        written = min(written_tokens, input_tokens - cached)
        return (
            (input_tokens - cached - written) * self.input_usd_per_million
            + cached * self.cached_input_usd_per_million
            + written * self._write_usd_per_million
            + output_tokens * self.output_usd_per_million
        ) / PER_MILLION

    @property
    def _write_usd_per_million(self) -> float:
        written = self.cache_write_usd_per_million
        return self.input_usd_per_million if written is None else written

    def worst_usd(self, max_input_tokens: int, max_output_tokens: int) -> float:
        """Return the most that a call can cost: all input at its dearest price, and the output at its limit."""
        input_usd, output_usd = self.worst_parts(max_input_tokens)
        return input_usd + max_output_tokens * output_usd

    def worst_parts(self, max_input_tokens: int) -> tuple[float, float]:
        """Return what the input of a call can cost at most, and each token of its output."""
        dearest = max(
            self.input_usd_per_million,
            self.cached_input_usd_per_million,
            self._write_usd_per_million,
        )
        return max_input_tokens * dearest / PER_MILLION, self.output_usd_per_million / PER_MILLION

    def reply_usd(
        self,
        usage: Any,
        model: str,  # noqa: ARG002 - only prices of the list depend on it
        at: datetime | None,  # noqa: ARG002 - likewise
        details: Any,  # noqa: ARG002 - likewise
    ) -> float:
        """Return the price of a reply of `model` with the `usage` that its provider reports."""
        return self.cost_usd(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
        )


FREE = Price(0.0, 0.0, 0.0, source="free")


@dataclass(frozen=True)
class ListPrice(Price):
    """A price of the list: it may depend on the length of the input, the time and the service tier.

    The numbers per million tokens are those of a short call now.
    """

    model: str = ""
    provider: str = ""
    """The provider's id in the list."""
    service_tier: str = ""
    """The tier that calls ask for; where the list has no price of a tier, that of the standard one counts."""

    def cost_usd(
        self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
    ) -> float:
        cached = min(cached_tokens, input_tokens)
        written = min(written_tokens, input_tokens - cached)
        usage = {
            "input_tokens": input_tokens,
            "cache_read_tokens": cached,
            "cache_write_tokens": written,
        }
        return float(self._cost(usage, output_tokens, self.service_tier).total_price)

    def worst_parts(self, max_input_tokens: int) -> tuple[float, float]:
        """As `Price.worst_parts`; some providers charge more for input that enters their cache.

        With tier `auto`, the provider chooses, so the dearest one counts.
        """
        written = {"cache_write_tokens": max_input_tokens}
        tiers = SERVICE_TIERS if self.service_tier == "auto" else [self.service_tier]
        found = [
            self._cost({"input_tokens": max_input_tokens, **more}, PER_MILLION, tier)
            for more in ({}, written)
            for tier in tiers
        ]
        # All but the output: some models have a price per call.
        input_usd = max(float(each.total_price - each.output_price) for each in found)
        return input_usd, max(float(each.output_price) for each in found) / PER_MILLION

    def _cost(
        self, usage: Mapping[str, int], output_tokens: int, service_tier: str
    ) -> PriceCalculation:
        from genai_prices import Usage, calc_price  # noqa: PLC0415 - an extra

        return calc_price(
            Usage(**usage, output_tokens=output_tokens),
            self.model,
            provider_id=self.provider,
            price_context={"service_tier": service_tier},
        )

    def reply_usd(self, usage: Any, model: str, at: datetime | None, details: Any) -> float:
        """As `Price.reply_usd`: by the model that answered, if the list has it, and the tier that it names."""
        from genai_prices import calc_price  # noqa: PLC0415 - an extra

        context = {"service_tier": self.service_tier, **(details or {})}
        for answering in (model, self.model):
            with suppress(LookupError, ValueError, TypeError):
                price = calc_price(
                    usage,
                    answering,
                    provider_id=self.provider,
                    genai_request_timestamp=at,
                    price_context=context,
                )
                return float(price.total_price)
        return super().reply_usd(usage, model, at, details)


def price_of(
    config: AgentConfig, settings: QueueConfig | None, *, name: str = "", address: str | None = None
) -> Price | None:
    """Return the price of the model of `config`; None: unknown.

    `[prices]` counts first, by the agent's `name`, then by its model. Other demo and local models are free.
    `address` is that of the provider, if it is known already; the list is valid only for its own address.
    """
    if settings is not None and (found := _configured(name, config, settings)) is not None:
        return found
    provider, model = split_model(config.model)
    if config.model.partition(":")[0] in ("demo", "local"):
        return FREE
    if provider is None or provider.startswith("gateway/") or config.base_url:
        return None
    if address is None:
        address = os.environ.get(f"{_client_of(provider).upper()}_BASE_URL")
    return _listed(provider, model, address, config.service_tier)


def _configured(name: str, config: AgentConfig, settings: QueueConfig) -> Price | None:
    aliases = [
        alias
        for alias, model in ALIASES.items()
        if model == config.model and alias not in settings.agents
    ]
    for key in (name, config.model, *aliases):
        if (found := settings.prices.get(key)) is not None:
            cached = found.cached_input_usd_per_million
            return Price(
                found.input_usd_per_million,
                found.output_usd_per_million,
                found.input_usd_per_million if cached is None else cached,
                source=CONFIGURED,
                cache_write_usd_per_million=found.cache_write_usd_per_million,
            )
    return None


def _client_of(provider: str) -> str:
    """Return the provider whose client speaks to it: OpenAI's has several protocols."""
    return "openai" if provider.startswith("openai-") else provider.replace("-", "_")


@lru_cache(maxsize=1_000)
def _listed(
    provider: str, model: str, address: str | None, service_tier: str | None
) -> Price | None:
    """Return the price of the list; None without the extra, or if the list does not have it."""
    with suppress(ImportError, LookupError, ValueError, TypeError):
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - an extra

        snapshot = get_snapshot()
        known = snapshot.find_provider(None, provider, None)
        if address and snapshot.find_provider(None, None, address).id != known.id:
            return None
        snapshot.find_provider_model(model, None, known.id, None)
        tier, source = service_tier or "", price_list() or ""
        price = ListPrice(0, 0, 0, source, model, known.id, tier)
        standard = replace(price, service_tier="")
        if tier == "priority" and price.cost_usd(1_000, 1_000) == standard.cost_usd(1_000, 1_000):
            return None  # a dearer tier, without a price in the list
        return ListPrice(
            price.cost_usd(1_000, 0) * 1_000,
            price.cost_usd(0, 1_000) * 1_000,
            price.cost_usd(1_000, 0, 1_000) * 1_000,
            source,
            model,
            known.id,
            tier,
        )
    return None


@cache
def price_list() -> str | None:
    """Return the price list that costs are computed with; None if none is installed."""
    try:
        return f"genai-prices {version('genai-prices')}"
    except PackageNotFoundError:
        return None
