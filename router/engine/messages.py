"""What travels between the engine and its callers: frozen, picklable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from calibration.probes import Probe
from uq.trace import Trace

TOOLS = "tools"
"""The role of a message that declares which tools may be called: a JSON list of OpenAI's."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is ``system``, ``user`` or ``assistant``.

    To a model that can call tools also ``tool``, what one gave back, and `TOOLS`. An assistant's
    calls stand in its text as it wrote them.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the next token is drawn. The default is greedy decoding, what calibrations are made with.

    Applied in this order: repetition, presence and frequency penalties and `logit_bias` on the
    logits; then `top_k`, `top_p`, `min_p` on the probabilities; then `temperature`; then the draw
    (llama.cpp's order). `repetition_penalty` looks at prompt and answer; `presence_penalty` and
    `frequency_penalty` look at the answer alone (OpenAI's meaning). A token that the `grammar` (in
    GBNF, with the rule ``root``) does not allow is taken out, and the next one drawn from the rest.
    """

    temperature: float = 0.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    grammar: str = ""


GREEDY = Sampler()


@dataclass(frozen=True, slots=True, eq=False)
class Exits:
    """When the engine gives up on an answer that would be escalated anyway.

    Attributes
    ----------
    gate : a probe on the prompt's end, asked before anything is generated; None for no gate.
    gate_above : the answer is not begun (finish reason ``"gated"``) when the gate's P(wrong) is
        higher.
    checkpoints : pairs (n, limit), n increasing: the answer is broken off (``"stopped"``) when the
        mean of -log p over its first n tokens is above the limit.
    """

    gate: Probe | None = None
    gate_above: float = 1.0
    checkpoints: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """When to look at an answer that is being made: after `tokens` of it, or `seconds` of waiting.

    Whichever comes first, and not before its first token. The seconds count from the request.
    """

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One question for the engine.

    Attributes
    ----------
    messages : the conversation, rendered with the GGUF's own chat template.
    max_tokens : upper bound on the answer's tokens; None lets the context decide.
    stop : strings that end the answer; they never appear in it.
    top_logprobs : how many of the most likely tokens per step the trace keeps, 0 to 20.
    stream : whether `Engine.stream` should deliver a `TextDelta` per piece of text.
    hidden : whether the trace keeps hidden states, of the layers in `EngineInfo.hidden_layers`.
    exits : when to give up before the answer is finished; None = never.
    look : when `Engine.stream` should deliver a `Partial`; None = never.
    tenant : who asks; what was read of a prompt is reused for the same tenant only.
    """

    messages: tuple[Message, ...]
    sampler: Sampler = GREEDY
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    stream: bool = False
    hidden: bool = False
    exits: Exits | None = None
    look: Look | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """`n` answers to one request, drawn independently: sample i with the sampler's seed plus i."""

    request: GenerateRequest
    n: int


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """How likely is each of `continuations` as the beginning of the answer to `messages`?"""

    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """Natural log of the probability of each token of each continuation, in their order."""

    logprobs: tuple[tuple[float, ...], ...]

    def totals(self) -> tuple[float, ...]:
        """The log-probability of each whole continuation."""
        return tuple(sum(tokens) for tokens in self.logprobs)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer that is safe to show: whole characters, no part of a stop string."""

    text: str


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """Milliseconds a request spent waiting for a slot, in prefill, in decode, and on statistics."""

    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    uq: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """The finished answer: its trace (with text and finish reason) and what it took.

    `pieces[i]` is the raw bytes of the trace's token i, what OpenAI's ``logprobs`` field shows;
    `top_pieces[i][j]` those of its j-th most likely alternative.

    `n_reused` of the prompt's tokens were found in the cache instead of being read; `n_accepted` of
    `n_guessed` tokens of speculative decoding were right.
    """

    trace: Trace
    timings: EngineTimings
    pieces: tuple[bytes, ...] = ()
    top_pieces: tuple[tuple[bytes, ...], ...] = ()
    n_reused: int = 0
    n_guessed: int = 0
    n_accepted: int = 0


@dataclass(frozen=True, slots=True)
class Partial:
    """The answer so far, once, where the request's `look` is due before the answer ends.

    It is the completion that there would be if the answer were broken off here (``"stopped"``).
    """

    completion: Completion


StreamPart = TextDelta | Partial | Completion
"""What `Engine.stream` delivers; the Completion comes last."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to load the engine.

    Attributes
    ----------
    context : tokens one request may use, prompt and answer together.
    slots : requests worked on at once; the cache holds `context` tokens for each.
    queue : requests that may wait for a slot before one is refused as busy.
    queue_seconds : how long one may have to wait, by estimate, before it is refused as well; 0
        sets no limit.
    threads : CPU threads; 0 takes one per physical core that this process may use.
    prefill_chunk : prompt tokens read at once; between two chunks the others get their tokens.
    n_gpu_layers : ``"auto"`` offloads as many layers as fit, else a number of layers.
    main_gpu : the device for what is not split among several.
    tensor_split : share of the layers for each device; empty lets llama.cpp choose.
    flash_attn : ``"auto"``, ``"on"`` or ``"off"``.
    kv_type_k, kv_type_v : ggml's name of the type of cached keys and values, or ``"auto"``.
    mmap, mlock : map the model file into memory; keep it there.
    numa : ``"off"``, or how llama.cpp places its threads: ``"distribute"``, ``"isolate"``.
    speculative : ``"off"``, ``"lookup"`` (guess what the text before says) or ``"draft"``.
    draft_model_path : the GGUF that guesses, of the same vocabulary; for ``"draft"`` only.
    draft_tokens : most tokens guessed at once.
    prefix_folder : where system prompts' caches are kept across restarts; empty for nowhere.
    chat_template : the source of a template (Jinja) in place of the model's own; empty for none.
    tools : whether the template must be able to tell the model of tools.
    hidden_layers : layers whose states a request may ask for, negative ones counted from the end;
        None takes `default_hidden_layers`, an empty tuple none.
    """

    model_path: str
    context: int = 2048
    slots: int = 8
    queue: int = 64
    queue_seconds: float = 0.0
    threads: int = 0
    prefill_chunk: int = 256
    n_gpu_layers: int | str = "auto"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    flash_attn: str = "auto"
    kv_type_k: str = "auto"
    kv_type_v: str = "auto"
    mmap: bool = True
    mlock: bool = False
    numa: str = "off"
    speculative: str = "off"
    draft_model_path: str = ""
    draft_tokens: int = 15
    prefix_folder: str = ""
    chat_template: str = ""
    tools: bool = False
    hidden_layers: tuple[int, ...] | None = None


def default_hidden_layers(n_layer: int) -> tuple[int, ...]:
    """The 8th layer from the end, which the founding paper reads, and four around it.

    A probe on the mean over several layers is often better than one on any single layer
    (RouterXBench, arXiv:2602.11877).
    """
    layers = {
        int(0.4 * n_layer),
        int(0.55 * n_layer),
        n_layer - 8,
        int(0.85 * n_layer),
        n_layer - 2,
    }
    return tuple(sorted(layer for layer in layers if layer >= 0))


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is loaded: the facts a calibration is bound to, and those `doctor` shows."""

    model_path: str
    model_sha256: str
    model_name: str
    architecture: str
    quantisation: str
    template_sha256: str
    n_vocab: int
    n_layer: int
    n_context: int
    """Tokens one request may use, prompt and answer together."""
    n_slots: int
    n_threads: int
    build: str
    """Versions of llama-cpp-python and of llama.cpp, and types that were chosen for the cache."""
    offload: str
    """For people: ``cpu``, or the device and number of layers offloaded."""
    hidden_layers: tuple[int, ...] = ()
    """Layers whose states a request may ask for, counted from 0."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment's load, for metrics."""

    active: int
    waiting: int
    n_slots: int
    decoded_tokens: int
    prefilled_tokens: int
    restarts: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)
