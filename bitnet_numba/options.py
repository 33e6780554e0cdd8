"""Options of loading and of sampling, each declared once: type, range, default, help text, flag, variable.

What vLLM splits into engine arguments, sampling parameters and a parser comes from this one table: the dataclasses,
their docstrings, the command line's options, the reference pages and the ranges in error messages.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from bitnet_numba.declare import Option, check, declare, option_table
from bitnet_numba.errors import ParameterError

KVType = Literal["f16", "f32", "int8"]
HeadMode = Literal["exact", "full"]
HEAD_MODES: tuple[HeadMode, ...] = get_args(HeadMode)

MAX_THREADS = 256
MAX_DRAFT_TOKENS = 15  # with the token before them they are 16, the most that the exact head screens in one step

MODEL = Option(
    None,
    "A .gguf file, a Hugging Face directory (config.json and safetensors), or org/name[@revision][:file] for a model"
    " that 'pull' has fetched.",
    "the model that comes with the package, which 'demo' names too",
    variable="BITNET_GGUF",
    metavar="MODEL",
    short="m",
)


class LoadArguments(TypedDict, total=False):
    """The fields of :class:`LoadOptions`, as keyword arguments."""

    threads: int | None
    kv_type: KVType
    max_context: int | None
    chat_template: str | None
    head: HeadMode
    cached_prefixes: int


@option_table
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model is loaded."""

    threads: int | None = declare(
        None,
        "Number of threads that share the work ({range}); results do not depend on it.",
        "one per core that the process may use, fewer for a small model",
        low=1,
        high=MAX_THREADS,
        variable="BITNET_NUM_THREADS",
        metavar="N",
        short="t",
    )
    kv_type: KVType = declare(
        "f16",
        "Number format of the KV cache; int8 has a scale per head and position, takes half the memory of f16 and costs"
        " some accuracy.",
    )
    max_context: int | None = declare(
        None,
        "Longest sequence in tokens, prompt and answer together.",
        "the context that the model was trained for",
        low=1,
        metavar="N",
    )
    chat_template: str | None = declare(
        None,
        "How chat turns are written: bitnet, llama3, chatml, raw, model (the template inside the model), or a template"
        " file.",
        "the one that suits the model",
        metavar="NAME|FILE",
    )
    head: HeadMode = declare(
        "exact",
        "How logits are computed: exact screens the output head by an int8 copy and computes the candidates exactly,"
        " full computes every logit; both give the same text.",
    )
    cached_prefixes: int = declare(
        4,
        "Number of recent sequences whose KV cache is kept for prefix reuse ({range}). Together they take at most the"
        " memory of one sequence of the whole context, or a page of 256 positions each, and are dropped when memory is"
        " short. Results do not depend on it.",
        high=64,
    )

    def __post_init__(self) -> None:
        check(self)

    def context_of(self, trained: int) -> int:
        """Return the context length in positions; ParameterError if it is longer than the ``trained`` one."""
        context = trained if self.max_context is None else self.max_context
        if context > trained:
            raise ParameterError(f"max_context={context}: the model holds 1 to {trained:,} positions; ask for fewer")
        return context


class SamplingArguments(TypedDict, total=False):
    """The fields of :class:`SamplingParams`, as keyword arguments."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    min_tokens: int
    logprobs: int | None
    ignore_eos: bool
    lookup: int


@option_table
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop; the defaults take the most likely token and change nothing."""

    max_tokens: int = declare(256, "Maximum number of tokens to generate.", low=1, metavar="N", short="n")
    temperature: float = declare(
        0.0,
        "Divide the logits by T before drawing; at 0, ties go to the lower id.",
        "takes the likeliest token",
        high=sys.float_info.max,
        metavar="T",
    )
    top_k: int = declare(0, "Draw from the K most likely tokens.", "keeps all tokens", metavar="K")
    top_p: float = declare(
        1.0,
        "Draw from the fewest most likely tokens whose probabilities reach P together ({range}).",
        "keeps all tokens",
        high=1,
        above_low=True,
        metavar="P",
    )
    min_p: float = declare(
        0.0,
        "Drop tokens less likely than P times the most likely one ({range}).",
        "keeps all tokens",
        high=1,
        metavar="P",
    )
    repetition_penalty: float = declare(
        1.0,
        "Divide positive logits of tokens in the prompt and the answer by X, multiply negative ones ({range}).",
        "turns it off",
        low=0.01,
        high=100,
        metavar="X",
    )
    frequency_penalty: float = declare(
        0.0,
        "Subtract X from a token's logit each time the answer has it ({range}).",
        "turns it off",
        low=-2,
        high=2,
        metavar="X",
    )
    presence_penalty: float = declare(
        0.0,
        "Subtract X once from the logit of each token that the answer has ({range}).",
        "turns it off",
        low=-2,
        high=2,
        metavar="X",
    )
    logit_bias: Mapping[int, float] = declare(
        {},
        "Numbers to add to the logits of these token ids ({range}).",
        low=-100,
        high=100,
        metavar="ID=X",
    )
    seed: int | None = declare(
        None,
        "Seed of the random draws: the same seed gives the same text, on any CPU.",
        "a new one each time",
        high=2**64 - 1,
        variable="BITNET_SEED",
        metavar="N",
    )
    stop: Sequence[str] = declare((), "End before this text, which is no part of the result.", metavar="TEXT")
    stop_token_ids: Sequence[int] = declare(
        (),
        "End at these tokens too, besides the model's end-of-sequence tokens; they are no part of the result.",
        "none",
        metavar="ID",
    )
    min_tokens: int = declare(
        0,
        "Do not choose end-of-sequence tokens and stop_token_ids before the answer has N tokens.",
        "never forbids them",
        metavar="N",
    )
    logprobs: int | None = declare(
        None,
        "Record each token's log probability and those of this many of the most likely tokens ({range}), from the"
        " logits before temperature, penalties and bias.",
        "none",
        high=20,
        metavar="N",
    )
    ignore_eos: bool = declare(False, "Do not stop at the model's end-of-sequence tokens.")
    lookup: int = declare(
        0,
        "Prompt-lookup speculation: draft up to N tokens from the text so far and verify them in one step ({range});"
        " the result stays the same.",
        "takes one token a step",
        high=MAX_DRAFT_TOKENS,
        metavar="N",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.min_tokens > self.max_tokens:
            raise ParameterError(f"min_tokens={self.min_tokens}: is above max_tokens={self.max_tokens}; raise that")
