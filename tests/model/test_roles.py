"""Tensor names: every known one in both directions, and no role for anything else."""

import pytest

from bitnet_numba.errors import ParameterError
from bitnet_numba.model.families import FAMILIES, GGUF_NAMES, HUGGING_FACE_NAMES, TensorNames
from bitnet_numba.model.roles import GLOBAL_ROLES, LAYER_ROLES, LINEAR_ROLES, Role

gguf_name, gguf_role = GGUF_NAMES.name, GGUF_NAMES.role
hf_name, hf_role = HUGGING_FACE_NAMES.name, HUGGING_FACE_NAMES.role

# GGUF name, Hugging Face name, role: written out, so that neither table can be wrong unseen.
KNOWN = [
    ("token_embd.weight", "model.embed_tokens.weight", Role("token_embd")),
    ("output_norm.weight", "model.norm.weight", Role("output_norm")),
    ("output.weight", "lm_head.weight", Role("output")),
    ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", Role("attn_norm", 0)),
    ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", Role("attn_q", 1)),
    ("blk.2.attn_k.weight", "model.layers.2.self_attn.k_proj.weight", Role("attn_k", 2)),
    ("blk.3.attn_v.weight", "model.layers.3.self_attn.v_proj.weight", Role("attn_v", 3)),
    ("blk.9.attn_sub_norm.weight", "model.layers.9.self_attn.attn_sub_norm.weight", Role("attn_sub_norm", 9)),
    ("blk.10.attn_output.weight", "model.layers.10.self_attn.o_proj.weight", Role("attn_output", 10)),
    ("blk.29.ffn_norm.weight", "model.layers.29.post_attention_layernorm.weight", Role("ffn_norm", 29)),
    ("blk.31.ffn_gate.weight", "model.layers.31.mlp.gate_proj.weight", Role("ffn_gate", 31)),
    ("blk.99.ffn_up.weight", "model.layers.99.mlp.up_proj.weight", Role("ffn_up", 99)),
    ("blk.100.ffn_sub_norm.weight", "model.layers.100.mlp.ffn_sub_norm.weight", Role("ffn_sub_norm", 100)),
    ("blk.511.ffn_down.weight", "model.layers.511.mlp.down_proj.weight", Role("ffn_down", 511)),
    ("blk.7.attn_q.scale", "model.layers.7.self_attn.q_proj.weight_scale", Role("attn_q", 7, "scale")),
    ("blk.7.ffn_down.scale", "model.layers.7.mlp.down_proj.weight_scale", Role("ffn_down", 7, "scale")),
]


@pytest.mark.parametrize(("gguf", "hugging_face", "role"), KNOWN)
def test_names_and_roles_correspond(gguf: str, hugging_face: str, role: Role) -> None:
    assert gguf_role(gguf) == role
    assert gguf_name(role) == gguf
    assert hf_role(hugging_face) == role
    assert hf_name(role) == hugging_face


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("format_", ["gguf", "hugging_face"])
def test_every_role_has_its_names_in_every_family(architecture: str, format_: str) -> None:
    names: TensorNames = getattr(FAMILIES[architecture], format_)
    roles = [Role(name) for name in GLOBAL_ROLES if format_ == "gguf" or name != "rope_freqs"]
    roles += [Role(name, 3) for name in LAYER_ROLES] + [Role(name, 3, "scale") for name in LINEAR_ROLES]
    assert len(set(map(names.name, roles))) == len(roles)
    for role in roles:
        assert names.role(names.name(role)) == role


@pytest.mark.parametrize(
    ("alias", "role"),
    [
        ("model.layers.4.self_attn.inner_attn_ln.weight", Role("attn_sub_norm", 4)),
        ("model.layers.4.mlp.ffn_layernorm.weight", Role("ffn_sub_norm", 4)),
    ],
)
def test_1bitllm_s_names_are_known_in_its_family_alone(alias: str, role: Role) -> None:
    assert FAMILIES["bitnet"].hugging_face.role(alias) == role
    assert hf_role(alias) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "weight",
        ".weight",
        "token_embd",
        "token_embd.bias",
        "token_embd.scale",
        "blk.0.token_embd.weight",
        "attn_q.weight",
        "blk.0.attn_norm.scale",
        "blk.0.attn_q.weight_scale",
        "blk.0.attn_q.weight.weight",
        "blk.00.attn_q.weight",
        "blk.-1.attn_q.weight",
        "blk.\u0661.attn_q.weight",
        "blk.12345.attn_q.weight",
        "blk..attn_q.weight",
        "blk.0.attn_q_norm.weight",
        "Blk.0.attn_q.weight",
        "blk.0.attn_q.weight\n",
        "model.layers.0.self_attn.q_proj.weight",
    ],
)
def test_other_gguf_names_have_no_role(name: str) -> None:
    assert gguf_role(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lm_head",
        "lm_head.bias",
        "lm_head.weight_scale",
        "model.rope_freqs.weight",
        "rope_freqs.weight",
        "embed_tokens.weight",
        "self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.scale",
        "model.layers.0.input_layernorm.weight_scale",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.q_proj.rms_norm.weight",
        "model.layers.007.mlp.up_proj.weight",
        "model.layers.0.lm_head.weight",
        "blk.0.attn_q.weight",
    ],
)
def test_other_hugging_face_names_have_no_role(name: str) -> None:
    assert hf_role(name) is None


@pytest.mark.parametrize(
    "role",
    [Role("attn_q"), Role("output", 0), Role("bias", 0), Role("attn_norm", 0, "scale"), Role("attn_q", -1)],
)
def test_refuses_to_name_roles_that_do_not_exist(role: Role) -> None:
    with pytest.raises(ParameterError, match="no tensor has this role"):
        gguf_name(role)
    with pytest.raises(ParameterError, match="no tensor has this role"):
        hf_name(role)


def test_rope_freqs_are_gguf_s_alone() -> None:
    assert gguf_role("rope_freqs.weight") == Role("rope_freqs")
    with pytest.raises(ParameterError, match=r"config\.json"):
        hf_name(Role("rope_freqs"))
