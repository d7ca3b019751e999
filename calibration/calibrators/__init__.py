"""From an uncertainty to P(correct).

| kind          | learns                                      | takes                         |
| ------------- | ------------------------------------------- | ----------------------------- |
| `temperature` | one slope on the logit                      | scores strictly in (0, 1)     |
| `platt`       | a logistic curve                            | any; on the logit if better   |
| `beta`        | a logistic curve with a slope at either end | scores strictly in (0, 1)     |
| `histogram`   | a level for each of n^(1/3) bins            | any                           |
| `isotonic`    | the best curve that only falls              | any                           |
| `venn_abers`  | two such curves, between which the truth is | any                           |

All follow scikit-learn's conventions: what is learned ends in ``_``, `fit` returns self, NaN and a
single class are errors. All take weights. A higher uncertainty never gets a higher p_correct, and a
lower one where doubles can tell (`tilt`): who decides by p_correct alone ranks by the raw score
where levels tie. None ever answers 0 or 1: no finite sample makes an answer certain. An uncertainty
that is NaN or infinite gets NaN: unknown stays unknown.

scikit-learn and scipy.optimize are imported where something is fitted, not at the top: a gateway
only predicts, and would wait more than a second for them at every start and give them 100 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibration.calibrators.base import Calibrator
from calibration.calibrators.beta import BetaCalibrator
from calibration.calibrators.choice import CALIBRATORS, FOLDS, choose_calibrator
from calibration.calibrators.histogram import HistogramCalibrator
from calibration.calibrators.isotonic import IsotonicCalibrator
from calibration.calibrators.platt import PlattCalibrator
from calibration.calibrators.temperature import TemperatureCalibrator
from calibration.calibrators.tilt import TILT
from calibration.calibrators.venn_abers import VennAbersCalibrator
from calibration.errors import ArtifactError

__all__ = [
    "CALIBRATORS",
    "FOLDS",
    "TILT",
    "BetaCalibrator",
    "Calibrator",
    "HistogramCalibrator",
    "IsotonicCalibrator",
    "PlattCalibrator",
    "TemperatureCalibrator",
    "VennAbersCalibrator",
    "calibrator_from_dict",
    "choose_calibrator",
]


def calibrator_from_dict(data: Mapping[str, Any]) -> Calibrator:
    """Rebuild the calibrator whose `to_dict` gave `data`; predictions are the same to the bit.

    Raises
    ------
    ArtifactError
        When the kind is unknown or a field is missing or impossible.
    """
    kind = str(data.get("kind"))
    if kind not in CALIBRATORS:
        raise ArtifactError(
            f"unknown kind of calibrator {kind!r}; known are {', '.join(sorted(CALIBRATORS))}"
        )
    return CALIBRATORS[kind].from_dict(data)
