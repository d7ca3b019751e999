"""The gate and the early stop: they lose no more good answers than they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from calibration import exits
from calibration.exits import (
    CHECKPOINTS,
    choose_early_stop,
    choose_gate,
    running_mean,
    upper_limit,
)
from tests.calibration.test_fit import make_trace
from uq import Trace

DRAWS = 4000


def long_trace(n: int, mean: float, rng: np.random.Generator) -> Trace:
    """An answer of `n` tokens whose -log p is exponential around `mean`."""
    return make_trace(-rng.exponential(mean, n), rng)


class TestUpperLimit:
    def test_is_the_order_statistic_of_split_conformal_prediction(self) -> None:
        scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
        assert upper_limit(scores, 0.05) == 95.0
        assert upper_limit(scores, 0.01) == 99.0
        assert upper_limit(np.arange(1.0, 10.0), 0.5) == 5.0

    def test_too_few_scores_set_no_limit(self) -> None:
        assert upper_limit(np.arange(98.0), 0.01) == math.inf
        assert upper_limit(np.arange(99.0), 0.01) == 98.0
        assert upper_limit(np.array([]), 0.5) == math.inf

    def test_unknown_scores_are_left_out(self) -> None:
        scores = np.array([1.0, math.nan, 2.0, math.nan, 3.0])
        assert upper_limit(scores, 0.25) == upper_limit(scores[[0, 2, 4]], 0.25) == 3.0

    @pytest.mark.parametrize(("n", "alpha"), [(60, 0.1), (199, 0.02), (500, 0.005)])
    def test_a_new_score_exceeds_it_as_often_as_it_should(self, n: int, alpha: float) -> None:
        rng = np.random.default_rng(n)
        over = sum(
            scores[-1] > upper_limit(scores[:-1], alpha)
            for scores in rng.gamma(2.0, size=(DRAWS, n + 1))
        )
        exact = 1.0 - math.ceil((1.0 - alpha) * (n + 1)) / (n + 1)
        assert exact <= alpha + 1e-12
        assert binom.ppf(0.0005, DRAWS, exact) <= over <= binom.ppf(0.9995, DRAWS, exact)


class TestGate:
    def test_loses_on_average_what_it_says_at_most(self) -> None:
        rng = np.random.default_rng(0)
        n_fit, n_test, max_lost = 120, 40, 0.05
        in_fit = np.arange(n_fit + n_test) < n_fit
        right = np.ones(n_fit + n_test, dtype=np.bool_)
        lost = []
        for _ in range(2000):
            gate = choose_gate("p_ik", rng.beta(2, 4, n_fit + n_test), right, in_fit, max_lost)
            assert gate is not None
            lost.append(gate.lost)
        error = float(np.std(lost)) / math.sqrt(len(lost))
        exact = 1.0 - math.ceil((1.0 - max_lost) * (n_fit + 1)) / (n_fit + 1)
        assert np.mean(lost) == pytest.approx(exact, abs=3.5 * error)
        assert np.mean(lost) <= max_lost + 3.5 * error

    def test_is_set_on_the_right_answers_of_the_fit_part_and_measured_on_the_rest(self) -> None:
        p_wrong = np.array([0.1, 0.2, 0.3, 0.95, 0.3, 0.31, 0.1, 0.9])
        right = np.array([1, 1, 1, 0, 1, 1, 0, 0], dtype=np.bool_)
        gate = choose_gate("p_ik", p_wrong, right, np.arange(8) < 4, max_lost=0.25)
        assert gate is not None
        assert (gate.above, gate.lost, gate.gated) == (0.3, 0.5, 0.5)
        assert (gate.probe, gate.max_lost) == ("p_ik", 0.25)

    def test_too_few_right_answers_set_no_gate(self) -> None:
        rng = np.random.default_rng(0)
        in_fit = np.arange(80) < 48
        right = np.ones(80, dtype=np.bool_)
        assert choose_gate("p_ik", rng.uniform(size=80), right, in_fit, 0.02) is None
        assert choose_gate("p_ik", rng.uniform(size=80), right, in_fit, 0.03) is not None
        assert choose_gate("p_ik", rng.uniform(size=80), right & in_fit, in_fit, 0.03) is None

    def test_a_certain_probe_sets_no_gate(self) -> None:
        right = np.ones(100, dtype=np.bool_)
        assert choose_gate("p_ik", np.ones(100), right, np.arange(100) < 60, 0.05) is None

    def test_unknown_is_never_gated(self) -> None:
        p_wrong = np.full(200, 0.4)
        p_wrong[150:] = math.nan
        gate = choose_gate("p_ik", p_wrong, np.ones(200, np.bool_), np.arange(200) < 120, 0.02)
        assert gate is not None
        assert (gate.gated, gate.lost) == (0.0, 0.0)


class TestEarlyStop:
    def test_loses_on_average_no_more_than_all_checkpoints_together_may(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(1)
        pool = [long_trace(140, rng.gamma(8.0) / 8.0, rng) for _ in range(1500)]
        once = {(id(trace), n): running_mean(trace, n) for trace in pool for n in CHECKPOINTS}
        monkeypatch.setattr(exits, "running_mean", lambda trace, n: once[id(trace), n])
        n_fit, n_test, max_lost = 24, 6, 0.2  # at 0.05 a checkpoint 19 answers are enough
        kept = np.ones(n_fit + n_test, dtype=np.bool_)
        in_fit = np.arange(n_fit + n_test) < n_fit
        lost = []
        for _ in range(2000):
            drawn = [pool[i] for i in rng.choice(len(pool), n_fit + n_test, replace=False)]
            stop = choose_early_stop(drawn, kept, in_fit, max_lost)
            assert stop is not None
            lost.append(stop.lost)
        assert np.mean(lost) <= max_lost + 3.5 * np.std(lost) / math.sqrt(len(lost))
        # The checkpoints often agree, so that the sum of their shares is not reached.
        assert np.mean(lost) > max_lost / len(CHECKPOINTS) / 2

    def test_on_the_fit_part_the_sum_over_checkpoints_stays_within_the_budget(self) -> None:
        rng = np.random.default_rng(2)
        traces = [long_trace(int(rng.integers(1, 200)), 1.0, rng) for _ in range(3000)]
        kept = rng.random(3000) < 0.7
        in_fit = np.arange(3000) < 2000
        stop = choose_early_stop(traces, kept, in_fit, 0.04)
        assert stop is not None
        assert [n for n, _ in stop.checkpoints] == list(CHECKPOINTS)
        over = [
            sum(
                running_mean(trace, n) > limit
                for trace, good in zip(traces[:2000], kept[:2000], strict=True)
                if good
            )
            for n, limit in stop.checkpoints
        ]
        assert sum(over) / kept[:2000].sum() <= 0.04
        assert stop.lost <= 0.04

    def test_measures_what_it_stops_loses_and_saves(self) -> None:
        rng = np.random.default_rng(0)
        steady = [make_trace(np.full(40, -0.1 - i / 1000), rng) for i in range(30)]
        doubtful, short = make_trace(np.full(80, -2.0), rng), make_trace([-2.0] * 5, rng)
        traces = [*steady, doubtful, short, steady[0], doubtful]
        kept = np.array([True] * 33 + [False])
        stop = choose_early_stop(traces, kept, np.arange(34) < 30, max_lost=0.2)
        assert stop is not None
        # No answer of the fit part reaches 64 tokens: nothing is known of what is usual there.
        assert [n for n, _ in stop.checkpoints] == [16, 32]
        assert stop.checkpoints[0][1] == pytest.approx(0.129)
        assert stop.stopped == 0.5
        assert stop.lost == pytest.approx(1 / 3)
        assert stop.saved == pytest.approx(2 * (80 - 16) / (80 + 5 + 40 + 80))

    def test_too_few_kept_answers_set_no_stop(self) -> None:
        rng = np.random.default_rng(0)
        traces = [long_trace(140, 1.0, rng) for _ in range(300)]
        in_fit = np.arange(300) < 198
        kept = np.ones(300, dtype=np.bool_)
        assert choose_early_stop(traces, kept, in_fit) is None  # 199 are needed for 0.005
        assert choose_early_stop(traces, kept, np.arange(300) < 199) is not None
        assert choose_early_stop(traces, ~kept, in_fit) is None
        assert choose_early_stop(traces, kept & in_fit, np.arange(300) < 199) is None

    def test_broken_statistics_never_stop(self) -> None:
        rng = np.random.default_rng(0)
        traces = [long_trace(140, 1.0, rng) for _ in range(100)]
        broken = [
            make_trace(np.full(140, math.nan), rng),
            make_trace(np.zeros(140), rng),
            make_trace(np.full(140, -math.inf), rng),
        ]
        kept = np.array([True] * 101 + [False] * 2)
        stop = choose_early_stop([*traces, *broken], kept, np.arange(103) < 100, 0.2)
        assert stop is not None
        assert (stop.stopped, stop.lost, stop.saved) == (0.0, 0.0, 0.0)


def test_running_mean_is_that_of_the_first_tokens() -> None:
    rng = np.random.default_rng(0)
    trace = make_trace([-1.0, -3.0, -8.0], rng)
    assert running_mean(trace, 2) == 2.0
    assert math.isnan(running_mean(trace, 4))


def test_an_answer_that_ends_at_a_checkpoint_counts_when_its_end_was_not_known_there() -> None:
    trace = make_trace([-1.0, -3.0], np.random.default_rng(0))
    cut, ended = replace(trace, finish_reason="length"), replace(trace, end_logprob=-0.5)
    assert math.isnan(running_mean(cut, 2))
    assert running_mean(ended, 2) == 2.0
