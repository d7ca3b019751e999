"""False alarms stay under alpha, however long one looks; real shifts are found."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.betting import Wealth
from calibration.drift import (
    CalibrationDrift,
    CalibrationDriftState,
    ScoreDrift,
    ScoreDriftState,
    log_evidence_of_bins,
    log_evidence_of_labels,
)
from calibration.errors import CalibrationError
from calibration.metrics import BoolArray, FloatArray
from calibration.thresholds import binomial_interval

NAN = math.nan
Sets = dict[str, tuple[FloatArray, BoolArray]]


@pytest.fixture(scope="module")
def sets() -> Sets:
    """Uncertainty (perplexity) and correctness of a small model's answers to each data set."""
    columns = json.loads(Path(__file__).with_name("slm_scores.json").read_text())
    return {
        name: (np.asarray(c["perplexity"]), np.asarray(c["correct"], dtype=np.bool_))
        for name, c in columns.items()
    }


def watch(drift: ScoreDrift, scores: FloatArray) -> ScoreDriftState:
    state = drift.start()
    for score in scores:
        state = drift.update(state, float(score))
    return state


def share_of_alarms(log_evidence: FloatArray, alpha: float) -> tuple[float, float]:
    """Share of streams that ever raised an alarm, and the least that its interval allows."""
    n_alarms = int((log_evidence.max(axis=1) >= -math.log(alpha)).sum())
    return n_alarms / len(log_evidence), binomial_interval(n_alarms, len(log_evidence))[0]


def delays(log_evidence: FloatArray, alpha: float) -> FloatArray:
    """Answers until the alarm of each stream; infinite where there is none."""
    reached = log_evidence >= -math.log(alpha)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


class TestScoreDriftIsValid:
    def test_false_alarms_on_streams_ten_times_the_reference(self) -> None:
        for alpha in (0.01, 0.05, 0.2):
            share, at_least = share_of_alarms(_calm_evidence(), alpha)
            assert at_least <= alpha
            assert share <= 1.5 * alpha

    def test_the_evidence_is_a_fair_game(self) -> None:
        """Its average stays 1: it is a martingale, not merely rarely large."""
        wealth = np.exp(_calm_evidence()[:, [2, 5, 10, 20]])
        error = wealth.std(axis=0) / math.sqrt(len(wealth))
        assert np.all(np.abs(wealth.mean(axis=0) - 1.0) <= 4.0 * error)

    def test_a_fixed_reference_would_raise_false_alarms(self) -> None:
        """The same bets against the reference's own frequencies, without the urn."""
        rng = np.random.default_rng(3)
        values = rng.random((100, 2060))
        share_low = np.array(
            [
                ScoreDrift(row[:60]).bins(row[60:]) < len(ScoreDrift(row[:60]).gaps) / 2
                for row in values
            ]
        )
        pays = np.where(share_low, 1.2, 0.8)  # half of the reference lies there
        both = np.logaddexp(np.log(pays).cumsum(1), np.log(2 - pays).cumsum(1)) - math.log(2)
        assert share_of_alarms(both, 0.01)[1] > 0.1

    def test_false_alarms_with_few_values_and_unknown_ones(self) -> None:
        rng = np.random.default_rng(4)
        values = rng.choice([0.1, 0.5, NAN], (300, 300), p=[0.6, 0.3, 0.1])
        drifts = [ScoreDrift(row[:100], seed=i) for i, row in enumerate(values)]
        bins = np.array([d.bins(row[100:]) for d, row in zip(drifts, values, strict=True)])
        assert share_of_alarms(log_evidence_of_bins(bins, drifts[0].gaps), 0.05)[1] <= 0.05
        assert np.bincount(bins.ravel()).min() > 0  # ties are spread over all bins
        in_reference = np.bincount(bins.ravel(), minlength=len(drifts[0].gaps)) / bins.size
        assert in_reference == pytest.approx(drifts[0].gaps / 101, abs=0.012)


_CALM: dict[str, FloatArray] = {}


def _calm_evidence() -> FloatArray:
    """1,000 references of 60 scores, and streams of 600 from the same distribution."""
    if not _CALM:
        values = np.random.default_rng(2).normal(size=(1000, 660))
        drifts = [ScoreDrift(row[:60]) for row in values]
        bins = np.array([d.bins(row[60:]) for d, row in zip(drifts, values, strict=True)])
        _CALM["evidence"] = log_evidence_of_bins(bins, drifts[0].gaps)
    return _CALM["evidence"]


