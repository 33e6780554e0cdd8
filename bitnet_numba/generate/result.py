"""What generation gives out: pieces of text, and a result with what was observed."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bitnet_numba.backends.cpu.candidates import HeadType
from bitnet_numba.generate.sampler import TokenLogprob

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation, and what was observed while it ran.

    Attributes
    ----------
    text : str
        What was generated, up to the first stop string.
    token_ids : list of int
        What was generated, with the tokens of a stop string, without the end-of-sequence token.
    finish_reason : {"stop", "length"}
        Whether an end-of-sequence token or a stop string ended it, or ``max_tokens`` or the context.
    logprobs : list of TokenLogprob or None
        One for each of ``token_ids``, where asked for.
    prompt_tokens, generation_tokens : int
        How many tokens the prompt has, and are in ``token_ids``.
    cached_tokens : int
        How many tokens of the prompt were not read, since a sequence before had begun with them.
    prompt_tps : float
        The other tokens of the prompt per second of the step that read them.
    generation_tps : float
        Tokens of later steps per second; 0 where there were none. The first token comes from the prompt's step and is
        not among them; an end-of-sequence token is. Time that the program spends on other things between steps does
        not count.
    first_token_ms : float
        Milliseconds from the start of the prompt's step to the first token.
    load_ms : float
        Milliseconds that loading the model took.
    peak_memory_mb : float or None
        The process's largest resident size so far, in 10**6 bytes; ``None`` where the system does not tell.
    kernels : dict of str to int
        Calls of each kernel during this generation, counted by the kernels.
    threads : int
        Threads that shared the work.
    isa : str
        The instruction set that the kernels were compiled for.
    head : {"exact", "f16", "int8"}
        How the output head ran.
    rescored_rows : int
        Logits that ``"exact"`` computed exactly in all steps but those that asked for all from the start; of those that
        were read again, all count.
    proposed_tokens, accepted_tokens : int
        How many tokens ``lookup`` proposed, and how many of them were what was chosen then.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None
    prompt_tokens: int
    generation_tokens: int
    cached_tokens: int
    prompt_tps: float
    generation_tps: float
    first_token_ms: float
    load_ms: float
    peak_memory_mb: float | None
    kernels: dict[str, int]
    threads: int
    isa: str
    head: HeadType
    rescored_rows: int
    proposed_tokens: int
    accepted_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as what JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the text, as it is generated.

    Attributes
    ----------
    text : str
        May be empty in the last chunk only.
    token_ids : list of int
        Tokens taken since the chunk before.
    logprobs : list of TokenLogprob or None
        One for each of ``token_ids``, where asked for.
    result : GenerationResult or None
        The whole generation, in the last chunk only.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    result: GenerationResult | None = None
