"""Fetching from a hub, in a process of its own that finds a stand-in of the hub through HF_ENDPOINT."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from quail_audit.core.errors import EXIT_BAD_INPUT, EXIT_ENVIRONMENT, EnvironmentProblemError
from quail_audit.core.hub import HubId, fetch, parse_hub_id
from quail_audit.engine.checkpoints.pair import open_pair
from tests.support.stand_in_hub import TOKEN, Repository, StandIn, folder_files, running
from tests.support.tiny_checkpoints import save, save_bin

FETCH = """
import json, sys
from quail_audit.core.hub import fetch, parse_hub_id
from quail_audit.core.errors import QuailError
try:
    fetched = fetch(parse_hub_id(sys.argv[1]))
    print(json.dumps({"folder": str(fetched.folder), "commit": fetched.commit}))
except QuailError as error:
    print(json.dumps({"exit_code": error.exit_code, "said": str(error)}))
"""

READ = """
import json, sys
from quail_audit.engine.checkpoints.pair import open_pair
pair = open_pair(*sys.argv[1:])
sums = [[float(side.sum()) for side in pair.read(layer)] for layer in pair.layers]
print(json.dumps({"sums": sums, "facts": pair.unlearned.facts.model_dump(), "notes": pair.notes}))
"""


@pytest.fixture
def hub() -> Iterator[StandIn]:
    with running(StandIn()) as stand_in:
        yield stand_in


def environment(hub: StandIn, home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }


def run_python(code: str, arguments: list[str], env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr  # no progress bars where there is no terminal
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def fetch_in_process(source: str, env: dict[str, str]) -> dict[str, Any]:
    return run_python(FETCH, [source], env)


def small_files(**more: bytes) -> dict[str, bytes]:
    return {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"s" * 300_000, **more}


def test_a_pair_on_a_hub_is_read_like_one_in_folders(hub: StandIn, tmp_path: Path) -> None:
    original = save(tmp_path / "original", max_shard_size="100KB")
    torch.manual_seed(5)
    adapted = get_peft_model(original, LoraConfig(target_modules=["o_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    save_bin(tmp_path / "retrain", save(tmp_path / "plain", seed=3), shards=2)
    for name in ("original", "adapter", "retrain"):
        hub.repositories[f"org/{name}"] = Repository(folder_files(tmp_path / name))
    env = environment(hub, tmp_path / "home")
    from_hub = run_python(READ, ["org/original", "org/adapter@main", "org/retrain"], env)
    pair = open_pair(*(str(tmp_path / name) for name in ("original", "adapter", "retrain")))
    assert from_hub["sums"] == [[float(side.sum()) for side in pair.read(layer)] for layer in pair.layers]
    facts = pair.unlearned.facts.model_dump()
    assert from_hub["facts"] == {**facts, "source": "org/adapter@main", "revision": "a" * 40, "dtypes": ["float32"]}


def test_only_what_is_needed_is_downloaded(hub: StandIn, tmp_path: Path) -> None:
    unneeded = {
        "pytorch_model.bin": b"p",
        "consolidated.safetensors": b"c",
        "modeling_evil.py": b"x",
        "onnx/model.json": b"o",
        "README.md": b"r",
        "weights.gguf": b"g",
    }
    hub.repositories["org/model"] = Repository(small_files(**unneeded))
    folder = Path(fetch_in_process("org/model", environment(hub, tmp_path))["folder"])
    assert {path.name for path in folder.rglob("*")} == set(small_files())
    assert (folder / "model.safetensors").read_bytes() == b"s" * 300_000


def test_pickles_are_downloaded_only_for_want_of_safetensors(hub: StandIn, tmp_path: Path) -> None:
    hub.repositories["org/old"] = Repository({"config.json": b"{}", "pytorch_model.bin": b"p" * 1000})
    folder = Path(fetch_in_process("org/old", environment(hub, tmp_path))["folder"])
    assert {path.name for path in folder.iterdir()} == {"config.json", "pytorch_model.bin"}


def test_redirects_are_followed_and_the_token_stays_with_the_hub(hub: StandIn, tmp_path: Path) -> None:
    """A renamed repository, whose large files are on another host."""
    hub.repositories["org/new-name"] = Repository(small_files(), gated=True)
    hub.repositories["org/old-name"] = Repository({}, moved_to="org/new-name")
    env = environment(hub, tmp_path, HF_TOKEN=TOKEN)
    folder = Path(fetch_in_process("org/old-name", env)["folder"])
    assert (folder / "model.safetensors").stat().st_size == 300_000
    assert any(seen.authorized for seen in hub.requests if seen.host == "hub")
    assert hub.downloads("model.safetensors")
    # Both servers are this machine, but the client tells hosts by name and port.
    assert not any(seen.authorized for seen in hub.downloads("model.safetensors"))


def test_branches_tags_and_commits(hub: StandIn, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(small_files(), revisions={"main": "a" * 40, "v1.0": "b" * 40})
    env = environment(hub, tmp_path)
    assert fetch_in_process("org/model", env)["commit"] == "a" * 40
    assert fetch_in_process("org/model@v1.0", env)["commit"] == "b" * 40
    assert fetch_in_process(f"org/model@{'b' * 40}", env)["commit"] == "b" * 40


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("org/nothing", "neither a local folder nor a model"),
        ("org/model@v9", "no branch, tag or commit 'v9'"),
        ("org/gated", "hf auth login"),
        ("org/--bad..name", "valid Hugging Face id"),
    ],
)
def test_what_is_not_there_is_bad_input(hub: StandIn, tmp_path: Path, source: str, said: str) -> None:
    hub.repositories["org/model"] = Repository(small_files())
    hub.repositories["org/gated"] = Repository(small_files(), gated=True)
    answer = fetch_in_process(source, environment(hub, tmp_path))
    assert answer["exit_code"] == EXIT_BAD_INPUT
    assert said in answer["said"]
    if source == "org/gated":
        assert f"{hub.url}/org/gated" in answer["said"]


def test_a_gated_model_opens_for_who_was_let_in(hub: StandIn, tmp_path: Path) -> None:
    hub.repositories["org/gated"] = Repository(small_files(), gated=True)
    refused = fetch_in_process("org/gated", environment(hub, tmp_path, HF_TOKEN=f"not_{TOKEN}"))
    assert refused["exit_code"] == EXIT_BAD_INPUT
    assert "gated" in refused["said"]
    assert "folder" in fetch_in_process("org/gated", environment(hub, tmp_path, HF_TOKEN=TOKEN))


def test_a_connection_cut_in_mid_file_goes_on_from_there(hub: StandIn, tmp_path: Path) -> None:
    content = bytes(range(256)) * 2**16 + b"end" * 2**21  # 22 MiB: the client writes in pieces of 10 MiB
    hub.repositories["org/model"] = Repository(small_files(**{"model.safetensors": content}))
    hub.cut = {"model.safetensors": 1}
    folder = Path(fetch_in_process("org/model", environment(hub, tmp_path))["folder"])
    assert (folder / "model.safetensors").read_bytes() == content
    first, second = hub.downloads("model.safetensors")
    assert first.range is None
    assert second.range == f"bytes={10 * 2**20}-"


def test_an_interrupted_download_goes_on_at_the_next_call(hub: StandIn, tmp_path: Path) -> None:
    """Killed in the second of two files: the first is not fetched again."""
    shards = {"model-00001-of-00002.safetensors": b"1" * 200_000, "model-00002-of-00002.safetensors": b"2" * 200_000}
    hub.repositories["org/model"] = Repository({"config.json": b"{}", **shards})
    hub.stall = {"model-00002-of-00002.safetensors"}
    env = environment(hub, tmp_path)
    with subprocess.Popen([sys.executable, "-c", FETCH, "org/model"], env=env, stdout=subprocess.DEVNULL) as started:
        assert hub.stalled.wait(60)
        first = tmp_path / "hub" / "models--org--model" / "snapshots" / ("a" * 40) / "model-00001-of-00002.safetensors"
        for _ in range(600):
            if first.exists():
                break
            started.poll()
            hub.released.wait(0.05)
        started.kill()
    hub.stall.clear()
    folder = Path(fetch_in_process("org/model", env)["folder"])
    assert {name: (folder / name).read_bytes() for name in shards} == shards
    assert len(hub.downloads("model-00001-of-00002.safetensors")) == 1
    assert len(hub.downloads("model-00002-of-00002.safetensors")) == 2


def test_what_is_in_the_cache_needs_no_hub(hub: StandIn, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(small_files())
    env = environment(hub, tmp_path)
    online = fetch_in_process("org/model", env)
    asked = len(hub.requests)
    assert fetch_in_process("org/model", {**env, "HF_HUB_OFFLINE": "1"}) == online
    assert len(hub.requests) == asked


def test_offline_without_a_copy_is_a_problem_of_the_environment(hub: StandIn, tmp_path: Path) -> None:
    answer = fetch_in_process("org/model", environment(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert answer["exit_code"] == EXIT_ENVIRONMENT
    assert "HF_HUB_OFFLINE" in answer["said"]


def test_no_network_is_a_problem_of_the_environment(hub: StandIn, tmp_path: Path) -> None:
    env = environment(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")  # the discard port: nobody listens
    answer = fetch_in_process("org/model", env)
    assert answer["exit_code"] == EXIT_ENVIRONMENT
    assert "cannot be reached" in answer["said"]


def test_a_hub_that_fails_is_a_problem_of_the_environment(hub: StandIn, tmp_path: Path) -> None:
    hub.failing = True
    assert fetch_in_process("org/model", environment(hub, tmp_path))["exit_code"] == EXIT_ENVIRONMENT


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_problem_of_the_environment(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(EnvironmentProblemError, match="disk is full") as caught:
        fetch(HubId("org/model", None))
    assert "HF_HOME" in caught.value.mend


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("org/name", HubId("org/name", None)),
        ("org/na.me-1_2@refs/pr/3", HubId("org/na.me-1_2", "refs/pr/3")),
        ("org/name@v1@x", HubId("org/name", "v1@x")),
        ("org/name@", None),
        ("name", None),
        ("a/b/c", None),
        ("../x", None),
        ("./x", None),
        ("-x/y", None),
        ("org/", None),
        ("org/na me", None),
        ("örg/name", None),
    ],
)
def test_hub_ids(source: str, expected: HubId | None) -> None:
    assert parse_hub_id(source) == expected
