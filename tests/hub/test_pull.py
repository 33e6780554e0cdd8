"""Pulls from a hub that fails: what is retried, what is resumed, and which error is raised."""

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from bitnet_numba.errors import (
    AuthenticationError,
    BitNetError,
    DiskSpaceError,
    IntegrityError,
    NetworkError,
    ParameterError,
    RateLimitError,
)
from bitnet_numba.hub.cache import RepositoryCache
from bitnet_numba.hub.model_id import HubReference
from bitnet_numba.hub.pull import Pulled, pull
from bitnet_numba.hub.retry import RetryPolicy
from bitnet_numba.hub.transfer import Progress
from tests.hub.conftest import CONTENT, FAST, NAME
from tests.hub.server import (
    COMMIT,
    REPO,
    FakeHub,
    Fault,
    dies_after,
    reset,
    sends,
    sends_until_closed,
    serving,
    stall,
    status,
)

SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = HubReference(REPO, file=NAME)
HALF = len(CONTENT) // 2


def fetch(reference: HubReference = FILE, **options: Any) -> Pulled:
    return pull(reference, **options)


def partial() -> Path:
    return RepositoryCache(REPO).partial(SHA256)


# ---- success ---------------------------------------------------------------------------------------------------------
def test_a_file_is_stored_where_the_hub_s_library_finds_it(cache: Path) -> None:
    seen: list[Progress] = []
    pulled = fetch(report=seen.append)
    assert pulled.path.read_bytes() == CONTENT
    assert [(file.path, file.sha256, file.size) for file in pulled.files] == [(pulled.path, SHA256, len(CONTENT))]
    assert hf_hub_download(REPO, NAME, local_files_only=True, cache_dir=cache) == str(pulled.path)
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, len(CONTENT), len(CONTENT))
    assert seen[-1].rate > 0
    assert seen[-1].seconds_left == 0


def test_a_cached_file_is_not_downloaded_again(cache: Path, hub: FakeHub) -> None:
    first = fetch()
    assert fetch() == first
    assert len(hub.asked("GET")) == 1


def test_the_same_content_under_another_name_is_linked(cache: Path, hub: FakeHub) -> None:
    fetch()
    hub.files["copy.gguf"] = CONTENT
    assert fetch(HubReference(REPO, file="copy.gguf")).path.read_bytes() == CONTENT
    assert len(hub.asked("GET")) == 1


def test_the_library_s_own_download_serves_a_pull(cache: Path, hub: FakeHub) -> None:
    path = hf_hub_download(REPO, NAME, cache_dir=cache, endpoint=hub.endpoint)
    before = len(hub.asked("GET"))
    assert str(fetch().path) == path
    assert len(hub.asked("GET")) == before


def test_the_only_gguf_is_found(cache: Path, hub: FakeHub) -> None:
    hub.files["README.md"] = b"x"
    assert fetch(HubReference(REPO)).path.name == NAME
    assert fetch(HubReference(REPO), offline=True).path.name == NAME


def test_a_directory_is_downloaded_completely(cache: Path, hub: FakeHub) -> None:
    hub.files = {name: name.encode() for name in ("config.json", "model.safetensors", "tokenizer.json", "x.bin")}
    pulled = fetch(HubReference(REPO, "v1.0"))
    assert pulled.path.is_dir()
    assert {path.name: path.read_bytes() for path in pulled.path.iterdir()} == {
        name: name.encode() for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    assert pulled.size == sum(len(file.path.name) for file in pulled.files)
    assert fetch(HubReference(REPO, "v1.0"), offline=True) == pulled


def test_a_file_in_a_folder_of_a_branch_with_a_slash(cache: Path, hub: FakeHub) -> None:
    hub.files["sub/model.gguf"] = b"GGUF"
    reference = HubReference(REPO, "refs/pr/1", "sub/model.gguf")
    assert fetch(reference).path.read_bytes() == b"GGUF"
    assert fetch(reference, offline=True).path.read_bytes() == b"GGUF"


# ---- retries and resumption ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at", ["HEAD", "GET"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (reset, "trying again"),
        (stall, "the server does not respond"),
        (status(503), "answers 503"),
        (status(500), "answers 500"),
        (status(408), "answers 408"),
        (status(429, Retry_After="0"), "answers 429"),
    ],
    ids=["reset", "stall", "503", "500", "408", "429"],
)
def test_a_transient_failure_is_reported_and_retried(
    at: str, fault: Fault, told: str, cache: Path, hub: FakeHub
) -> None:
    hub.fail(fault, fault, at=at)
    said: list[str] = []
    assert fetch(say=said.append).path.read_bytes() == CONTENT
    assert len(said) == 2
    assert all(told in line for line in said)


@pytest.mark.parametrize("stalls", [False, True], ids=["dies", "stalls"])
def test_a_transfer_resumes_where_it_broke(stalls: bool, cache: Path, hub: FakeHub) -> None:
    hub.fail(dies_after(1_000, stalls=stalls), dies_after(500, stalls=stalls))
    assert fetch().files[0].sha256 == SHA256
    assert hub.asked("GET") == [None, "bytes=1000-", "bytes=1500-"]


