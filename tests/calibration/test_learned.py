"""What was learned: what it reads, what it costs, and what of it has to be kept."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from calibration.learned import Learned, LearnedField, load_context
from calibration.probes import Probe, ProbeInput
from calibration.stack import Stack
from calibration.stack_fit import fit_stack
from tests.calibration.test_fit import make_records
from tests.calibration.told import LAYERS, WIDTH, with_states
from uq import get_estimator

TYPE: TypeAdapter[Learned] = TypeAdapter(LearnedField)


def probe(bias: float = 0.0) -> Probe:
    """A linear probe on the answer's last token that reads one direction."""
    weights = np.zeros((1, WIDTH), dtype=np.float32)
    weights[0, :4] = (1.0, -1.0, 1.0, 1.0)
    return Probe(
        ProbeInput("answer_last", LAYERS),
        np.zeros(WIDTH, dtype=np.float32),
        np.ones(WIDTH, dtype=np.float32),
        ((weights, np.array([bias], dtype=np.float32)),),
    )


@cache
def stack(*names: str) -> Stack:
    """A stack over signals that all tell."""
    rng = np.random.default_rng(0)
    wrong = rng.random(200) < 0.5
    return fit_stack({name: wrong + rng.normal(size=200) for name in names}, wrong)


def learned() -> Learned:
    return Learned(
        {"linear_probe": probe(), "p_ik": probe(1.0)},
        {
            "stack": stack("perplexity", "p_true", "linear_probe"),
            "cheap_stack": stack("perplexity", "margin"),
        },
    )


def test_reads_the_registered_estimators_behind_a_name() -> None:
    assert set(learned().reads("stack")) == {"perplexity", "p_true"}
    assert set(learned().reads("cheap_stack")) == {"perplexity", "margin"}
    assert learned().reads("p_ik") == ()
    assert learned().reads("margin") == ("margin",)


def test_needs_the_signals_of_all_parts() -> None:
    assert learned().needs("stack") == {"hidden", "p_true"}
    assert learned().needs("cheap_stack") == frozenset()
    assert learned().needs("p_ik") == {"hidden"}
    assert learned().needs("p_true") == get_estimator("p_true").needs == {"p_true"}


def test_only_keeps_what_the_named_are_made_of() -> None:
    kept = learned().only(frozenset({"stack"}))
    assert (set(kept.probes), set(kept.stacks)) == ({"linear_probe"}, {"stack"})
    assert learned().only(frozenset({"cheap_stack", "p_ik"})).names == ("p_ik", "cheap_stack")
    assert learned().only(frozenset({"perplexity"})).names == ()


def test_scores_probes_first_and_stacks_from_them() -> None:
    (record,) = with_states(make_records(1))
    given = {"perplexity": 0.4, "p_true": 0.3, "margin": 0.2}
    scores = learned().score(record.trace, given)
    assert scores["linear_probe"] == probe().score(record.trace)
    parts = {**given, "linear_probe": scores["linear_probe"]}
    expected = learned().stacks["stack"].score(parts)
    assert scores["stack"] == pytest.approx(float(expected))
    assert {name: scores[name] for name in given} == given


def test_an_answer_without_states_has_no_probe_score() -> None:
    (record,) = make_records(1)
    scores = learned().score(record.trace, {"perplexity": math.nan, "margin": math.nan})
    for name in ("linear_probe", "p_ik", "stack", "cheap_stack"):
        assert math.isnan(scores[name])


class TestInJson:
    def test_survives_with_its_probes_beside_it(self) -> None:
        one = learned()
        text = TYPE.dump_json(one)
        read = TYPE.validate_json(text, context=load_context(one.probes))
        assert read.names == one.names
        assert TYPE.dump_json(read) == text
        assert b"weights" not in text

    @pytest.mark.parametrize(
        "beside",
        [
            {},
            {"linear_probe": probe()},
            {"linear_probe": probe(), "p_ik": probe(1.5)},
            {"linear_probe": probe(1.0), "p_ik": probe()},
            {"linear_probe": probe(), "p_ik": probe(1.0), "another": probe()},
        ],
        ids=["none", "one", "altered", "swapped", "more"],
    )
    def test_other_probes_are_refused(self, beside: dict[str, Probe]) -> None:
        text = TYPE.dump_json(learned())
        with pytest.raises(ValidationError, match=r"not those in the file.*copy both files"):
            TYPE.validate_json(text, context=load_context(beside))

    @pytest.mark.parametrize(
        "data", [None, [], {}, {"probes": [], "stacks": {}}, {"probes_digest": ""}]
    )
    def test_anything_else_is_refused(self, data: object) -> None:
        with pytest.raises(ValidationError, match="probes, probes_digest and stacks"):
            TYPE.validate_python(data)

    def test_a_stack_that_can_not_be_used_is_named(self) -> None:
        one = Learned({}, {"stack": stack("perplexity", "margin")})
        data = TYPE.dump_python(one, mode="json")
        del data["stacks"]["stack"]["intercept"]
        with pytest.raises(ValidationError, match="intercept"):
            TYPE.validate_python(data)
