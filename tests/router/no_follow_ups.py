"""What a scripted engine says to requests that its test does not expect."""

from __future__ import annotations

from router.engine.messages import Completion, SampleRequest, ScoreRequest, Scores


class NoFollowUps:
    """The follow-up part of `Engine`, for engines that are only asked for answers."""

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        raise AssertionError(f"nobody should ask for {request}")

    async def score(self, request: ScoreRequest) -> Scores:
        raise AssertionError(f"nobody should ask for {request}")