def test_attempts_are_counted_from_the_last_received_byte(cache: Path, hub: FakeHub) -> None:
    hub.fail(*[dies_after(100)] * (3 * FAST.attempts))
    assert fetch().files[0].sha256 == SHA256


def test_the_next_process_resumes(cache: Path, hub: FakeHub) -> None:
    hub.fail(dies_after(HALF), *[reset] * FAST.attempts)
    with pytest.raises(NetworkError, match="tried 3 times: check the network"):
        fetch()
    assert partial().read_bytes() == CONTENT[:HALF]
    assert fetch().path.read_bytes() == CONTENT
    assert hub.asked("GET")[-1] == f"bytes={HALF}-"
    assert not partial().exists()


def test_an_interruption_keeps_the_received_bytes(cache: Path, hub: FakeHub) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(report=interrupt)
    kept = partial().stat().st_size
    assert kept > 0
    assert fetch().path.read_bytes() == CONTENT
    if kept < len(CONTENT):
        assert hub.asked("GET")[-1] == f"bytes={kept}-"


@pytest.mark.parametrize(
    ("left", "fault", "asked"),
    [
        (CONTENT[:HALF], None, [f"bytes={HALF}-"]),
        (CONTENT, None, []),
        (CONTENT + b"more", None, [None]),
        (CONTENT[:HALF], sends(b"", 416), [f"bytes={HALF}-", None]),
        (CONTENT[:HALF], sends(CONTENT), [f"bytes={HALF}-"]),
        (
            CONTENT[:HALF],
            sends(CONTENT[9:], 206, Content_Range=f"bytes 9-{len(CONTENT) - 1}/{len(CONTENT)}"),
            [f"bytes={HALF}-"] * 2,
        ),
        (CONTENT[:HALF], sends(CONTENT[HALF:], 206), [f"bytes={HALF}-"] * 2),
    ],
    ids=["half", "whole", "too long", "416", "range ignored", "another part", "unnamed part"],
)
def test_a_partial_file_is_resumed(
    left: bytes, fault: Fault | None, asked: list[str | None], cache: Path, hub: FakeHub
) -> None:
    RepositoryCache(REPO).make_folders()
    partial().write_bytes(left)
    hub.fail(*[fault] * (fault is not None))
    assert fetch().path.read_bytes() == CONTENT
    assert hub.asked("GET") == asked


@pytest.mark.parametrize(
    "fault",
    [
        sends(CONTENT[:HALF]),
        sends(CONTENT + b"more"),
        sends_until_closed(CONTENT[:HALF]),
        sends_until_closed(CONTENT * 2),
    ],
    ids=["short", "long", "short, unsaid", "long, unsaid"],
)
def test_a_wrong_length_is_retried(fault: Fault, cache: Path, hub: FakeHub) -> None:
    hub.fail(fault)
    assert fetch().files[0].sha256 == SHA256


def test_a_wait_grows_and_has_a_limit() -> None:
    policy = RetryPolicy(first_wait=1, longest_wait=5)
    assert [policy.wait(failures) for failures in (1, 2, 3, 4)] == [1, 2, 4, 5]


@pytest.mark.parametrize("retry_after", ["1", formatdate(1e9, usegmt=True)], ids=["seconds", "date"])
def test_the_wait_follows_retry_after(
    retry_after: str, cache: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("bitnet_numba.hub.retry.time.sleep", waited.append)
    hub.fail(status(429, Retry_After=retry_after))
    fetch()
    assert waited == [1.0 if retry_after == "1" else 0.0]


# ---- final failures --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        (status(401), AuthenticationError, "answers 401; set HF_TOKEN"),
        (status(403, X_Error_Code="GatedRepo"), AuthenticationError, "answers 403; set HF_TOKEN"),
        (status(404, X_Error_Code="RepoNotFound"), BitNetError, "check the name, the revision and the file"),
        (status(429), RateLimitError, "try again after some time, or set HF_TOKEN"),
        (status(429, Retry_After="1000"), RateLimitError, "try again after 1e\\+03 s"),
        (status(503), NetworkError, "answers 503; tried 3 times"),
        (status(418), NetworkError, "answers 418"),
        (status(302, Location="/elsewhere"), BitNetError, "not on 127"),
        (sends(b""), NetworkError, "does not answer as a hub does"),
        (reset, NetworkError, "tried 3 times: check the network and the proxy"),
    ],
)
def test_a_final_failure_raises_its_error(
    fault: Fault, error: type[BitNetError], told: str, cache: Path, hub: FakeHub
) -> None:
    hub.fail(*[fault] * FAST.attempts, at="HEAD")
    with pytest.raises(error, match=told) as caught:
        fetch()
    assert caught.type is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b"[]", b'{"sha": "x"}'])
def test_a_list_that_cannot_be_read(answer: bytes, cache: Path, hub: FakeHub) -> None:
    hub.fail(sends(answer), at="list")
    with pytest.raises(NetworkError, match="list of files cannot be read"):
        fetch(HubReference(REPO))