class TestScoreDriftFindsShifts:
    @pytest.mark.parametrize("calm", [0, 500])
    def test_from_one_data_set_to_another(self, sets: Sets, calm: int) -> None:
        rng = np.random.default_rng(5)
        bins, distances = [], []
        for before, after in itertools.permutations(sets, 2):
            old, new = sets[before][0], sets[after][0]
            drift = ScoreDrift(rng.choice(old, 300))
            bins.append(drift.bins(np.concatenate([rng.choice(old, calm), rng.choice(new, 400)])))
            distances.append(_kolmogorov(old, new))
        late = delays(log_evidence_of_bins(np.array(bins), drift.gaps), 0.01) - calm
        found = late[np.asarray(distances) > 0.5]
        assert np.median(found) <= 50
        assert found.max() <= 200
        assert np.median(late) <= 50
        assert np.mean(np.isfinite(late)) >= 0.98
        assert np.mean(late <= 0) <= 0.03

    def test_a_small_shift_and_a_wider_spread(self) -> None:
        rng = np.random.default_rng(6)
        for shift, scale, within in ((0.5, 1.0, 400), (1.0, 1.0, 150), (0.0, 2.0, 400)):
            bins = []
            for _ in range(40):
                drift = ScoreDrift(rng.normal(size=1000))
                bins.append(drift.bins(shift + scale * rng.normal(size=400)))
            late = delays(log_evidence_of_bins(np.array(bins), drift.gaps), 0.01)
            assert np.mean(late <= within) >= 0.95

    def test_answers_of_unknown_uncertainty_are_a_drift(self) -> None:
        drift = ScoreDrift(np.linspace(0.0, 1.0, 300))
        assert drift.alarm(watch(drift, np.full(40, NAN)))

    def test_after_a_long_calm_it_is_hardly_later(self) -> None:
        rng = np.random.default_rng(7)
        late = []
        for calm in (0, 4000):
            drifts = [ScoreDrift(rng.normal(size=500)) for _ in range(30)]
            shift = np.r_[np.zeros(calm), np.ones(300)]
            bins = np.array([d.bins(shift + rng.normal(size=calm + 300)) for d in drifts])
            late.append(np.median(delays(log_evidence_of_bins(bins, drifts[0].gaps), 0.01) - calm))
        assert late[1] <= 2 * late[0]


def _kolmogorov(a: FloatArray, b: FloatArray) -> float:
    """Largest difference of two empirical distributions."""
    at = np.concatenate([a, b])
    return float(np.abs(np.mean(a[:, None] <= at, 0) - np.mean(b[:, None] <= at, 0)).max())


class TestScoreDriftStep:
    def test_one_by_one_is_the_same_as_many_at_once(self) -> None:
        rng = np.random.default_rng(8)
        drift = ScoreDrift(rng.normal(size=80).round(1), seed=5)
        stream = rng.normal(0.5, 1.0, size=60).round(1)
        evidence = log_evidence_of_bins(drift.bins(stream)[None], drift.gaps)[0]
        state = watch(drift, stream)
        assert state.wealth.log == pytest.approx(evidence[-1])
        assert state.wealth.peak == pytest.approx(max(evidence.max(), 0.0))
        assert state.n == 60

    def test_what_the_bets_pay_by_hand(self) -> None:
        """The first answer stakes 1/50, spread evenly over five bets."""
        drift = ScoreDrift(np.arange(63.0))  # 64 gaps, 2 in each of 32 bins
        assert drift.gaps.tolist() == [2] * 32
        assert drift.bins([-1.0, 0.5, 1.0, 62.5]).tolist()[0::3] == [0, 31]
        state = drift.update(drift.start(), 70.0)
        rank = (np.arange(32) + 0.5) / 32 - 0.5
        pays = [1.0] + [math.exp(t * rank[31]) / np.exp(t * rank).mean() for t in (-3, -1, 1, 3)]
        assert drift.evidence(state) == pytest.approx(0.98 + 0.02 * np.mean(pays))
        assert state.counts[31] == 1

    def test_bins_hold_the_conformal_p_values(self) -> None:
        """The definition by counting: (number greater + U) / (n + 1), U from 0 to 1."""
        rng = np.random.default_rng(16)
        seen, stream = rng.normal(size=70), rng.normal(0.5, 1.0, size=100)
        drift = ScoreDrift(seen)
        urn = drift.gaps.astype(np.float64)
        for score, into in zip(stream, drift.bins(stream), strict=True):
            greater, among = (seen > score).sum(), len(seen) + 1
            above, share = urn[into + 1 :].sum() / urn.sum(), urn[into] / urn.sum()
            assert above - 1e-9 <= greater / among
            assert (greater + 1) / among <= above + share + 1e-9
            urn[into] += 1
            seen = np.append(seen, score)

    def test_no_bet_can_gain_on_average(self) -> None:
        drift = ScoreDrift(np.random.default_rng(9).normal(size=77))
        state = watch(drift, np.random.default_rng(10).normal(1.0, 1.0, size=40))
        urn = drift.gaps + np.array(state.counts)
        middles = [-9.0, *((a + b) / 2 for a, b in itertools.pairwise(drift._edges)), 9.0]
        assert drift.bins(middles).tolist() == list(range(len(urn)))
        after = [drift.evidence(drift.update(state, m)) for m in middles]
        assert np.dot(after, urn) / urn.sum() == pytest.approx(drift.evidence(state))

    def test_equal_seeds_break_ties_alike(self) -> None:
        reference, stream = np.repeat([0.0, 1.0], 50), np.ones(30)
        first, again, other = (ScoreDrift(reference, seed=s).bins(stream) for s in (1, 1, 2))
        assert first.tolist() == again.tolist()
        assert first.tolist() != other.tolist()

    @pytest.mark.parametrize("reference", [np.zeros(29), np.zeros((40, 2)), 3.0])
    def test_needs_a_reference(self, reference: FloatArray) -> None:
        with pytest.raises(CalibrationError, match="at least 30 reference scores"):
            ScoreDrift(reference)

    def test_refuses_the_state_of_another_reference(self) -> None:
        small, large = ScoreDrift(np.arange(30.0)), ScoreDrift(np.arange(99.0))
        with pytest.raises(CalibrationError, match="begin again with start"):
            large.update(small.start(), 0.5)


