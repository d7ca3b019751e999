"""Certificates against answers worked out by hand and another library's; their text and file form.

Whether they hold as often as they say is in `test_certificate_validity`.
"""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from calibration.bounds import (
    about_needed,
    kept_needed,
    least_escalation,
    p_at_most,
    risk_upper_bound,
)
from calibration.certificates import (
    Certificate,
    Claim,
    attempt,
    certify,
    certify_loss,
    certify_risk,
    smallest_certifiable,
)
from calibration.errors import FitError, InfeasibleTarget
from calibration.parts import FitPart, Grid, HeldOutPart
from calibration.targets import Target
from calibration.thresholds import OperatingPoint

NAN = math.nan

# Seven groups of 40 answers, the surest first, and how many of each are wrong.
LEVELS = np.repeat([0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35], 40)
WRONG = (0, 1, 2, 3, 5, 8, 12)


def labels(wrong: tuple[int, ...]) -> Any:
    return np.concatenate([np.arange(40) >= n for n in wrong])


def held_out(wrong: tuple[int, ...] = WRONG, **more: Any) -> HeldOutPart:
    rows: dict[str, Any] = {
        "keys": tuple(("new", str(i)) for i in range(280)),
        "p_correct": LEVELS,
        "correct": labels(wrong),
        "population": "280 of the shop's questions",
    }
    return HeldOutPart(**{**rows, **more})


def fitted(wrong: tuple[int, ...] = WRONG, **more: Any) -> FitPart:
    rows: dict[str, Any] = {
        "keys": tuple(("old", str(i)) for i in range(280)),
        "p_correct": LEVELS,
        "correct": labels(wrong),
    }
    return FitPart(**{**rows, **more})


class TestExactBinomial:
    def test_no_errors_seen(self) -> None:
        # (1 - a)^n <= 0.05: the classic sample sizes.
        for n, risk in ((59, 0.05), (29, 0.10), (14, 0.20)):
            assert p_at_most([0], [n], risk)[0] <= 0.05 < p_at_most([0], [n - 1], risk)[0]
            assert kept_needed(risk, 0.0) == n

    @given(st.integers(0, 50), st.integers(0, 50), st.floats(0.001, 0.999))
    def test_is_the_distribution_and_the_bound(self, errors: int, right: int, rate: float) -> None:
        n = errors + right
        p = float(p_at_most([errors], [n], rate)[0])
        assert p == pytest.approx(stats.binom.cdf(errors, n, rate) if n else 1.0)
        bound = risk_upper_bound(errors, n)
        if abs(bound - rate) > 1e-9:
            assert (p <= 0.05) == (bound <= rate)

    def test_edges(self) -> None:
        assert p_at_most([0, 3, 0], [0, 3, 9], 0.2).tolist() == pytest.approx([1, 1, 0.8**9])
        assert p_at_most([0, 3], [5, 5], 0.0).tolist() == [1.0, 1.0]
        assert p_at_most([0, 5], [5, 5], 1.0).tolist() == [0.0, 0.0]

    @pytest.mark.parametrize(("risk", "n"), [(0.05, 361), (0.10, 179), (0.20, 82)])
    def test_answers_for_four_chances_in_five_at_half_the_risk(self, risk: float, n: int) -> None:
        assert kept_needed(risk, risk / 2) == n
        let_through = stats.binom.ppf(0.05, n, risk)
        let_through -= stats.binom.cdf(let_through, n, risk) > 0.05
        assert stats.binom.cdf(let_through, n, risk / 2) >= 0.8

    def test_answers_needed_without_end(self) -> None:
        assert kept_needed(0.1, 0.1) is None
        assert kept_needed(0.1, 0.0999) is None
        assert about_needed(0.1, np.array([0.05, 0.2]))[1] == math.inf
        many = kept_needed(0.1, 0.09)
        assert many == pytest.approx(about_needed(0.1, np.array([0.09]))[0], rel=0.01)

    def test_escalation_that_any_method_needs(self) -> None:
        # 40 of 100 wrong, at most 10% wrong allowed: escalate 34 wrong ones (6 of 66 = 9.1%), not
        # 33 (7 of 67 = 10.4%).
        assert least_escalation(0.4, 0.1) == pytest.approx(1 / 3)
        assert 7 / 67 > 0.1 > 6 / 66
        assert least_escalation(0.05, 0.1) == 0.0
        assert least_escalation(1.0, 1.0) == 0.0


