"""Every reader of files from outside: what it reads, made hostile, and how it is asked to read all of it.

Not here: how inputs are spoilt (mutations.py) and what readers may cost (guard.py).
"""

import functools
import io
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from tests.fuzz.mutations import (
    spoilt_bytes,
    spoilt_document,
    spoilt_json,
    spoilt_json_lines,
    spoilt_safetensors,
    spoilt_tensors,
)
from tests.support.places import GOLDEN, ROOT

THEMES = ROOT / "themes"


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        inputs: makes the hostile ones; asked once, when they are needed, as making valid ones takes imports.
        read: puts one into a folder of its own, and reads all of it. May raise BadInputError, and nothing else.
        is_quick: whether a few inputs take well under a second, imports included.
    """

    inputs: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Path, Any], None]
    is_quick: bool = True


def _read_weights(folder: Path) -> None:
    from quail_audit.engine.checkpoints.weight_files import open_weight_files

    files = open_weight_files(folder, safetensors="model.safetensors", torch_bin="pytorch_model.bin")
    for name in files.tensors if files else ():
        files.read(name)  # type: ignore[union-attr]


def _read_checkpoint(path: Path) -> None:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(str(path))
    _ = checkpoint.facts, checkpoint.notes
    for name in checkpoint.names:
        checkpoint.read(name)
    for matrix in checkpoint.layout.rounded:
        checkpoint.read_rounded(matrix)


# Weight files


@functools.cache
def _tensors() -> dict[str, Any]:
    import torch

    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4, 2, dtype=torch.bfloat16)}


def _safetensors() -> st.SearchStrategy[bytes]:
    from safetensors.torch import save

    return spoilt_safetensors([save(_tensors()), save({"x": _tensors()["a.weight"]}, metadata={"format": "pt"})])


def _torch_files() -> st.SearchStrategy[bytes]:
    import torch

    seeds = []
    for content in (_tensors(), {"w": _tensors()["a.weight"].T}, [1, {"x": 2}]):
        stream = io.BytesIO()
        torch.save(content, stream)
        seeds.append(stream.getvalue())
    return spoilt_bytes(seeds)


@functools.cache
def _shards() -> dict[str, bytes]:
    from safetensors.torch import save

    names = {"one.safetensors": "a.weight", "two.safetensors": "b.weight"}
    return {file: save({name: _tensors()[name]}) for file, name in names.items()}


def _read_index(folder: Path, index: bytes) -> None:
    for name, content in _shards().items():
        (folder / name).write_bytes(content)
    (folder / "model.safetensors.index.json").write_bytes(index)
    _read_weights(folder)


_INDEX = {
    "metadata": {"total_size": 40},
    "weight_map": {"a.weight": "one.safetensors", "b.weight": "two.safetensors"},
}


def _written(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
    """A reader of a folder in which there is but this file."""

    def write_and_read(folder: Path, content: bytes) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
        read(folder)

    return write_and_read


# Models


@functools.cache
def _models() -> tuple[tuple[dict[str, Any], bytes], ...]:
    """The config.json and the weights of tiny models."""
    from safetensors.torch import save

    from tests.support.tiny_checkpoints import CONFIGS, build, llama_config

    head = {"architectures": ["LlamaForSequenceClassification"], "id2label": {0: "fake", 1: "real"}}
    configs = [CONFIGS[name] for name in ("llama", "llama, tied", "gpt2", "mixtral")] + [llama_config(**head)]
    found = []
    for config in configs:
        model = build(config)
        state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
        if not config.tie_word_embeddings and hasattr(model, "lm_head"):
            state["lm_head.weight"] = model.lm_head.weight.detach()
        found.append(({**config.to_diff_dict(), "architectures": [type(model).__name__]}, save(state)))
    return tuple(found)


def _configs() -> st.SearchStrategy[tuple[bytes, bytes]]:
    return st.one_of(*(st.tuples(spoilt_json([config]), st.just(weights)) for config, weights in _models()))


def _read_config(folder: Path, input_: tuple[bytes, bytes]) -> None:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
    from quail_audit.engine.forgetting.data.labels import label_names
    from quail_audit.engine.forgetting.measurable import task_of

    (folder / "config.json").write_bytes(input_[0])
    (folder / "model.safetensors").write_bytes(input_[1])
    checkpoint = open_checkpoint(str(folder))
    _ = checkpoint.facts, checkpoint.notes
    if task_of(checkpoint) == "classification":
        label_names(checkpoint.config, str(folder))


@functools.cache
def _base() -> Any:
    import tempfile

    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint

    folder = Path(tempfile.mkdtemp())
    config, weights = _models()[0]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return open_checkpoint(str(folder))


@functools.cache
def _adapter() -> tuple[dict[str, Any], bytes]:
    import tempfile

    from peft import LoraConfig, get_peft_model

    from tests.support.tiny_checkpoints import build, llama_config

    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], use_rslora=True)
    with tempfile.TemporaryDirectory() as folder:
        get_peft_model(build(llama_config()), settings).save_pretrained(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        return config, (Path(folder) / "adapter_model.safetensors").read_bytes()


def _adapters() -> st.SearchStrategy[tuple[bytes, bytes]]:
    config, weights = _adapter()
    right = json.dumps(config).encode()
    return st.one_of(
        st.tuples(spoilt_json([config]), st.just(weights)), st.tuples(st.just(right), spoilt_safetensors([weights]))
    )


def _read_adapter(folder: Path, input_: tuple[bytes, bytes]) -> None:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint

    (folder / "adapter_config.json").write_bytes(input_[0])
    (folder / "adapter_model.safetensors").write_bytes(input_[1])
    checkpoint = open_checkpoint(str(folder), base=_base())
    _ = checkpoint.facts, checkpoint.notes
    for matrix in checkpoint.layout.rounded[:7]:
        checkpoint.read_matrix(matrix)


def _gguf_files() -> st.SearchStrategy[bytes]:
    import tempfile

    from tests.support.tiny_checkpoints import build, llama_config
    from tests.support.tiny_gguf_files import write_llama

    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("q4_0", "q8_0"):
            path = Path(folder) / f"{kind}.gguf"
            write_llama(build(llama_config(num_hidden_layers=1)), path, kind)
            seeds.append(path.read_bytes())
    return spoilt_bytes(seeds)


# Packed checkpoints: tensors, and the quantization_config beside them


def _packed(kind: str) -> Callable[[], st.SearchStrategy[tuple[dict[str, Any], bytes]]]:
    def inputs() -> st.SearchStrategy[tuple[dict[str, Any], bytes]]:
        parts, config = _packed_seed(kind)
        right = json.dumps({"quantization_config": config}).encode()
        wrong = st.one_of(
            spoilt_document([config]).map(lambda each: json.dumps({"quantization_config": each}).encode()),
            spoilt_json([{"quantization_config": config}]),
        )
        return st.one_of(
            st.tuples(spoilt_tensors(parts), st.just(right)), st.tuples(st.just(parts), wrong)
        ) | st.tuples(spoilt_tensors(parts), wrong)

    return inputs


def _packed_seed(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch

    from tests.support.slow_packers import awq_parts, compressed_parts, gptq_parts

    torch.manual_seed(0)
    outputs, inputs, groups = 32, 64, 4
    codes = torch.randint(16, (outputs, inputs)).tolist()
    zeros = torch.randint(16, (groups, outputs)).tolist()
    scales = torch.rand(groups, outputs).half()
    by_input = [place * groups // inputs for place in range(inputs)]
    parts: dict[str, torch.Tensor]
    match kind:
        case "gptq":
            parts = gptq_parts(codes, zeros, scales, by_input, 4, version=1)
            config: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
            config |= {"checkpoint_format": "gptq", "dynamic": {}, "pack_dtype": "int32"}
        case "awq":
            parts = awq_parts(codes, zeros, scales)
            config = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
        case "compressed":
            by_output = [[row[output] for row in zeros] for output in range(outputs)]
            parts = compressed_parts(codes, by_output, scales.T.contiguous(), by_input, 4)
            weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}
            config = {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            }
        case _:
            from bitsandbytes.functional import quantize_4bit

            packed, state = quantize_4bit(torch.rand(outputs, inputs), compress_statistics=True, quant_type="nf4")
            parts = {"weight": packed} | {f"weight.{key}": v for key, v in state.as_dict(packed=True).items()}
            parts |= {f"8.{name}": value for name, value in _eight_bit(outputs, inputs).items()}
            config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return {f"m.{name}": part.contiguous() for name, part in parts.items()}, config


def _eight_bit(outputs: int, inputs: int) -> dict[str, Any]:
    import torch

    return {
        "weight": torch.randint(-127, 127, (outputs, inputs), dtype=torch.int8),
        "SCB": torch.rand(outputs),
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def _read_packed(folder: Path, input_: tuple[dict[str, Any], bytes]) -> None:
    from safetensors.torch import save_file

    save_file(input_[0], folder / "model.safetensors")
    (folder / "config.json").write_bytes(input_[1])
    _read_checkpoint(folder)


@functools.cache
def _states() -> tuple[dict[str, Any], bytes]:
    parts, _ = _packed_seed("bitsandbytes")
    state = next(name for name in parts if "quant_state" in name)
    return parts, bytes(parts[state].tolist())


def _read_state(folder: Path, text: bytes) -> None:
    import torch

    parts, _ = _states()
    state = next(name for name in parts if "quant_state" in name)
    changed = parts | {state: torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)}
    _read_packed(folder, (changed, b'{"quantization_config": {"quant_method": "bitsandbytes"}}'))


# Data


def _read_data(folder: Path) -> None:
    from quail_audit.engine.forgetting.measurable import read_data

    read_data(folder)


def _read_population(folder: Path) -> None:
    (folder / "forget.jsonl").write_text(json.dumps(_QA[0]))
    _read_data(folder)


_QA = [
    {"question": "Who?", "answer": "Nobody", "paraphrases": ["By whom?", "Name them."]},
    {"question": "Where?", "answer": "Here", "paraphrase": "In which place?"},
]
_VERBMEM = [{"prompt": "It was", "gt": "a dark night"}, {"prompt": "The", "gt": "end"}]
_LINES: list[list[Any]] = [
    [{"text": "one", "label": "real"}, {"text": "two", "label": 0}],
    [{"prompt": "It was", "completion": "a night"}, {"prompt": "The", "completion": "end"}],
    [*_QA],
    [{"text": "one"}, {"text": "two"}],
]
_TABLES = (
    b'text,label\r\n"one, two",real\r\n"three ""four""",fake\r\n',
    b"id,tweet,label\n1,one,real\n2,two,fake\n",
)


