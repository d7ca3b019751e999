"""Ranks among neighbours: worked out by hand, their properties, their file, their place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from calibration.errors import ArtifactError, FitError
from calibration.learned import Learned, LearnedField, load_context
from calibration.metrics import FloatArray
from calibration.neighbours import (
    MIN_ANSWERS,
    NeighbourInput,
    NeighbourRank,
    fit_neighbours,
)
from calibration.probe_file import load_probes, save_probes
from calibration.probes import Probe, ProbeInput
from calibration.trained import rank_among_neighbours
from tests.calibration.test_fit import make_records
from tests.calibration.test_learned import probe, stack
from tests.calibration.test_probes import f32, rewrite, trace_with
from tests.calibration.told import LAYERS, WIDTH, answers_of, with_states
from tests.uq.traces import make_trace
from uq.signals import HiddenStates

NAN, INF = math.nan, math.inf
READS = NeighbourInput(7)
EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
THREEFOLD = 1 / math.log(3)
"""A width at which one more in similarity counts threefold."""


def by_hand(**changes: Any) -> NeighbourRank:
    """Two answers alike, with scores 1 and 2, to questions that point east and north."""
    values: dict[str, Any] = {
        "base": "perplexity",
        "input": READS,
        "center": f32([[0, 0], [0, 0]]),
        "states": [[EAST, EAST], [NORTH, EAST]],
        "scores": np.array([1.0, 2.0]),
        "width": THREEFOLD,
    }
    return NeighbourRank(**(values | changes))


def rank(question: Any, score: float, answer: Any = EAST, **changes: Any) -> float:
    return float(by_hand(**changes).ranks([[question, answer]], [score])[0])


def reference(n: int = 60, seed: int = 0) -> tuple[FloatArray, FloatArray, list[str]]:
    """States of shape (n, 2, 3), scores with ties, and three kinds, by turns."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, 2, 3)),
        rng.integers(10, size=n).astype(float),
        [f"kind {i % 3}" for i in range(n)],
    )


class TestByHand:
    @pytest.mark.parametrize(
        ("score", "expected"),
        [(0.5, 0.0), (1.0, 0.375), (1.5, 0.75), (2.0, 0.875), (2.5, 1.0)],
    )
    def test_the_similar_answer_weighs_threefold(self, score: float, expected: float) -> None:
        assert rank(EAST, score) == pytest.approx(expected)

    def test_length_does_not_count_and_the_center_does(self) -> None:
        assert rank((7.0, 0.0), 1.5) == pytest.approx(0.75)
        moved = f32([[10, 5], [0, 0]])
        assert rank((11.0, 5.0), 1.5, center=moved) == pytest.approx(0.75)

    def test_the_answer_counts_half(self) -> None:
        states = [[EAST, EAST], [EAST, NORTH]]
        root = math.sqrt(3)
        assert rank(EAST, 1.5, states=states) == pytest.approx(root / (root + 1))

    def test_nothing_tells_them_apart(self) -> None:
        assert rank((0.0, 0.0), 1.5, (0.0, 0.0)) == pytest.approx(0.5)  # at the center
        assert rank((1.0, 1.0), 1.5) == pytest.approx(0.5)
        assert rank(EAST, 1.5, width=1e9) == pytest.approx(0.5)

    def test_ties_count_half(self) -> None:
        same = np.array([1.0, 1.0])
        assert [rank(EAST, u, scores=same) for u in (0.9, 1.0, 1.1)] == [0.0, 0.5, 1.0]

    def test_a_narrow_kernel_sees_the_nearest_alone(self) -> None:
        assert rank((0.1, 1.0), 1.5, width=1e-6) == 0.0
        assert rank((-1.0, -0.9), 1.5, width=1e-6) == 0.0  # however far it is
        assert rank((-0.9, -1.0), 1.5, width=1e-6) == 1.0

    def test_one_answer_is_enough(self) -> None:
        one = {"states": [[EAST, EAST]], "scores": [1.0]}
        assert [rank(WEST, u, **one) for u in (0.0, 1.0, 2.0)] == [0.0, 0.5, 1.0]

    def test_a_trace_is_read_at_two_places_of_one_layer(self) -> None:
        hidden = HiddenStates((3, 7), f32([WEST, EAST]), f32([WEST, EAST]), f32([WEST, WEST]))
        trace = make_trace([-0.5], hidden=hidden)
        read = READS.read(trace)
        assert read is not None
        assert read.tolist() == [list(EAST), list(EAST)]
        assert by_hand().score(trace, 1.5) == pytest.approx(0.75)


