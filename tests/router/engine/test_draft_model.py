"""The draft model guesses its own greedy continuation, whatever its cache held before."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from llama_cpp import llama_cpp as lib

from router.engine.context import BatchEntry, Context
from router.engine.draft import Ask
from router.engine.draft_model import DraftModel, check_vocabulary
from router.engine.llama import Model
from router.errors import EngineError, ModelError

pytestmark = pytest.mark.model

N_CONTEXT = 512
TEXTS = (
    "The capital of France is Paris. The capital of Germany is",
    "One, two, three, four, five,",
    "Once upon a time there was a little",
)


@pytest.fixture(scope="module")
def draft_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with coarser weights: another model of the same vocabulary."""
    path = tmp_path_factory.mktemp("draft") / "draft-q4_0.gguf"
    params = lib.llama_model_quantize_default_params()
    params.allow_requantize, params.ftype, params.nthread = True, 2, 1
    assert (
        lib.llama_model_quantize(str(model_path).encode(), str(path).encode(), ctypes.byref(params))
        == 0
    )
    return path


@pytest.fixture(scope="module")
def target(model_path: Path) -> Iterator[Model]:
    model = Model(model_path)
    yield model
    model.close()


def draft_model(path: Path, target: Model, *, n_context: int = N_CONTEXT) -> DraftModel:
    return DraftModel(path, target, n_context=n_context, n_seq=3, n_threads=1)


@pytest.fixture(scope="module")
def drafter(draft_path: Path, target: Model) -> Iterator[DraftModel]:
    """One for all tests: what an earlier one left in its cache must not matter."""
    drafter = draft_model(draft_path, target)
    yield drafter
    drafter.close()


@pytest.fixture(scope="module")
def alone(draft_path: Path) -> Iterator[Greedy]:
    model = Model(draft_path)
    with Context(model, n_context=N_CONTEXT, n_seq=1, n_batch=N_CONTEXT, n_threads=1) as context:
        yield Greedy(model, context)
    model.close()


@dataclass(frozen=True)
class Greedy:
    """The draft model without any of the code under test."""

    model: Model
    context: Context

    def tokens(self, text: str) -> list[int]:
        return self.model.tokenize(text, add_special=False, parse_special=False)

    def after(self, tokens: Sequence[int], n: int) -> list[int]:
        """The next `n` tokens, decoded one by one."""
        answer: list[int] = []
        self.context.clear(0)
        piece, start = list(tokens), 0
        while len(answer) < n:
            self.context.decode([BatchEntry(0, piece, start, want_logits=True)])
            token = int(self.context.logits(len(piece) - 1).argmax())
            if self.model.is_end(token):
                break
            answer.append(token)
            piece, start = [token], start + len(piece)
        return answer


def test_guesses_are_the_draft_models_own_greedy_answer(drafter: DraftModel, alone: Greedy) -> None:
    tokens = alone.tokens(TEXTS[0])
    [guesses] = drafter.propose([Ask(1, tokens, 6)])
    assert guesses == alone.after(tokens, 6)
    assert len(guesses) == 6
    assert drafter.seconds_per_guess > 0


def test_what_a_guess_takes_is_known_before_it_is_asked(draft_path: Path, target: Model) -> None:
    drafter = draft_model(draft_path, target)
    try:
        assert drafter.seconds_per_guess > 0
    finally:
        drafter.close()


def test_what_was_not_accepted_is_dropped(drafter: DraftModel, alone: Greedy) -> None:
    tokens = alone.tokens(TEXTS[1])
    [first] = drafter.propose([Ask(0, tokens, 5)])
    other = alone.tokens(" nine")
    for accepted in (0, 2, 5):
        went_on = [*tokens, *first[:accepted], *other]
        assert drafter.propose([Ask(0, went_on, 4)]) == [alone.after(went_on, 4)]
    assert drafter.propose([Ask(0, tokens, 5)]) == [first]  # cut back to the start


def test_a_slot_may_pass_to_another_request(drafter: DraftModel, alone: Greedy) -> None:
    for text in TEXTS:
        tokens = alone.tokens(text)
        assert drafter.propose([Ask(2, tokens, 3)]) == [alone.after(tokens, 3)]


