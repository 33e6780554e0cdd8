"""The embedded model, once for all tests of evidence."""

from collections.abc import Iterator
from typing import Any

import pytest

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.evidence.facts import ModelIdentity, identify
from tests.evidence.making import receipt_of


@pytest.fixture(scope="session")
def model() -> Iterator[LanguageModel]:
    with bitnet_numba.load("demo") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def identity(model: LanguageModel) -> ModelIdentity:
    return identify(model)


@pytest.fixture
def receipt(model: LanguageModel, identity: ModelIdentity) -> dict[str, Any]:
    return receipt_of(model, identity)


@pytest.fixture
def seeded(model: LanguageModel, identity: ModelIdentity) -> dict[str, Any]:
    return receipt_of(model, identity, temperature=0.9, top_p=0.95, seed=7)
