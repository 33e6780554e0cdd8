"""Read the tokenizer in a GGUF file's metadata: byte-level BPE, or SentencePiece with its scores as merges."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Final

from bitnet_numba.errors import FormatError, UnsupportedError, excerpt
from bitnet_numba.text.vocabulary import (
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    MAX_TOKEN_LENGTH,
    MAX_VOCABULARY,
    SPACE_MARK,
    AddedText,
    TokenizerSpec,
    TokenType,
    Vocabulary,
    byte_of_token,
    turn_ends,
    with_special,
)

LLAMA3_VOCABULARY: Final = 128_256
MAX_JOINED_CHARACTERS: Final = 2**26  # squared lengths of SentencePiece tokens; Gemma's 256,000 tokens need a quarter
MAX_MERGES: Final = 2**21

_TOKENS: Final = "tokenizer.ggml.tokens"
_REMEDY: Final = "the file is damaged or badly converted: download or convert it again"
_NO_END: Final = "no token is named that ends a text; generation stops at its length only: set a stop string"


@dataclass(frozen=True)
class SplittingRules:
    """What a name in ``tokenizer.ggml.pre`` means in llama.cpp (``llama-vocab.cpp``)."""

    patterns: tuple[str, ...]  # one after the other, each splits what the earlier ones left
    ignore_merges: bool = False
    add_bos: bool = False  # unless the file says otherwise


_LLAMA3: Final = SplittingRules((LLAMA3_PATTERN,), ignore_merges=True, add_bos=True)
RULES: Final = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon_e"), _LLAMA3),
    "smaug-bpe": SplittingRules((LLAMA3_PATTERN,)),
    "gpt-2": SplittingRules((GPT2_PATTERN,)),
    "default": SplittingRules(
        (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN.removesuffix(r"|\s+"), r"\p{N}+", "[0-9][0-9][0-9]")
    ),
}


def spec_from_gguf(metadata: Mapping[str, Any]) -> TokenizerSpec:
    """Read the ``tokenizer.ggml`` keys: byte-level BPE (``gpt2``) or SentencePiece (``llama``).

    Raises a FormatError if arrays are missing, malformed, or disagree, an UnsupportedError if the tokenizer or its
    pre-tokenizer is of another kind.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level_spec(metadata)
    if kind == "llama":
        return _sentencepiece_spec(metadata)
    if kind is None:
        raise FormatError("tokenizer.ggml.model: missing; put the tokenizer.json of the model beside it")
    raise UnsupportedError(
        f"tokenizer.ggml.model: {excerpt(kind)} is not known (known: gpt2, llama); convert the model with one of these"
    )


def _byte_level_spec(metadata: Mapping[str, Any]) -> TokenizerSpec:
    vocabulary, notes = _read_vocabulary(metadata, is_byte_level=True)
    rules, assumption = _splitting_rules(metadata, vocabulary)
    merges = _read_merges(metadata)
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in rules.patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    spec = TokenizerSpec(
        vocabulary,
        merges,
        pre_tokenizer=pre_tokenizer,
        later_pre_tokenizer=pre_tokenizer,
        ignore_merges=rules.ignore_merges,
        add_bos=_flag(metadata, "tokenizer.ggml.add_bos_token", default=rules.add_bos),
        notes=(*notes, *assumption),
    )
    return _with_ends(spec, metadata, merges)


def _splitting_rules(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[SplittingRules, tuple[str, ...]]:
    """Return how text is split into words, and notes on assumptions."""
    name = metadata.get("tokenizer.ggml.pre")
    if isinstance(name, str) and name in RULES:
        return RULES[name], ()
    if name is not None:
        known = ", ".join(sorted(RULES))
        raise UnsupportedError(f"tokenizer.ggml.pre: {excerpt(name)} is not known; use a file with one of {known}")
    # Cut-down vocabularies of the family keep its special tokens.
    follows_llama3 = vocabulary.size == LLAMA3_VOCABULARY or "<|begin_of_text|>" in vocabulary.texts.values()
    reason = f"a vocabulary of {vocabulary.size:,} tokens" + (" with Llama-3's" if follows_llama3 else "")
    assumed = "llama-bpe" if follows_llama3 else "gpt-2"
    return RULES[assumed], (f"tokenizer.ggml.pre is missing: {reason} is read as {assumed}",)


def _sentencepiece_spec(metadata: Mapping[str, Any]) -> TokenizerSpec:
    vocabulary, notes = _read_vocabulary(metadata, is_byte_level=False)
    scores = _read_scores(metadata, vocabulary.size)
    adds_space = _flag(metadata, "tokenizer.ggml.add_space_prefix", default=True)
    unknown_id = _token_id(metadata, "unknown", vocabulary.size)
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE_MARK}] if adds_space else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK})
    merges = _merges_from_scores(vocabulary.plain(None), scores)
    spec = TokenizerSpec(
        vocabulary,
        merges,
        normalizer={"type": "Sequence", "normalizers": steps},
        byte_fallback=True,
        unknown=None if unknown_id is None else vocabulary.texts[unknown_id],
        add_bos=_flag(metadata, "tokenizer.ggml.add_bos_token", default=True),
        drops_space=adds_space,
        notes=notes,
    )
    return _with_ends(spec, metadata, merges)


