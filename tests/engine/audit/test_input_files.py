"""Which files an audit says it read, and their hashes: of whole audits, and of every kind of checkpoint."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from quail_audit.core.errors import BadInputError
from quail_audit.engine.audit.input_files import checkpoint_files, given_files
from quail_audit.engine.audit.run import audit
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.integrity.verify import verify
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import FilesFound, FilesHashed, LayerMeasured
from quail_audit.schema.events.lines import Event
from quail_audit.schema.requests import AuditRequest
from tests.support.tiny_audits import request
from tests.support.tiny_checkpoints import save, save_bin
from tests.support.tiny_gguf_files import write_llama


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def weights_only(world: Path) -> AuditRequest:
    return request(world, data=None)


def test_an_audit_hashes_every_file_that_it_read_and_is_verified_by_them(world: Path, tmp_path: Path) -> None:
    policy = tmp_path / "strict.toml"
    policy.write_text("[limits]\nmax_recovery_percent = 5.0\n")
    asked = request(world, retrain=str(world / "blank"), policy=str(policy), metrics=("nll_forget",), max_samples=1)
    with new_run(tmp_path / "run", asked) as run:
        list(record(audit(asked, "run"), run))
    found: dict[str, dict[str, str]] = {}
    for each in read_report(run).files:
        found.setdefault(each.role, {})[each.path] = each.sha256
    assert found == {
        "data": contents(world / "data"),
        "policy": {"strict.toml": hashlib.sha256(policy.read_bytes()).hexdigest()},
        "original": contents(world / "original"),
        "unlearned": contents(world / "blank"),
        "retrain": contents(world / "blank"),
    }
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(found["original"])
    verified = verify(run, {}, public_key=None)
    assert verified.outcome == "unchanged", verified
    assert sum(check.part == "file" for check in verified.checks) == sum(map(len, found.values()))


def test_they_are_hashed_without_data_too_and_before_the_verdict(weights_only: AuditRequest) -> None:
    events = list(audit(weights_only, "run"))
    kinds = [type(event) for event in events]
    assert kinds.index(FilesFound) < kinds.index(LayerMeasured) < kinds.index(FilesHashed)
    assert kinds[-3] is FilesHashed
    (found,) = [event for event in events if isinstance(event, FilesFound)]
    (hashed,) = [event for event in events if isinstance(event, FilesHashed)]
    assert [(each.role, each.path, each.bytes) for each in found.files] == [
        (each.role, each.path, each.bytes) for each in hashed.files
    ]


def started(asked: AuditRequest) -> Iterator[Event]:
    """An audit that has measured its first layer."""
    events = audit(asked, "run")
    assert any(isinstance(event, LayerMeasured) for event in events)
    return events


def test_no_verdict_is_given_on_files_that_changed(weights_only: AuditRequest, world: Path, tmp_path: Path) -> None:

    shutil.copytree(world / "blank", tmp_path / "unlearned")
    events = started(weights_only.model_copy(update={"unlearned": str(tmp_path / "unlearned")}))
    with (tmp_path / "unlearned" / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(BadInputError, match="changed while the audit was reading it") as caught:
        list(events)
    assert caught.value.where == str(tmp_path / "unlearned" / "tokenizer.json")


def test_an_audit_that_is_stopped_stops_hashing(weights_only: AuditRequest) -> None:
    events = started(weights_only)
    events.close()  # type: ignore[attr-defined]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("hashing")]


def found_of(original: Path, unlearned: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for place in checkpoint_files(open_pair(str(original), str(unlearned))):
        assert place.file.is_file()
        assert found.setdefault(place.found.role, set()).isdisjoint({place.found.path})
        found[place.found.role].add(place.found.path)
    return found


def test_shards_bins_adapters_and_gguf_files_are_found(tmp_path: Path) -> None:
    model = save(tmp_path / "sharded", max_shard_size="100KB")
    (tmp_path / "sharded" / "README.md").write_text("not read")
    save_bin(tmp_path / "bin", model, shards=2)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "sharded"), LoraConfig(target_modules=["q_proj"])
    )
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "gguf").mkdir()
    write_llama(model, tmp_path / "gguf" / "model.gguf", "q4_0")
    (tmp_path / "gguf" / "other.gguf").write_bytes(b"not read")

    shards = {path.name for path in (tmp_path / "sharded").glob("model-*.safetensors")}
    assert len(shards) > 1
    index = {"model.safetensors.index.json", "config.json", "generation_config.json"}
    assert found_of(tmp_path / "sharded", tmp_path / "bin") == {
        "original": shards | index,
        "unlearned": {
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
            "pytorch_model.bin.index.json",
            "config.json",
        },
    }
    assert found_of(tmp_path / "bin", tmp_path / "adapter")["unlearned"] == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert found_of(tmp_path / "sharded", tmp_path / "gguf" / "model.gguf")["unlearned"] == {"model.gguf"}


def test_texts_to_calibrate_on_are_hashed_where_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "retain.txt").write_text("a text")
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}')
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "events.jsonl").write_text("")
    own = AuditRequest(original="o", unlearned="u", data=str(tmp_path / "data"), baseline=str(tmp_path / "before"))
    given = own.model_copy(update={"calibration": str(tmp_path / "texts.jsonl")})

    def found(asked: AuditRequest, *, calibrated: bool) -> list[tuple[str, str]]:
        return [(each.found.role, each.found.path) for each in given_files(asked, calibrated=calibrated)]

    baseline = ("baseline", "events.jsonl")
    assert found(own, calibrated=False) == found(given, calibrated=False) == [baseline]
    assert found(own, calibrated=True) == [("data", "raw/retain.txt"), baseline]
    assert found(given, calibrated=True) == [("calibration", "texts.jsonl"), baseline]
