"""What is loaded, as calibrations know it."""

from __future__ import annotations

from dataclasses import asdict

from calibration.artifact import Binding, estimator_versions
from router.engine.messages import GREEDY, EngineInfo


def binding_of(info: EngineInfo) -> Binding:
    """The binding of a calibration made with this engine, greedily, by these estimators."""
    sampler = asdict(GREEDY)
    sampler["logit_bias"] = [list(pair) for pair in GREEDY.logit_bias]
    return Binding(
        model_sha256=info.model_sha256,
        quantisation=info.quantisation,
        template_sha256=info.template_sha256,
        sampler=sampler,
        estimators=estimator_versions(),
        engine_build=info.build,
    )
