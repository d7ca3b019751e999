"""What a gateway tells of itself when it starts."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Gateway


def test_a_calibration_made_with_other_types_of_the_cache_is_said(tmp_path: Path) -> None:
    gateway = Gateway({"kv-type-k": "f16", "context": "512", "slots": "1"}, tmp_path / "log")
    gateway.start()
    assert gateway.stop() == 0
    (warning,) = [line for line in gateway.log.read_text().splitlines() if "  warning  " in line]
    assert ", keys f16, values f16, but the calibration was measured with" in warning
