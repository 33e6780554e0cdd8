"""Chat templates: any text as a template, rendered for a fixed chat."""

import functools
import random

from bitnet_numba.text.sandbox.environment import render_template
from bitnet_numba.text.sandbox.functions import MAX_OUTPUT
from tests.fuzz.target import Target
from tests.text.template_cases import ATTACKS, EXPRESSIONS, MESSAGES, PIECES, REAL_TEMPLATES

VARIABLES = {"messages": MESSAGES, "bos_token": "<s>", "add_generation_prompt": True, "text": "x" * 10_000}
_TAGS = ("{{", "{%", "}}", "%}", "|", "(", "[")


def read(data: bytes) -> None:
    """Render a template.

    Raises
    ------
    AssertionError
        If it wrote more than templates may.
    """
    text = render_template(data.decode("utf-8", "replace"), VARIABLES)
    if len(text) > MAX_OUTPUT:
        raise AssertionError(f"{len(text):,} characters of output, at most {MAX_OUTPUT:,}")


@functools.cache
def seeds() -> dict[str, bytes]:
    """Return templates of real models, and expressions that use all that is allowed."""
    real = {name: source for name, (source, _) in REAL_TEMPLATES.items()}
    return {name: source.encode() for name, source in (real | {source: source for source in EXPRESSIONS}).items()}


@functools.cache
def _fragments() -> tuple[str, ...]:
    """Return what is spliced into templates: short pieces, and whole statements, good and hostile."""
    attacks = [source for source, _ in ATTACKS.values() if len(source) < 300]
    return *PIECES, *EXPRESSIONS, *attacks


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Splice a fragment into a template beside a tag, or in place of what stands between two tags."""
    source = data.decode("utf-8", "replace")
    places = [place for place in range(len(source)) if source.startswith(_TAGS, place)] or [0]
    start, stop = sorted([rng.choice(places), rng.choice(places)])
    if rng.random() < 0.6:
        stop = start
    return (source[:start] + rng.choice(_fragments()) + source[stop:]).encode()


TARGET = Target("template", seeds, read, mutate, max_bytes=1 << 13, timeout_s=10, memory_mb=512)
