"""Hub ids, the choice of model files, and the cache."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.hub.cache import RepositoryCache, choose_files
from bitnet_numba.hub.model_id import HubReference, checked_reference, parse_reference
from bitnet_numba.model.open import open_source
from tests.hub.server import COMMIT

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(NAMES, NAMES, PATHS, st.none() | PATHS)
def test_an_id_reads_as_it_is_written(org: str, name: str, revision: str, file: str | None) -> None:
    reference = HubReference(f"{org}/{name}", revision, file)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("", "model.gguf", "a/b/c", "/a/b", "./a", "../a", "a/b:", "a/b@", "a/b:../c", "a/b:/c", "a/b@../x"),
        *("a/b:c//d", "a/b@r:c:d", "a b/c", "é/b", "a/b:c\\d", "a/b@r/../../x", "a/b:\x1b[2J"),
    ],
)
def test_invalid_ids(text: str) -> None:
    assert parse_reference(text) is None
    with pytest.raises(ParameterError, match="not a model on the hub"):
        checked_reference(text)


def test_revision_and_file_may_be_given_apart() -> None:
    whole = HubReference("a/b", "r", "f.gguf")
    assert checked_reference("a/b", revision="r", file="f.gguf") == whole
    assert checked_reference("a/b@r:f.gguf", revision="r", file="f.gguf") == whole
    with pytest.raises(ParameterError, match="the revision is given twice, the other is 's'"):
        checked_reference("a/b@r", revision="s")
    with pytest.raises(ParameterError, match="the file is given twice"):
        checked_reference("a/b:f", file="g")
    with pytest.raises(ParameterError, match="correct the revision or the file"):
        checked_reference("a/b", file="../secret")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["README.md", "a.gguf"], ["a.gguf"]),
        (["a-f16.gguf", "a-I2_S.gguf", "config.json", "model.safetensors"], ["a-I2_S.gguf"]),
        (
            ["model-00002-of-00002.safetensors", "x.safetensors", "config.json", "model-00001-of-00002.safetensors"],
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["config.json", "pytorch_model.bin"], []),
        (["model.safetensors"], []),
    ],
)
def test_the_model_of_a_repository(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names, "a/b") == chosen


@pytest.mark.parametrize("names", [["a-f16.gguf", "b.gguf"], ["a-i2_s.gguf", "b-i2_s.gguf", "c.gguf"]])
def test_an_ambiguous_choice_is_an_error(names: list[str]) -> None:
    with pytest.raises(BitNetError, match=r"a/b: holds 2 GGUF files \(.*\); choose one with --file or ':file'"):
        choose_files(names, "a/b")


# ---- the cache -------------------------------------------------------------------------------------------------------
@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RepositoryCache:
    """Cache the embedded model as a file of a repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    cache = RepositoryCache("org/model")
    cache.make_folders()
    cache.blob("content").symlink_to(demo_model_path())
    cache.link(COMMIT, "demo.gguf", "content")
    cache.write_ref("main", COMMIT)
    return cache


@pytest.mark.parametrize(
    "name", ["org/model", "org/model:demo.gguf", f"org/model@{COMMIT}", "org/model@main:demo.gguf"]
)
def test_a_model_in_the_cache_is_opened(name: str, cached: RepositoryCache) -> None:
    source = open_source(name)
    assert source.path == cached.snapshot(COMMIT) / "demo.gguf"
    source.close()


@pytest.mark.parametrize("name", ["org/other", "org/model@v2", "org/model:other.gguf", f"org/model@{'0' * 40}"])
def test_a_missing_model_is_never_downloaded_silently(name: str, cached: RepositoryCache) -> None:
    with pytest.raises(BitNetError) as caught:
        open_source(name)
    assert str(caught.value).endswith(f"correct the path, or fetch it with 'bitnet-numba pull {name}'")


def test_a_file_comes_before_the_hub(cached: RepositoryCache, tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "model").symlink_to(demo_model_path())
    source = open_source("org/model")
    assert source.path == Path("org/model")
    source.close()


def test_a_dangling_link_is_made_again(cached: RepositoryCache) -> None:
    path = cached.snapshot(COMMIT) / "demo.gguf"
    cached.blob("content").unlink()
    assert cached.find(HubReference("org/model")) == []
    cached.blob("other").symlink_to(demo_model_path())
    assert cached.link(COMMIT, "demo.gguf", "other") == path
    assert cached.find(HubReference("org/model")) == [path]