class TestCalibrationDriftIsValid:
    @pytest.mark.parametrize("gap", [0.0, 0.05, -0.05])
    def test_false_alarms_within_the_tolerance(self, gap: float) -> None:
        rng = np.random.default_rng(11)
        p = rng.beta(2, 2, size=(1000, 1000))
        right = rng.random(p.shape) < np.clip(p - gap, 0.0, 1.0)
        evidence = log_evidence_of_labels(p, right)
        for alpha in (0.01, 0.05, 0.2):
            share, at_least = share_of_alarms(evidence, alpha)
            assert at_least <= alpha
            assert share <= 1.5 * alpha

    def test_the_interval_of_the_gap_holds_at_all_times(self) -> None:
        rng = np.random.default_rng(12)
        p = rng.random((1000, 1000))
        right = rng.random(p.shape) < np.clip(p - 0.2, 0, 1)
        true = np.cumsum(p - np.clip(p - 0.2, 0, 1), axis=1)
        seen = np.cumsum(p - right, axis=1)
        drift = CalibrationDrift(alpha=0.05)
        missed = np.zeros(len(p), dtype=np.bool_)
        for n in range(1, 1001):
            radius = drift.gap(CalibrationDriftState(Wealth.start(6), n, 0.0)).high
            missed |= np.abs(seen[:, n - 1] - true[:, n - 1]) / n > radius
        assert missed.mean() <= 0.05


def _accuracy_by_third(u: FloatArray, right: BoolArray, new: FloatArray) -> FloatArray:
    """P(correct) of `new` uncertainties: the share right in the third of `u` that they fall in."""
    edges = np.quantile(u, [1 / 3, 2 / 3])
    third, of_new = np.digitize(u, edges), np.digitize(new, edges)
    shares = [(right[third == i].sum() + 1) / ((third == i).sum() + 2) for i in range(3)]
    return np.array(shares)[of_new]


class TestCalibrationDriftFindsShifts:
    def test_from_one_data_set_to_another(self, sets: Sets) -> None:
        """P(correct) from a calibrator of one set, labels of another."""
        rng = np.random.default_rng(13)
        claims, labels, gaps = [], [], []
        for before, after in itertools.permutations(sets, 2):
            new, right = sets[after]
            p = _accuracy_by_third(*sets[before], new)
            rows = rng.integers(0, len(p), 400)
            claims.append(p[rows])
            labels.append(right[rows])
            gaps.append(abs(float(np.mean(p - right))))
        late = delays(log_evidence_of_labels(np.array(claims), np.array(labels)), 0.01)
        clear = late[np.asarray(gaps) > 0.2]
        assert len(clear) >= 20
        assert np.median(clear) <= 100
        assert clear.max() <= 400

    @pytest.mark.parametrize("p", [0.0, 0.02, 0.98, 1.0])
    def test_at_the_ends(self, p: float) -> None:
        """A claim of certainty that is always wrong is found at once; one that is right, never."""
        drift = CalibrationDrift()
        wrong, right = drift.start(), drift.start()
        for _ in range(12):
            wrong = drift.update(wrong, p, p < 0.5)
            right = drift.update(right, p, p > 0.5)
        assert drift.alarm(wrong)
        assert drift.evidence(right) <= 1.0


