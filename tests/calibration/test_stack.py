"""Stacks with given weights worked out by hand, and what fitting one promises."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from calibration.errors import ArtifactError, FitError
from calibration.metrics import BoolArray, FloatArray, auroc
from calibration.stack import Part, Stack
from calibration.stack_fit import MIN_OF_EACH, _logistic, fit_stack

NAN = math.nan
Scores = dict[str, FloatArray]


def part(name: str, **changes: Any) -> Part:
    """z = u - 1 within [-1, 2]; weight 1; alone, logit = z / 2."""
    values: dict[str, Any] = {
        "x": (0.0, 3.0),
        "z": (-1.0, 2.0),
        "weight": 1.0,
        "weight_missing": None,
        "slope": 0.5,
        "intercept": 0.0,
    }
    return Part(name, **(values | changes))


def by_hand(*parts: Part, intercept: float = 0.25) -> Stack:
    return Stack(parts or (part("a"), part("b", weight=2.0)), intercept, 1.0, 100)


def answers(
    n: int, seed: int = 0, n_groups: int = 4, drift: float = 0.0
) -> tuple[Scores, BoolArray, np.ndarray[Any, np.dtype[np.int64]]]:
    """Five signals, ever weaker, the odd ones with heavy tails; `drift` varies them by group."""
    rng = np.random.default_rng(seed)
    strength = np.array([1.0, 0.8, 0.5, 0.2, 0.0])
    group = np.arange(n) % n_groups
    by_group = strength + drift * rng.normal(size=(n_groups, 5))
    latent = rng.normal(size=n)
    wrong = rng.random(n) < 1 / (1 + np.exp(-1.5 * latent))
    u = by_group[group] * latent[:, np.newaxis] + rng.normal(size=(n, 5))
    u[:, ::2] = np.exp(2 * u[:, ::2])
    return {name: u[:, j] for j, name in enumerate("abcde")}, wrong, group


def rows(scores: Scores, which: Any) -> Scores:
    return {name: column[which] for name, column in scores.items()}


class TestPredict:
    def test_by_hand(self) -> None:
        assert float(by_hand().predict({"a": 2, "b": 0.5})) == pytest.approx(0.25 + 1 - 1)
        p = float(by_hand().score({"a": 2, "b": 0.5}))
        assert p == pytest.approx(1 / (1 + math.exp(-0.25)))

    def test_arrays_and_numbers_go_together(self) -> None:
        logits = by_hand().predict({"a": np.array([1.0, 2.0, 3.0]), "b": 1.0, "other": "no"})
        assert logits == pytest.approx([0.25, 1.25, 2.25])
        assert by_hand().predict({"a": np.ones((2, 3)), "b": 1.0}).shape == (2, 3)

    def test_further_out_than_any_seen_counts_as_the_furthest_seen(self) -> None:
        logits = by_hand().predict({"a": np.array([-1e300, 0.0, 3.0, 1e300]), "b": 1.0})
        assert logits == pytest.approx([-0.75, -0.75, 2.25, 2.25])

    def test_lines_lead_from_corner_to_corner(self) -> None:
        bent = by_hand(part("a", x=(0.0, 1.0, 11.0), z=(-1.0, 0.0, 1.0)))
        assert bent.predict({"a": np.array([0.5, 6.0])}) == pytest.approx([-0.25, 0.75])

    def test_a_structural_signal_has_a_term_for_being_missing(self) -> None:
        stack = by_hand(part("a"), part("options", weight_missing=-3.0))
        assert float(stack.predict({"a": 2, "options": NAN})) == pytest.approx(0.25 + 1 - 3)
        assert float(stack.predict({"a": 2})) == pytest.approx(0.25 + 1 - 3)
        assert float(stack.predict({"a": 2, "options": 2})) == pytest.approx(0.25 + 1 + 1)

    @pytest.mark.parametrize("unknown", [NAN, math.inf, -math.inf])
    def test_when_one_is_missing_the_best_that_is_there_speaks_alone(self, unknown: float) -> None:
        first = part("first", slope=0.5, intercept=0.1)
        second = part("second", slope=0.4, intercept=0.2)
        third = part("third", slope=0.3, intercept=0.3)
        stack = by_hand(first, second, third)
        scores = {"first": 3.0, "second": 3.0, "third": 3.0}
        assert float(stack.predict(scores | {"third": unknown})) == pytest.approx(0.1 + 0.5 * 2)
        assert float(stack.predict(scores | {"first": unknown})) == pytest.approx(0.2 + 0.4 * 2)
        assert float(stack.predict({"third": 3.0})) == pytest.approx(0.3 + 0.3 * 2)
        assert math.isnan(float(stack.predict({"first": unknown})))
        assert math.isnan(float(stack.score({})))

    def test_each_answer_falls_back_by_itself(self) -> None:
        logits = by_hand().predict(
            {"a": np.array([2, NAN, 2, NAN]), "b": np.array([1, 1, NAN, NAN])}
        )
        assert logits[:3] == pytest.approx([1.25, 0.0, 0.5])
        assert math.isnan(logits[3])

    def test_a_part_that_does_not_rank_alone_does_not_speak_alone(self) -> None:
        stack = by_hand(part("a"), part("b", slope=0.0, intercept=-9.0))
        assert math.isnan(float(stack.predict({"b": 1.0})))

    def test_structural_signals_that_are_all_missing_say_nothing(self) -> None:
        stack = by_hand(part("a", weight_missing=-5.0), part("b", weight_missing=-5.0))
        assert math.isnan(float(stack.predict({"a": NAN, "b": NAN})))

    def test_needs_are_the_names_of_its_parts(self) -> None:
        assert by_hand().needs == ("a", "b")


class TestFit:
    def test_it_ranks_better_than_its_best_part(self) -> None:
        scores, wrong, _ = answers(1000)
        stack = fit_stack(scores, wrong)
        unseen, unseen_wrong, _ = answers(4000, seed=1)
        alone = max(auroc(column, ~unseen_wrong) for column in unseen.values())
        assert auroc(stack.predict(unseen), ~unseen_wrong) > alone + 0.02

    @pytest.mark.parametrize("grouped", [False, True])
    def test_its_probabilities_are_those_of_being_wrong(self, grouped: bool) -> None:
        scores, wrong, group = answers(1000)
        stack = fit_stack(scores, wrong, groups=group if grouped else None)
        unseen, unseen_wrong, _ = answers(6000, seed=1)
        p = stack.score(unseen)
        for low, high in ((0.0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0)):
            here = (p >= low) & (p < high)
            assert p[here].mean() == pytest.approx(unseen_wrong[here].mean(), abs=0.06)

    def test_base_rates_that_differ_by_group_leave_the_scale_alone(self) -> None:
        rng = np.random.default_rng(0)
        group = np.arange(1200) % 4
        u = rng.normal(size=1200)
        wrong = rng.random(1200) < 1 / (1 + np.exp(-(u + np.array([-2, -1, 1, 2])[group])))
        stack = fit_stack({"u": u}, wrong, groups=group)
        assert stack.parts[0].weight == pytest.approx(stack.parts[0].slope, rel=0.05)

    def test_the_best_part_comes_first(self) -> None:
        scores, wrong, _ = answers(2000)
        assert fit_stack(scores, wrong).needs[:3] == ("a", "b", "c")

    def test_signals_of_weight_zero_are_left_out(self) -> None:
        scores, wrong, _ = answers(1000)
        scores["flipped"] = -scores["a"]
        scores["constant"] = np.ones(1000)
        scores["never"] = np.full(1000, NAN)
        scores["hardly"] = np.where(np.arange(1000) < 15, scores["a"], NAN)
        stack = fit_stack(scores, wrong)
        assert not {"flipped", "constant", "never", "hardly"} & set(stack.needs)
        assert all(part.weight > 0 for part in stack.parts)

    def test_without_the_constraint_weights_can_be_negative(self) -> None:
        scores, wrong, _ = answers(1000)
        scores = {"a": scores["a"], "flipped": -scores["b"]}
        stack = fit_stack(scores, wrong, nonnegative=False)
        weights = {part.name: part.weight for part in stack.parts}
        assert weights["a"] > 0.3
        assert weights["flipped"] < -0.3

    def test_heavy_tails_don_t_matter(self) -> None:
        scores, wrong, _ = answers(500)
        tails = {name: np.sinh(np.clip(5 * column, -600, 600)) for name, column in scores.items()}
        one, other = fit_stack(tails, wrong), fit_stack(scores, wrong)
        assert np.abs(one.predict(tails) - other.predict(scores)).mean() < 0.02

    def test_one_wild_value_moves_no_other_answer(self) -> None:
        scores, wrong, _ = answers(500)
        before = fit_stack(scores, wrong).predict(scores)
        wild = scores | {"b": np.where(np.arange(500) == 7, 1e300, scores["b"])}
        after = fit_stack(wild, wrong).predict(wild)
        assert np.abs(np.delete(after - before, 7)).mean() < 0.05

    def test_standard_scores_are_standard(self) -> None:
        scores, wrong, _ = answers(1000)
        for fitted in fit_stack(scores, wrong).parts:
            z = fitted.standardise(scores[fitted.name])
            assert z.mean() == pytest.approx(0, abs=1e-9)
            assert z.std() == pytest.approx(1, abs=1e-9)
            assert np.abs(z).max() < 4

    def test_a_signal_that_some_questions_don_t_have_is_structural(self) -> None:
        scores, wrong, _ = answers(1000)
        scores["b"] = np.where(np.arange(1000) % 2 == 0, scores["b"], NAN)
        stack = fit_stack(scores, wrong)
        parts = {part.name: part for part in stack.parts}
        assert parts["b"].weight_missing is not None
        assert parts["a"].weight_missing is None
        unseen, unseen_wrong, _ = answers(4000, seed=1)
        with_b, without_b = stack.predict(unseen), stack.predict(unseen | {"b": ALL_MISSING})
        assert np.isfinite(without_b).all()
        assert auroc(with_b, ~unseen_wrong) > auroc(without_b, ~unseen_wrong)
        assert auroc(without_b, ~unseen_wrong) > auroc(unseen["a"], ~unseen_wrong)

    def test_being_missing_can_speak_either_way(self) -> None:
        rng = np.random.default_rng(0)
        multiple_choice = np.arange(1000) % 2 == 0
        u = rng.normal(size=1000)
        wrong = rng.random(1000) < 1 / (1 + np.exp(-(u + np.where(multiple_choice, 1.5, -1.5))))
        options = np.where(wrong, 1, -1) + rng.normal(size=1000)
        scores = {"u": u, "options": np.where(multiple_choice, options, NAN)}
        parts = {part.name: part for part in fit_stack(scores, wrong).parts}
        missing = parts["options"].weight_missing
        assert missing is not None
        assert missing < -1.5

    def test_rows_that_lack_a_signal_all_others_have_are_not_fitted_on(self) -> None:
        scores, wrong, _ = answers(1000)
        scores["a"][:8] = [NAN, math.inf] * 4
        stack = fit_stack(scores, wrong)
        assert stack.n == 992
        assert all(part.weight_missing is None for part in stack.parts)

    def test_answers_without_any_signal_are_not_fitted_on(self) -> None:
        scores, wrong, _ = answers(1000)
        gone = np.arange(1000) < 300
        scores = {name: np.where(gone, NAN, scores[name]) for name in "ab"}
        assert fit_stack(scores, wrong).n == 700

    def test_the_regression_is_scikit_learns(self) -> None:
        scores, wrong, _ = answers(300)
        z = np.column_stack([scores["b"], scores["d"]])
        theta = _logistic(z, wrong, 0.05, np.full(2, -np.inf))
        model = LogisticRegression(C=0.05, tol=1e-10).fit(z, wrong)
        assert theta == pytest.approx([model.intercept_[0], *model.coef_[0]], abs=1e-5)

    def test_with_groups_c_is_what_ranks_best_in_groups_left_out(self) -> None:
        candidates = [1e-4, 100.0]
        for seed in range(3):
            scores, wrong, group = answers(240, seed, n_groups=6, drift=0.8)
            ranks = []
            for c in candidates:
                folds = [
                    auroc(
                        fit_stack(
                            rows(scores, group != k),
                            wrong[group != k],
                            inverse_penalties=[c],
                        ).predict(rows(scores, group == k)),
                        ~wrong[group == k],
                    )
                    for k in range(6)
                ]
                ranks.append(np.mean(folds))
            chosen = fit_stack(scores, wrong, groups=group, inverse_penalties=candidates)
            assert candidates[int(np.argmax(ranks))] == chosen.C

    def test_weights_that_can_t_be_negative_transfer_better(self) -> None:
        gain = []
        for seed in range(6):
            scores, wrong, group = answers(960, seed, n_groups=16, drift=0.5)
            seen = group < 8
            unseen = rows(scores, ~seen)
            constrained, free = (
                fit_stack(rows(scores, seen), wrong[seen], nonnegative=constraint).predict(unseen)
                for constraint in (True, False)
            )
            gain.append(auroc(constrained, ~wrong[~seen]) - auroc(free, ~wrong[~seen]))
        assert np.mean(gain) > 0

    def test_groups_with_too_few_of_a_kind_don_t_choose(self) -> None:
        scores, wrong, group = answers(600, n_groups=3)
        easy = {name: np.concatenate([column, column[~wrong]]) for name, column in scores.items()}
        wrong_too = np.concatenate([wrong, np.zeros((~wrong).sum(), dtype=bool)])
        group_too = np.concatenate([group, np.full((~wrong).sum(), 3)])
        stack = fit_stack(easy, wrong_too, groups=group_too)
        assert stack.n == len(wrong_too)
        assert stack.score(easy).mean() == pytest.approx(wrong_too.mean(), abs=1e-6)

    def test_noise_is_mostly_refused_and_never_believed(self) -> None:
        rng = np.random.default_rng(1)
        refused = 0
        for _ in range(10):
            noise = {"a": rng.normal(size=200), "b": rng.normal(size=200)}
            wrong = rng.random(200) < 0.5
            with contextlib.suppress(FitError):
                assert np.abs(fit_stack(noise, wrong).score(noise) - 0.5).max() < 0.45
                continue
            refused += 1
        assert refused >= 5

    def test_two_groups_are_no_groups(self) -> None:
        scores, wrong, group = answers(400, n_groups=2)
        assert fit_stack(scores, wrong, groups=group) == fit_stack(scores, wrong)

    def test_groups_can_have_names(self) -> None:
        scores, wrong, group = answers(400)
        names = np.array(["gsm8k", "boolq", "mmlu", "piqa"])[group]
        assert fit_stack(scores, wrong, groups=names).needs

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda _, y: ({}, y), "no signals to stack"),
            (
                lambda s, y: (s | {"a": s["a"][:-1]}, y),
                r"'a' has shape \(100,\), wrong has \(101,\)",
            ),
            (lambda s, y: (s, y * 2), "only True and False"),
            (lambda s, y: (s, y[:, np.newaxis]), "one-dimensional"),
            (lambda s, y: (s, y & False), "none of the signals a, b, c, d, e ranks"),
            (
                lambda _, y: ({"a": np.where(y, 0.0, 1.0)}, y),
                "the signals do not rank these answers",
            ),
            (lambda _, y: ({"a": np.full(len(y), NAN)}, y), "none of the signals a ranks"),
        ],
    )
    def test_what_can_t_be_fitted(
        self, spoil: Callable[[Scores, BoolArray], tuple[Scores, BoolArray]], said: str
    ) -> None:
        scores, wrong, _ = answers(101)
        with pytest.raises(FitError, match=said):
            fit_stack(*spoil(scores, wrong))

    def test_groups_must_fit(self) -> None:
        scores, wrong, _ = answers(100)
        with pytest.raises(FitError, match=r"groups has shape \(3,\)"):
            fit_stack(scores, wrong, groups=["x", "y", "z"])

    def test_too_few_answers_with_every_signal(self) -> None:
        wrong = np.arange(4000) < 2 * MIN_OF_EACH
        a = np.where(wrong, 1.0, 0.0) + np.linspace(0, 1, 4000)
        b = a.copy()
        a[: MIN_OF_EACH - 3], b[MIN_OF_EACH + 3 : 2 * MIN_OF_EACH] = NAN, NAN
        with pytest.raises(FitError, match="but there are 3980 right and 6 wrong; collect more"):
            fit_stack({"a": a, "b": b}, wrong)


ALL_MISSING = np.full(4000, NAN)
FITTED = fit_stack(*answers(400)[:2])
POINT = st.fixed_dictionaries({name: st.floats(-50, 50) for name in FITTED.needs})


class TestProperties:
    @given(POINT, st.sampled_from(FITTED.needs), st.floats(0, 50))
    def test_a_higher_uncertainty_never_looks_surer(
        self, scores: dict[str, float], name: str, more: float
    ) -> None:
        less_sure = scores | {name: scores[name] + more}
        assert float(FITTED.predict(less_sure)) >= float(FITTED.predict(scores)) - 1e-12

    @given(POINT, st.sets(st.sampled_from(FITTED.needs)))
    def test_unknown_is_nan_only_when_all_are(
        self, scores: dict[str, float], lost: set[str]
    ) -> None:
        p = float(FITTED.score(scores | dict.fromkeys(lost, NAN)))
        assert math.isnan(p) == (len(lost) == len(FITTED.needs))
        assert math.isnan(p) or 0 < p < 1

    @settings(max_examples=10)
    @given(st.permutations(range(60)), st.permutations("abcde"), st.booleans())
    def test_the_order_of_rows_and_signals_does_not_matter(
        self, order: list[int], names: list[str], grouped: bool
    ) -> None:
        scores, wrong, group = answers(60, n_groups=3)
        groups = group if grouped else None
        mixed = {name: scores[name][order] for name in names}
        again = fit_stack(mixed, wrong[order], groups=None if groups is None else groups[order])
        assert again == fit_stack(scores, wrong, groups=groups)


class TestDict:
    def test_round_trip_to_the_bit(self) -> None:
        scores, wrong, _ = answers(300)
        scores["b"] = np.where(np.arange(300) % 3 == 0, scores["b"], NAN)
        stack = fit_stack(scores, wrong)
        back = Stack.from_dict(json.loads(json.dumps(stack.to_dict())))
        assert back == stack
        assert np.array_equal(back.predict(scores), stack.predict(scores), equal_nan=True)

    @pytest.mark.parametrize(
        ("where", "value", "said"),
        [
            (("C",), None, "C"),
            (("C",), -1.0, "must be positive"),
            (("n",), 1, "at least 2"),
            (("n",), True, "n"),
            (("n",), 10.5, "n"),
            (("intercept",), "0.5", "intercept"),
            (("intercept",), NAN, "intercept"),
            (("extra",), 1, "extra"),
            (("parts",), [], "different names"),
            (("parts", 1, "name"), "a", "different names"),
            (("parts", 0, "weight"), math.inf, "weight"),
            (("parts", 0, "other"), 1, "other"),
            (("parts", 0, "x"), [1.0, 1.0], "x must increase"),
            (("parts", 0, "x"), [1.0], "one length"),
            (("parts", 0, "z"), [1.0, 0.0], "z not decrease"),
            (("parts", 0, "z"), [0.0, "1"], "z"),
            (("parts", 0), 7, "parts"),
        ],
    )
    def test_what_is_malformed_is_refused(
        self, where: tuple[str | int, ...], value: object, said: str
    ) -> None:
        data = by_hand().to_dict()
        spot: Any = data
        for step in where[:-1]:
            spot = spot[step]
        spot[where[-1]] = value
        with pytest.raises(ArtifactError, match=said):
            Stack.from_dict(data)

    @pytest.mark.parametrize("field", ["parts", "intercept", "C", "n"])
    def test_a_missing_field_is_refused(self, field: str) -> None:
        data = by_hand().to_dict()
        del data[field]
        with pytest.raises(ArtifactError, match=field):
            Stack.from_dict(data)

    @pytest.mark.parametrize(
        "field", ["name", "x", "z", "weight", "weight_missing", "slope", "intercept"]
    )
    def test_a_part_without_a_field_is_refused(self, field: str) -> None:
        data = by_hand().to_dict()
        del data["parts"][0][field]
        with pytest.raises(ArtifactError, match=field):
            Stack.from_dict(data)


def test_predicting_loads_nothing_that_fits() -> None:
    code = (
        "import sys; from calibration.stack import Part, Stack; "
        "p = Part('a', (0.0, 1.0), (0.0, 1.0), 1.0, None, 1.0, 0.0); "
        "Stack((p,), 0.0, 1.0, 9).score({'a': 0.5}); "
        "print([m for m in ('scipy', 'sklearn', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
