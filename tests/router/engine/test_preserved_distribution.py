"""Speculative decoding draws from the model's own distribution, and the very same tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from router.engine.draft import Ask
from router.engine.lookup import PromptLookup
from router.engine.messages import Sampler
from router.engine.sampling import TokenChooser

FloatArray = NDArray[np.float64]
Guess = Callable[[list[int]], list[int]]
"""Tokens so far -> what may come next."""

N_VOCAB = 6
N_TOKENS = 3
N_RUNS = 12_000
LEVEL = 1e-3
PROMPT = [2]

LOGITS = np.random.default_rng(5).normal(scale=1.2, size=(N_VOCAB, N_VOCAB)).astype(np.float32)
"""A model of the simplest kind: row i holds the logits of what follows the token i."""

SAMPLERS = (Sampler(temperature=0.8), Sampler(temperature=0.8, top_p=0.7))


def most_likely(tokens: list[int]) -> list[int]:
    """What a good draft would guess."""
    first = int(LOGITS[tokens[-1]].argmax())
    return [first, int(LOGITS[first].argmax())]


def arbitrary(tokens: list[int]) -> list[int]:
    """Guesses that have nothing to do with the model, of varying number."""
    return [(3 * tokens[-1] + len(tokens) + i) % N_VOCAB for i in range(sum(tokens) % 4)]


def plain(chooser: TokenChooser, n: int) -> list[int]:
    """`n` tokens after the prompt, without guesses."""
    tokens = list(PROMPT)
    while len(tokens) < len(PROMPT) + n:
        row = LOGITS[tokens[-1]]
        tokens.append(chooser.choose(row, int(row.argmax())))
    return tokens[len(PROMPT) :]


def speculative(chooser: TokenChooser, n: int, guess: Guess) -> list[int]:
    """`n` tokens after the prompt: a guess counts when it is the token drawn."""
    tokens = list(PROMPT)
    while len(tokens) < len(PROMPT) + n:
        guesses = guess(tokens)
        rows = LOGITS[[tokens[-1], *guesses]]  # the step: what follows the last token, each guess
        for row, guessed in zip(rows, [*guesses, None], strict=True):
            tokens.append(chooser.choose(row, int(row.argmax())))
            if tokens[-1] != guessed:
                break
    return tokens[len(PROMPT) : len(PROMPT) + n]


def cheating(chooser: TokenChooser, n: int) -> list[int]:
    """A good draft's guess is taken without drawing where the model finds it likely enough."""
    tokens = list(PROMPT)
    while len(tokens) < len(PROMPT) + n:
        row = LOGITS[tokens[-1]]
        guess = most_likely(tokens)[0]
        shares = np.exp(row - row.max())
        likely = shares[guess] > 0.4 * shares.sum()
        tokens.append(guess if likely else chooser.choose(row, int(row.argmax())))
    return tokens[len(PROMPT) :]


def transitions(sampler: Sampler) -> FloatArray:
    """The chain's exact probabilities: the nucleus before temperature, then temperature."""
    shares = np.exp(LOGITS.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    for row in shares:
        order = np.argsort(-row)
        before = np.concatenate([[0.0], np.cumsum(row[order])[:-1]])
        row[order[before >= sampler.top_p]] = 0.0
    tempered = shares ** (1 / sampler.temperature)
    return np.asarray(tempered / tempered.sum(axis=1, keepdims=True), np.float64)


def p_value(answers: list[list[int]], sampler: Sampler) -> float:
    """Of the chi-square test that the answers' tokens have their exact joint distribution.

    Answers that are expected less than 5 times are counted together; 0.0 for an impossible one.
    """
    matrix = transitions(sampler)
    joint = {
        (a, b, c): matrix[PROMPT[-1], a] * matrix[a, b] * matrix[b, c]
        for a, b, c in product(range(N_VOCAB), repeat=N_TOKENS)
    }
    assert sum(joint.values()) == pytest.approx(1.0)
    seen = Counter((a, b, c) for a, b, c in answers)
    if any(joint[answer] == 0.0 for answer in seen):
        return 0.0
    common = [answer for answer, p in joint.items() if p * len(answers) >= 5]
    observed = [float(seen[answer]) for answer in common]
    expected = [joint[answer] * len(answers) for answer in common]
    rest = len(answers) - sum(expected)
    if rest > 1e-6:
        observed.append(len(answers) - sum(observed))
        expected.append(rest)
    return float(chisquare(observed, expected).pvalue)


def chooser_of(sampler: Sampler, seed: int) -> TokenChooser:
    chosen = Sampler(temperature=sampler.temperature, top_p=sampler.top_p, seed=seed)
    return TokenChooser(chosen, PROMPT)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["temperature", "top_p"])
@pytest.mark.parametrize("guess", [most_likely, arbitrary])
def test_the_distribution_is_the_models_own(sampler: Sampler, guess: Guess) -> None:
    answers = [speculative(chooser_of(sampler, s), N_TOKENS, guess) for s in range(N_RUNS)]
    assert p_value(answers, sampler) > LEVEL


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["temperature", "top_p"])
def test_accepting_without_drawing_is_found_out(sampler: Sampler) -> None:
    answers = [cheating(chooser_of(sampler, s), N_TOKENS) for s in range(N_RUNS)]
    assert p_value(answers, sampler) < LEVEL


@pytest.mark.parametrize("sampler", [*SAMPLERS, Sampler()], ids=["temperature", "top_p", "greedy"])
def test_the_tokens_are_those_drawn_without_guesses(sampler: Sampler) -> None:
    lookup = PromptLookup(1)

    def looked_up(tokens: list[int]) -> list[int]:
        return lookup.propose([Ask(0, tokens, 4)])[0]

    for seed in range(20):
        expected = plain(chooser_of(sampler, seed), 60)
        for guess in (most_likely, arbitrary, looked_up):
            assert speculative(chooser_of(sampler, seed), 60, guess) == expected


def test_penalties_count_the_tokens_drawn_and_no_guesses() -> None:
    sampler = Sampler(
        temperature=0.8, presence_penalty=0.4, frequency_penalty=0.3, repetition_penalty=1.2, seed=3
    )
    expected = plain(TokenChooser(sampler, PROMPT), 60)
    for guess in (most_likely, arbitrary):
        assert speculative(TokenChooser(sampler, PROMPT), 60, guess) == expected