def test_several_at_once_are_guessed_as_one_at_a_time(drafter: DraftModel, alone: Greedy) -> None:
    texts = [alone.tokens(text) for text in TEXTS]
    asks = [Ask(2 - i, tokens, 2 + 2 * i) for i, tokens in enumerate(texts)]
    expected = [alone.after(ask.tokens, ask.most) for ask in asks]
    assert drafter.propose(asks) == expected
    longer = [
        replace(ask, tokens=[*ask.tokens, *guesses[: i + 1]], most=2)
        for i, (ask, guesses) in enumerate(zip(asks, expected, strict=True))
    ]
    assert drafter.propose(longer) == [alone.after(ask.tokens, ask.most) for ask in longer]


def test_a_prompt_longer_than_a_batch_is_read_in_parts(drafter: DraftModel, alone: Greedy) -> None:
    long = (alone.tokens("Rain fell on the hills and on the sea, and nobody minded. ") * 30)[:300]
    short = alone.tokens(TEXTS[2])
    asks = [Ask(0, short, 2), Ask(1, long, 2), Ask(2, long[:270], 2)]
    assert drafter.propose(asks) == [alone.after(ask.tokens, 2) for ask in asks]


def test_it_guesses_no_further_than_its_model_or_its_context(
    draft_path: Path, target: Model, alone: Greedy
) -> None:
    turn = (
        "<|im_start|>user\nSay hello.<|im_end|>\n"
        "<|im_start|>assistant\nHello! How can I help you today?<|im_end|>"
    )
    tokens = alone.model.tokenize(turn, add_special=False, parse_special=True)[:-2]
    drafter = draft_model(draft_path, target, n_context=256)
    try:
        expected = alone.after(tokens, 8)
        assert 0 < len(expected) < 8, "the model was to end here"
        long = (alone.tokens("One, two, three, four, five, six, ") * 30)[:258]
        asks = [Ask(i, long[: 255 + i], 8) for i in range(3)]
        got = drafter.propose(asks)
        assert [len(guesses) for guesses in got] == [2, 1, 0]
        assert got[0] == alone.after(long[:255], 2)
        assert drafter.propose([Ask(0, tokens, 8)]) == [expected]
    finally:
        drafter.close()


def test_a_failing_draft_fails_no_request(
    draft_path: Path,
    target: Model,
    alone: Greedy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("llama_decode failed with status -3")

    asks = [Ask(i, alone.tokens(text), 4) for i, text in enumerate(TEXTS)]
    drafter = draft_model(draft_path, target)
    try:
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(Context, "decode", fail)
            assert drafter.propose(asks) == [[], [], []]
            assert drafter.propose(asks) == [[], [], []]
        assert drafter.propose(asks) == [[], [], []]
    finally:
        drafter.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the draft model failed and will not be asked again: llama_decode failed with status -3"
    ]


class FakeModel:
    """As much of a Model as the comparison of vocabularies looks at."""

    def __init__(self, pieces: Sequence[bytes], *, bos: int = 0, eos: int = 1) -> None:
        self.path = Path("fake.gguf")
        self.n_vocab, self.bos, self.eos = len(pieces), bos, eos
        self._pieces = pieces

    def special_piece(self, token: int) -> str:
        return self._pieces[token].decode(errors="replace")

    def piece(self, token: int) -> bytes:
        return self._pieces[token]


PIECES = (b"<s>", b"</s>", b"a", b"\xc3")


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (FakeModel(PIECES[:3]), "its vocabulary has 3 tokens, not 4"),
        (FakeModel(PIECES, bos=1), "its bos token is 1, not 0"),
        (FakeModel(PIECES, eos=2), "its eos token is 2, not 1"),
        (FakeModel((b"<s>", b"</s>", b"b", b"\xc3")), "its token 2 is 'b', not 'a'"),
        (FakeModel((b"<s>", b"</s>", b"a", b"\xe2")), r"its token 3 is .*xe2.*, not .*xc3"),
    ],
)
def test_another_vocabulary_is_refused(draft: FakeModel, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_vocabulary(cast(Model, draft), cast(Model, FakeModel(PIECES)))


def test_the_same_vocabulary_passes() -> None:
    check_vocabulary(cast(Model, FakeModel(PIECES)), cast(Model, FakeModel(PIECES)))


def test_a_draft_model_of_another_vocabulary_is_refused(draft_path: Path) -> None:
    with pytest.raises(ModelError, match=r"draft-q4_0\.gguf can't guess for fake\.gguf: .* not 4;"):
        draft_model(draft_path, cast(Model, FakeModel(PIECES)))
