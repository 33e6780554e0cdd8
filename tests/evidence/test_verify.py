"""Receipts of this program by themselves: every number in them agrees with the others, or it is named."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from bitnet_numba import LanguageModel
from bitnet_numba.errors import BitNetError, EvidenceError, EvidenceUnreadableError
from bitnet_numba.evidence.compare import INFORMATIVE
from bitnet_numba.evidence.consistency import sampling_params
from bitnet_numba.evidence.documents import dump
from bitnet_numba.evidence.facts import ModelIdentity
from bitnet_numba.evidence.merkle import merkle_root
from bitnet_numba.evidence.receipt import make_receipt
from bitnet_numba.evidence.replay import replay
from bitnet_numba.evidence.verify import receipt_schema, verify_document, verify_receipt
from tests.evidence.making import reasons, receipt_of, verdict

SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 1},
    {"max_tokens": 200},
    {"temperature": 0.8, "seed": 1},
    {"temperature": 0.8, "top_k": 9, "min_p": 0.1},
    {"lookup": 8, "max_tokens": 60},
    {"logprobs": 2},
    {"stop": ["ball", "red"], "logit_bias": {5: -1.0}},
]
STILL_TRUE = (
    "model_info.model_path",  # a file may be renamed
    "sampling.lookup",  # speed alone depends on it
    "sampling.logprobs",
    "load_options.max_context",  # the answer is as long with more room
)
"""What a mutant may change besides the informative fields without making the receipt false."""


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_receipt_passes_and_a_second_validator_agrees(
    model: LanguageModel, identity: ModelIdentity, sampling: dict[str, Any]
) -> None:
    receipt = receipt_of(model, identity, **sampling)
    assert reasons(receipt) == ""
    assert verdict(receipt).is_replayable
    fastjsonschema.compile(receipt_schema())(receipt)


@pytest.mark.parametrize("place", ["timestamp", "backend_summary", "hidden_root", "model_info.sha256"])
def test_a_last_newline_is_part_of_a_value(receipt: dict[str, Any], place: str) -> None:
    """As in JSON Schema; Python's ``$`` would overlook it."""
    *parents, last = place.split(".")
    inner = receipt
    for part in parents:
        inner = inner[part]
    inner[last] += "\n"
    assert f"{place}: " in reasons(receipt)
    assert "does not match" in reasons(receipt)


def test_a_stranger_s_field_steers_no_terminal(receipt: dict[str, Any]) -> None:
    receipt["environment"]["\x1b[31m\nPASS"] = 1
    assert reasons(receipt)
    assert reasons(receipt).replace("\n", "").isprintable()


def test_a_file_passes_in_its_canonical_form_alone(receipt: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_bytes(dump(receipt))
    assert verify_receipt(file).passed
    file.write_text(json.dumps(receipt))
    assert [str(finding) for finding in verify_receipt(file).findings] == [
        "file: is not in the canonical form, so it was edited"
    ]


def edit(receipt: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    edited = copy.deepcopy(receipt)
    *outer, last = place.split(".")
    inner = edited
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return edited


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("timestamp", "2026-12-01 10:00:00", "timestamp"),
        ("timestamp", "2019-12-01T10:00:00Z", "before 2020"),
        ("compute_path", "mock", "compute_path"),
        ("unknown", 1, "'unknown' was unexpected"),
        ("environment.PATH", "/bin", "'PATH' does not match"),
        ("prompt_tokens", 6, "prompt_tokens: is 6, prompt_token_ids has 5"),
        ("prompt_sha256", "0" * 64, "prompt_sha256: is not the digest"),
        ("tokens_generated", 39, "tokens_generated: is 39, token_ids has 40"),
        ("tokens_requested", 39, "tokens_requested: is 39"),
        ("hidden_root", "0" * 64, "hidden_root: is not the Merkle root"),
        ("hidden_leaves", ["0" * 64], "has 1 leaves for 40 sampled tokens"),
        ("stop_token_id", 3, "tokens_requested: is 40, 41 were sampled"),
        ("deterministic", False, "deterministic"),
        ("sampling.temperature", 1.0, "sampling.seed: is missing"),
        ("sampling.temperature", 0, "sampling: is not written as"),
        ("sampling.top_k", 5, "sampling: is not written as"),
        ("sampling.top_p", 7.0, "top_p"),
        ("sampling.unknown", 7, "sampling"),
        ("load_options.max_context", 44, ""),
        ("load_options.max_context", 43, "load_options.max_context: is less"),
        ("model_info.vocab_size", 20, "is outside the vocabulary of 20"),
        ("kernels", ["i2s_gemv"], "are not the sorted ids"),
        ("kernel_calls.attention_forward", 1, "kernel_calls.attention_forward: is 1"),
        ("kernel_calls.rope_forward", 1, "kernel_calls.rope_forward: is 1"),
        ("kernel_calls.rmsnorm_forward", 1, "kernel_calls.rmsnorm_forward"),
        ("kernel_calls.embedding_lookup", 1, "is not how this answer can have been made"),
        ("kernel_calls.quantize_absmax_int8", 1, "four times a layer"),
        ("kernel_calls.ffn_relu2_forward", 1, "kernel_calls.ffn"),
        ("kernel_calls.head_rescore", 0, "kernel_calls.head_rescore: 0 is less than"),
        ("performance_baseline.tokens_per_second", 1e6, "tokens_per_second: is 1e+06"),
        ("performance_baseline.decode_ms", 0.0, "work took no time"),
        ("performance_baseline.prefill_ms", 0.0, "work took no time"),
        ("performance_baseline.total_ms", 1e6, "total_ms"),
        ("performance_baseline.average_token_latency_ms", 1e6, "average_token_latency_ms"),
        ("performance_baseline.first_token_latency_ms", 1e6, "first_token_latency_ms"),
        ("performance_baseline.bandwidth_utilization", 1.11, "faster than memory was read"),
        ("performance_baseline.bandwidth_utilization", 1.09, ""),
        ("performance_baseline.memory_usage_mb", 1, "is not of type 'number'"),
        ("corrections", [{}], "corrections[0]"),
    ],
)
def test_what_does_not_fit_is_named(receipt: dict[str, Any], place: str, value: object, reason: str) -> None:
    found = reasons(edit(receipt, place, value))
    assert (reason in found) if reason else (found == "")


