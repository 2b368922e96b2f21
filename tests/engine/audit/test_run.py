"""Whole audits of tiny models, through the engine and through the command, good input and bad."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, QuailError, UsageError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.runs.folder import read_report
from quail_audit.runs.names import EVENTS
from quail_audit.schema.events.audit import LayerMeasured, MetricScored, SampleScored, SchemeFailed
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, from_line, to_line
from quail_audit.schema.report import Report
from quail_audit.verdict.standings import holds_at, scheme_standings
from tests.support.quail_command import quail, quail_here
from tests.support.tiny_audits import let_scheme_fail, request, start_audit, state_of


@pytest.fixture(scope="session")
def forgotten(world: Path) -> list[Event]:
    """The audit of a model that knows nothing, at two schemes, with a reference that knows nothing either."""
    return list(audit(request(world, retrain=str(world / "blank"), schemes=("nf4", "fp4-dq")), "run"))


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint's copy, to spoil."""

    def copy(name: str) -> Path:
        shutil.copytree(world / name, tmp_path / name)
        return tmp_path / name

    return copy


def test_what_stays_forgotten_passes(forgotten: list[Event]) -> None:
    state = state_of(iter(forgotten))
    assert state.verdict is not None
    assert state.verdict.outcome == "pass", state.verdict
    report = state.report()
    for scheme in ("nf4", "fp4-dq"):
        measured = report.schemes[scheme]
        assert measured.knowledge["verbmem_forget"].outcome == "holds"
        assert set(measured.metrics["verbmem_forget"]) == {
            "original/full", "unlearned/full", "retrain/full", f"original/{scheme}", f"unlearned/{scheme}",
        }  # fmt: skip
        assert measured.metrics["verbmem_forget"]["original/full"].mean > 90
        assert measured.metrics["verbmem_forget"]["unlearned/full"].mean < 20


def test_each_scheme_has_a_verdict_of_its_own(forgotten: list[Event]) -> None:
    state = state_of(iter(forgotten))
    report = state.report()
    assert {scheme: each.verdict.outcome for scheme, each in report.schemes.items() if each.verdict} == {
        "nf4": "pass",
        "fp4-dq": "pass",
    }
    assert holds_at(scheme_standings(report)) == ("nf4", "fp4-dq")


