"""Probes worked out by hand, and their file."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calibration.errors import ArtifactError
from calibration.probe_file import load_probes, save_probes
from calibration.probes import Place, Probe, ProbeEstimator, ProbeInput
from tests.uq.traces import make_trace
from uq import Estimator, Trace
from uq.signals import HiddenStates

NAN = math.nan


def f32(values: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(values, dtype=np.float32)


def trace_with(
    prompt_end: Any, answer_last: Any | None = None, layers: tuple[int, ...] = (3, 7)
) -> Trace:
    states = f32(prompt_end)
    last = states if answer_last is None else f32(answer_last)
    return make_trace([-0.5], hidden=HiddenStates(layers, states, last, states + 10))


def by_hand(**changes: Any) -> Probe:
    """logit = 2 h1 - h2 + 1, h = LeakyReLU([z1 + z2, z1 - z2 - 1]), z = (x - (1, 2)) / (2, 4)."""
    values: dict[str, Any] = {
        "input": ProbeInput("prompt_end", (3, 7)),
        "mean": f32([1, 2]),
        "scale": f32([2, 4]),
        "weights": (
            (f32([[1, 1], [1, -1]]), f32([0, -1])),
            (f32([[2, -1]]), f32([1])),
        ),
        "slope": 0.1,
    }
    return Probe(**(values | changes))


def linear(width: int = 2, seed: int = 0) -> Probe:
    rng = np.random.default_rng(seed)
    return Probe(
        ProbeInput("answer_mean", (7,)),
        f32(rng.normal(size=width)),
        f32(rng.uniform(0.5, 2, size=width)),
        ((f32(rng.normal(size=(1, width))), f32([0.3])),),
    )


class TestInput:
    def test_reads_the_mean_over_its_layers_named_absolutely(self) -> None:
        trace = trace_with([[1, 2], [3, 6], [100, 100]], layers=(3, 7, 9))
        read = ProbeInput("prompt_end", (7, 3)).read(trace)
        assert read is not None
        assert read.dtype == np.float32
        assert read.tolist() == [2, 4]
        only = ProbeInput("prompt_end", (9,)).read(trace)
        assert only is not None
        assert only.tolist() == [100, 100]

    def test_reads_at_its_place(self) -> None:
        trace = trace_with([[1, 2], [3, 6]], [[5, 5], [7, 7]])
        at_last = ProbeInput("answer_last", (3, 7)).read(trace)
        at_mean = ProbeInput("answer_mean", (3, 7)).read(trace)
        assert at_last is not None
        assert at_mean is not None
        assert at_last.tolist() == [6, 6]
        assert at_mean.tolist() == [12, 14]

    def test_the_mean_of_large_states_does_not_overflow(self) -> None:
        read = ProbeInput("prompt_end", (3, 7)).read(trace_with([[3e38, 0], [3e38, 0]]))
        assert read is not None
        assert read[0] == pytest.approx(3e38)

    @pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
    def test_what_is_not_finite_is_unknown(self, value: float) -> None:
        trace = trace_with([[1, 2], [3, value]])
        assert ProbeInput("prompt_end", (3, 7)).read(trace) is None
        assert ProbeInput("prompt_end", (3,)).read(trace) is not None

    def test_without_hidden_states_or_the_layer_nothing_is_known(self) -> None:
        assert ProbeInput("prompt_end", (3,)).read(make_trace([-0.5])) is None
        assert ProbeInput("prompt_end", (3, 8)).read(trace_with([[1, 2], [3, 6]])) is None

    @pytest.mark.parametrize("layers", [(), (3, 3), (-1,)])
    def test_layers_are_different_numbers(self, layers: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="different numbers from 0 on"):
            ProbeInput("prompt_end", layers)

    def test_an_unknown_place_is_refused(self) -> None:
        with pytest.raises(ValueError, match="can't read at 'middle'; places are prompt_end"):
            ProbeInput(cast(Place, "middle"), (1,))


class TestProbe:
    def test_two_layers_by_hand(self) -> None:
        # x = (5, 10): z = (2, 2), h = (4, leaky(-1) = -0.1), logit = 8 + 0.1 + 1
        # x = (-1, 2): z = (-1, 0), h = (-0.1, -0.2), logit = -0.2 + 0.2 + 1
        assert by_hand().predict([[5, 10], [-1, 2]]) == pytest.approx([9.1, 1.0])

    def test_one_layer_by_hand(self) -> None:
        probe = by_hand(weights=((f32([[3, -1]]), f32([0.5])),))
        assert probe.predict([[5, 10]]) == pytest.approx([3 * 2 - 2 + 0.5])

    def test_score_is_the_probability_of_being_wrong(self) -> None:
        trace = trace_with([[-1, 2], [-1, 2]])
        assert by_hand().score(trace) == pytest.approx(1 / (1 + math.exp(-1)))
        sure = by_hand(weights=((f32([[-1e4, 0]]), f32([0])),))
        assert sure.score(trace_with([[5, 0], [5, 0]])) == 0.0
        assert sure.score(trace_with([[-5, 0], [-5, 0]])) == 1.0

    def test_rows_that_are_not_finite_get_nan_and_others_don_t(self) -> None:
        logits = by_hand().predict(f32([[5, 10], [NAN, 10], [math.inf, 10], [5, -math.inf]]))
        assert logits[0] == pytest.approx(9.1)
        assert np.isnan(logits[1:]).all()

    def test_what_overflows_is_unknown(self) -> None:
        assert np.isnan(by_hand().predict([[3e38, 3e38]])).all()
        assert math.isnan(by_hand().score(trace_with([[3e38, 3e38], [3e38, 3e38]])))

    def test_a_trace_that_lacks_what_it_reads_gets_nan(self) -> None:
        assert math.isnan(by_hand().score(make_trace([-0.5])))
        assert math.isnan(by_hand().score(trace_with([[1, NAN], [3, 6]])))
        assert math.isnan(by_hand().score(trace_with([[1, 2, 3], [3, 6, 9]])))  # another model's

    def test_states_of_another_width_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(1, 3\), but this probe reads \(n, 2\)"):
            by_hand().predict([[1, 2, 3]])

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"mean": f32([1, 2, 3])}, r"mean \(3,\) and scale \(2,\)"),
            ({"mean": f32([]), "scale": f32([])}, "must both be"),
            ({"weights": ()}, "last layer must have one output"),
            ({"weights": ((f32([[1, 1], [1, -1]]), f32([0, -1])),)}, "one output"),
            ({"weights": ((f32([[1, 1, 1]]), f32([0])),)}, "layer 1 has weights"),
            ({"weights": ((f32([[1, 1]]), f32([[0]])),)}, "layer 1 has weights"),
            ({"weights": ((f32([[NAN, 1]]), f32([0])),)}, "finite"),
            ({"scale": f32([1, 0])}, "scales positive"),
            ({"slope": 2.0}, "slope"),
            ({"slope": NAN}, "slope"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ArtifactError, match=said):
            by_hand(**changes)

    def test_nobody_changes_its_numbers(self) -> None:
        mean = f32([1, 2])
        probe = by_hand(mean=mean)
        mean[0] = 99
        assert probe.mean.tolist() == [1, 2]
        with pytest.raises(ValueError, match="read-only"):
            probe.weights[0][0][0, 0] = 5


def test_an_estimator_of_it() -> None:
    estimator = ProbeEstimator("trained_probe", 2, by_hand())
    assert isinstance(estimator, Estimator)
    assert (estimator.name, estimator.version) == ("trained_probe", 2)
    assert estimator.needs == frozenset({"hidden"})
    assert estimator.access == "hidden"
    trace = trace_with([[1, 2], [3, 6]])
    assert estimator.score(trace) == by_hand().score(trace)
    assert math.isnan(estimator.score(make_trace([-0.5])))


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "new" / "probes.safetensors"
        save_probes(path, {"trained/probe": by_hand(), "linear": linear(5)})
        return path

    def test_round_trip_to_the_bit(self, path: Path) -> None:
        back = load_probes(path)
        assert set(back) == {"trained/probe", "linear"}
        states = np.random.default_rng(0).normal(size=(20, 5))
        straight, mine = back["linear"], back["trained/probe"]
        assert isinstance(straight, Probe)
        assert isinstance(mine, Probe)
        assert np.array_equal(straight.predict(states), linear(5).predict(states))
        assert (mine.input, mine.slope) == (by_hand().input, by_hand().slope)
        assert np.array_equal(mine.predict(states[:, :2]), by_hand().predict(states[:, :2]))

    def test_the_same_probes_give_the_same_bytes(self, path: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.safetensors"
        save_probes(other, {"linear": linear(5), "trained/probe": by_hand()})
        assert other.read_bytes() == path.read_bytes()

    def test_no_probes_are_a_file_too(self, tmp_path: Path) -> None:
        save_probes(tmp_path / "none.safetensors", {})
        assert load_probes(tmp_path / "none.safetensors") == {}

    def test_it_is_replaced_in_one_step(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = path.read_bytes()

        def broken(_fd: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="disk full"):
            save_probes(path, {"linear": linear(5, seed=1)})
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"there are no probes at .*train them first"):
            load_probes(tmp_path / "none.safetensors")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"can't be read|damaged"):
            load_probes(tmp_path)

    @pytest.mark.parametrize("keep", [0, 5, 100, -1])
    def test_a_torn_file(self, path: Path, keep: int) -> None:
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ArtifactError, match=r"is damaged or no \.safetensors file"):
            load_probes(path)

    def test_a_changed_number(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="is damaged or was altered"):
            load_probes(path)

    def test_a_changed_description(self, path: Path) -> None:
        content = path.read_bytes()
        assert content.count(b"answer_mean") == 1
        path.write_bytes(content.replace(b"answer_mean", b"answer_last"))
        with pytest.raises(ArtifactError, match="is damaged or was altered"):
            load_probes(path)

    def test_another_format(self, path: Path) -> None:
        rewrite(path, format=99)
        with pytest.raises(ArtifactError, match="has format 99, but this version reads format 1"):
            load_probes(path)

    @pytest.mark.parametrize("metadata", [{}, {"x": "y"}, {"seek_stronger_probes": "[1]"}])
    def test_a_file_of_something_else(self, path: Path, metadata: dict[str, str]) -> None:
        save_file({"a": f32([1])}, path, metadata=metadata)
        with pytest.raises(ArtifactError, match="is no file of probes"):
            load_probes(path)

    @pytest.mark.parametrize(
        "about",
        [
            {"layers": [3, 7]},
            {"place": "middle", "layers": [3], "n_weights": 1, "slope": 0.1},
            {"place": "prompt_end", "layers": [3], "n_weights": 3, "slope": 0.1},
            {"place": "prompt_end", "layers": [3], "n_weights": "1", "slope": 0.1},
            7,
        ],
    )
    def test_a_description_of_something_else(self, path: Path, about: Any) -> None:
        rewrite(path, probes={"linear": about})
        with pytest.raises(ArtifactError, match="doesn't describe what it holds"):
            load_probes(path)

    def test_shapes_that_don_t_go_together(self, path: Path) -> None:
        about = {"place": "prompt_end", "layers": [3], "n_weights": 1, "slope": 0.1}
        rewrite(path, {"p/mean": f32([0]), "p/scale": f32([1, 1])}, probes={"p": about})
        with pytest.raises(ArtifactError):
            load_probes(path)


def rewrite(path: Path, tensors: dict[str, Any] | None = None, **changes: Any) -> None:
    """Change what the header says, with a digest that fits: as a forger or a bug would."""
    from calibration.probe_file import _digest  # noqa: PLC0415

    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata["seek_stronger_probes"]) | changes
    tensors = load_file(path) if tensors is None else tensors
    header["sha256"] = _digest(header["probes"], tensors)
    save_file(tensors, path, metadata={"seek_stronger_probes": json.dumps(header)})


def test_running_probes_loads_nothing_that_trains() -> None:
    heavy = ("torch", "sklearn", "scipy")
    code = (
        "import sys, calibration.probes, calibration.probe_training; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