class TestUnknown:
    @pytest.mark.parametrize("score", [NAN, INF, -INF])
    def test_a_score_that_is_no_number(self, score: float) -> None:
        assert math.isnan(by_hand().score(trace_with([EAST, EAST]), score))
        assert math.isnan(rank(EAST, score))

    @pytest.mark.parametrize("value", [NAN, INF])
    def test_a_state_that_is_not_finite_and_no_other(self, value: float) -> None:
        states = [[EAST, EAST], [(1.0, value), EAST], [EAST, (value, 0.0)]]
        ranks = by_hand().ranks(states, [1.5] * 3)
        assert ranks[0] == pytest.approx(0.75)
        assert np.isnan(ranks[1:]).all()
        assert math.isnan(by_hand().score(trace_with([EAST, EAST], [EAST, (value, 0)]), 1.5))

    def test_a_trace_without_the_states(self) -> None:
        wide = [[1.0, 0.0, 0.0]] * 2
        for trace in (
            make_trace([-0.5]),
            trace_with([EAST, EAST], layers=(3, 4)),
            trace_with(wide),
        ):
            assert math.isnan(by_hand().score(trace, 1.5))

    def test_huge_states_do_not_overflow(self) -> None:
        assert rank((3e38, 0.0), 1.5) == pytest.approx(0.75)
        far = f32([[-3e38, 0], [0, 0]])
        assert rank((3e38, 0.0), 1.5, center=far) == pytest.approx(0.75)

    def test_no_answers_no_ranks(self) -> None:
        assert by_hand().ranks(np.empty((0, 2, 2)), []).tolist() == []

    @pytest.mark.parametrize(
        ("shape", "n"), [((1, 2), 1), ((1, 2, 3), 1), ((1, 4), 1), ((2, 2, 2), 1)]
    )
    def test_other_shapes_are_refused(self, shape: tuple[int, ...], n: int) -> None:
        with pytest.raises(ValueError, match=r"must be \(m, 2, 2\) and \(m,\)"):
            by_hand().ranks(np.zeros(shape), np.zeros(n))


class TestProperties:
    @given(
        seed=st.integers(0, 50),
        scores=st.lists(st.floats(-3, 12), min_size=1, max_size=20),
        width=st.floats(1e-3, 10),
    )
    def test_rising_with_the_score_within_0_and_1(
        self, seed: int, scores: list[float], width: float
    ) -> None:
        states, u, kinds = reference(seed=seed)
        fitted, own = fit_neighbours("perplexity", READS, states, u, kinds, width=width)
        ranks = fitted.ranks(np.repeat(states[:1], len(scores), axis=0), sorted(scores))
        assert (np.diff(ranks) >= 0).all()
        for of in (ranks, own):
            assert of.min() >= 0.0
            assert of.max() <= 1.0

    @given(seed=st.integers(0, 50))
    def test_only_the_order_of_scores_counts(self, seed: int) -> None:
        states, u, kinds = reference(seed=seed)
        asked = np.arange(-0.5, 10.5, 0.5)
        at = np.random.default_rng(seed).normal(size=(len(asked), 2, 3))
        fitted, own = fit_neighbours("perplexity", READS, states, u, kinds)
        bent, own_bent = fit_neighbours("perplexity", READS, states, np.exp(u) - 7, kinds)
        assert own_bent == pytest.approx(own)
        assert bent.ranks(at, np.exp(asked) - 7) == pytest.approx(fitted.ranks(at, asked))

    def test_shuffled_answers_get_the_same_ranks(self) -> None:
        states, u, kinds = reference()
        order = np.random.default_rng(1).permutation(len(u))
        _, own = fit_neighbours("perplexity", READS, states, u, kinds)
        _, mixed = fit_neighbours(
            "perplexity", READS, states[order], u[order], np.array(kinds)[order]
        )
        assert mixed == pytest.approx(own[order], abs=1e-5)

    def test_blocks_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        states, u, kinds = reference()
        fitted, own = fit_neighbours("perplexity", READS, states, u, kinds)
        whole = fitted.ranks(states, u)
        monkeypatch.setattr("calibration.neighbours._BLOCK", 7)
        assert fit_neighbours("perplexity", READS, states, u, kinds)[1] == pytest.approx(own)
        assert fitted.ranks(states, u) == pytest.approx(whole)