@pytest.mark.parametrize(
    ("module", "function", "where"),
    [
        ("quail_audit.engine.weights.pair", "sums_over_table", "model.layers.0.self_attn.q_proj"),
        ("quail_audit.engine.forgetting.models.load", "load_arm", "original/fp4"),
    ],
)
def test_a_scheme_that_fails_is_named_with_its_reason_and_the_others_go_on(
    module: str, function: str, where: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_scheme_fail("fp4", module, function, monkeypatch)
    events = list(audit(request(world, schemes=("fp4", "nf4"), retrain=str(world / "blank")), "run"))
    (failed,) = [event for event in events if isinstance(event, SchemeFailed)]
    assert (failed.scheme, failed.message) == ("fp4", "RuntimeError: a singular Hessian")
    assert failed.where == where
    assert all(from_line(to_line(event)) == event for event in events)
    state = state_of(iter(events))
    report = state.report()
    assert report.schemes["fp4"].verdict is None
    assert report.schemes["fp4"].failure is not None
    assert report.schemes["nf4"].verdict is not None
    assert report.schemes["nf4"].verdict.outcome == "pass"
    assert report.verdict is not None
    assert report.verdict.outcome == "inconclusive"
    assert report.exit_code == 4
    assert "unlearned/fp4" not in report.arms
    assert {"original/nf4", "unlearned/nf4"} <= set(report.arms)
    assert state.remaining_s is None
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_scheme_whose_backend_is_missing_is_named_and_the_others_go_on(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FourBit, "install_command", lambda scheme: "pip install it" if scheme.name == "fp4" else "")
    events = list(audit(request(world, data=None, schemes=("fp4", "nf4")), "run"))
    report = state_of(iter(events)).report()
    assert report.schemes["fp4"].failure is not None
    assert report.schemes["fp4"].failure.mend == "pip install it"
    assert [layer.state for layer in report.schemes["nf4"].layers] == ["carried"] * 14
    assert report.exit_code == 4
    with pytest.raises(EnvironmentProblemError, match="pip install it"):
        list(audit(request(world, data=None, schemes=("fp4",)), "run"))


def test_where_no_scheme_can_be_measured_the_error_ends_the_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_scheme_fail("nf4", "quail_audit.engine.weights.pair", "sums_over_table", monkeypatch)
    seen: list[Event] = []
    with pytest.raises(RuntimeError, match="singular"):
        seen.extend(audit(request(world), "run"))
    assert isinstance(seen[-1], SchemeFailed)


def test_privleak_is_relative_to_the_reference(forgotten: list[Event]) -> None:
    scored = {(e.arm, e.metric): e.score for e in forgotten if isinstance(e, MetricScored)}
    auc = {arm: score.mean for (arm, metric), score in scored.items() if metric == "privleak"}
    expected = 100 * (auc["original/full"] - auc["retrain/full"]) / auc["retrain/full"]
    assert scored["original/full", "privleak_m3"].mean == pytest.approx(expected)
    assert scored["retrain/full", "privleak_m3"].mean == 0.0


def test_a_given_reference_auc_serves_as_well(world: Path) -> None:
    events = audit(request(world, retrain_auc=0.4772, metrics=("privleak",)), "run")
    scored = {(e.arm, e.metric): e.score.mean for e in events if isinstance(e, MetricScored)}
    auc = scored["original/full", "privleak"]
    assert scored["original/full", "privleak_m3"] == pytest.approx(100 * (auc - 47.72) / 47.72)


def test_every_layer_and_every_sample_is_an_event(forgotten: list[Event]) -> None:
    state = state_of(iter(forgotten))
    assert state.pair is not None
    assert state.plan is not None
    layers = [event for event in forgotten if isinstance(event, LayerMeasured)]
    assert len(layers) == 2 * state.pair.layers == 2 * 14
    assert [event.index for event in layers[::2]] == list(range(1, 15))
    for event in layers:
        assert event.detail is not None
        assert from_line(to_line(event)) == event
        assert event.layer.identical is not None
        assert event.layer.overlap is not None
        assert sum(event.detail.ratio_counts) == round(event.layer.weights * (1 - event.layer.identical))
        stayed = sum(event.detail.transitions[:: 16 + 1])
        assert sum(event.detail.transitions) - stayed == round(event.layer.weights * (1 - event.layer.overlap))
    for arm in state.plan.arms:
        samples = [event for event in forgotten if isinstance(event, SampleScored) and event.arm == arm]
        assert len(samples) == state.plan.samples_per_arm
        assert [event.done for event in samples] == list(range(1, len(samples) + 1))
    assert "lm_head" in state.pair.left_in_full_precision
    assert "model.embed_tokens" in state.pair.left_in_full_precision


def test_what_was_never_forgotten_fails(world: Path) -> None:
    state = state_of(audit(request(world, "original"), "run"))
    assert state.verdict is not None
    assert state.verdict.outcome == "fail"
    assert state.verdict.reasons[0].code == "not_forgotten"
    assert state.end is not None
    assert state.end.exit_code == 1


def test_without_data_the_weights_alone_are_judged(world: Path) -> None:
    state = state_of(audit(request(world, data=None), "run"))
    assert not state.arms
    assert state.verdict is not None
    assert [reason.code for reason in state.verdict.reasons] == ["weights_only"]


def test_two_runs_are_the_same(world: Path, forgotten: list[Event]) -> None:
    again = list(audit(request(world, retrain=str(world / "blank"), schemes=("nf4", "fp4-dq")), "run"))

    def timeless(events: list[Event]) -> list[dict[str, object]]:
        return [event.model_dump(exclude={"at_s", "elapsed_s", "started", "finished"}) for event in events]

    assert timeless(again) == timeless(forgotten)


def test_skipped_modules_are_left_out(world: Path) -> None:
    state = state_of(audit(request(world, data=None, skip_modules=("down_proj", "lm_head")), "run"))
    assert state.pair is not None
    assert state.pair.layers == 12
    assert "model.layers.0.mlp.down_proj" in state.pair.left_in_full_precision


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_are_no_numbers_are_named_and_counted(
    world: Path, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    unlearned = copied("blank")

    def put_nan(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, :2] = torch.nan
        tensors["model.layers.1.mlp.up_proj.weight"][4, 0] = torch.inf

    spoil(unlearned, put_nan)
    done = quail_here("audit", world / "original", unlearned, "--run-dir", tmp_path / "run")
    assert done.exit_code == 3
    assert "3 weights are NaN or infinite, in 1 layers: model.layers.1.mlp.up_proj" in done.stderr
    assert str(unlearned) in done.stderr
    report = read_report(tmp_path / "run")
    layers = {layer.name: layer for layer in report.schemes["nf4"].layers}
    assert len(layers) == 14, "the other layers are measured"
    assert layers["model.layers.1.mlp.up_proj"].nonfinite_unlearned == 3
    assert layers["model.layers.1.mlp.up_proj"].state is None
    assert layers["model.layers.1.mlp.down_proj"].state == "carried"
    lines = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    without = [e.layer.name for e in map(from_line, lines) if isinstance(e, LayerMeasured) and e.detail is None]
    assert without == ["model.layers.1.mlp.up_proj"]


def drop_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: (data / "verbmem" / "forget.json").write_text("{"), "forget.json"),
        (lambda data: (data / "verbmem" / "forget.json").write_bytes(b"\xff\xfe\x00"), "forget.json"),
        (lambda data: (data / "verbmem" / "forget.json").write_text("[]"), "forget.json"),
        (lambda data: (data / "verbmem" / "forget.json").write_text('[{"prompt": "a", "gt": "b"}, {"x": 1}]'), "2"),
        (lambda data: shutil.rmtree(data), "no such folder"),
    ],
    ids=["no JSON", "no UTF-8", "empty", "a bad row", "missing"],
)
def test_bad_data_is_exit_3(world: Path, tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    change(tmp_path / "data")
    with pytest.raises(BadInputError) as caught:
        list(audit(request(world, data=str(tmp_path / "data")), "run"))
    assert said in str(caught.value)


def test_no_tokenizer_anywhere_is_exit_3(world: Path, copied: Callable[[str], Path]) -> None:
    original, unlearned = copied("original"), copied("blank")
    drop_tokenizer(original)
    drop_tokenizer(unlearned)
    with pytest.raises(BadInputError, match="tokenizer"):
        list(audit(request(world, original=str(original), unlearned=str(unlearned)), "run"))


def test_the_originals_tokenizer_stands_in_and_that_is_noted(world: Path, copied: Callable[[str], Path]) -> None:
    unlearned = copied("blank")
    drop_tokenizer(unlearned)
    state = state_of(audit(request(world, unlearned=str(unlearned), metrics=("nll_forget",)), "run"))
    assert any("tokenizer" in note for note in state.notes)


@pytest.mark.parametrize(
    ("changes", "exit_code", "said"),
    [
        ({"schemes": ("nf5",)}, 2, "Did you mean nf4"),
        ({"metrics": ("verbmem",)}, 2, "verbmem_forget"),
        ({"metrics": ("knowmem_forget",)}, 3, "knowmem"),
        ({"device": "cuda:99"}, 4, "no such device"),
        ({"device": "toaster"}, 2, "unknown device"),
        ({"dtype": "int3"}, 2, "unknown dtype"),
        ({"policy": "/nowhere/quail.toml"}, 3, "policy"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    world: Path, changes: dict[str, object], exit_code: int, said: str
) -> None:
    seen: list[Event] = []
    with pytest.raises(QuailError) as caught:
        for event in audit(request(world, **changes), "run"):
            seen.append(event)  # noqa: PERF402 - the error comes in the middle
    assert caught.value.exit_code == exit_code
    assert said in str(caught.value)
    assert not any(isinstance(event, LayerMeasured) for event in seen)


def test_the_command_gives_json_and_the_verdicts_exit_code(world: Path, tmp_path: Path) -> None:
    done = quail(
        "audit", world / "original", world / "original", "--data", world / "data", "--metric", "verbmem_forget",
        "--run-dir", tmp_path / "run", "--format", "json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = Report.model_validate_json(done.stdout)
    assert report == Report.model_validate_json((tmp_path / "run" / "report.json").read_text())
    assert report.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["events.jsonl", "report.json", "request.json"]


def test_the_command_streams_events(world: Path, tmp_path: Path) -> None:
    done = quail(
        "audit", world / "original", world / "blank", "--run-dir", tmp_path / "run", "--format", "jsonl", "--quiet"
    )
    assert done.returncode == 5  # by the weights alone
    assert done.stdout == (tmp_path / "run" / EVENTS).read_text()
    assert done.stderr == ""


@pytest.mark.parametrize("output", ["out.txt", "run/out.txt"], ids=["beside the run", "in its new folder"])
def test_output_goes_to_a_file(output: str, world: Path, tmp_path: Path) -> None:
    pair = world / "original", world / "blank"
    done = quail_here("audit", *pair, "--run-dir", tmp_path / "run", "--output", tmp_path / output)
    assert done.exit_code == 5  # by the weights alone
    assert done.stdout == ""
    assert "? INCONCLUSIVE" in (tmp_path / output).read_text()


def test_ctrl_c_is_130_and_leaves_the_folder_readable(world: Path, tmp_path: Path) -> None:
    with start_audit(world, tmp_path / "run") as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"to go on from here: quail audit --resume {tmp_path / 'run'}" in errors
    report = read_report(tmp_path / "run")
    assert report.exit_code == 130
    assert len(report.schemes["nf4"].layers) == 14


def test_sigterm_is_the_same(world: Path, tmp_path: Path) -> None:
    with start_audit(world, tmp_path / "run") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert read_report(tmp_path / "run").failure is not None


def test_sigkill_loses_nothing_that_was_measured(world: Path, tmp_path: Path) -> None:
    with start_audit(world, tmp_path / "run") as process:
        process.kill()
        process.communicate(timeout=60)
    done = quail("watch", tmp_path / "run")  # and ends: a dead run is not waited for
    assert done.returncode == 4
    assert "carried" in done.stdout
    assert "was killed" in done.stderr
    resumed = quail_here("audit", "--resume", tmp_path / "run", "--format", "json")
    assert Report.model_validate_json(resumed.stdout).exit_code == resumed.exit_code == 0


def test_a_full_disk_is_exit_4(world: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import numba\n"
        "import quail_audit.engine.weights.pair\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))\n"
        "from quail_audit.cli.main import main\n"
        f"sys.argv = ['quail', 'audit', {str(world / 'original')!r}, {str(world / 'blank')!r}, '--run-dir', "
        f"{str(tmp_path / 'run')!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    kept = (tmp_path / "run" / EVENTS).read_text()
    assert kept.endswith("\n")
    assert all(from_line(line) for line in kept.splitlines())


def test_an_adapter_is_audited_as_merged(world: Path, llama: LlamaForCausalLM, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM.from_pretrained(world / "original")
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    state = state_of(audit(request(world, unlearned=str(tmp_path / "adapter"), metrics=("nll_forget",)), "run"))
    states = {layer.name: layer.state for layer in state.layers["nf4"]}
    assert states["model.layers.0.self_attn.q_proj"] == "carried"
    assert states["model.layers.0.self_attn.k_proj"] == "untouched"
    nll = state.scores["nll_forget"]
    assert nll["unlearned/full"].mean != nll["original/full"].mean


def test_layers_that_a_scheme_leaves_alone_are_named_and_not_measured(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that wants an even number of rows, so to speak: one layer of the tiny model has none such here."""
    int8 = type(scheme_named("int8"))
    left = "model.layers.0.mlp.down_proj"
    shape = next(layer.shape for layer in open_pair(*[str(world / "original")] * 2).layers if layer.name == left)
    monkeypatch.setattr(int8, "why_left_alone", lambda self, rows, columns: "odd" if (rows, columns) == shape else "")
    events = list(audit(request(world, data=None, schemes=("int8", "nf4")), "run"))
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert any(note.startswith("int8 leaves ") and left in note and note.endswith("(odd)") for note in notes)
    measured = [(event.scheme, event.layer.name) for event in events if isinstance(event, LayerMeasured)]
    assert ("nf4", left) in measured
    assert ("int8", left) not in measured
    assert len(measured) > 2


def test_a_scheme_that_rounds_no_layer_fails_and_the_others_go_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(scheme_named("int8")), "why_left_alone", lambda self, rows, columns: "too odd")
    events = list(audit(request(world, data=None, schemes=("int8", "nf4")), "run"))
    (failed,) = [event for event in events if isinstance(event, SchemeFailed)]
    assert (failed.scheme, failed.exit_code) == ("int8", 2)
    assert "rounds none of the" in failed.message
    assert "too odd" in failed.message
    assert {event.scheme for event in events if isinstance(event, LayerMeasured)} == {"nf4"}
    with pytest.raises(UsageError, match="rounds none of the"):
        list(audit(request(world, data=None, schemes=("int8",)), "run"))
