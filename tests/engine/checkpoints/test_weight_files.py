"""Weight files read one tensor at a time, and files that are not what they say they are."""

import json
import os
import pickle
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from quail_audit.core.errors import BadInputError, QuailError
from quail_audit.engine.checkpoints.weight_files import WeightFiles, open_weight_files, read_json_object

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4, 2, dtype=torch.bfloat16)}


def open_model(folder: Path) -> WeightFiles | None:
    return open_weight_files(folder, safetensors="model.safetensors", torch_bin="pytorch_model.bin")


def opened(folder: Path) -> WeightFiles:
    files = open_model(folder)
    assert files is not None
    return files


def shard(folder: Path, weight_map: object = None) -> None:
    """Two safetensors files and an index; another weight_map instead of the right one where it is given."""
    save_file({"a.weight": TENSORS["a.weight"]}, folder / "one.safetensors")
    save_file({"b.weight": TENSORS["b.weight"]}, folder / "two.safetensors")
    right = {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}
    index = {"weight_map": right if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_safetensors(folder: Path) -> None:
    save_file(TENSORS, folder / "model.safetensors")


def write_bin(folder: Path) -> None:
    torch.save(TENSORS, folder / "pytorch_model.bin")


def write_bin_shards(folder: Path) -> None:
    torch.save({"a.weight": TENSORS["a.weight"]}, folder / "1.bin")
    torch.save({"b.weight": TENSORS["b.weight"]}, folder / "2.bin")
    index = {"weight_map": {"a.weight": "1.bin", "b.weight": "2.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("write", [write_safetensors, shard, write_bin, write_bin_shards])
def test_what_was_written_is_read(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    files = opened(tmp_path)
    assert sorted(files.tensors) == sorted(TENSORS)
    assert files.size_bytes == sum(f.stat().st_size for f in tmp_path.iterdir() if f.suffix != ".json")
    for name, tensor in TENSORS.items():
        read = files.read(name)
        assert files.tensors[name] == (tuple(tensor.shape), tensor.dtype)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even looked at")
    assert opened(tmp_path).format == "safetensors"


def test_a_folder_without_weights_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert open_model(tmp_path) is None


def test_a_tensor_may_lie_unaligned(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # of odd length: the data begins at an odd byte
    values = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.bfloat16)
    data = values.view(torch.uint8).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    read = opened(tmp_path).read("w")
    assert torch.equal(read, values)
    assert read.data_ptr() % read.element_size() == 0


def test_a_transposed_view_is_read_contiguous(tmp_path: Path) -> None:
    stored = torch.arange(6.0).reshape(2, 3).T
    torch.save({"w": stored}, tmp_path / "pytorch_model.bin")
    read = opened(tmp_path).read("w")
    assert read.is_contiguous()
    assert torch.equal(read, stored)


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    """The hub's cache keeps blobs apart from snapshots."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file(TENSORS, tmp_path / "blobs" / "1234")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "1234")
    assert torch.equal(opened(tmp_path / "snapshot").read("a.weight"), TENSORS["a.weight"])


@pytest.mark.parametrize("format_", ["safetensors", "bin"])
def test_pages_leave_memory_with_their_tensor(tmp_path: Path, format_: str) -> None:
    """VmRSS counts mapped pages: eight tensors read one after another cost one tensor, not eight."""
    tensors = {f"w{index}": torch.ones(2 * 2**20) for index in range(8)}  # 8 MiB each
    if format_ == "safetensors":
        save_file(tensors, tmp_path / "model.safetensors")
    else:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    names = list(tensors)
    del tensors
    files = opened(tmp_path)
    float(files.read(names[0]).sum())
    before = resident_mib()
    peak = before
    for name in names:
        tensor = files.read(name)
        float(tensor.sum())
        peak = max(peak, resident_mib())
        del tensor
    assert peak - before < 2 * 8
    assert resident_mib() - before < 8


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


# Hostile files


def cut(path: Path, keep_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:keep_bytes])


@pytest.mark.parametrize("keep_bytes", [0, 1, 7, 8, 20, 100, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_cut_short_is_bad_input(tmp_path: Path, name: str, keep_bytes: int) -> None:
    (write_safetensors if name == "model.safetensors" else write_bin)(tmp_path)
    cut(tmp_path / name, keep_bytes)
    with pytest.raises(
        BadInputError, match="empty" if keep_bytes == 0 else "truncated|corrupt|not a file of"
    ) as caught:
        open_model(tmp_path)
    assert caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a.weight": "../one.safetensors"},
        {"a.weight": "/etc/passwd"},
        {"a.weight": "sub/../../one.safetensors"},
        {"a.weight": "C:\\one.safetensors"},
        {"a.weight": "..\\one.safetensors"},
        {"a.weight": ""},
        {"a.weight": "."},
        {"a.weight": "one\0.safetensors"},
        {"a.weight": 7},
        {"a.weight": None},
    ],
)
def test_an_index_may_not_lead_out_of_the_folder(tmp_path: Path, weight_map: object) -> None:
    shard(tmp_path, weight_map)
    with pytest.raises(BadInputError, match="outside its folder"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "weight_map"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": ["one.safetensors"]}', "weight_map"),
        ("[" * 100_000, "not JSON"),
        ('{"weight_map": {"a.weight": "gone.safetensors"}}', "missing: gone.safetensors"),
    ],
)
def test_an_index_that_is_none_is_bad_input(tmp_path: Path, index: str, said: str) -> None:
    shard(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index.encode("latin-1"))
    with pytest.raises(BadInputError, match=said) as caught:
        open_model(tmp_path)
    assert caught.value.where == str(path)


def test_many_absent_shards_are_counted(tmp_path: Path) -> None:
    shard(tmp_path, {f"{index}.weight": f"{index}.safetensors" for index in range(10)})
    with pytest.raises(BadInputError, match=r"0\.safetensors, 1\.safetensors, 2\.safetensors, … \(10 in all\)"):
        open_model(tmp_path)


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def test_no_pickle_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save({"w": Bomb(str(trace))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="could run code") as caught:
        open_model(tmp_path)
    assert "safetensors" in caught.value.mend
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Bomb(str(trace))}))
    with pytest.raises(BadInputError):
        open_model(tmp_path)
    assert not trace.exists()


def test_the_format_before_zip_files_is_named(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(BadInputError, match=r"before 1\.6"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        {"model": {"w": torch.ones(2)}},
        {1: torch.ones(2)},
        {"w": torch.ones(2).to_sparse()},
        {"w": torch.ones(2, device="meta")},
        {"w": torch.ones(1).expand(10**12)},
        {"w\x1b[2J": torch.ones(2)},
    ],
    ids=["list", "nested", "number", "sparse", "meta", "expanded", "escape code"],
)
def test_a_pickle_of_anything_but_plain_tensors_is_bad_input(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInputError) as caught:
        open_model(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_packed_types_are_bad_input(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(BadInputError):
        open_model(tmp_path)


def test_a_pipe_is_no_weight_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match="not a regular file"):
        open_model(tmp_path)


def test_a_dangling_link_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInputError, match="not a regular file"):
        open_model(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_bad_input(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    (tmp_path / "model.safetensors").chmod(0)
    with pytest.raises(BadInputError, match="Permission denied"):
        open_model(tmp_path)


def test_a_refusal_of_the_system_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInputError, match="Permission denied"):
        open_model(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_bad_input(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    files = opened(tmp_path)
    save_file({name: tensor.repeat(2, 1) for name, tensor in TENSORS.items()}, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match="changed"):
        files.read("a.weight")
    save_file({"c": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError):
        files.read("a.weight")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadInputError):
        files.read("a.weight")


# Whatever the bytes: an error of Quail's, or the weights


def open_and_read_all(folder: Path) -> None:
    try:
        files = open_model(folder)
        for name in files.tensors if files else ():
            files.read(name)  # type: ignore[union-attr]
    except QuailError:
        pass


def with_file(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        open_and_read_all(Path(folder))


RIGHT = save(TENSORS)


@settings(max_examples=150)
@given(content=st.binary(max_size=300), name=st.sampled_from(["model.safetensors", "pytorch_model.bin"]))
def test_random_bytes(content: bytes, name: str) -> None:
    with_file(name, content)


@settings(max_examples=150)
@given(data=st.data())
def test_changed_bytes_of_a_safetensors_file(data: st.DataObject) -> None:
    content = bytearray(RIGHT)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with_file("model.safetensors", bytes(content[: data.draw(st.integers(0, len(content)))]))


numbers = st.integers(-(2**65), 2**65)
headers = st.dictionaries(
    st.one_of(st.just("__metadata__"), st.text(max_size=5)),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "F4", "I64", "BOOL", "C64", "", "F33"]),
            "shape": st.lists(st.one_of(st.integers(0, 4), numbers), max_size=4),
            "data_offsets": st.lists(st.one_of(st.integers(0, 64), numbers), max_size=3),
        }
    ),
    max_size=3,
)


@settings(max_examples=200)
@given(header=headers, data=st.binary(max_size=64), length=st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_made_up_headers(header: dict[str, Any], data: bytes, length: int | None) -> None:
    text = json.dumps(header).encode()
    with_file("model.safetensors", struct.pack("<Q", len(text) if length is None else length) + text + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
file_names = st.one_of(st.sampled_from(["one.safetensors", "two.safetensors", "..", "x/../one.safetensors"]), st.text())
indexes = st.one_of(
    json_values,
    st.fixed_dictionaries({"weight_map": json_values}),
    st.fixed_dictionaries({"weight_map": st.dictionaries(st.sampled_from(["a.weight", "q"]), file_names)}),
)


@settings(max_examples=200)
@example(index={"weight_map": {"a.weight": "é" * 128}})  # longer than a file's name may be
@given(index=indexes)
def test_any_json_as_an_index(index: object) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard(folder)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        open_and_read_all(folder)


@settings(max_examples=100)
@given(
    content=st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]",:0123456789.eE-+ntrufalsNI \n').map(str.encode))
)
def test_any_bytes_as_json(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content)
        try:
            assert isinstance(read_json_object(path), dict)
        except QuailError:
            pass


@settings(max_examples=60)
@given(data=st.data())
def test_changed_bytes_of_a_torch_file(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    source = folder / "right.bin"
    if not source.exists():
        torch.save(TENSORS, source)
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with_file("pytorch_model.bin", bytes(content[: data.draw(st.integers(0, len(content)))]))
