"""Hold `quail audit` to the pairs that must come out right, and the judging of fewer items to their audit."""

import json
from pathlib import Path

import pytest

from quail_audit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from quail_audit.runs.folder import read_report
from tests.support.quail_command import quail
from tests.validity.__main__ import run
from tests.validity.audits import TWO_BITS, audit, judge_first
from tests.validity.page import page
from tests.validity.truth_set import FEW, FORGET, GROUPS, Case, build_group, cases_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LLAMA = GROUPS[0]
LIMIT_S = 600.0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("validity")


def _case(name: str) -> Case:
    return next(case for case in cases_of(LLAMA) if case.name == name)


@pytest.mark.parametrize(
    ("name", "options", "code", "reason"),
    [
        pytest.param("barely", (), EXIT_FAIL, "not_forgotten", id="barely forgotten"),
        pytest.param("barely", ("--scheme", "gguf-q8_0"), EXIT_FAIL, "not_forgotten", id="at 8 bits as well"),
        pytest.param("half-forgotten", (), EXIT_FAIL, "not_forgotten", id="half forgotten, half verbatim"),
        pytest.param("refused", (), EXIT_FAIL, "not_forgotten", id="refused"),
        pytest.param("refused-confined", (), EXIT_FAIL, "comes_back", id="refused, the rest confined to nf4"),
        pytest.param("partial-25", (), EXIT_FAIL, "comes_back", id="25 % back"),
        pytest.param("partial-15", ("--population", str(FORGET)), EXIT_FAIL, "comes_back", id="15 % back of all"),
        pytest.param("for-good-few-items", (), EXIT_INCONCLUSIVE, "undecided", id="none of 6 back"),
        pytest.param("retrained", (), EXIT_PASS, "holds", id="retrained"),
        pytest.param("for-good", (), EXIT_PASS, "holds", id="unlearned for good"),
        pytest.param("utility-half", (), EXIT_FAIL, "utility_lost", id="utility at half"),
        pytest.param("for-good", ("--scheme", TWO_BITS), EXIT_INCONCLUSIVE, "broken_format", id="at 2 bits"),
    ],
)
def test_pairs_that_must_come_out_right(
    work: Path, name: str, options: tuple[str, ...], code: int, reason: str
) -> None:
    done = _audit(work, name, *options)
    assert done[0] == code, done[1]
    assert reason in done[1]


def test_15_percent_back_never_pass(work: Path) -> None:
    """Without a declared population 15 % of 96 are no proof of more than 10 %, but no pass either."""
    code, codes = _audit(work, "partial-15")
    assert code in (EXIT_FAIL, EXIT_INCONCLUSIVE)
    assert "holds" not in codes


def test_weights_alone_never_pass(work: Path) -> None:
    """gguf-q8_0 keeps all of a large update, so no layer is at risk."""
    folder = _built(work, "for-good")
    done = quail("audit", folder / "original", folder / "for-good", "--scheme", "gguf-q8_0", "--format", "json",
                 "--run-dir", work / "runs" / "weights", limit_s=LIMIT_S)  # fmt: skip
    assert done.returncode == EXIT_INCONCLUSIVE, done.stderr
    assert [reason["code"] for reason in json.loads(done.stdout)["verdict"]["reasons"]] == ["weights_only"]


def test_fewer_items_are_judged_as_an_audit_of_them_is(work: Path) -> None:
    case = _case("partial-25")
    folder = _built(work, case.name)
    whole, some, fewer = work / "runs" / "whole", work / "runs" / "some", work / "first-32"
    fewer.mkdir()
    for path in (folder / "data").iterdir():
        (fewer / path.name).write_text("".join(path.read_text().splitlines(keepends=True)[:32]))
    audit(folder, case, whole)
    audit(folder, case, some, fewer)
    report = read_report(some)
    first = judge_first(read_report(whole), 32)
    for scheme, verdict in first.schemes.items():
        assert verdict == report.schemes[scheme].verdict
        assert first.weighed is not None
        assert first.weighed.knowledge[scheme] == {
            metric: knowledge
            for metric, knowledge in report.schemes[scheme].knowledge.items()
            if metric in first.weighed.knowledge[scheme]
        }


def test_a_subset_is_made_audited_and_written_down(work: Path) -> None:
    """No leak of the subset passes, and nothing that is clean fails; what was made is not made again."""
    names = ("retrained", "for-good", "confined-nf4", "half-forgotten", "refused", "masked", "for-good-few-items")
    cases = [_case(name) for name in names]
    results, earlier = run(cases, work, [32, FORGET])
    wrong = [each.name for each in results if not each.truth.borderline and each.judged.startswith("false")]
    assert wrong == []
    assert {each.items for each in results} == {FEW, 32, FORGET}
    assert {each.truth.label for each in results} >= {"leaks", "clean", "breaks"}
    text = page(results, len(cases), earlier)
    assert "This page is of" not in text
    assert text.split("## Every verdict that came out wrong")[1].strip() == "None."
    made = {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}
    again, _ = run(cases, work, [32, FORGET])
    assert again == results
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.json")} == made


def _built(work: Path, name: str) -> Path:
    folder = work / LLAMA.architecture
    list(build_group(LLAMA, folder, [_case(name)]))
    return folder


def _audit(work: Path, name: str, *options: str) -> tuple[int, list[str]]:
    """Return the exit code of quail audit and the codes of its verdict's reasons; nf4, if no scheme is given."""
    folder, case = _built(work, name), _case(name)
    data = folder / (f"data-{FEW}" if case.items == FEW else "data")
    run_dir = work / "runs" / "-".join((name, *options)).replace("--", "")
    done = quail("audit", folder / case.original, folder / name, "--retrain", folder / "reference", "--data", data,
                 "--format", "json", "--run-dir", run_dir, "--policy", "none", *options, limit_s=LIMIT_S)  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, [reason["code"] for reason in json.loads(done.stdout)["verdict"]["reasons"]]
