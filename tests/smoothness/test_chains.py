"""The formulas of chains: the worked example, and what must hold for any chain."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.smoothness.chains import (
    Group,
    Jump,
    Violation,
    boundary_statistics,
    cuts,
    joined,
    jumps,
    merged,
    patterns,
    severity,
    smoothness_score,
    violations,
)

EXAMPLE = [Group(s, z / 255, 1) for s, z in ((0.05, 128), (0.08, 120), (0.09, 115))]

GROUPS = st.builds(Group, st.floats(1e-6, 1e3), st.floats(0, 1), st.integers(1, 10**9).map(float))
CHAINS = st.lists(GROUPS, min_size=2, max_size=12)


def test_the_worked_example() -> None:
    found = jumps(EXAMPLE)
    assert [jump.scale for jump in found] == pytest.approx([0.6, 0.125])
    assert [jump.zero for jump in found] == pytest.approx([0.03137, 0.01961], abs=1e-5)
    assert [jump.score for jump in found] == pytest.approx([0.684314, 0.927696], abs=1e-6)
    assert smoothness_score(found) == pytest.approx(0.806005, abs=1e-6)
    [violation] = violations(found, 0.3)
    assert (violation.boundary_idx, violation.severity) == (0, "high")
    statistics = boundary_statistics([jump.score for jump in found])
    assert statistics["std_boundary_score"] == pytest.approx((0.927696 - 0.684314) / 2, abs=1e-6)


@given(CHAINS)
def test_scores_are_bounded_and_below_the_mean_of_the_boundaries(chain: list[Group]) -> None:
    found = jumps(chain)
    score, scores = smoothness_score(found), [jump.score for jump in found]
    assert all(0 <= each <= 1 for each in (score, *scores))
    mean = math.fsum(scores) / len(scores)
    assert score <= mean + 1e-12
    if all(jump.scale + jump.zero <= 2 for jump in found):
        assert score == pytest.approx(mean, abs=1e-12)


@given(CHAINS, st.floats(1e-3, 1e3))
def test_scaling_all_weights_changes_nothing(chain: list[Group], factor: float) -> None:
    scaled = [Group(group.scale * factor, group.zero, group.weight) for group in chain]
    assert smoothness_score(jumps(scaled)) == pytest.approx(smoothness_score(jumps(chain)), abs=1e-9)


@given(GROUPS, st.integers(2, 9))
def test_constant_parameters_always_score_one(group: Group, n: int) -> None:
    assert smoothness_score(jumps([group] * n)) == 1.0
    joint = joined([group] * n)
    assert (joint.scale, joint.zero) == pytest.approx((group.scale, group.zero))


@given(st.lists(CHAINS, min_size=1, max_size=5), st.randoms())
def test_the_order_of_tensors_changes_nothing(chains: list[list[Group]], random: Any) -> None:
    pairs = [(jumps(chain), chain[0].weight) for chain in chains]
    other = random.sample(pairs, len(pairs))
    assert merged(*zip(*pairs, strict=True)) == merged(*zip(*other, strict=True))  # fsum rounds once


@given(st.integers(1, 5000), st.integers(1, 100))
def test_no_group_is_empty(n: int, groups: int) -> None:
    found = cuts(n, groups)
    assert (found[0], found[-1], len(found)) == (0, n, min(n, groups) + 1)
    assert all(a < b for a, b in pairwise(found))
    if groups <= n:
        assert found == [i * n // groups for i in range(groups + 1)]


def test_a_chain_of_one_group_has_no_boundaries() -> None:
    assert jumps(EXAMPLE[:1]) == []
    assert smoothness_score([]) == 1.0
    assert boundary_statistics([]) == {
        "min_boundary_score": 1.0,
        "max_boundary_score": 1.0,
        "mean_boundary_score": 1.0,
        "std_boundary_score": 0.0,
    }


def test_several_scales_are_joined_by_their_weights() -> None:
    joint = joined([Group(1.0, 0.0, 1), Group(4.0, 1.0, 3)])
    assert (joint.scale, joint.zero, joint.weight) == (pytest.approx(4**0.75), 0.75, 4)


def test_tensors_are_merged_by_their_parameters_where_they_have_the_boundary() -> None:
    assert merged([[Jump(0.2, 0.0), Jump(0.4, 0.1)], [Jump(0.6, 0.4)]], [3, 1]) == [
        Jump(pytest.approx(0.3), pytest.approx(0.1)),
        Jump(pytest.approx(0.4), pytest.approx(0.1)),
    ]


def test_the_threshold_is_strict_with_a_slack() -> None:
    chain = [Jump(0.3, 0.0), Jump(0.3 + 0.9e-6, 0.0), Jump(0.3 + 1.1e-6, 0.0)]
    assert [each.boundary_idx for each in violations(chain, 0.3)] == [2]
    assert [severity(jump) for jump in (0.51, 0.5, 0.31, 0.3, 0.1)] == ["high", "medium", "medium", "low", "low"]


def test_patterns_describe_the_violations() -> None:
    assert patterns([], 3) == ["No violations detected - excellent smoothness"]
    found = [Violation(0, 0.6, 0.0, "high"), Violation(1, 0.4, 0.0, "medium"), Violation(5, 0.35, 0.0, "medium")]
    assert patterns(found, 8) == [
        "High severity violations: 1 (33.3%)",
        "Medium severity violations: 2 (66.7%)",
        "Violations at boundaries: [0, 1, 5]",
        "Violations cluster at early boundaries",
        "Scale jumps: max=60.0%, avg=45.0%",
    ]
    assert "Violations cluster at late boundaries" in patterns(found[2:], 8)