class TestRisk:
    def test_agrees_with_another_library(self) -> None:
        # MAPIE 1.6.0: BinaryClassificationController(risk=precision, target_level=0.9,
        # confidence_level=0.95, fwer_method="fixed_sequence") on these rows with the grid
        # 0.8, 0.7, ... 0.3 passes 0.8, 0.7, 0.6 and 0.5 with these p-values. Its count of
        # errors is n times their share, rounded up: where that product is a hair too large (all but
        # the first and the third here) it counts one more, and its p-value is above the exact one.
        mapie = [0.00216047, 0.00548294, 0.00281015, 0.03204653, 0.22945227, 0.81654039]
        kept = np.array([80, 120, 160, 200, 240, 280])
        ours = p_at_most([1, 3, 6, 11, 19, 31], kept, 0.1)
        assert ours[[0, 2]].tolist() == pytest.approx([mapie[0], mapie[2]], abs=1e-8)
        assert (ours <= np.array(mapie) + 1e-8).all()
        one_more = p_at_most([12, 20, 32], kept[3:], 0.1)
        assert one_more.tolist() == pytest.approx(mapie[3:], abs=1e-8)
        certificate = certify_risk(Grid(fitted()), held_out(), 0.1)
        p_value = certificate.claims[0].p_value
        assert p_value == pytest.approx(0.016789533)
        assert certificate == Certificate(
            threshold=0.5,
            claims=(
                Claim(
                    kind="risk",
                    target="risk=0.1",
                    bound=0.1,
                    n=280,
                    n_kept=200,
                    n_errors=11,
                    p_value=p_value,
                    test="fixed-sequence exact binomial",
                ),
            ),
            confidence=0.95,
            population="280 of the shop's questions",
            labels="gold",
        )

    def test_begins_where_the_fit_part_promises_most(self) -> None:
        # 40 sure ones without a fault are not enough for 5%; here 80 are, and there it starts.
        grid = Grid(fitted((0, 0, 20, 20, 20, 20, 20)))
        start = grid.start({"risk": 0.05}, {"risk": 280})
        assert grid.thresholds[start] == pytest.approx(0.8)
        certificate = certify_risk(grid, held_out((0, 0, 20, 20, 20, 20, 20)), 0.05)
        assert certificate.threshold == pytest.approx(0.8)

    def test_stops_at_the_first_failure_though_laxer_ones_would_pass(self) -> None:
        rows = held_out((0, 0, 15, 0, 0, 0, 0))
        certificate = certify_risk(Grid(fitted((0, 0, 20, 20, 20, 20, 20))), rows, 0.1)
        assert certificate.threshold == pytest.approx(0.8)
        assert p_at_most([15], [280], 0.1)[0] < 0.05

    def test_unknown_scores_are_not_kept(self) -> None:
        p = np.where(LEVELS == 0.95, NAN, LEVELS)
        certificate = certify_risk(Grid(fitted()), held_out((40, *WRONG[1:]), p_correct=p), 0.1)
        assert certificate.claims[0].n == 280
        assert certificate.claims[0].n_kept == 120
        assert certificate.claims[0].n_errors == 6

    def test_more_confidence_takes_more(self) -> None:
        grid = Grid(fitted())
        assert certify_risk(grid, held_out(), 0.1, 0.99).threshold == pytest.approx(0.6)
        with pytest.raises(InfeasibleTarget, match=r"99\.999% confidence"):
            certify_risk(grid, held_out(), 0.1, 0.99999)


