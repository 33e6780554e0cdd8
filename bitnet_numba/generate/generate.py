"""Generation in three layers: tokens, a stream of text, a result."""

from collections.abc import Iterator, Sequence

from bitnet_numba.backends.cpu.kernels.jit import counted
from bitnet_numba.backends.protocol import CacheT, StreamDecoder
from bitnet_numba.generate.peak_memory import peak_memory_mb
from bitnet_numba.generate.request import Request
from bitnet_numba.generate.result import Chunk, FinishReason, GenerationResult
from bitnet_numba.generate.token_stream import TokenStream
from bitnet_numba.text.stop_strings import StopScanner


def stream(tokens: TokenStream[CacheT], decoder: StreamDecoder, load_ms: float) -> Iterator[Chunk]:
    """Turn tokens into pieces of text that never hold half a character or a part of a stop string.

    Returns
    -------
    iterator of Chunk
        One where there is new text, and one at the end, with the result.
    """
    return tokens.transformer.run(_text_events(tokens, decoder, load_ms))


def _text_events(
    tokens: TokenStream[CacheT], decoder: StreamDecoder, load_ms: float
) -> Iterator[Request[CacheT] | Chunk]:
    """Go from chunk to chunk of a stream, and leave to others what must be read for that.

    Yields
    ------
    Request
        Must be done before the next event is asked for.
    Chunk
        As :func:`stream` gives them.
    """
    scanner = StopScanner(tokens.params.stop)
    parts: list[str] = []
    reported = 0
    for event in tokens.events():
        if isinstance(event, Request):
            yield event
            continue
        text = scanner.push(decoder.push(event.id))
        if scanner.stopped:
            break
        if text:
            parts.append(text)
            yield _chunk(tokens, text, reported)
            reported = len(tokens.token_ids)
    else:
        text = scanner.push(decoder.finish()) + scanner.finish()
    parts.append(text)
    reason = "stop" if scanner.stopped else tokens.finish_reason or "length"
    yield _chunk(tokens, text, reported, _result(tokens, "".join(parts), reason, load_ms))


def generate(tokens: TokenStream[CacheT], decoder: StreamDecoder, load_ms: float) -> GenerationResult:
    """Run a generation to its end."""
    return generate_together([(tokens, decoder, load_ms)])[0]


def generate_together(
    streams: Sequence[tuple[TokenStream[CacheT], StreamDecoder, float]],
) -> list[GenerationResult]:
    """Run generations to their end, each as :func:`generate` would alone, from the one thread that calls this.

    Parameters
    ----------
    streams : sequence of tuple
        What :func:`generate` takes, for each of them; all of one transformer.

    Returns
    -------
    list of GenerationResult
        In the same order.

    Raises
    ------
    BaseException
        The first that ended one of them; the others are ended too.
    """
    generations = [_text_events(*each) for each in streams]
    results: dict[int, GenerationResult] = {}
    places: dict[Request[CacheT], int] = {}  # of the generations that wait for something to be read
    ready = list(range(len(streams)))
    while len(results) < len(streams):
        for place in ready:
            outcome = _next_outcome(generations[place])
            if isinstance(outcome, Request):
                places[outcome] = place
            else:
                results[place] = outcome
        if places:  # no request outlives its turn: the logits of the next step find the same memory
            ready = [places.pop(request) for request in streams[0][0].transformer.read(list(places))]
    return [results[place] for place in range(len(streams))]


def _next_outcome(generation: Iterator[Request[CacheT] | Chunk]) -> Request[CacheT] | GenerationResult:
    """Go on until something must be read, or to the end."""
    for event in generation:
        if isinstance(event, Request):
            return event
        if event.result is not None:
            return event.result
    raise RuntimeError("a generation ended without its result")


def _chunk(tokens: TokenStream[CacheT], text: str, start: int, result: GenerationResult | None = None) -> Chunk:
    logprobs = None if tokens.logprobs is None else tokens.logprobs[start:]
    return Chunk(text, tokens.token_ids[start:], logprobs, result)


def _result(tokens: TokenStream[CacheT], text: str, reason: FinishReason, load_ms: float) -> GenerationResult:
    prefill_seconds, *decode_seconds = tokens.step_seconds
    return GenerationResult(
        text=text,
        token_ids=list(tokens.token_ids),
        finish_reason=reason,
        logprobs=None if tokens.logprobs is None else list(tokens.logprobs),
        prompt_tokens=len(tokens.prompt_ids),
        generation_tokens=len(tokens.token_ids),
        cached_tokens=tokens.cached_tokens,
        prompt_tps=_rate(len(tokens.prompt_ids) - tokens.cached_tokens, prefill_seconds),
        generation_tps=_rate(tokens.n_chosen - 1, sum(decode_seconds)),
        first_token_ms=1000 * prefill_seconds,
        load_ms=load_ms,
        peak_memory_mb=peak_memory_mb(),
        kernels=dict(sorted(counted(tokens.work.calls + tokens.sampler.kernel_counts()).items())),
        threads=tokens.transformer.threads,
        isa=tokens.transformer.isa,
        head=tokens.transformer.head,
        rescored_rows=tokens.work.rescored_rows,
        proposed_tokens=tokens.lookup.proposed_tokens,
        accepted_tokens=tokens.lookup.accepted_tokens,
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
