"""What generation returns: chunks of text, and a result with the figures observed while it ran."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bitnet_numba.generate.sampling.sampler import TokenLogprob
from bitnet_numba.options import SamplingParams

FinishReason = Literal["stop_token", "stop_string", "length", "context"]


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """What was computed, so that it can be computed again: a receipt is made of it.

    Attributes
    ----------
    prompt_ids : list of int
    params : SamplingParams
        With the seed that was used.
    hidden_leaves : list of str
        SHA-256 of the final hidden states of each 16 positions that tokens were sampled from.
    """

    prompt_ids: list[int]
    params: SamplingParams
    hidden_leaves: list[str]


@dataclass(frozen=True, slots=True, repr=False)
class GenerationResult:
    """A finished generation, and the figures observed while it ran.

    Attributes
    ----------
    text : str
        Generated text, up to the first stop string.
    token_ids : list of int
        Generated tokens: those of a stop string included, the end-of-sequence token not.
    finish_reason : {"stop_token", "stop_string", "length", "context"}
        What ended it: an end-of-sequence token or one of ``stop_token_ids``, a stop string, ``max_tokens``, or a full
        context.
    stop_reason : int, str or None
        The token or the stop string that ended it.
    logprobs : list of TokenLogprob or None
        One for each of ``token_ids``, if requested.
    prompt_tokens, generation_tokens : int
        Number of tokens in the prompt, and in ``token_ids``.
    cached_tokens : int
        Prompt tokens found in the prefix cache, and not computed again.
    prompt_tps : float
        The other prompt tokens per second of the steps that ran them.
    generation_tps : float
        Tokens of later steps per second; 0 if there were none. The first token comes from the prompt's last step and
        does not count; an end-of-sequence token does. Time between steps does not count.
    first_token_ms : float
        Milliseconds that the steps of the prompt took, until the first token was sampled.
    load_ms : float
        Milliseconds that loading the model took.
    peak_memory_mb : float
        The process's peak resident size so far, in 10**6 bytes.
    kernels : dict of str to int
        Calls of each kernel during this generation, counted by the kernels.
    threads : int
        Threads that shared the work.
    isa : str
        Instruction set that the kernels were compiled for.
    head : {"exact", "full"}
        Head mode.
    rescored_rows : int
        Logits recomputed exactly after int8 screening, and all logits of steps that ran again because a choice was
        undecided; steps that used the full head from the start are not counted.
    draft_tokens, accepted_tokens : int
        Tokens that prompt-lookup speculation drafted, and those of them that were accepted.
    record : GenerationRecord or None
        What a receipt needs besides, if it was requested; not part of :meth:`to_dict`.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: int | str | None
    logprobs: list[TokenLogprob] | None
    prompt_tokens: int
    generation_tokens: int
    cached_tokens: int
    prompt_tps: float
    generation_tps: float
    first_token_ms: float
    load_ms: float
    peak_memory_mb: float
    kernels: dict[str, int]
    threads: int
    isa: str
    head: str
    rescored_rows: int
    draft_tokens: int
    accepted_tokens: int
    record: GenerationRecord | None = None

    @property
    def stop_token_id(self) -> int | None:
        """The token that ended it."""
        return self.stop_reason if isinstance(self.stop_reason, int) else None

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:60]}..."
        return (
            f"<GenerationResult {text!r}: {self.generation_tokens} tokens, {self.generation_tps:.1f} tokens/s, "
            f"ended by {self.finish_reason}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "record"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of the text, as soon as it is generated.

    Attributes
    ----------
    text : str
        May be empty in the last chunk only.
    token_ids : list of int
        Tokens since the previous chunk.
    logprobs : list of TokenLogprob or None
        One for each of ``token_ids``, if requested.
    result : GenerationResult or None
        The whole generation, in the last chunk only.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    result: GenerationResult | None = None