def _read_calibration(path: Path) -> None:
    from quail_audit.engine.forgetting.data.calibration_texts import read_calibration_texts

    read_calibration_texts(str(path), None)


# Policies, themes, settings


_POLICY = b"""
[limits]
max_recovery_percent = 10.0
informative_points = 5.0
[[limits.where]]
schemes = "gguf-*"
metrics = ["knowmem_forget"]
max_recovery_percent = 20.0
[required]
schemes = ["nf4"]
samples = { verbmem_forget = 100 }
[[rules]]
name = "the MLPs carry their updates"
figure = "survival"
layers = "*.mlp.*"
at_least = 0.8
[[waivers]]
rule = "the MLPs carry their updates"
reason = "kept in 16 bits"
owner = "release@example.org"
expires = 2027-06-30
"""


def _policies() -> st.SearchStrategy[bytes]:
    import datetime

    document = tomllib.loads(_POLICY.decode())
    plain = json.loads(json.dumps(document, default=datetime.date.isoformat))
    return st.one_of(spoilt_bytes([_POLICY]), _spoilt_toml(plain))


def _spoilt_toml(document: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Still TOML, where it can be written so: tables and values as inline ones."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {written(each)}" for key, each in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(written, value)) + "]"
        return "[]" if value is None else json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")

    def as_file(spoilt: Any) -> bytes:
        return "".join(f"{json.dumps(key)} = {written(value)}\n" for key, value in spoilt.items()).encode()

    return spoilt_document([document]).map(as_file)


