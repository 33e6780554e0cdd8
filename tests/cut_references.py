"""Cut the reference dumps of the fixtures to what ``tests/data`` holds: ``python -m tests.cut_references FIXTURES``."""

import sys
from pathlib import Path

import numpy as np

from tests.reference_logits import DATA, ReferenceLogits

BITNETCPP = ("synth-tiny", "synth-tiny-llama", "synth-tiny-bitnet3b")
HUGGINGFACE_TEXTS = ("s0_bos", "s1_short", "s2_rand32", "s3_rand128", "s4_rep")
OPERATORS = {  # dump: layers whose operators are kept
    "synth-tiny": (0, 3),
    "synth-tiny-llama": (1,),
}
POSITIONS = np.array([0, 1, 17, 47])
KEPT = (  # operators that a test computes again, and their inputs
    *("norm-{}.RMS_NORM", "attn_norm-{}.MUL", "ffn_norm-{}.MUL", "attn_sub_norm-{}.MUL", "ffn_sub_norm-{}.MUL"),
    *("Qcur-{}.MUL_MAT", "Kcur-{}.MUL_MAT", "Vcur-{}.MUL_MAT", "Qcur-{}.ROPE", "Kcur-{}.ROPE"),
    *("kq-{}.MUL_MAT", "kq_soft_max_ext-{}.SOFT_MAX", "kqv_out-{}.CONT", "kqv_merged_cont-{}.CONT"),
    *("attn_o_out-{}.MUL_MAT", "kqv_out-{}.MUL_MAT", "ffn_inp-{}.ADD"),
    *("ffn_gate-{}.MUL_MAT", "ffn_up-{}.MUL_MAT", "ffn_gate_par-{}.MUL", "ffn_out-{}.MUL", "ffn_out-{}.MUL_MAT"),
    "ffn_down-{}.MUL_MAT",
)


def main(fixtures: Path) -> None:
    for name in BITNETCPP:
        with np.load(fixtures / "bitnetcpp" / f"{name}-ref.npz") as dump:
            arrays = ReferenceLogits.cut(dump["tokens"], dump["logits_prefill"]).save_fields()
            for layer in OPERATORS.get(name, ()):
                arrays |= _operators(dump, layer)
        np.savez_compressed(DATA / "bitnetcpp" / f"{name}-cut.npz", **arrays)
    with np.load(fixtures / "huggingface" / "tiny-packed" / "ref_logits.npz") as dump:
        arrays = {name: dump[name] for name in dump if name.startswith(("hidden_packed_f32", "greedy_packed_f32"))}
        for text in HUGGINGFACE_TEXTS:
            cut = ReferenceLogits.cut(dump[f"ids_{text}"], dump[f"logits_packed_f32_{text}"])
            arrays |= cut.save_fields(f"{text}.")
    np.savez_compressed(DATA / "huggingface" / "tiny-packed" / "cut.npz", **arrays)


def _operators(dump: np.lib.npyio.NpzFile, layer: int) -> dict[str, np.ndarray]:
    """Return a few positions of a layer's operators; those of attention scores are [head, position, key]."""
    names = [f"p0.{name.format(layer)}" for name in KEPT]
    return {
        name: dump[name][:, POSITIONS] if name.startswith("p0.kq") and "kqv" not in name else dump[name][POSITIONS]
        for name in names
        if name in dump
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