class TestLoss:
    def test_is_the_exact_bound_of_the_share_lost(self) -> None:
        # The large model is right on every second question: half of 0, 1, 3, 6, 11, 19, 31 errors
        # (those at even places of their group) are lost, of 280.
        rows = held_out(llm=np.arange(280) % 2 == 0)
        certificate = certify_loss(Grid(fitted()), rows, 0.06)
        lost = np.cumsum([0, 1, 1, 2, 3, 4, 6])
        bounds = [risk_upper_bound(int(n), 280) for n in lost]
        assert bounds[4] <= 0.06 < bounds[5]
        assert certificate.threshold == pytest.approx(0.5)
        claim = certificate.claims[0]
        assert (claim.n, claim.n_kept, claim.n_errors) == (280, 200, 7)
        assert claim.test == "monotone loss, exact binomial upper bound"

    def test_counts_rows_of_known_outcome(self) -> None:
        llm = np.where(np.arange(280) % 2 == 0, 1.0, NAN)
        claim = certify_loss(Grid(fitted()), held_out(llm=llm), 0.1).claims[0]
        assert claim.n == 140

    def test_needs_the_outcomes(self) -> None:
        for llm in (None, np.full(280, NAN)):
            with pytest.raises(FitError, match=r"`llm` outcome, ask one with --llm NAME, or .*llm"):
                certify_loss(Grid(fitted()), held_out(llm=llm), 0.1)

    def test_of_its_own_labels_every_error_is_one(self) -> None:
        rows = held_out(labels="llm")
        claim = certify_loss(Grid(fitted()), rows, 0.1).claims[0]
        assert claim.n_errors == int(np.sum(~rows.correct & (LEVELS >= 0.4)))


class TestTogether:
    TARGETS = (Target("risk", 0.1), Target("loss", 0.03))

    def test_both_hold_at_one_threshold(self) -> None:
        rows = held_out(llm=np.ones(280))
        grid = Grid(fitted(llm=np.ones(280)))
        both = certify(grid, rows, self.TARGETS)
        assert [claim.target for claim in both.claims] == ["risk=0.1", "loss=0.03"]
        assert all(claim.p_value <= 0.05 for claim in both.claims)
        risk, loss = certify_risk(grid, rows, 0.1), certify_loss(grid, rows, 0.03)
        assert risk.threshold == pytest.approx(0.5)
        assert both.threshold == loss.threshold == pytest.approx(0.7)

    def test_one_that_fails_alone_is_named(self) -> None:
        rows = held_out(llm=np.ones(280))
        with pytest.raises(InfeasibleTarget, match=r"^loss=0\.01 can't be certified") as caught:
            certify(Grid(fitted()), rows, (Target("risk", 0.1), Target("loss", 0.01)))
        assert caught.value.target == "loss=0.01"

    def test_each_alone_but_not_both(self) -> None:
        # By the fit part most is promised for keeping all, but there 12 right answers are lost.
        fit = fitted((20, 0, 0, 0, 0, 0, 0), llm=np.zeros(280))
        rows = held_out((0, 0, 0, 0, 0, 0, 12), llm=np.ones(280))
        with pytest.raises(InfeasibleTarget) as caught:
            certify(Grid(fit), rows, self.TARGETS)
        assert (
            "together with 95% confidence, though each can alone: risk=0.1 from threshold 0.000 on "
            "and loss=0.03 from threshold 0.400 on"
        ) in str(caught.value)
        assert caught.value.feasible == ("risk=0.1", "loss=0.03")

    @pytest.mark.parametrize(
        "targets", [(), (Target("risk", 0.1), Target("risk", 0.2)), (Target("accuracy", 0.9),)]
    )
    def test_other_targets_have_no_certificate(self, targets: tuple[Target, ...]) -> None:
        with pytest.raises(FitError, match="what can be certified is a risk, a loss"):
            certify(Grid(fitted()), held_out(), targets)


