"""Whatever a file says, looking into it ends well, or with one line that names the file."""

import json
from pathlib import Path

import pytest

from bitnet_numba.errors import BitNetError
from bitnet_numba.validate.check import Stage, validate_model
from bitnet_numba.validate.inspect import inspect_model
from tests.gguf_cases import BAD_FILES
from tests.model.directory_cases import BAD_DIRECTORIES, good_directory
from tests.model.semantic_cases import BAD_GGUF, good_gguf


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_contradict_their_format(case: str, tmp_path: Path) -> None:
    contents, words = BAD_FILES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(contents)
    validation = validate_model(path)
    assert validation.exit_code == Stage.INSPECTION
    [finding] = validation.findings[Stage.INSPECTION]
    assert finding.startswith(str(path))
    assert words in finding


@pytest.mark.parametrize("case", BAD_GGUF)
def test_files_that_say_what_cannot_be(case: str, tmp_path: Path) -> None:
    """Some of it is seen without loading, and all of it by validation."""
    model = good_gguf()
    BAD_GGUF[case][0](model)
    path = model.write(tmp_path / "toy.gguf")
    _look_into(path)
    assert Stage.INSPECTION <= validate_model(path).exit_code <= Stage.PROJECTIONS


@pytest.mark.parametrize("case", BAD_DIRECTORIES)
def test_directories_that_say_what_cannot_be(case: str, tmp_path: Path) -> None:
    model = good_directory()
    BAD_DIRECTORIES[case][0](model)
    path = model.write(tmp_path / "toy")
    _look_into(path)
    assert Stage.INSPECTION <= validate_model(path).exit_code <= Stage.PROJECTIONS


def _look_into(path: Path) -> None:
    facts, problem = None, ""
    try:
        facts = inspect_model(path, ln_stats=True).to_dict()
    except BitNetError as error:
        problem = str(error)
    if facts is None:
        assert str(path) in problem
        assert "\n" not in problem
    else:
        assert json.loads(json.dumps(facts, allow_nan=False))["path"] == str(path)
