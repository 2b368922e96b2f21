import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.schema.policy import Limits, Policy
from quail_audit.verdict.policy_file import NAME, PYPROJECT, find_policy, read_policy, read_template, write_template


def write(folder: Path, text: str | bytes, name: str = NAME) -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_the_defaults_are_those_of_the_design() -> None:
    assert read_policy(None) == Policy(
        limits=Limits(max_known_percent=10.0, informative_points=5.0, overlap_at_risk=0.999, survival_at_risk=0.5)
    )


def test_limits_are_read(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path, "[limits]\nmax_known_percent = 25\n")).limits.max_known_percent == 25.0


RULE = '[[rules]]\nname = "a"\nfigure = "survival"\nat_least = 0.8\n'
WAIVER = '[[waivers]]\nrule = "a"\nreason = "r"\nowner = "o"\nexpires = 2030-01-01\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nmax_knwon_percent = 5\n", "Did you mean max_known_percent"),
        ("[limit]\n", "Did you mean limits"),
        ("[limits]\nsurvival_at_risk = 2\n", "survival_at_risk"),
        ("[limits]\nsurvival_at_risk = nan\n", "survival_at_risk"),
        ("[limits]\nsurvival_at_risk = true\n", "survival_at_risk"),
        ('[limits]\nsurvival_at_risk = "0.5"\n', "survival_at_risk"),
        ("limits = 3\n", "must be a table"),
        ("rules = 3\n", "must be a list of tables"),
        ("[rules]\n", "must be a list of tables"),
        ("[limits\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        ("x = " + "1" * 5000, "not valid TOML"),
        ("x = [" + "[" * 5000, "not valid TOML"),
        ("#" * 70_000, "over 64 KiB"),
        (RULE.replace("at_least", "at_leest"), "unknown key in rules number 1 (a) 'at_leest'. Did you mean at_least"),
        (RULE.replace("at_least = 0.8", ""), "neither at_least nor at_most"),
        (RULE + "at_most = 0.1\n", "at_least is above at_most"),
        (RULE.replace("survival", "surviving"), "rules number 1 (a), figure"),
        (RULE + 'metrics = "x"\n', "survival is a figure of layers"),
        (RULE + "layers = []\n", "rules number 1 (a), layers"),
        (RULE.replace("survival", "score"), "a score needs metrics"),
        (RULE.replace("survival", "known") + 'layers = "x"\n', "known is a figure of metrics"),
        (RULE.replace('"a"', '"forgetting"'), "choose another"),
        (RULE + RULE, "two rules are called 'a'"),
        (WAIVER.replace("owner", "ownr"), "Did you mean owner"),
        (WAIVER.replace('reason = "r"\n', ""), "waivers number 1, reason"),
        (WAIVER.replace('owner = "o"', 'owner = " "'), "waivers number 1, owner"),
        (WAIVER.replace("2030-01-01", '"soon"'), "waivers number 1, expires"),
        ("[[limits.where]]\n", "sets no limit"),
        ('[[limits.where]]\nlayer = "x"\n', "Did you mean layers"),
        ('[[limits.where]]\nlayers = "x"\nmax_known_percent = 1\n', "apply to metrics"),
        ('[[limits.where]]\nmetrics = "x"\nsurvival_at_risk = 1\n', "apply to layers"),
        ("[required]\nsample = {}\n", "Did you mean samples"),
        ("[required]\nsamples = { verbmem_forget = 0 }\n", "required, samples, verbmem_forget"),
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


def test_the_last_limit_that_fits_counts() -> None:
    limits = Limits.model_validate(
        {
            "max_known_percent": 8.0,
            "where": [
                {"schemes": "gguf-*", "max_known_percent": 20.0},
                {"schemes": "gguf-*", "metrics": "knowmem_*", "informative_points": 2.0},
                {"metrics": ["knowmem_forget"], "max_known_percent": 15.0},
                {"layers": "*.mlp.*", "survival_at_risk": 0.8},
                {"schemes": "nf4", "layers": "*.down_proj", "survival_at_risk": 0.9, "overlap_at_risk": 0.99},
            ],
        }
    )

    def of(scheme: str, metric: str) -> tuple[float, float]:
        found = limits.metric_limits(scheme, metric)
        return found.max_known_percent, found.informative_points

    assert of("nf4", "verbmem_forget") == (8.0, 5.0)
    assert of("gguf-q4_0", "verbmem_forget") == (20.0, 5.0)
    assert of("gguf-q4_0", "knowmem_forget") == (15.0, 2.0)
    assert of("nf4", "knowmem_forget") == (15.0, 5.0)
    assert limits.layer_limits("nf4", "model.layers.0.self_attn.q_proj").survival_at_risk == 0.5
    assert limits.layer_limits("fp4", "model.layers.0.mlp.down_proj").survival_at_risk == 0.8
    down = limits.layer_limits("nf4", "model.layers.0.mlp.down_proj")
    assert (down.survival_at_risk, down.overlap_at_risk) == (0.9, 0.99)


def test_the_command_line_counts_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[limits]\nmax_known_percent = 20\noverlap_at_risk = 0.9\n"
        '[[limits.where]]\nschemes = "nf4"\nmax_known_percent = 30\n'
        '[[limits.where]]\nschemes = "nf4"\nmax_known_percent = 40\ninformative_points = 3\n',
    )
    policy = read_policy(path, {"max_known_percent": 5.0})
    found = policy.limits.metric_limits("nf4", "verbmem_forget")
    assert (found.max_known_percent, found.informative_points) == (5.0, 3.0)
    assert (policy.limits.overlap_at_risk, policy.limits.survival_at_risk) == (0.9, 0.5)
    assert read_policy(None, {"survival_at_risk": 0.25}).limits.survival_at_risk == 0.25


