"""``receipt``, and ``run --receipt``: on the embedded model."""

import json
from pathlib import Path

from bitnet_numba.evidence.documents import dump
from tests.cli.conftest import Invoke


def test_the_command_line_writes_verifies_replays_and_compares(invoke: Invoke, tmp_path: Path) -> None:
    first, second, wrong = (str(tmp_path / name) for name in ("first.json", "second.json", "wrong.json"))
    for file in (first, second):
        done = invoke("run", "Once upon a time", "-n", "30", "--temperature", "1", "--seed", "5", "--receipt", file)
        assert done.exit_code == 0
    assert invoke("receipt", "verify", first).stdout == f"PASS  {first}\n"
    assert json.loads(invoke("receipt", "verify", first, "--json").stdout) == {
        "file": first,
        "verdict": "pass",
        "reasons": [],
        "replayable": True,
    }
    confirmed = invoke("receipt", "replay", first)
    assert confirmed.exit_code == 0
    assert confirmed.stdout.startswith(f"CONFIRMED  {first}\n           30 tokens in ")
    assert "1 of 2 stretches" in invoke("receipt", "replay", first, "--steps", "1").stdout
    assert invoke("receipt", "diff", first, second).exit_code == 0

    receipt = json.loads(Path(first).read_text())
    receipt["token_ids"][3] += 1
    Path(wrong).write_bytes(dump(receipt))
    differs = invoke("receipt", "replay", wrong)
    assert differs.exit_code == 16
    assert f"token 3 is {receipt['token_ids'][3] - 1}, the receipt says {receipt['token_ids'][3]}" in differs.stdout
    assert json.loads(invoke("receipt", "replay", wrong, "--json").stdout)["differences"][0]["position"] == 3
    compared = invoke("receipt", "diff", first, wrong)
    assert compared.exit_code == 15
    assert "token_ids[3]: " in compared.stdout

    receipt["compute_path"] = "mock"
    Path(wrong).write_bytes(dump(receipt))
    assert "compute_path: is 'mock'" in invoke("receipt", "verify", wrong).stdout
    assert invoke("receipt", "verify", wrong).exit_code == 15
    refused = invoke("receipt", "replay", wrong)
    assert refused.exit_code == 15
    assert refused.stderr.startswith(f"error: {wrong}: compute_path: is 'mock'")
    assert "verify" in invoke("receipt", "show", first).stdout
    assert "hidden_root" in invoke("receipt", "show", first).stdout


def test_the_command_line_refuses_what_it_cannot_do(invoke: Invoke, tmp_path: Path) -> None:
    foreign = Path(__file__).parent.parent / "data/receipts/ci/inference.json"
    refused = invoke("receipt", "replay", str(foreign))
    assert (refused.exit_code, "is of another program" in refused.stderr) == (2, True)
    assert "of another program" in invoke("receipt", "verify", str(foreign)).stdout
    assert invoke("receipt", "verify", str(tmp_path / "none.json")).exit_code == 2
    assert invoke("receipt", "replay", str(foreign), "--decode", "--steps", "1").exit_code == 2
    assert invoke("run", "x", "--receipt", str(tmp_path / "none" / "receipt.json")).exit_code == 1
    assert invoke("receipt").exit_code == 2