def _read_policy(folder: Path) -> None:
    from quail_audit.verdict.policy_file import read_policy

    read_policy(str(folder / "quail.toml"))


def _read_pyproject(folder: Path) -> None:
    from quail_audit.verdict.policy_file import find_policy, read_policy

    if (found := find_policy(folder)) is not None:
        read_policy(str(folder / found))


def _themes() -> st.SearchStrategy[bytes]:
    seeds = [path.read_bytes() for path in sorted(THEMES.glob("*.toml"))]
    return st.one_of(spoilt_bytes(seeds), _spoilt_toml(tomllib.loads(seeds[0].decode())))


def _read_theme(folder: Path) -> None:
    from quail_audit.tui.theme.files import read_theme

    read_theme(folder / "theme.toml").as_textual()


def _settings() -> st.SearchStrategy[bytes]:
    from quail_audit.tui.settings import Settings

    return spoilt_json([Settings(original="a", recent_runs=("/runs/a",)).model_dump(mode="json")])


def _read_settings(folder: Path) -> None:
    from quail_audit.core.untrusted import printable
    from quail_audit.tui.settings import load_settings

    with mock.patch.dict("os.environ", {"QUAIL_CONFIG_DIR": str(folder)}):
        _, problem = load_settings()  # it raises nothing: a problem is a message
    if problem is not None:
        assert problem == printable(problem)


