from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.uq.traces import make_trace, traces
from uq import Trace
from uq.signals import HiddenStates


def vars_of(trace: Trace) -> dict[str, Any]:
    return {field.name: getattr(trace, field.name) for field in fields(Trace)}


def assert_same(a: Trace, b: Trace) -> None:
    for field in fields(Trace):
        np.testing.assert_equal(getattr(a, field.name), getattr(b, field.name), field.name)


@given(traces(min_tokens=0))
def test_dictionary_round_trip(trace: Trace) -> None:
    assert_same(Trace.from_dict(json.loads(json.dumps(trace.to_dict()))), trace)


def test_round_trip_keeps_top_k_end_and_shapes() -> None:
    trace = make_trace(
        [-0.1, -0.7],
        top_ids=[[4, 5, 6], [6, 5, 4]],
        top_logprobs=[[-0.1, -2.5, -4.0], [-0.7, -0.8, -3.0]],
        end_logprob=-0.25,
        finish_reason="length",
    )
    again = Trace.from_dict(trace.to_dict())
    assert_same(again, trace)
    assert again.top_logprobs.shape == (2, 3)
    assert again.end_logprob == -0.25


def test_unknown_end_is_none_in_json() -> None:
    assert make_trace([-0.1]).to_dict()["end_logprob"] is None


def test_a_missing_field_is_named() -> None:
    data = make_trace([-0.1]).to_dict()
    del data["margins"]
    with pytest.raises(KeyError, match="margins"):
        Trace.from_dict(data)


@given(traces(min_tokens=0))
def test_pickle_round_trip(trace: Trace) -> None:
    again = pickle.loads(pickle.dumps(trace))
    assert_same(again, trace)
    arrays = [value for value in vars_of(again).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 7
    assert not any(array.flags.writeable for array in arrays)


def test_pickle_round_trip_of_hidden_states() -> None:
    states = [np.arange(6, dtype=np.float32).reshape(2, 3) + place for place in range(3)]
    hidden = HiddenStates((4, 9), *states)
    again = pickle.loads(pickle.dumps(replace(make_trace([-0.1]), hidden=hidden))).hidden
    assert again.layers == (4, 9)
    for name, expected in zip(("prompt_end", "answer_last", "answer_mean"), states, strict=True):
        np.testing.assert_array_equal(getattr(again, name), expected)
        assert getattr(again, name).dtype == np.float32
        assert not getattr(again, name).flags.writeable


def test_length_is_the_number_of_tokens() -> None:
    assert len(make_trace([])) == 0
    assert len(make_trace([-0.1, -0.2])) == 2


@pytest.mark.parametrize("name", ["offsets", "logprobs", "entropies", "margins"])
def test_an_array_of_another_length_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"trace\.{name} has shape \(3,\), expected \(2,\)"):
        Trace(**(vars_of(make_trace([-0.1, -0.2])) | {name: [0, 0, 0]}))


@pytest.mark.parametrize(
    "fields_",
    [
        {"top_ids": np.zeros((2, 1))},
        {"top_ids": np.zeros((3, 1)), "top_logprobs": np.zeros((3, 1))},
    ],
)
def test_top_k_of_another_shape_is_refused(fields_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must both have shape \(2, k\)"):
        make_trace([-0.1, -0.2], **fields_)


def test_a_trace_is_frozen_and_a_copy() -> None:
    logprobs = np.array([-0.1, -0.2])
    trace = make_trace(logprobs)
    logprobs[0] = -9.0
    assert trace.logprobs[0] == -0.1
    with pytest.raises(ValueError, match="read-only"):
        trace.logprobs[0] = -9.0
    with pytest.raises(FrozenInstanceError):
        trace.__setattr__("text", "other")
