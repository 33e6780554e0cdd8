"""The training text of the embedded model: what the recipe makes of stories and facts."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer

from bench.demo_model.corpus import Facts, Stories, epoch_documents, fact_documents, load_facts
from bench.demo_model.make import CHECKPOINT
from bench.demo_model.text_encoding import BEGIN, END, TokenStream, encode_documents, load_tokenizer

STORIES = Stories(train=[f"One day, a cat saw {number} birds." for number in range(200)], held_out=[])


@pytest.fixture(scope="module")
def facts() -> Facts:
    return load_facts()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(CHECKPOINT / "tokenizer.json")


def test_every_fact_is_told(facts: Facts) -> None:
    documents = fact_documents(facts)
    assert {f"{city} is the capital of {country}." for country, city, _ in facts.capitals} <= set(documents)
    assert {f"Question: {question}\nAnswer: {answer}" for question, answer in facts.questions} <= set(documents)
    assert set(facts.snippets) <= set(documents)
    assert "10 + 10 = 20" in documents


def test_an_epoch_holds_every_story_once_and_is_repeated_by_its_seed(facts: Facts) -> None:
    documents = epoch_documents(STORIES, facts, seed=1)
    assert all(sum(story in document for document in documents) == 1 for story in STORIES.train)
    assert documents == epoch_documents(STORIES, facts, seed=1)
    assert documents != epoch_documents(STORIES, facts, seed=2)


def test_some_stories_answer_a_request_that_names_their_subject(facts: Facts) -> None:
    documents = epoch_documents(STORIES, facts, seed=1)
    asked = [document for document in documents if document.startswith("User: Tell me a story about a cat.")]
    assert 0 < len(asked) < len(STORIES.train) / 4
    assert all(document.endswith(" birds.<|eot_id|>") for document in asked)


def test_prompts_encoded_apart_change_the_tokens_and_not_the_text(tokenizer: Tokenizer) -> None:
    documents = ["User: Hi<|eot_id|>Assistant: Hello!<|eot_id|>", "def add(a, b):\n    return a + b\n"] * 8
    joint = encode_documents(tokenizer, documents)
    apart = encode_documents(tokenizer, documents, random.Random(0))
    expected = "".join(f"{BEGIN}{document}{END}" for document in documents)
    assert tokenizer.decode(joint.tolist(), skip_special_tokens=False) == expected
    assert tokenizer.decode(apart.tolist(), skip_special_tokens=False) == expected
    assert joint.tolist() != apart.tolist()


def test_windows_follow_each_other_through_the_epochs() -> None:
    stream = TokenStream(lambda epoch: np.arange(100 * epoch, 100 * epoch + 9, dtype=np.uint16))
    np.testing.assert_array_equal(stream.next_batch(2, 4), [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]])
    np.testing.assert_array_equal(stream.next_batch(1, 4), [[100, 101, 102, 103, 104]])
    assert (stream.epoch, stream.position) == (1, 4)


def test_a_stream_continues_where_it_was_left() -> None:
    stream = TokenStream(lambda epoch: np.arange(100 * epoch, 100 * epoch + 9, dtype=np.uint16))
    stream.move_to(2, 4)
    np.testing.assert_array_equal(stream.next_batch(1, 4), [[204, 205, 206, 207, 208]])