def test_a_speed_above_every_memory_is_named(receipt: dict[str, Any]) -> None:
    fast = copy.deepcopy(receipt)
    fast["model_info"] |= {"hidden_size": 2**20, "intermediate_size": 2**22}
    assert "less than any memory takes" in reasons(fast)


def test_every_reason_is_told_at_once(receipt: dict[str, Any]) -> None:
    bad = edit(edit(receipt, "compute_path", "mock"), "prompt_tokens", "five")
    with pytest.raises(EvidenceError, match=r"file: compute_path: .*prompt_tokens: 'five' is not of type") as raised:
        verdict(bad).require("file")
    assert raised.value.exit_code == 15


def test_a_result_that_was_not_recorded_makes_no_receipt(model: LanguageModel, identity: ModelIdentity) -> None:
    with pytest.raises(BitNetError, match="record=True"):
        make_receipt(model, identity, model.generate([1], max_tokens=1))


# ---- mutants ---------------------------------------------------------------------------------------------------------
Mutant = tuple[str, dict[str, Any]]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    if place:
        yield place
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*place, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*place, index))


def mutants(receipt: dict[str, Any]) -> Iterator[Mutant]:
    """Every field removed, retyped, changed a little, doubled, out of order."""
    for place in places(receipt):
        name = ".".join(map(str, place))
        for kind, change in CHANGES.items():
            mutant = copy.deepcopy(receipt)
            holder = mutant
            for part in place[:-1]:
                holder = holder[part]
            if change(holder, place[-1]) and mutant_differs(mutant, receipt):
                yield f"{name} {kind}", mutant
    for index in range(len(receipt) - 1):
        items = list(receipt.items())
        items[index], items[index + 1] = items[index + 1], items[index]
        yield f"{items[index][0]} swapped with the next", dict(items)
    for name in ("added", "Kernels", "hidden_root "):
        yield f"{name} added", {**receipt, name: 1}


def mutant_differs(mutant: dict[str, Any], receipt: dict[str, Any]) -> bool:
    return dump(mutant) != dump(receipt)


def remove(holder: Any, key: Any) -> bool:
    del holder[key]
    return True


def retype(holder: Any, key: Any) -> bool:
    value = holder[key]
    holder[key] = str(value) if isinstance(value, int | float) else 1 if isinstance(value, str) else "x"
    return True


def to_null(holder: Any, key: Any) -> bool:
    holder[key] = None
    return True


def to_float(holder: Any, key: Any) -> bool:
    if type(holder[key]) is not int:
        return False
    holder[key] = float(holder[key])
    return True


