"""Who asks, and what was agreed with them: policy, budgets, limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """One API key's holder.

    Attributes
    ----------
    id : what budgets and limits are counted under, and what caches keep apart; never the key
        itself. Empty for those who send no key.
    name : what the operator calls it, for logs and lists.
    local_only : nothing of it may leave the machine.
    threshold, max_risk : its own in place of the calibration's, as in a request's `router` object;
        a request that sets one decides for itself.
    usd_per_day, usd_per_month : what the upstream may cost it, in USD by UTC day and month.
    requests_per_minute, tokens_per_minute : what it may ask for; tokens of prompt and answer.
    """

    id: str = ""
    name: str = ""
    local_only: bool = False
    threshold: float | None = None
    max_risk: float | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


ANONYMOUS = Account()
