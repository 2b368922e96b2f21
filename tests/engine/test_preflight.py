"""What preflight answers about real checkpoints and data, and that its process keeps to its protocol."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quail_audit.engine.preflight import answer
from quail_audit.schema.policy import Policy
from quail_audit.schema.preflight import (
    AboutCheckpoint,
    AboutData,
    AboutDevices,
    AboutPair,
    AboutPolicy,
    AboutSchemes,
    Answer,
    CheckpointFound,
    DataFound,
    DevicesFound,
    NotYetKnown,
    PairFound,
    PolicyFound,
    Problem,
    Question,
    SchemesFound,
    answer_of,
)
from tests.support.stand_in_hub import Repository, StandIn, folder_files, running
from tests.support.tiny_checkpoints import llama_config, save

DELETED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class Asked:
    """A process that is asked one question after another."""

    def __init__(self, env: dict[str, str], code: str = "") -> None:
        runs = f"{code}\nfrom quail_audit.engine.preflight import main\nmain()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", runs], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ask(self, question: Question) -> Answer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()
        return answer_of(self.process.stdout.readline())

    def end(self) -> tuple[int, bytes]:
        """Closes its input; how it ended and what it said on standard error."""
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in DELETED} | more


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    process = Asked(environment(), getattr(request, "param", ""))
    yield process
    process.process.kill()
    process.process.communicate()


def test_a_checkpoint_says_what_it_is(world: Path) -> None:
    found = answer(AboutCheckpoint(source=str(world / "original")))
    assert isinstance(found, CheckpointFound)
    assert found.facts.architecture == "LlamaForCausalLM"
    assert found.facts.format == "safetensors"
    assert found.facts.parameters > 0
    assert found.layers % 7 == 0  # q, k, v, o, gate, up, down
    assert not found.cached


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/no/such/folder", "there is no such folder"),
        ("./nor/this", "there is no such folder"),
        ("a\0b", "there is no such folder"),
        ("x" * 5000, "is not a usable path"),
        ("", "no weights"),
    ],
)
def test_what_is_no_checkpoint_is_a_problem(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    found = answer(AboutCheckpoint(source=source or str(tmp_path)))
    assert isinstance(found, Problem)
    assert said in found.message


def test_a_checkpoint_without_config_is_told_by_names(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").unlink()
    found = answer(AboutCheckpoint(source=str(tmp_path)))
    assert isinstance(found, CheckpointFound)
    assert found.facts.architecture is None
    assert any("found by names and shapes" in note for note in found.notes)


def test_pickled_junk_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trap),)

    folder = tmp_path / "junk"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    assert isinstance(answer(AboutCheckpoint(source=str(folder))), Problem)
    assert not trap.exists()


def test_escape_codes_in_a_checkpoint_come_out_harmless(tmp_path: Path) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "\x1b[31m[red]llama"}))
    found = answer(AboutCheckpoint(source=str(tmp_path)))
    assert "\x1b" not in found.model_dump_json()
    assert "\\u001b" not in found.model_dump_json()


def test_an_adapter_needs_its_base(world: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world / "original")
    get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(tmp_path)
    alone = answer(AboutCheckpoint(source=str(tmp_path)))
    assert isinstance(alone, Problem)
    assert "no whole model to apply it to" in alone.message
    based = answer(AboutCheckpoint(source=str(tmp_path), base=str(world / "original")))
    assert isinstance(based, CheckpointFound)
    assert based.facts.format == "LoRA adapter"
    on_a_hub = answer(AboutCheckpoint(source=str(tmp_path), base="org/name"))
    assert isinstance(on_a_hub, NotYetKnown)


def test_a_pair_that_fits_and_one_that_does_not(world: Path, tmp_path: Path) -> None:
    original = str(world / "original")
    fits = answer(AboutPair(original=original, unlearned=str(world / "blank"), retrain=original))
    assert isinstance(fits, PairFound)
    assert fits.layers > 0
    assert fits.weights > fits.layers
    save(tmp_path, llama_config(hidden_size=32, num_hidden_layers=1))
    other = answer(AboutPair(original=original, unlearned=str(tmp_path)))
    assert isinstance(other, Problem)
    assert other.where == str(tmp_path)


def test_data_says_samples_and_what_is_skipped(world: Path, tmp_path: Path) -> None:
    found = answer(AboutData(folder=str(world / "data")))
    assert isinstance(found, DataFound)
    assert found.samples["verbmem_forget"] > 0
    assert "knowmem_forget" in found.skipped
    for folder, said in ((tmp_path, "nothing to measure"), (tmp_path / "none", "no such folder")):
        problem = answer(AboutData(folder=str(folder)))
        assert isinstance(problem, Problem)
        assert said in problem.message


def test_data_is_looked_at_for_the_model_it_is_asked_of(world: Path, tmp_path: Path) -> None:
    from tests.support.tiny_classifiers import new_classifier, write_sets

    classifier, labelled, foreign = (str(tmp_path / name) for name in ("classifier", "labelled", "foreign"))
    new_classifier("encoder", 20, ("real", "fake")).save_pretrained(classifier)
    write_sets(Path(labelled), {"forget": [("a", "real")]})
    write_sets(Path(foreign), {"forget": [("a", "spam")]})
    texts, language_model = str(world / "data"), str(world / "original")

    def asked(folder: str, checkpoint: str) -> Answer:
        return answer(AboutData(folder=folder, checkpoint=checkpoint))

    for folder, checkpoint in ((labelled, classifier), (texts, language_model), (labelled, str(tmp_path / "none"))):
        assert isinstance(asked(folder, checkpoint), DataFound), folder
    fits = asked(labelled, classifier)
    assert isinstance(fits, DataFound)
    assert not any("verbmem" in metric for metric in (*fits.samples, *fits.skipped))
    for folder, checkpoint, said in (
        (texts, classifier, "this data is for a language model, but"),
        (labelled, language_model, "this data is for a classifier, but"),
        (foreign, classifier, "the label spam is none of the model's"),
    ):
        problem = asked(folder, checkpoint)
        assert isinstance(problem, Problem), folder
        assert said in problem.message


def test_a_policy_says_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[limits]\nmax_recovery_percent = 25\n")
    found = answer(AboutPolicy(file=str(path)))
    assert isinstance(found, PolicyFound)
    assert (found.policy.limits.max_known_percent, found.policy.limits.max_back_percent) == (25.0, 25.0)
    defaults = answer(AboutPolicy(file=None))
    assert isinstance(defaults, PolicyFound)
    assert defaults.policy == Policy()
    path.write_text("[limits]\nmax_recovery = 25\n")
    assert isinstance(answer(AboutPolicy(file=str(path))), Problem)


def test_schemes_and_devices() -> None:
    schemes = answer(AboutSchemes())
    assert isinstance(schemes, SchemesFound)
    assert "nf4" in [scheme.name for scheme in schemes.schemes]
    assert {scheme.name for scheme in schemes.schemes if scheme.is_calibrated} > {"gptq-int4-g128", "awq-int4-g128"}
    devices = answer(AboutDevices())
    assert isinstance(devices, DevicesFound)
    assert "cpu" in [device.name for device in devices.devices]


def test_an_unknown_failure_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> None:
        raise RuntimeError("\x1b[2Jlibrary on fire")

    monkeypatch.setattr("quail_audit.engine.schemes.registry.listed_schemes", break_down)
    found = answer(AboutSchemes())
    assert isinstance(found, Problem)
    assert "library on fire" in found.message
    assert "\x1b" not in found.message


def test_an_id_never_starts_a_download(tmp_path: Path) -> None:
    with running(StandIn()) as hub:
        save(tmp_path / "model")
        hub.repositories["org/model"] = Repository(folder_files(tmp_path / "model"))
        process = Asked(environment(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home")))
        found = process.ask(AboutCheckpoint(source="org/model"))
        assert isinstance(found, NotYetKnown)
        assert "fetched when the audit starts" in found.message
        pair = process.ask(AboutPair(original="org/model", unlearned="org/model"))
        assert isinstance(pair, NotYetKnown)
        assert process.end()[0] == 0
        assert hub.requests == []


def test_an_id_is_looked_at_in_the_cache(tmp_path: Path) -> None:
    with running(StandIn()) as hub:
        save(tmp_path / "model")
        hub.repositories["org/model"] = Repository(folder_files(tmp_path / "model"))
        env = environment(
            HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"
        )
        fetch = "from quail_audit.core.hub import fetch, parse_hub_id; fetch(parse_hub_id('org/model'))"
        subprocess.run([sys.executable, "-c", fetch], env=env, check=True, timeout=120)
        before = len(hub.requests)
        process = Asked(env)
        found = process.ask(AboutCheckpoint(source="org/model"))
        assert isinstance(found, CheckpointFound), found
        assert found.cached
        assert found.facts.revision
        assert process.end()[0] == 0
        assert len(hub.requests) == before


def test_offline_an_id_that_is_not_cached_is_a_problem(tmp_path: Path) -> None:
    process = Asked(environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)))
    found = process.ask(AboutCheckpoint(source="org/model"))
    assert isinstance(found, Problem)
    assert "HF_HUB_OFFLINE" in found.mend
    process.end()


NOISE = """
import os
import quail_audit.engine.schemes.registry as registry
known = registry.listed_schemes
registry.listed_schemes = lambda: (print("noise"), os.write(1, b"more noise\\n"), known())[-1]
"""


@pytest.mark.parametrize("asked", [NOISE], indirect=True)
def test_what_libraries_print_does_not_reach_the_app(asked: Asked) -> None:
    assert isinstance(asked.ask(AboutSchemes()), SchemesFound)
    assert isinstance(asked.ask(AboutSchemes()), SchemesFound)
    code, said = asked.end()
    assert code == 0
    assert b"more noise" in said


@pytest.mark.parametrize(
    "asked",
    ["import quail_audit.engine.schemes.registry as r, time\nr.listed_schemes = lambda: time.sleep(600)"],
    indirect=True,
)
def test_it_ends_with_the_app_in_the_middle_of_an_answer(asked: Asked) -> None:
    assert asked.process.stdin is not None
    asked.process.stdin.write(AboutSchemes().model_dump_json().encode() + b"\n")
    asked.process.stdin.flush()
    assert asked.end()[0] == 0
