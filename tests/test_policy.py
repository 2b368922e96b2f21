from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.errors import BadInputError
from quail_audit.policy import Policy, read_policy


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "quail.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_the_defaults_are_those_of_the_design() -> None:
    assert read_policy(None) == Policy(
        max_recovery_percent=10.0, informative_points=5.0, overlap_at_risk=0.999, survival_at_risk=0.5
    )


def test_limits_are_read(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path, "[limits]\nmax_recovery_percent = 25\n")).max_recovery_percent == 25.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nmax_recovry_percent = 5\n", "Did you mean max_recovery_percent"),
        ("[limit]\n", "Did you mean limits"),
        ("[limits]\nsurvival_at_risk = 2\n", "survival_at_risk"),
        ("[limits]\nsurvival_at_risk = nan\n", "survival_at_risk"),
        ("limits = 3\n", "must be a table"),
        ("[limits\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        ("x = " + "1" * 5000, "not valid TOML"),
        ("x = [" + "[" * 5000, "not valid TOML"),
        ("#" * 70_000, "over 64 KiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_policy_is_explained(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_policy(write(tmp_path, text))
    assert said in str(caught.value)
    assert "quail.toml" in caught.value.where


def test_a_missing_policy_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        read_policy(str(tmp_path / "none.toml"))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.mktemp("policy"), data)
    try:
        assert isinstance(read_policy(path), Policy)
    except BadInputError:
        pass