class TestFit:
    def test_each_is_ranked_among_the_other_kinds(self) -> None:
        """Two kinds that are alike in nothing but the states: the one is always surer."""
        states = np.random.default_rng(0).normal(size=(120, 2, 3))
        u = np.concatenate([np.arange(60.0), 100 + np.arange(60.0)])
        kinds = ["sure"] * 60 + ["unsure"] * 60
        fitted, own = fit_neighbours("perplexity", READS, states, u, kinds)
        assert own.tolist() == [0.0] * 60 + [1.0] * 60
        assert fitted.scores.tolist() == u.tolist()
        # Once it is known, an answer is its own nearest neighbour.
        assert 0.0 < fitted.ranks(states[:1], u[:1])[0] < 0.5 + 1e-9

    def test_a_far_kind_does_not_shift_a_near_one(self) -> None:
        rng = np.random.default_rng(0)
        kinds = np.repeat(["near 1", "near 2", "far"], 60)
        toward = np.where(kinds == "far", -5.0, 5.0)
        states = rng.normal(size=(180, 2, 3)) + toward[:, None, None] * np.array([1.0, 0.0, 0.0])
        u = rng.random(180) + np.where(kinds == "far", 10.0, 0.0)
        _, own = fit_neighbours("perplexity", READS, states, u, kinds)
        assert own[:120].mean() == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize("few", [0, MIN_ANSWERS - 1])
    def test_where_others_are_few_all_but_the_answer_itself_count(self, few: int) -> None:
        n = 80
        u = np.arange(float(n))
        kinds = ["most"] * (n - few) + ["few"] * few
        _, own = fit_neighbours("perplexity", READS, np.zeros((n, 2, 3)), u, kinds)
        most = np.arange(n - few)
        if n - few >= MIN_ANSWERS:
            assert own[most] == pytest.approx(most / (n - 1))
        else:
            assert own[most] == pytest.approx(most / (n - 1))
            assert own[n - few :] == pytest.approx(np.arange(n - few, n) / (n - 1))

    def test_the_few_are_ranked_among_the_many(self) -> None:
        u = np.concatenate([np.arange(60.0), [10.5, 30.0]])
        _, own = fit_neighbours(
            "perplexity", READS, np.zeros((62, 2, 3)), u, ["many"] * 60 + ["few"] * 2
        )
        assert own[60:] == pytest.approx([11 / 60, 30.5 / 60])

    def test_the_unknown_are_left_out(self) -> None:
        states, u, kinds = reference()
        kept, own = fit_neighbours("perplexity", READS, states, u, kinds)
        more = np.concatenate([states, states[:3]])
        more[60, 0, 0], more[61, 1, 2] = NAN, INF
        scores = np.concatenate([u, [1.0, 2.0, NAN]])
        fitted, ranks = fit_neighbours("perplexity", READS, more, scores, [*kinds, "a", "b", "c"])
        assert ranks[:60] == pytest.approx(own)
        assert np.isnan(ranks[60:]).all()
        assert np.array_equal(fitted.states, kept.states)
        assert fitted.scores.tolist() == sorted(u)

    def test_the_center_is_the_mean_and_states_have_length_1(self) -> None:
        states, u, kinds = reference()
        fitted, _ = fit_neighbours("perplexity", READS, states + 5, u, kinds)
        assert fitted.center == pytest.approx(states.mean(axis=0) + 5, abs=1e-6)
        lengths = np.linalg.norm(fitted.states.astype(float), axis=2)
        assert lengths == pytest.approx(np.ones((60, 2)), abs=2e-3)

    def test_too_few_answers(self) -> None:
        states, u, kinds = reference(MIN_ANSWERS)
        fit_neighbours("perplexity", READS, states, u, kinds)
        u[0] = NAN
        message = f"{MIN_ANSWERS - 1} answers have both .* 'perplexity'; {MIN_ANSWERS} are needed"
        with pytest.raises(FitError, match=message):
            fit_neighbours("perplexity", READS, states, u, kinds)

    def test_shapes_that_do_not_go_together(self) -> None:
        states, u, kinds = reference()
        for x, scores, of in (
            (states[:50], u, kinds),
            (states, u[:50], kinds),
            (states, u, kinds[:50]),
            (states[:, 0], u, kinds),
            (states[:, :1], u, kinds),
        ):
            with pytest.raises(ValueError, match=r"must be \(n, 2, d\), \(n,\) and \(n,\)"):
                fit_neighbours("perplexity", READS, x, scores, of)