@pytest.mark.parametrize("name", ["../../../evil.gguf", "/evil.gguf", "a//b.gguf", "\x1b[2Jevil.gguf"])
def test_a_list_that_leads_out_of_the_cache(name: str, cache: Path, hub: FakeHub) -> None:
    hub.files = {name: CONTENT}
    with pytest.raises(NetworkError, match="names a file outside the repository") as caught:
        fetch(HubReference(REPO))
    assert str(caught.value).isprintable()
    assert not cache.exists()


@pytest.mark.parametrize(("header", "value"), [("ETag", '".."'), ("ETag", '"a/../../b"'), ("X_Repo_Commit", "../../x")])
def test_a_description_that_leads_out_of_the_cache(header: str, value: str, cache: Path, hub: FakeHub) -> None:
    hub.fail(sends(CONTENT, **{"ETag": '"e"', "X_Repo_Commit": COMMIT, header: value}), at="HEAD")
    with pytest.raises(NetworkError, match="does not answer as a hub does"):
        fetch()
    assert not cache.exists()


def test_a_repository_without_a_model(cache: Path, hub: FakeHub) -> None:
    hub.files = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    with pytest.raises(BitNetError, match=r"holds no \.gguf file"):
        fetch(HubReference(REPO))


def test_bytes_that_differ_are_removed(cache: Path, hub: FakeHub) -> None:
    hub.fail(sends(bytes(len(CONTENT))))
    with pytest.raises(IntegrityError, match=f"expected {SHA256}; it was removed"):
        fetch()
    assert not partial().exists()
    assert fetch().path.read_bytes() == CONTENT


def test_an_unexpected_file_is_not_downloaded(cache: Path, hub: FakeHub) -> None:
    with pytest.raises(IntegrityError, match=f"the hub states the SHA-256 {SHA256}, expected 00"):
        fetch(sha256="0" * 64)
    assert hub.asked("GET") == []


def test_a_known_sha256_is_checked_by_default(cache: Path, hub: FakeHub) -> None:
    hub.repo, name = "microsoft/BitNet-b1.58-2B-4T-gguf", "ggml-model-i2_s.gguf"
    hub.files = {name: CONTENT}
    known = HubReference(hub.repo, file=name)
    with pytest.raises(IntegrityError, match="expected 4221b252"):
        fetch(known)
    assert fetch(HubReference(hub.repo, COMMIT, name)).files[0].sha256 == SHA256
    assert fetch(known, sha256=SHA256).files[0].sha256 == SHA256


def test_a_damaged_file_in_the_cache_is_found(cache: Path) -> None:
    path = fetch().path
    path.resolve().write_bytes(b"damaged")
    for expected in (SHA256, None):  # the hub states it too
        with pytest.raises(IntegrityError, match=r"delete /.*/blobs/.* and pull it again"):
            fetch(sha256=expected)


def test_a_model_that_is_too_small(cache: Path) -> None:
    assert fetch(min_size=len(CONTENT)).size == len(CONTENT)
    with pytest.raises(IntegrityError, match=r"has 256,000 bytes, expected at least 256,001"):
        fetch(min_size=len(CONTENT) + 1)


def test_one_digest_is_not_that_of_many_files(cache: Path, hub: FakeHub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"x"}
    with pytest.raises(ParameterError, match="the model has 2 files; name the file"):
        fetch(HubReference(REPO), sha256=SHA256)


@pytest.mark.parametrize("missing", [1, 0])
def test_the_disk_must_have_room_and_a_margin(missing: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = len(CONTENT) + (50 << 20) - missing
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    if missing:
        with pytest.raises(DiskSpaceError, match="free some space, or set HF_HUB_CACHE"):
            fetch()
    else:
        assert fetch().path.read_bytes() == CONTENT


def test_a_full_disk_keeps_the_received_bytes(cache: Path) -> None:
    def fill(progress: Progress) -> None:
        if progress.done:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskSpaceError, match="the disk is full"):
        fetch(report=fill)
    assert partial().stat().st_size > 0


def test_an_unwritable_cache_is_reported(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(BitNetError, match=r"cannot be written \(Not a directory\); set HF_HUB_CACHE"):
        fetch()


def test_concurrent_pulls_download_once(cache: Path, hub: FakeHub) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch(), range(2))
    assert first == second
    assert len(hub.asked("GET")) == 1


# ---- offline, and tokens ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variable", ["BITNET_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_sends_no_request(variable: str, cache: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "Yes")
    with pytest.raises(NetworkError, match="not in the cache, and this is offline mode"):
        fetch()
    assert hub.requests == []
    monkeypatch.setenv(variable, "0")
    online = fetch()
    monkeypatch.setenv(variable, "on")
    assert fetch() == online


def test_a_token_is_sent_to_the_hub_and_nowhere_else(
    cache: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving({NAME: CONTENT}) as elsewhere:
        hub.fail(status(302, Location=f"{elsewhere.endpoint}/{REPO}/resolve/{COMMIT}/{NAME}"))
        assert fetch().files[0].sha256 == SHA256
        assert {request.authorization for request in hub.requests} == {"Bearer hf_secret"}
        assert [request.authorization for request in elsewhere.requests] == [None]
