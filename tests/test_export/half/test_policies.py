"""Policies of half precision, from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from half_graphs import STAGES

from sdic_export.half.precision import Limits, Policy, Rules, load_policy, policy_names
from sdic_runtime.errors import ArgumentError, FileError

# policies -----------------------------------------------------------------------------------------------------------------------------


def test_the_policies_that_come_with_it() -> None:
    assert policy_names() == ["bf16", "fp16"]
    policy = load_policy("fp16")
    assert (policy.name, policy.type) == ("fp16", "float16")
    assert policy.limits.chain >= 50
    assert "Sqrt" in policy.rules("e4e").operators
    assert load_policy(policy) is policy


def test_rules_of_a_stage_join_those_of_every_stage() -> None:
    policy = Policy("made", "float16", Limits(1, 1, 1), {"every": Rules(axes=2, operators=("Pow",)), "dicn": Rules(size=8, layers=("a",))})
    assert policy.rules("dicn") == Rules(2, 0, 8, ("Pow",), ("a",))
    assert policy.rules("dipn") == Rules(2, 0, 0, ("Pow",), ())
    assert policy.without_rules().rules("dicn") == Rules()


LIMITS = "[limits]\nstage = 50\nchain = 50\nlargest = 0.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type = ", "cannot read the precision policy"),
        ('name = 16\ntype = "float16"\n' + LIMITS, "name is 16, expected a word"),
        (LIMITS, "type is None, expected float16 or bfloat16"),
        ('type = "int8"\n' + LIMITS, "type is 'int8'"),
        ('type = "float16"', r"\[limits\] is None, expected numbers for stage, chain, largest"),
        ('type = "float16"\n[limits]\nstage = 50', r"\[limits\] is"),
        ('type = "float16"\n' + LIMITS + "[dicn]\nshape = 2", r'\[dicn\] has the unknown rule "shape", and the rules are axes, channels'),
        ('type = "float16"\n' + LIMITS + "[dicn]\naxes = -1", r"\[dicn\] axes is -1, expected a whole number"),
        ('type = "float16"\n' + LIMITS + '[dicn]\nlayers = "a"', r"\[dicn\] layers is 'a', expected a list of names"),
    ],
)
def test_a_policy_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        load_policy(path)


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("fp32", "float16", "which means something else"),
        ("FP32", "float16", "which means something else"),
        ("onnxruntime-cpu", "float16", "which means something else"),
        ("onnxruntime-cuda", "float16", "which means something else"),
        ("openvino", "bfloat16", "which means something else"),
        ("auto", "float16", "which means something else"),
        ("fp16", "bfloat16", "which is float16 and not bfloat16"),
        ("bf16", "float16", "which is bfloat16 and not float16"),
        ("FP16", "float16", "which is no plain word"),
        ("my policy", "float16", "which is no plain word"),
        ("v1.2", "float16", "which is no plain word"),
        ("..", "float16", "which is no plain word"),
        ("", "float16", "which is no plain word"),
    ],
)
def test_names_that_no_precision_can_have(name: str, kind: str, why: str, tmp_path: Path) -> None:
    sentence = f'^a precision cannot be called "{name}", {why}; call the policy\'s file fp16.toml, or write name = '
    with pytest.raises(ArgumentError, match=sentence):
        Policy(name, kind, Limits(1, 1, 1))
    path = tmp_path / "mine.toml"
    path.write_text(f'type = "{kind}"\nname = "{name}"\n{LIMITS}')
    with pytest.raises(ArgumentError, match=sentence):
        load_policy(path)
    if name not in ("", ".."):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'type = "{kind}"\n{LIMITS}')
        with pytest.raises(ArgumentError, match=sentence):
            load_policy(path)


def test_a_copy_under_its_own_name_is_the_same_precision(tmp_path: Path) -> None:
    for file, name in (("fp16.toml", ""), ("mine.toml", 'name = "fp16"\n')):
        (tmp_path / file).write_text(f'{name}type = "float16"\n{LIMITS}')
        assert load_policy(tmp_path / file).name == "fp16"
    assert load_policy(tmp_path / "mine.toml").stages == {}


def test_an_unknown_policy_and_an_unknown_stage() -> None:
    with pytest.raises(ArgumentError, match='^there is no precision policy "fp8"; use bf16 or fp16, or name a TOML file$'):
        load_policy("fp8")
    policy = Policy("mine", "float16", Limits(1, 1, 1), {"every": Rules(), "dicn": Rules()})
    assert policy.check(STAGES) is policy
    with pytest.raises(ArgumentError, match='^the precision policy "mine" has rules for the stage "dicn", and the stages are every, a, b$'):
        policy.check(("a", "b"))