class TestRankAmongNeighbours:
    def test_reads_the_last_layer_and_leaves_out_what_has_no_states(self) -> None:
        records = [*with_states(make_records(80)), *make_records(5)]
        answers = answers_of(records, groups=2)
        fitted, ranks = rank_among_neighbours("perplexity", answers.scores["perplexity"], answers)
        assert fitted.input == NeighbourInput(LAYERS[-1])
        assert (fitted.base, fitted.states.shape) == ("perplexity", (80, 2, WIDTH))
        assert np.isfinite(ranks[:80]).all()
        assert np.isnan(ranks[80:]).all()

    def test_without_states_there_is_none(self) -> None:
        answers = answers_of(make_records(60))
        with pytest.raises(FitError, match="no hidden states"):
            rank_among_neighbours("perplexity", answers.scores["perplexity"], answers)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"center": f32([0, 0])}, r"center \(2,\)"),
        ({"center": f32([[0, 0, 0], [0, 0, 0]])}, r"center \(2, 3\)"),
        ({"center": f32([[0, NAN], [0, 0]])}, "be finite"),
        ({"states": [[EAST, EAST]]}, r"states \(1, 2, 2\)"),
        ({"states": [EAST, NORTH]}, r"states \(2, 2\)"),
        ({"states": [[EAST, EAST], [EAST, (1e6, 0)]]}, "be finite"),
        ({"states": np.empty((0, 2, 2)), "scores": []}, r"scores \(0,\)"),
        ({"states": np.empty((2, 2, 0)), "center": np.empty((2, 0))}, r"center \(2, 0\)"),
        ({"scores": [2.0, 1.0]}, "rising"),
        ({"scores": [1.0, INF]}, "be finite"),
        ({"scores": [[1.0], [2.0]]}, r"scores \(2, 1\)"),
        ({"width": 0.0}, "width is 0.0"),
        ({"width": NAN}, "width is nan"),
        ({"width": INF}, "width is inf"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=rf"neighbours: .*{said}.*calibrate again"):
        by_hand(**changes)


def test_nobody_changes_its_numbers() -> None:
    scores = np.array([1.0, 2.0])
    kept = by_hand(scores=scores)
    scores[0] = 7.0
    assert kept.scores.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        kept.states[0] = 0.0


def test_a_layer_is_a_number_from_0_on() -> None:
    with pytest.raises(ValueError, match="not -1"):
        NeighbourInput(-1)


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "probe.safetensors"
        save_probes(path, {"neighbour_rank": by_hand(), "p_ik": probe()})
        return path

    def test_round_trip_to_the_bit(self, path: Path, tmp_path: Path) -> None:
        back = load_probes(path)
        assert isinstance(back["p_ik"], Probe)
        mine = back["neighbour_rank"]
        assert isinstance(mine, NeighbourRank)
        assert (mine.base, mine.input, mine.width) == ("perplexity", READS, THREEFOLD)
        for name in ("center", "states", "scores"):
            kept, read = getattr(by_hand(), name), getattr(mine, name)
            assert (kept.dtype, kept.tolist()) == (read.dtype, read.tolist())
        again = tmp_path / "again.safetensors"
        save_probes(again, back)
        assert again.read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("keep", [0, 100, -1])
    def test_a_torn_file(self, path: Path, keep: int) -> None:
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ArtifactError, match="is damaged"):
            load_probes(path)

    @pytest.mark.parametrize(
        ("old", "new"), [(b"perplexity", b"perplexitz"), (b"neighbour_rank", b"neighbour_sank")]
    )
    def test_a_changed_description(self, path: Path, old: bytes, new: bytes) -> None:
        path.write_bytes(path.read_bytes().replace(old, new))
        with pytest.raises(ArtifactError, match="is damaged or was altered"):
            load_probes(path)

    @pytest.mark.parametrize("place", range(1, 40))
    def test_a_changed_number(self, path: Path, place: int) -> None:
        content = bytearray(path.read_bytes())
        content[-place] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="is damaged or was altered"):
            load_probes(path)

    @pytest.mark.parametrize(
        "about",
        [
            {"base": "perplexity", "layer": 7},
            {"base": "perplexity", "width": 0.1},
            {"base": "perplexity", "layer": -1, "width": 0.1},
            {"base": "perplexity", "layer": 7, "width": "wide"},
            {"layer": 7, "width": 0.1},
        ],
    )
    def test_a_description_of_something_else(self, path: Path, about: dict[str, Any]) -> None:
        rewrite(path, probes={"neighbour_rank": about})
        with pytest.raises(ArtifactError, match="doesn't describe what it holds"):
            load_probes(path)

    def test_numbers_that_do_not_go_together(self, path: Path) -> None:
        rewrite(path, probes={"neighbour_rank": {"base": "u", "layer": 7, "width": -1.0}})
        with pytest.raises(ArtifactError, match=r"width is -1\.0"):
            load_probes(path)