def _with_ends(spec: TokenizerSpec, metadata: Mapping[str, Any], merges: list[tuple[str, str]]) -> TokenizerSpec:
    """Add the tokens that begin and end a text."""
    bos_id, eos_id, eot_id = (_token_id(metadata, name, spec.vocabulary.size) for name in ("bos", "eos", "eot"))
    named = [token_id for token_id in (bos_id, eos_id, eot_id) if token_id is not None]
    vocabulary = with_special(spec.vocabulary, named, merges)
    eos_ids = {token_id for token_id in (eos_id, eot_id) if token_id is not None} | turn_ends(vocabulary)
    notes = spec.notes if eos_ids else (*spec.notes, _NO_END)
    return replace(spec, vocabulary=vocabulary, bos_id=bos_id, eos_id=eos_id, eos_ids=frozenset(eos_ids), notes=notes)


def _read_vocabulary(metadata: Mapping[str, Any], is_byte_level: bool) -> tuple[Vocabulary, tuple[str, ...]]:
    """Return the vocabulary, and notes on tokens that are read differently from what the file says."""
    tokens = _tokens(metadata)
    types = _token_types(metadata, len(tokens))
    tokens, notes = _without_glued_bos(tokens, types, _token_id(metadata, "bos", len(tokens)))
    return Vocabulary(is_byte_level, dict(enumerate(tokens)), _added_texts(tokens, types, is_byte_level)), notes