class TestSplit:
    def test_shared_rows_are_refused(self) -> None:
        keys = (*(("new", str(i)) for i in range(278)), ("old", "7"), ("old", "9"))
        message = "item '7' of data set 'old' is in the fit part and .* one of 2 in both"
        with pytest.raises(FitError, match=message):
            certify_risk(Grid(fitted()), held_out(keys=keys), 0.1)

    def test_a_fit_part_is_refused(self) -> None:
        with pytest.raises(FitError, match="rests on a HeldOutPart, not on a FitPart"):
            certify_risk(Grid(fitted()), cast(HeldOutPart, fitted()), 0.1)
        with pytest.raises(FitError, match="needs a Grid set by a FitPart, not a ndarray"):
            certify_risk(cast(Grid, LEVELS), held_out(), 0.1)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, NAN])
    def test_confidence_is_a_probability(self, confidence: float) -> None:
        with pytest.raises(FitError, match="give a number between 0 and 1"):
            certify_risk(Grid(fitted()), held_out(), 0.1, confidence)


class TestInfeasible:
    def test_says_what_is_feasible_and_what_would_help(self) -> None:
        wrong = (1, 2, 6, 9, 12, 16, 20)
        grid, rows = Grid(fitted(wrong)), held_out(wrong)
        with pytest.raises(InfeasibleTarget) as caught:
            certify_risk(grid, rows, 0.05)
        error, text = caught.value, str(caught.value)
        assert error.target == "risk=0.05"
        assert "on 280 held-out rows: from threshold 0.800 on" in text
        assert "3 of 80 kept answers are wrong (p = 0.43)" in text
        # 66 of 280 answers are wrong.
        assert error.least_escalation == pytest.approx((66 / 280 - 0.05) / 0.95)
        assert "needs at least 20% of the queries escalated: 24% of all" in text
        (offer,) = error.feasible
        assert certify(grid, rows, [Target.parse(offer)])
        assert error.more_rows is not None
        assert f"have about {error.more_rows + 280:,} held-out rows in all" in text

    def test_rows_needed_are_those_of_the_fit_parts_best_threshold(self) -> None:
        # Its surest 40 have an error of 1.5 / 41, kept from one row in seven.
        kept = kept_needed(0.1, 1.5 / 41)
        assert kept is not None
        with pytest.raises(InfeasibleTarget) as caught:
            certify_risk(
                Grid(fitted((1, 40, 40, 40, 40, 40, 40))),
                held_out((6, 40, 40, 40, 40, 40, 40)),
                0.1,
            )
        assert caught.value.more_rows == pytest.approx(kept * 7 - 280, abs=10)

    def test_no_number_of_rows_makes_a_bad_model_good(self) -> None:
        wrong = (20, 20, 20, 20, 20, 20, 20)
        message = r"No number of rows helps: the lowest risk seen .* is 0\.500"
        with pytest.raises(InfeasibleTarget, match=message) as caught:
            certify_risk(Grid(fitted(wrong)), held_out(wrong), 0.2)
        assert caught.value.more_rows is None
        assert caught.value.feasible == ("risk=0.56",)

    def test_a_fit_part_that_promised_too_much(self) -> None:
        none = (0, 0, 0, 0, 0, 0, 0)
        with pytest.raises(InfeasibleTarget, match="The fit part promised enough"):
            certify_risk(Grid(fitted(none)), held_out((20, 20, 20, 20, 20, 20, 20)), 0.2)

    def test_too_few_rows_even_without_an_error(self) -> None:
        none = (0, 0, 0, 0, 0, 0, 0)
        with pytest.raises(InfeasibleTarget, match="no error among them, 2,995 kept answers are"):
            certify_risk(Grid(fitted(none)), held_out(none), 0.001)
        llm = np.ones(280)
        with pytest.raises(InfeasibleTarget, match="2,995 rows of known outcome are needed"):
            certify_loss(Grid(fitted(none, llm=llm)), held_out(none, llm=llm), 0.001)
        with pytest.raises(InfeasibleTarget, match="shows that nothing ever goes wrong"):
            certify_risk(Grid(fitted(none)), held_out(none), 0.0)

    def test_a_loss_out_of_reach(self) -> None:
        llm = np.ones(280)
        wrong = (20, 20, 20, 20, 20, 20, 20)
        with pytest.raises(InfeasibleTarget, match=r"the lowest loss seen .* is 0\.071") as caught:
            certify_loss(Grid(fitted(wrong, llm=llm)), held_out(wrong, llm=llm), 0.05)
        assert "20 of 280 queries keep a wrong answer where the large" in str(caught.value)
        assert caught.value.least_escalation is None

    def test_where_nothing_is_known_nothing_is_feasible(self) -> None:
        unknown = held_out(p_correct=np.full(280, NAN))
        with pytest.raises(InfeasibleTarget, match="Nothing of the kind") as caught:
            certify_risk(Grid(fitted()), unknown, 0.1)
        assert caught.value.feasible == ()
        assert smallest_certifiable(Grid(fitted()), unknown, Target("risk", 0.99)) is None

    def test_attempt_says_none(self) -> None:
        assert attempt(Grid(fitted()), held_out(), [Target("risk", 0.001)]) is None

    def test_survives_pickling(self) -> None:
        error = InfeasibleTarget("no", target="risk=0.1", feasible=("risk=0.2",), more_rows=3)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.target, again.feasible) == ("no", "risk=0.1", ("risk=0.2",))
        assert again.more_rows == 3