def of_learned(base: str = "stack") -> NeighbourRank:
    center = np.zeros((2, WIDTH), dtype=np.float32)
    states = np.random.default_rng(0).normal(size=(60, 2, WIDTH))
    states /= np.linalg.norm(states, axis=2, keepdims=True)
    scores = np.linspace(0, 1, 60)
    return NeighbourRank(base, NeighbourInput(LAYERS[1]), center, states.astype(np.float16), scores)


def learned(base: str = "stack") -> Learned:
    return Learned(
        {"linear_probe": probe(), "p_ik": probe(1.0)},
        {"stack": stack("perplexity", "p_true", "linear_probe")},
        {"neighbour_rank": of_learned(base)},
    )


class TestLearned:
    GIVEN = {"perplexity": 0.4, "p_true": 0.3}  # noqa: RUF012

    def test_the_rank_is_that_of_its_base(self) -> None:
        (record,) = with_states(make_records(1))
        for base in ("stack", "p_ik", "perplexity"):
            scores = learned(base).score(record.trace, self.GIVEN)
            expected = of_learned(base).score(record.trace, scores[base])
            assert scores["neighbour_rank"] == expected
            assert 0.0 <= expected <= 1.0
        assert learned().names == ("linear_probe", "p_ik", "stack", "neighbour_rank")

    def test_without_states_or_base_it_is_unknown(self) -> None:
        (bare,) = make_records(1)
        assert math.isnan(learned("perplexity").score(bare.trace, self.GIVEN)["neighbour_rank"])
        (record,) = with_states(make_records(1))
        unknown = learned("perplexity").score(record.trace, {**self.GIVEN, "perplexity": NAN})
        assert math.isnan(unknown["neighbour_rank"])

    def test_reads_and_needs_what_its_base_does_and_the_states(self) -> None:
        assert set(learned().reads("neighbour_rank")) == {"perplexity", "p_true"}
        assert learned().needs("neighbour_rank") == {"hidden", "p_true"}
        assert learned("perplexity").reads("neighbour_rank") == ("perplexity",)
        assert learned("perplexity").needs("neighbour_rank") == {"hidden"}
        assert learned("p_ik").reads("neighbour_rank") == ()

    def test_only_keeps_what_its_base_is_made_of(self) -> None:
        kept = learned().only(frozenset({"neighbour_rank"}))
        assert kept.names == ("linear_probe", "stack", "neighbour_rank")
        kept = learned("p_ik").only(frozenset({"neighbour_rank"}))
        assert kept.names == ("p_ik", "neighbour_rank")
        assert learned().only(frozenset({"stack"})).names == ("linear_probe", "stack")

    def test_survives_in_json_with_its_file_beside_it(self) -> None:
        adapter: TypeAdapter[Learned] = TypeAdapter(LearnedField)
        text = adapter.dump_json(learned())
        back = adapter.validate_json(text, context=load_context(learned().readers))
        assert back.names == learned().names
        (record,) = with_states(make_records(1))
        again = back.score(record.trace, self.GIVEN)
        assert again == pytest.approx(learned().score(record.trace, self.GIVEN))
        other = {**learned().readers, "neighbour_rank": of_learned("p_ik")}
        with pytest.raises(ValueError, match="are not those in the file beside it"):
            adapter.validate_json(text, context=load_context(other))


def test_probes_and_ranks_are_told_apart_by_what_they_read() -> None:
    readers = learned().readers
    assert isinstance(readers["p_ik"].input, ProbeInput)
    assert readers["neighbour_rank"].input.layers == (LAYERS[1],)
