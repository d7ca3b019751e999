from __future__ import annotations

from hypothesis import settings

# A busy machine is no reason to fail: examples have no time limit of their own.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
