"""What is loaded, as calibrations know it, and the calibration that belongs to it."""

from __future__ import annotations

from dataclasses import asdict

from calibration import shipped
from calibration.artifact import Calibration
from calibration.binding import Binding, estimator_versions
from calibration.errors import ArtifactMismatch
from router.engine.messages import GREEDY, EngineInfo


def binding_of(info: EngineInfo) -> Binding:
    """The binding of a calibration made with this engine, greedily, by these estimators."""
    sampler = asdict(GREEDY)
    sampler["logit_bias"] = [list(pair) for pair in GREEDY.logit_bias]
    del sampler["grammar"]  # it belongs to a request, as its question does
    return Binding(
        model_sha256=info.model_sha256,
        quantisation=info.quantisation,
        template_sha256=info.template_sha256,
        sampler=sampler,
        estimators=estimator_versions(),
        engine_build=info.build,
    )


def load_calibration(folder: str, info: EngineInfo) -> tuple[Calibration | None, list[str]]:
    """The calibration in `folder`, or the shipped one of this model when `folder` is empty.

    Returns it (None: none ships) with what an operator should know. Raises ArtifactError when the
    folder is unusable, ArtifactMismatch when it was made for something else than is loaded.
    """
    calibration = Calibration.load(folder) if folder else shipped.find(info.model_sha256)
    if calibration is None:
        return None, [
            "no calibration ships for this model, so no answer can be trusted by its score; "
            "make one with `router calibrate --dataset holdout`"
        ]
    if not folder and calibration.binding.template_sha256 != info.template_sha256:
        return None, [
            "the calibration that ships for this model was made with the model's own chat "
            "template, so no answer can be trusted by its score; make one for this `chat_template` "
            "with `router calibrate --dataset holdout`"
        ]
    unread = sorted(calibration.layers - set(info.hidden_layers))
    if unread:
        raise ArtifactMismatch(
            (
                f"hidden states of layers {unread} are needed, but the engine reads those of "
                f"{list(info.hidden_layers)}, which only a restart could change",
            )
        )
    return calibration, calibration.check(binding_of(info))
