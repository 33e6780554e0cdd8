"""The real Llama-3 vocabulary, built from GGUF arrays, against Meta's own encoder."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_numba.text.tokenizer import Tokenizer, tokenizer_from_gguf
from tests.text import llama3

TRICKY_TEXTS = [
    "I'm sure they'LL say it's 'tis, he'd've, WE'RE",
    "1 12 123 1234 12345678 3.14159 1,000,000 ٣٤٥ ½",
    "def f(x):\n\treturn x**2  # why?\n\n\n    if x != 0:\r\n        pass\n",
    "👩‍👩‍👧 🇺🇳 e\u0301 ﬁ",
    "日本語とEnglishとрусский 中文，标点。한국어",
    " \n \n\n  \t x   y\u00a0z \u3000",
    "   leading and trailing   ",
    "<|eot_id|> <|begin_of_text|> [INST] </s>",
    'https://example.org/a_b?c=d&e=%20#f {"json": [null, true]}',
    "\x00\x01\x7f\ufeff\ufffd\U0010ffff",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


@functools.cache
def tokenizer() -> Tokenizer:
    return tokenizer_from_gguf(llama3.metadata())


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_tricky_texts(text: str) -> None:
    ids = tokenizer().encode(text, add_bos=False)
    assert ids == llama3.reference().encode(text, disallowed_special=())
    assert tokenizer().decode(ids) == text


@settings(max_examples=200)
@given(text=st.text(max_size=60) | st.text("aA'tsL \n\r\t1234.<|>_é日", max_size=60))
def test_any_text(text: str) -> None:
    assert tokenizer().encode(text, add_bos=False) == llama3.reference().encode(text, disallowed_special=())


@pytest.mark.parametrize("text", ["a<|eot_id|>b", "<|begin_of_text|><|begin_of_text|>x", "<|eot_id||eot_id|>"])
def test_special_tokens_where_asked(text: str) -> None:
    ids = tokenizer().encode(text, add_bos=False, parse_special=True)
    assert ids == llama3.reference().encode(text, allowed_special="all")


@given(ids=st.lists(st.integers(0, 127_999), max_size=12))
def test_decoding(ids: list[int]) -> None:
    assert tokenizer().decode(ids) == llama3.reference().decode(ids)


def test_what_the_metadata_say() -> None:
    built = tokenizer()
    assert (built.vocab_size, built.bos_id, built.eos_id, built.add_bos) == (128_256, 128_000, 128_001, True)
    assert built.eos_ids == {128_001, 128_009}
    assert built.encode("Hi") == [128_000, 13347]
    assert len(built.notes) == 1
    assert "llama-bpe" in built.notes[0]
