"""Targets as users write them, which of them go together, and what money pays for."""

from __future__ import annotations

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.targets import (
    CostModel,
    CostUnit,
    Target,
    TargetKind,
    join_targets,
    parse_targets,
)

SHARES: tuple[TargetKind, ...] = ("escalation", "risk", "loss", "accuracy", "threshold")


class TestTarget:
    @pytest.mark.parametrize(
        ("text", "target"),
        [
            ("escalation=0.3", Target("escalation", 0.3)),
            ("risk=0.1", Target("risk", 0.1)),
            ("loss=0.02", Target("loss", 0.02)),
            ("accuracy=.8", Target("accuracy", 0.8)),
            ("threshold=0.6", Target("threshold", 0.6)),
            (" Risk = 1e-1 ", Target("risk", 0.1)),
            ("escalation=0", Target("escalation", 0.0)),
            ("escalation=1", Target("escalation", 1.0)),
            ("cost=5/day", Target("cost", 5.0, "day")),
            ("cost = 0.4 / 1K", Target("cost", 0.4, "1k")),
            ("savings=max", Target("savings", math.inf)),
        ],
    )
    def test_reads_every_kind(self, text: str, target: Target) -> None:
        assert Target.parse(text) == target

    @pytest.mark.parametrize(
        "text",
        [
            *["", "0.3", "risk", "risk=", "risk=low", "risk=0.1=2", "budget=0.3", "risk=10%"],
            *["risk=1.5", "escalation=-0.1", "threshold=nan", "risk=inf", "risk=.1 risk=.2"],
            *["loss=2", "accuracy=80", "cost=5", "cost=5/week", "cost=-1/day", "cost=inf/day"],
            *["cost=nan/1k", "risk=0.1/day", "savings=0.3", "savings=max/day", "risk=max"],
        ],
    )
    def test_refuses_anything_else_and_names_what_is_allowed(self, text: str) -> None:
        allowed = "escalation=R, risk=R, loss=R, accuracy=R and threshold=R .* cost=USD/day"
        with pytest.raises(CalibrationError, match=allowed):
            Target.parse(text)

    def test_can_not_be_built_wrong(self) -> None:
        with pytest.raises(CalibrationError, match="unknown target 'luck'"):
            Target(cast(TargetKind, "luck"), 0.5)
        with pytest.raises(CalibrationError, match=r"risk=2\.0 is outside 0 to 1"):
            Target("risk", 2.0)
        with pytest.raises(CalibrationError, match=r"per day or per 1,000 queries"):
            Target("cost", 2.0)
        with pytest.raises(CalibrationError, match="per day or per 1,000 queries"):
            Target("cost", 2.0, per=cast(CostUnit, "year"))
        with pytest.raises(CalibrationError, match="only a cost is per day, not risk"):
            Target("risk", 0.1, per="day")

    @given(st.sampled_from(SHARES), st.floats(min_value=0.0, max_value=1.0))
    def test_a_share_prints_as_it_is_read(self, kind: TargetKind, value: float) -> None:
        target = Target(kind, value)
        assert Target.parse(str(target)) == target

    @given(st.floats(min_value=0.0, max_value=1e12), st.sampled_from(["day", "1k"]))
    def test_a_cost_prints_as_it_is_read(self, usd: float, per: CostUnit) -> None:
        target = Target("cost", usd, per=per)
        assert Target.parse(str(target)) == target
        assert Target.parse(str(Target("savings", math.inf))).value == math.inf


class TestTogether:
    @pytest.mark.parametrize(
        "texts",
        [
            ["risk=0.1"],
            ["risk=0.1", "escalation=0.5"],
            ["savings=max", "risk=0.1"],
            ["loss=0.02", "risk=0.1", "accuracy=0.8", "cost=5.0/day", "escalation=0.5"],
        ],
    )
    def test_are_read_one_by_one_or_between_commas(self, texts: list[str]) -> None:
        targets = parse_targets(texts)
        assert [str(target) for target in targets] == texts
        assert parse_targets([join_targets(targets)]) == targets

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ([], "no target was given; allowed are"),
            (["risk=0.1", "risk=0.2"], r"risk=0\.1 and risk=0\.2 are two targets of one kind"),
            (["risk=0.1,risk=0.1"], "two targets of one kind"),
            (["cost=5/day", "cost=1/1k"], r"cost=5\.0/day and cost=1\.0/1k are two"),
            (["threshold=0.5", "risk=0.1"], "a threshold leaves nothing to choose"),
            (["savings=max"], "add risk=R, loss=R or accuracy=R"),
            (["savings=max", "escalation=0.5"], "needs something to hold while it saves"),
        ],
    )
    def test_nonsense_is_refused(self, texts: list[str], message: str) -> None:
        with pytest.raises(CalibrationError, match=message):
            parse_targets(texts)


class TestCost:
    # 1,000 queries: 0.50 locally, and 20 if all are escalated.
    MODEL = CostModel(escalated_usd=0.02, local_usd=0.0005, queries_per_day=2000)

    @pytest.mark.parametrize(
        ("text", "ratio"),
        [
            ("cost=0.5/1k", 0.0),
            ("cost=10.5/1k", 0.5),
            ("cost=21/day", 0.5),  # 1 for the small model, 20 of the 40 for all
            ("cost=100/1k", 1.0),
            ("cost=0.1/1k", -0.02),
        ],
    )
    def test_of_the_small_model_is_paid_for_every_query(self, text: str, ratio: float) -> None:
        target = Target.parse(text)
        assert self.MODEL.ratio(target) == pytest.approx(ratio)
        if ratio < 1:
            assert self.MODEL.usd(ratio, target) == pytest.approx(target.value)

    def test_nothing_to_pay_is_no_limit(self) -> None:
        assert CostModel(0.0).ratio(Target("cost", 0.0, "1k")) == 1.0
        assert CostModel(0.0, 0.001).ratio(Target("cost", 0.5, "1k")) == -math.inf

    def test_a_cost_per_day_needs_the_traffic(self) -> None:
        with pytest.raises(CalibrationError, match=r"cost=5\.0/day needs the expected number"):
            CostModel(0.02).ratio(Target("cost", 5.0, "day"))
        with pytest.raises(CalibrationError, match=r"risk=0\.1 is no cost"):
            CostModel(0.02).ratio(Target("risk", 0.1))

    @pytest.mark.parametrize("numbers", [(-1.0,), (math.nan,), (1.0, -1.0), (1.0, 0.0, 0.0)])
    def test_prices_and_traffic_are_numbers(self, numbers: tuple[float, ...]) -> None:
        with pytest.raises(CalibrationError, match="is a number"):
            CostModel(*numbers)