def _without_glued_bos(
    tokens: list[str], types: Sequence[int], bos_id: int | None
) -> tuple[list[str], tuple[str, ...]]:
    """Return the tokens without the BOS that some converters put before each added one, and a note of it."""
    bos = "" if bos_id is None else tokens[bos_id]
    half = bos[: len(bos) // 2]
    bos = half if bos == half + half else bos
    kinds = (TokenType.CONTROL, TokenType.USER_DEFINED)
    glued = [
        i
        for i, kind in enumerate(types)
        if kind in kinds and bos and tokens[i].removeprefix(bos) not in ("", tokens[i])
    ]
    cut = dict(zip(glued, (tokens[i].removeprefix(bos) for i in glued), strict=True))
    read = [cut.get(i, token) for i, token in enumerate(tokens)]
    if not glued or len(set(read)) != len(read):
        return tokens, ()
    names = ", ".join(excerpt(cut[i]) for i in glued[:3])
    return read, (f"{_TOKENS}: {len(glued):,} added tokens begin with {excerpt(bos)} and are read without it: {names}",)


def _added_texts(tokens: Sequence[str], types: Sequence[int], is_byte_level: bool) -> dict[str, AddedText]:
    is_special = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    added = {tokens[i]: AddedText(i, is_special[TokenType(kind)]) for i, kind in enumerate(types) if kind in is_special}
    for token_id, kind in enumerate(types):
        if kind == TokenType.BYTE and not is_byte_level and byte_of_token(tokens[token_id]) is None:
            raise FormatError(f"{_TOKENS}: byte token {token_id} is {excerpt(tokens[token_id])}, not <0xNN>; {_REMEDY}")
    return added


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens: list[str] = _array(metadata, _TOKENS, str)
    if len(set(tokens)) != len(tokens):
        repeated, _ = Counter(tokens).most_common(1)[0]
        raise FormatError(f"{_TOKENS}: {excerpt(repeated)} stands there twice; {_REMEDY}")
    lengths = list(map(len, tokens))
    if not tokens or not 1 <= min(lengths) <= max(lengths) <= MAX_TOKEN_LENGTH:
        raise FormatError(f"{_TOKENS}: every token has 1 to {MAX_TOKEN_LENGTH:,} characters; {_REMEDY}")
    return tokens


def _token_types(metadata: Mapping[str, Any], n_tokens: int) -> list[int]:
    key = "tokenizer.ggml.token_type"
    if key not in metadata:
        return [int(TokenType.NORMAL)] * n_tokens
    types: list[int] = _array(metadata, key, int)
    if len(types) != n_tokens:
        raise FormatError(f"{key}: {len(types):,} types for {n_tokens:,} tokens; {_REMEDY}")
    unknown = set(types) - set(TokenType)
    if unknown:
        raise FormatError(f"{key}: type {min(unknown)} does not exist; {_REMEDY}")
    return types


def _read_merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Read ``tokenizer.ggml.merges``: two tokens a line, in order of rank."""
    key = "tokenizer.ggml.merges"
    lines = _array(metadata, key, str)
    # Joined and split once: line by line would take most of the time of opening a large vocabulary.
    parts = " ".join(lines).split(" ") if lines else []
    if set(map(str.count, lines, repeat(" "))) - {1} or "" in parts:
        raise FormatError(f"{key}: a line is not two tokens with one space between them; {_REMEDY}")
    return list(zip(parts[::2], parts[1::2], strict=True))


def _read_scores(metadata: Mapping[str, Any], n_tokens: int) -> list[float]:
    """Read ``tokenizer.ggml.scores``, one finite number a token."""
    key = "tokenizer.ggml.scores"
    scores = _array(metadata, key, float)
    if len(scores) != n_tokens:
        raise FormatError(f"{key}: {len(scores):,} scores for {n_tokens:,} tokens; {_REMEDY}")
    if not all(map(math.isfinite, scores)):
        raise FormatError(f"{key}: a score is not finite; {_REMEDY}")
    return [float(score) for score in scores]


def _merges_from_scores(plain: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return the merges that a SentencePiece vocabulary implies, best score first.

    Two neighbouring tokens merge if their joined text is a token, and the joined token's score ranks the merge: Kudo
    and Richardson, "SentencePiece" (2018), ``bpe_model.cc`` of its code.
    """
    effort = sum(len(text) ** 2 for text in plain)
    if effort > MAX_JOINED_CHARACTERS:
        problem = f"the squared lengths of its tokens add up to {effort:,}, at most {MAX_JOINED_CHARACTERS:,} are read"
        raise UnsupportedError(f"{_TOKENS}: {problem}; put the tokenizer.json of the model beside it")
    merges: list[tuple[str, str]] = []
    for text in sorted(plain, key=lambda text: -scores[plain[text]]):
        if byte_of_token(text) is None:
            pairs = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
            merges += [(left, right) for left, right in pairs if left in plain and right in plain]
            if len(merges) > MAX_MERGES:
                problem = f"its tokens imply more than {MAX_MERGES:,} merges"
                raise UnsupportedError(f"{_TOKENS}: {problem}; put the tokenizer.json of the model beside it")
    return merges


def _token_id(metadata: Mapping[str, Any], name: str, n_tokens: int) -> int | None:
    """Read one of the ``tokenizer.ggml.<name>_token_id`` keys; None if it is absent."""
    key = f"tokenizer.ggml.{name}_token_id"
    token_id = metadata.get(key)
    if token_id is None:
        return None
    if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < n_tokens:
        raise FormatError(f"{key}: {excerpt(token_id)} is no id of a vocabulary of {n_tokens:,}; {_REMEDY}")
    return token_id


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    """Read a boolean key, or ``default`` where it is absent."""
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise FormatError(f"{key}: expected true or false, found {excerpt(value)}; {_REMEDY}")
    return value


def _array(metadata: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    if key not in metadata:
        raise FormatError(f"{key}: missing; the file holds no complete tokenizer: get it again")
    values = metadata[key]
    kinds = {float, int} if kind is float else {kind}
    if not isinstance(values, list) or set(map(type, values)) - kinds:
        raise FormatError(f"{key}: expected an array of {kind.__name__}; {_REMEDY}")
    if len(values) > MAX_VOCABULARY:
        raise FormatError(f"{key}: {len(values):,} entries; at most {MAX_VOCABULARY:,}")
    return values