class TestCalibrationDriftStep:
    def test_one_by_one_is_the_same_as_many_at_once(self) -> None:
        rng = np.random.default_rng(14)
        p, right = rng.random(80), rng.random(80) < 0.4
        drift = CalibrationDrift(tolerance=0.1)
        state = drift.start()
        for one, label in zip(p, right, strict=True):
            state = drift.update(state, float(one), bool(label))
        evidence = log_evidence_of_labels(p[None], right[None], tolerance=0.1)[0]
        assert state.wealth.log == pytest.approx(evidence[-1])
        assert drift.gap(state).estimate == pytest.approx(np.mean(p - right))

    def test_what_the_bets_pay_by_hand(self) -> None:
        drift = CalibrationDrift()
        state = drift.update(drift.start(), 0.55, False)
        edges = [(0.5, -d) for d in (0.5, 1, 2)] + [(0.6, d) for d in (0.5, 1, 2)]
        named = [1 / (1 + (1 - m) / m * math.exp(-d)) for m, d in edges]
        pays = [(1 - named_) / (1 - m) for named_, (m, _) in zip(named, edges, strict=True)]
        assert drift.evidence(state) == pytest.approx(0.98 + 0.02 * np.mean(pays))

    def test_unknown_claims_nothing(self) -> None:
        drift = CalibrationDrift()
        assert drift.update(drift.start(), NAN, False) == drift.start()
        assert math.isnan(drift.gap(drift.start()).estimate)

    def test_refuses_what_is_no_probability(self) -> None:
        drift = CalibrationDrift()
        with pytest.raises(CalibrationError, match="from 0 to 1"):
            drift.update(drift.start(), 1.5, True)
        with pytest.raises(CalibrationError, match="tolerance"):
            CalibrationDrift(tolerance=0.0)
        for alpha in (0.0, 1.0, NAN):
            with pytest.raises(CalibrationError, match="alpha"):
                CalibrationDrift(alpha=alpha)


class TestStates:
    def test_an_alarm_stays(self) -> None:
        drift = ScoreDrift(np.linspace(0.0, 1.0, 100))
        state = watch(drift, np.full(60, 2.0))
        assert drift.alarm(state)
        calm = state
        for score in np.random.default_rng(15).random(800):
            calm = drift.update(calm, score)
        assert calm.wealth.log < calm.wealth.peak
        assert drift.alarm(calm)

    def test_endless_evidence_stays_a_number(self) -> None:
        drift = CalibrationDrift()
        state = CalibrationDriftState(Wealth(5000.0, 5000.0, drift.start().wealth.shares), 9, 1.0)
        assert math.isfinite(drift.evidence(drift.update(state, 0.9, False)))

    def test_survive_json(self) -> None:
        scores, labels = ScoreDrift(np.arange(50.0)), CalibrationDrift()
        seen = watch(scores, np.arange(20.0))
        told = labels.update(labels.update(labels.start(), 0.9, False), 0.3, True)
        assert ScoreDriftState.from_dict(_through_json(seen.to_dict())) == seen
        assert CalibrationDriftState.from_dict(_through_json(told.to_dict())) == told

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d | {"more": 1}, "has the fields"),
            (lambda d: {"counts": d["counts"]}, "has the fields"),
            (lambda d: d | {"counts": [-1]}, "counts must be whole numbers"),
            (lambda d: d | {"counts": [0.5]}, "counts must be whole numbers"),
            (lambda d: d | {"recent": [0.0]}, "one weight for each bin"),
            (lambda d: d | {"recent": "no"}, "recent must be a list"),
            (lambda d: d | {"wealth": 1.0}, "has the fields"),
            (lambda d: d | {"wealth": d["wealth"] | {"log": NAN}}, "log must be a finite"),
            (lambda d: d | {"wealth": d["wealth"] | {"log": 9.0}}, "peak of 0.0 is below"),
            (lambda d: d | {"wealth": d["wealth"] | {"shares": [1.0]}}, "6 shares must add up"),
        ],
    )
    def test_of_scores_refuse_what_was_never_written(
        self, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
    ) -> None:
        state = ScoreDrift(np.arange(50.0)).start()
        with pytest.raises(CalibrationError, match=message):
            ScoreDriftState.from_dict(change(state.to_dict()))

    @pytest.mark.parametrize("change", [{"n": 2.0}, {"n": -1}, {"gap": 3.0}, {"gap": None}])
    def test_of_labels_refuse_what_was_never_written(self, change: dict[str, Any]) -> None:
        state = CalibrationDrift().start()
        with pytest.raises(CalibrationError, match="drift state"):
            CalibrationDriftState.from_dict(state.to_dict() | change)


def _through_json(data: dict[str, Any]) -> dict[str, Any]:
    back: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    return back
