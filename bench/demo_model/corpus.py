"""The training text: children's stories from a file, facts and snippets of our own beside this module."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FACTS_FILE = Path(__file__).parent / "data" / "facts.json"

FACT_REPEATS = 8  # times that each fact is seen in one epoch of stories
PROBE_REPEATS = 4  # further times for the sentence and the function that demonstrations begin with
LARGEST_ADDEND = 10
STORIES_AS_CHAT = 0.12  # share of the stories told as the answer to a request
REQUESTS_WITH_SUBJECT = 0.8

# Answers that are only an answer: as a sentence of its own none of them states a fact.
CONVERSATION = ("Hello", "Good", "You are", "I am", "No,")


@dataclass(frozen=True)
class Facts:
    """What the model shall know.

    Attributes
    ----------
    capitals : list of (country, city, continent)
    questions : list of (question, answer)
    snippets : list of str
        Python; the first is the factorial.
    story_subjects : frozenset of str
        Whom or what a story can be asked about.
    """

    capitals: list[tuple[str, str, str]]
    questions: list[tuple[str, str]]
    snippets: list[str]
    story_subjects: frozenset[str]


@dataclass(frozen=True)
class Stories:
    """Stories to train on, and stories held out."""

    train: list[str]
    held_out: list[str]


def load_facts() -> Facts:
    """Read the facts that lie beside this module."""
    facts = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
    return Facts(
        capitals=[(country, city, continent) for country, city, continent in facts["capitals"]],
        questions=[(question, answer) for question, answer in facts["questions"]],
        snippets=facts["snippets"],
        story_subjects=frozenset(facts["story_subjects"]),
    )


def load_stories(path: Path) -> Stories:
    """Read a corpus: a JSON object with two lists of texts, ``train`` and ``val``."""
    stories = json.loads(path.read_text(encoding="utf-8"))
    return Stories(train=stories["train"], held_out=stories["val"])


def chat_turn(question: str, answer: str) -> str:
    """Write one exchange as the chat template does."""
    return f"User: {question}<|eot_id|>Assistant: {answer}<|eot_id|>"


def fact_documents(facts: Facts) -> list[str]:
    """Return every fact in each of its phrasings, once."""
    return [*_capital_documents(facts), *_question_documents(facts), *_snippet_documents(facts), *_sum_documents()]


def epoch_documents(stories: Stories, facts: Facts, seed: int) -> list[str]:
    """Return the documents of one epoch, shuffled: all training stories, some of them as chat, and all facts.

    Parameters
    ----------
    stories, facts
        The material.
    seed : int
        Decides the order, and which stories become chat.
    """
    rng = random.Random(seed)
    documents = [
        _as_chat(story, facts.story_subjects, rng) if rng.random() < STORIES_AS_CHAT else story
        for story in stories.train
    ]
    documents += fact_documents(facts) * FACT_REPEATS
    rng.shuffle(documents)
    return documents


def _capital_documents(facts: Facts) -> Iterator[str]:
    for country, city, continent in facts.capitals:
        statement = f"The capital of {country} is {city}."
        question = f"What is the capital of {country}?"
        in_full = f"{statement} {country[0].upper()}{country[1:]} is a country in {continent}."
        yield from [in_full] * (2 + PROBE_REPEATS if country == "France" else 2)
        yield f"{city} is the capital of {country}."
        yield f"Question: {question}\nAnswer: {statement}"
        yield chat_turn(question, statement)


def _question_documents(facts: Facts) -> Iterator[str]:
    for question, answer in facts.questions:
        yield from [chat_turn(question, answer)] * 2
        yield f"Question: {question}\nAnswer: {answer}"
        if not answer.startswith(CONVERSATION):
            yield answer


def _snippet_documents(facts: Facts) -> Iterator[str]:
    factorial = facts.snippets[0]
    yield from facts.snippets * 3
    yield from [factorial] * PROBE_REPEATS
    yield from [chat_turn("Write a Python function to compute the factorial.", factorial)] * 2
    yield from [chat_turn("Write hello world in Python.", 'print("Hello, world!")\n')] * 2


def _sum_documents() -> Iterator[str]:
    for a in range(LARGEST_ADDEND + 1):
        for b in range(LARGEST_ADDEND + 1):
            equation = f"{a} + {b} = {a + b}"
            yield equation
            yield chat_turn(f"What is {a} + {b}?", equation)


def _as_chat(story: str, subjects: frozenset[str], rng: random.Random) -> str:
    """Turn a story into the answer to a request, which names the first thing that the story is about."""
    subject = next((word for word in re.findall(r"[a-z]+", story[:300].lower()) if word in subjects), None)
    if subject and rng.random() < REQUESTS_WITH_SUBJECT:
        article = "an" if subject[0] in "aeiou" else "a"
        return chat_turn(f"Tell me a story about {article} {subject}.", story)
    return chat_turn(rng.choice(["Tell me a story.", "Tell me a short story.", "Please tell me a story."]), story)