# Runs


def _runs() -> st.SearchStrategy[bytes]:
    from quail_audit.schema.events.lines import to_line
    from tests.support.small_run import events

    golden = [path.read_text().splitlines() for path in GOLDEN.glob("runs/*/events.jsonl")]
    seeds = [[to_line(event) for event in events()], *golden]
    return spoilt_json_lines([[json.loads(line) for line in seed] for seed in seeds])


def _read_run(folder: Path) -> None:
    from quail_audit.cli.progress.plain import PlainProgress
    from quail_audit.runs.folder import read_report, summarize_run
    from quail_audit.runs.follow import replay
    from quail_audit.runs.state import state_for
    from quail_audit.runs.state.audit import AuditState

    summarize_run(folder)
    said = io.StringIO()
    try:
        face, state = PlainProgress(said), AuditState()
        for event in replay(folder):
            state = state_for(event, state)  # type: ignore[assignment]
            state.apply(event)
            face.update(event, state)
        read_report(folder)
    finally:
        _check_plain(said.getvalue())


def _check_plain(text: str) -> None:
    from quail_audit.core.untrusted import printable

    assert printable(text.replace("\n", "")) == text.replace("\n", ""), "acts on a terminal"


def _reports() -> st.SearchStrategy[bytes]:
    from tests.support.small_run import events, report_of

    made = json.loads(report_of(*events()).model_dump_json())
    return spoilt_json([made, json.loads(sorted(GOLDEN.glob("reports/*.json"))[0].read_text())])


def _read_report(folder: Path) -> None:
    from rich.console import Console

    from quail_audit.reports.formats import FORMATS
    from quail_audit.reports.text import audit
    from quail_audit.runs.report_file import read_report_file

    report = read_report_file(folder / "report.json")
    for name, rendering in FORMATS.items():
        if name != "csv-samples":
            "".join(rendering(report, None))
    said = io.StringIO()
    audit.show(report, Console(file=said, highlight=False, width=120))
    _check_plain(said.getvalue())


def _requests() -> st.SearchStrategy[bytes]:
    from quail_audit.schema.requests import AuditRequest, CarryRequest, TrainRequest

    requests = (
        AuditRequest(original="a", unlearned="b", data="data", limits={"max_recovery_percent": 5.0}),
        TrainRequest(original="a", unlearned="b", data="data", out="c"),
        CarryRequest(original="a", unlearned="b", out="c"),
    )
    return spoilt_json([json.loads(request.model_dump_json()) for request in requests])


