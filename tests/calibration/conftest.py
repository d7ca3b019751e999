"""What the tests of calibrations share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.calibration.told import dear_p_true


@pytest.fixture(autouse=True)
def _dear_p_true() -> Iterator[None]:
    with dear_p_true():
        yield