class TestAsText:
    BOTH = certify(
        Grid(fitted()), held_out(llm=np.ones(280)), [Target("risk", 0.1), Target("loss", 0.03)]
    )

    def test_is_a_sentence(self) -> None:
        assert certify_risk(Grid(fitted()), held_out(), 0.1).describe() == (
            "With 95% confidence, at most 10% of the answers kept are wrong, for questions drawn "
            "like 280 of the shop's questions; nothing is said of questions of another kind."
        )

    def test_names_every_claim_and_whose_labels(self) -> None:
        text = replace(self.BOTH, labels="llm", confidence=0.999).describe()
        assert text.startswith("With 99.9% confidence, at most 10% of the answers kept are wrong")
        assert "wrong and at most 3 in 100 queries keep a wrong answer where the large" in text
        assert text.endswith("counts as wrong when it disagrees with the large model's.")

    def test_goes_through_json(self) -> None:
        data = json.loads(json.dumps(self.BOTH.to_dict(), allow_nan=False))
        assert data == self.BOTH.to_dict()
        assert Certificate.from_dict(data) == self.BOTH

    def test_goes_through_an_operating_point(self) -> None:
        adapter = TypeAdapter(OperatingPoint)
        point = OperatingPoint("any", 0.5, 0.3, 0.8, 0.3, 70, 100, certificate=self.BOTH)
        assert adapter.dump_python(point, mode="json")["certificate"] == self.BOTH.to_dict()
        assert adapter.validate_json(adapter.dump_json(point), strict=True) == point

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"confidence": "0.95"}, "confidence: .* valid number"),
            ({"luck": 1}, "luck: Unexpected"),
            ({"labels": "dice"}, "labels: .*'gold' or 'llm'"),
            ({"claims": [{}]}, r"claims\.0\.kind: Field required"),
        ],
    )
    def test_what_is_no_certificate(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"not a certificate: .*{message}"):
            Certificate.from_dict({**self.BOTH.to_dict(), **change})
        with pytest.raises(ValueError, match="is an object or null"):
            TypeAdapter(OperatingPoint).validate_python(
                {**vars_of(OperatingPoint("any", 0.5, 0.3, 0.8, 0.3, 70, 100)), "certificate": 1}
            )


def vars_of(point: OperatingPoint) -> dict[str, Any]:
    return {name: getattr(point, name) for name in OperatingPoint.__dataclass_fields__}