def off_by(step: int) -> Callable[[Any, Any], bool]:
    def change(holder: Any, key: Any) -> bool:
        value = holder[key]
        if isinstance(value, bool):
            holder[key] = not value
        elif isinstance(value, int):
            holder[key] = value + step
        elif isinstance(value, float):
            holder[key] = value + step * max(abs(value), 1.0)
        elif isinstance(value, str) and value:
            end = "0" if value[-1] != "0" else "1"
            holder[key] = value[:-1] + end
        else:
            return False
        return True

    return change


def double(holder: Any, key: Any) -> bool:
    if not isinstance(holder[key], list) or not holder[key]:
        return False
    holder[key] = [*holder[key], holder[key][-1]]
    return True


def reverse(holder: Any, key: Any) -> bool:
    value = holder[key]
    if isinstance(value, list):
        holder[key] = value[::-1]
    elif isinstance(value, dict):
        holder[key] = dict(reversed(value.items()))
    else:
        return False
    return True


CHANGES: dict[str, Callable[[Any, Any], bool]] = {
    "removed": remove,
    "retyped": retype,
    "null": to_null,
    "as float": to_float,
    "one more": off_by(1),
    "one less": off_by(-1),
    "doubled": double,
    "reversed": reverse,
}


def gives_the_same(model: LanguageModel, receipt: dict[str, Any], mutant: dict[str, Any]) -> bool:
    """Whether the other sampling gives this answer too, so that the receipt stays true: a penalty without effect."""
    sequence = model.new_sequence(mutant["prompt_token_ids"], sampling_params(mutant["sampling"]))
    return model.engine.generate([sequence])[0].token_ids == receipt["token_ids"]


def is_variable(name: str) -> bool:
    """Whether a mutant is without a variable of the environment, which need not be set."""
    return name.startswith(("environment.BITNET_", "environment.NUMBA_", "environment.O"))


def is_listed(name: str) -> bool:
    return name.split(" ")[0].split(".")[0] in INFORMATIVE or name.startswith(STILL_TRUE)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "top_p": 0.95, "seed": 7}], ids=str)
def test_each_mutant_is_rejected_or_changes_only_what_informs(
    model: LanguageModel, identity: ModelIdentity, sampling: dict[str, Any]
) -> None:
    receipt = receipt_of(model, identity, **sampling)
    accepted, n_mutants = [], 0
    for name, mutant in mutants(receipt):
        n_mutants += 1
        if verdict(mutant).passed and replay(mutant, model, identity).confirmed:
            accepted.append(name)
    assert n_mutants > 750
    same = {name for name, mutant in mutants(receipt) if name in accepted and gives_the_same(model, receipt, mutant)}
    accepted = [name for name in accepted if not (name.startswith("sampling.") and name in same)]
    assert [name for name in accepted if not is_listed(name)] == []
    # removed, retyped and reordered fields never pass, whatever they say
    assert [name for name in accepted if not name.endswith(("one more", "one less")) and not is_variable(name)] == []


def test_each_flipped_byte_is_rejected_or_changes_only_what_informs(
    model: LanguageModel, identity: ModelIdentity
) -> None:
    data = dump(receipt_of(model, identity, max_tokens=2))
    original = json.loads(data)
    unlisted = []
    for at in range(len(data)):
        for bit in (0x01, 0x20):
            flipped = bytes([*data[:at], data[at] ^ bit, *data[at + 1 :]])
            try:
                mutant = json.loads(flipped)
                if not isinstance(mutant, dict) or not verify_document(mutant, flipped).passed:
                    continue
                if not replay(mutant, model, identity).confirmed:
                    continue
            except ValueError:  # no JSON any more
                continue
            changed = {name for name in original if mutant[name] != original[name]}
            if not changed <= INFORMATIVE | {"model_info", "sampling", "load_options"}:
                unlisted.append((at, changed))
    assert unlisted == []


def test_the_root_is_that_of_rfc_6962() -> None:
    leaves = [hashlib.sha256(b"\0" + bytes([i])).hexdigest() for i in range(5)]

    def node(left: str, right: str) -> str:
        return hashlib.sha256(b"\1" + bytes.fromhex(left) + bytes.fromhex(right)).hexdigest()

    assert merkle_root(leaves[:1]) == leaves[0]
    assert merkle_root(leaves[:3]) == node(node(*leaves[:2]), leaves[2])
    assert merkle_root(leaves) == node(node(node(*leaves[:2]), node(*leaves[2:4])), leaves[4])


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/no/such/file.json", "/tmp"])
def test_what_is_no_file_is_unreadable(name: str) -> None:
    with pytest.raises(EvidenceUnreadableError, match=name):
        verify_receipt(Path(name))