@pytest.mark.parametrize(
    ("given_limits", "said"),
    [({"max_know": 5.0}, "Did you mean max_known_percent"), ({"overlap_at_risk": 2.0}, "overlap_at_risk")],
)
def test_a_bad_limit_of_the_command_line_is_wrong_usage(given_limits: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_policy(None, given_limits)


def test_the_template_is_the_default_policy_also_with_its_examples(tmp_path: Path) -> None:
    write_template(tmp_path / NAME)
    assert read_policy(str(tmp_path / NAME)) == Policy()
    examples = re.sub(r"^# (?=\[\[|\w+ = )", "", read_template(), flags=re.MULTILINE)
    policy = read_policy(write(tmp_path, examples))
    assert [len(policy.limits.where), len(policy.rules), len(policy.waivers)] == [1, 1, 1]
    assert policy.waivers[0].rule == policy.rules[0].name
    for name in Limits.model_fields:
        assert name in read_template()


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "[limits]\n"))
    with pytest.raises(BadInputError, match="already exists"):
        write_template(path)
    assert path.read_text() == "[limits]\n"


def test_a_policy_is_found_in_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    assert find_policy(tmp_path) is None
    write(tmp_path, "[project]\nname = 'x'\n", PYPROJECT)
    assert find_policy(tmp_path) is None
    path = write(tmp_path, "[tool.quail.limits]\nmax_known_percent = 7\n", PYPROJECT)
    assert find_policy(tmp_path) == PYPROJECT
    assert read_policy(path).limits.max_known_percent == 7.0
    write(tmp_path, "[limits]\n")
    assert find_policy(tmp_path) == NAME
    assert find_policy(inner) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[project]\n", "has no [tool.quail]"),
        ("[tool]\nquail = 3\n", "must be a table"),
        ("[tool.quail.limit]\n", "Did you mean limits"),
        ("[tool", "not valid TOML"),
    ],
)
def test_a_bad_pyproject_is_explained(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_policy(write(tmp_path, text, PYPROJECT))
    assert said in str(caught.value)
