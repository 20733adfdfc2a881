"""Budgets as operators see and set them: limits, who set them, and what was spent in the current windows.

Used by the command line, the console and the doctor, over a connection to the gates.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from aragora_q import loose
from aragora_q.config.tables import BudgetConfig
from aragora_q.config.values import check_name
from aragora_q.errors import BudgetNotFound, InvalidPayload, did_you_mean, validation_rule
from aragora_q.formats import dollars
from aragora_q.gates.overrides import Override, read_overrides, write_override
from aragora_q.gates.policy import budget_rule
from aragora_q.money import MICROS
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection

PAGE = 100
"""Values of a scope that one call reads."""

NEARLY_USED = 0.8
"""Share of a budget from which on it needs attention."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget that applies now."""

    name: str
    scope: str
    window: str
    limit_usd: float
    on_full: str
    override: Override | None
    """Who set it at run time; None: it is what workers declare."""
    declared_by: tuple[str, ...]
    """The workers whose configuration has a budget of this name."""

    def config(self) -> BudgetConfig:
        """Return it as a configuration would have it."""
        return BudgetConfig.model_validate({
            "limit_usd": self.limit_usd, "window": self.window, "scope": self.scope, "on_full": self.on_full,
        })  # fmt: skip

    def share(self, spent: ScopeSpending) -> float:
        """Return which part of the limit is spent or reserved."""
        return (spent.spent_usd + spent.reserved_usd) / self.limit_usd


@dataclass(frozen=True, slots=True)
class ScopeSpending:
    """What was spent from a budget in its current window, for one value of its scope."""

    scope: str
    spent_usd: float
    """Booked, including what was estimated."""
    reserved_usd: float
    """What calls under way may cost at most."""
    estimated_usd: float
    """Of what was spent: booked at the highest price, because the true one is not known."""
    overrun_usd: float
    """Of what was spent: beyond what had been reserved."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the configuration of some workers says."""

    workers: tuple[str, ...]
    budgets: Mapping[str, Any]
    providers: Mapping[str, Any]
    prices: str
    """A digest; empty: none."""


class Book:
    """Reads and sets the budgets of a prefix."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.gate_keys

    async def budgets(self) -> list[Budget]:
        """Return the budgets that apply now, by name."""
        policy = await self._connection.execute("GET", self._keys.named["policy"])
        overrides = await read_overrides(self._connection, "budget")
        declarations = await self.declarations()
        rules = loose.json_object(policy).get("budgets")
        return [
            _budget(rule, overrides.get(rule["name"]), declarations)
            for rule in (rules if isinstance(rules, list) else [])
        ]

    async def is_policy_lost(self) -> bool:
        """Return True if nothing applies, although workers declare something or operators have set it."""
        names = ("policy", "declared", "overrides")
        exists = [
            await self._connection.execute("EXISTS", self._keys.named[name]) for name in names
        ]
        return not exists[0] and any(exists)

    async def budget(self, name: str) -> Budget | None:
        """Return the budget of a name; None if there is none."""
        return next((each for each in await self.budgets() if each.name == name), None)

    async def require(self, name: str) -> Budget:
        """Return the budget of a name. Raises BudgetNotFound."""
        budgets = await self.budgets()
        found = next((each for each in budgets if each.name == name), None)
        if found is None:
            hint = did_you_mean(name, [each.name for each in budgets])
            raise BudgetNotFound(
                f"no budget {name:.100}",
                hint=hint or "aragora-q budget list shows those that apply",
            )
        return found

    async def spending(self, name: str) -> tuple[int | None, AsyncIterator[ScopeSpending]]:
        """Return when a budget's window ends, in Unix ms (None: never), and spending by value of its scope.

        If the scope is each value of its kind, those without spending are left out.
        """
        page = await self._page(name, "")

        async def spendings() -> AsyncIterator[ScopeSpending]:
            _, after, *rows = page
            while True:
                for ref, *micros in rows:
                    _, _, scope = replies.text(ref).partition("/")
                    yield ScopeSpending(scope or "all", *(number / MICROS for number in micros))
                if not after:
                    return
                _, after, *rows = await self._page(name, replies.text(after))

        return (page[0] if page[0] >= 0 else None), spendings()

    async def _page(self, name: str, after: str) -> list[Any]:
        page: list[Any] = await self._connection.run(
            "gate_counters", name=name, after=after, limit=PAGE
        )
        return page

    async def declarations(self) -> list[Declaration]:
        """Return what workers declare; those that declare the same are one entry."""
        reply = await self._connection.execute("HGETALL", self._keys.named["declared"])
        workers: dict[bytes, list[str]] = {}
        for worker, text in replies.pairs(reply):
            workers.setdefault(text, []).append(replies.text(worker))
        return [
            Declaration(
                tuple(sorted(names)),
                loose.json_object(value.get("budgets")),
                loose.json_object(value.get("providers")),
                loose.text(value.get("prices")),
            )
            for names, value in (
                (names, loose.json_object(text)) for text, names in workers.items()
            )
        ]

    async def set_budget(
        self, name: str, budget: BudgetConfig, *, by: str, reason: str = ""
    ) -> None:
        """Set a budget for all workers, over what they declare, until it is reset."""
        detail = f"{dollars(budget.limit_usd)}/{budget.window}, scope {budget.scope}, on full: {budget.on_full}"
        await write_override(
            self._connection,
            "budget",
            name,
            {"rule": budget_rule(budget)},
            by=by,
            reason=reason,
            detail=detail,
        )

    async def reset_budget(self, name: str, *, by: str = "", reason: str = "") -> bool:
        """Let what workers declare apply again. Returns False if nothing was set."""
        return await write_override(self._connection, "budget", name, None, by=by, reason=reason)


def changed_budget(name: str, before: Budget | None, given: Mapping[str, object]) -> BudgetConfig:
    """Return a budget with `given` fields, else as it was, checked by the rules of the configuration.

    Raises:
        InvalidPayload: the name or a field breaks a rule, or a new budget lacks a field.
    """
    try:
        check_name(name)
        return BudgetConfig.model_validate(
            {**(before.config().model_dump() if before else {}), **given}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        field = str(fault["loc"][0])
        if fault["type"] == "missing":
            raise InvalidPayload(f"{name} is a new budget: give its {field}") from None
        text = f"{field} {fault['input']!r:.100} {validation_rule(fault['msg'])}"
        raise InvalidPayload(text) from None
    except ValueError as error:
        raise InvalidPayload(f"budget {name!r:.100}: {error}") from None


def _budget(
    rule: Mapping[str, Any], found: Override | None, declarations: list[Declaration]
) -> Budget:
    value = f":{rule['value']}" if rule["value"] else ""
    return Budget(
        name=rule["name"],
        scope=rule["kind"] + value,
        window=rule["window"],
        limit_usd=rule["limit"] / MICROS,
        on_full=rule["on_full"],
        override=found,
        declared_by=tuple(
            sorted(w for each in declarations if rule["name"] in each.budgets for w in each.workers)
        ),
    )