def _read_request(folder: Path) -> None:
    from quail_audit.runs.folder import read_request, summarize_run
    from quail_audit.schema.command_line import audit_arguments
    from quail_audit.schema.requests import AuditRequest
    from quail_audit.tui.widgets.runs_table import pair, schemes

    (folder / "events.jsonl").write_bytes(b"")
    found = read_request(folder)
    summarize_run(folder)
    if isinstance(found, AuditRequest):
        audit_arguments(found)
        _check_plain(pair(found, 40) + schemes(found, 11))


_CARD = """---
license: apache-2.0
model-index:
- name: x
  results: []
tags: [a, b]
---
# A model
"""


def _read_card(folder: Path) -> None:
    from quail_audit.reports.model_card import write_model_card
    from tests.support.small_run import events, report_of

    write_model_card(report_of(*events()), folder / "README.md")


def _stamps() -> st.SearchStrategy[bytes]:
    from quail_train.demo.folder import _Stamp

    return spoilt_json([_Stamp(made_from="x", files={"a": "b"}).model_dump()])


def _read_stamp(folder: Path) -> None:
    from quail_train.demo.folder import _read_stamp as read

    read(folder)


READERS: dict[str, Reader] = {
    "safetensors": Reader(_safetensors, _written("model.safetensors", _read_weights)),
    "torch file": Reader(_torch_files, _written("pytorch_model.bin", _read_weights)),
    "index": Reader(lambda: spoilt_json([_INDEX]), _read_index),
    "config.json": Reader(_configs, _read_config, is_quick=False),
    "adapter": Reader(_adapters, _read_adapter, is_quick=False),
    "gguf": Reader(_gguf_files, _written("m.gguf", lambda folder: _read_checkpoint(folder / "m.gguf"))),
    "gptq": Reader(_packed("gptq"), _read_packed),
    "awq": Reader(_packed("awq"), _read_packed),
    "compressed-tensors": Reader(_packed("compressed"), _read_packed),
    "bitsandbytes": Reader(_packed("bitsandbytes"), _read_packed),
    "bitsandbytes' state": Reader(lambda: spoilt_json([json.loads(_states()[1])]), _read_state),
    "verbmem": Reader(lambda: spoilt_json([_VERBMEM]), _written("verbmem/forget.json", _read_data)),
    "knowmem": Reader(lambda: spoilt_json([_QA]), _written("knowmem/retain_qa.json", _read_data)),
    "population": Reader(
        lambda: spoilt_json([{"verbmem": 24, "knowmem": "all"}]),
        _written("population.json", _read_population),
    ),
    "privleak": Reader(
        lambda: spoilt_json([["one", "two"], [{"text": "one"}]]), _written("privleak/forget.json", _read_data)
    ),
    "jsonl": Reader(lambda: spoilt_json_lines(_LINES), _written("forget.jsonl", _read_data)),
    "csv": Reader(lambda: spoilt_bytes(_TABLES), _written("forget.csv", _read_data)),
    "calibration texts": Reader(
        lambda: spoilt_json_lines(_LINES), _written("c.jsonl", lambda folder: _read_calibration(folder / "c.jsonl"))
    ),
    "policy": Reader(_policies, _written("quail.toml", _read_policy)),
    "pyproject.toml": Reader(
        lambda: spoilt_bytes([b'[project]\nname = "x"\n[tool.quail.limits]\nmax_recovery_percent = 5.0\n']),
        _written("pyproject.toml", _read_pyproject),
    ),
    "theme": Reader(_themes, _written("theme.toml", _read_theme)),
    "settings": Reader(_settings, _written("settings.json", _read_settings)),
    "events": Reader(_runs, _written("events.jsonl", _read_run)),
    "report": Reader(_reports, _written("report.json", _read_report)),
    "request": Reader(_requests, _written("request.json", _read_request)),
    "model card": Reader(lambda: spoilt_bytes([_CARD.encode()]), _written("README.md", _read_card)),
    "demo's stamp": Reader(_stamps, _written("quail-demo.json", _read_stamp)),
}
