"""``.pth`` files read without unpickling: the same tensors as torch, and no attack that comes to anything."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hantune.errors import ModelError
from hantune.models.convert.pickles import PickleFile, Unsafe, walk
from tests.laws import examples

ROOT = Path(__file__).resolve().parents[3]
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def save(path: Path, value: Any, **settings: Any) -> Path:
    torch.save(value, path, **settings)
    return path


def code_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        PickleFile(path)
    assert caught.value.place == str(path)
    assert caught.value.hint
    return caught.value.code


def rewrite(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """The same zip with other bytes in its members."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))
    return path


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.booleans()), max_size=6))
@examples(10, 25)
def test_tensors_are_those_that_torch_saved(tmp_path_factory: Any, plan: list[Any]) -> None:
    tensors = {
        f"t{number}": torch.randn([*shape, 3]).mul(9).to(dtype).transpose(0, -1 if turned else 0)
        for number, (dtype, shape, turned) in enumerate(plan)
    } | {"one": torch.tensor(2.5)}
    path = save(tmp_path_factory.mktemp("p") / "a.pth", tensors)
    file = PickleFile(path)
    assert {name: spec.shape for name, spec in file.specs.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, tensor in tensors.items():
        read = file.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
    file.close()


def test_views_parameters_ties_and_module_state(tmp_path: Path) -> None:
    base = torch.arange(100.0).reshape(10, 10)
    layer = torch.nn.Linear(3, 2)
    file = PickleFile(
        save(tmp_path / "a.bin", {"slice": base[2:4, 1:9:3], "tied": base, "again": base, "p": layer.weight})
    )
    assert torch.equal(file.read("slice"), base[2:4, 1:9:3])
    assert torch.equal(file.read("tied"), file.read("again"))
    assert torch.equal(file.read("p"), layer.weight)
    state = PickleFile(save(tmp_path / "b.bin", layer.state_dict()))
    assert list(state.specs) == ["weight", "bias"]


class Evil:
    def __init__(self, call: tuple[Any, ...]) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_programs_in_a_pickle_are_never_run(tmp_path: Path, protocol: int, legacy: bool) -> None:
    marker = tmp_path / "marker"
    for number, call in enumerate([(os.system, (f"touch {marker}",)), (eval, ("1",)), (torch.load, ("x",))]):
        value = {"a": torch.ones(2), "b": Evil(call)}
        path = save(
            tmp_path / f"{number}.pth", value, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
        )
        assert code_of(path) == ("model.legacy-pickle" if legacy else "model.unsafe-pickle")
    assert not marker.exists()


def test_the_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="posix.system|nt.system"):
        PickleFile(save(tmp_path / "a.pth", {"b": Evil((os.system, ("true",)))}))


def test_known_names_cannot_be_used_for_more(tmp_path: Path) -> None:
    for value in (Evil((torch._utils._rebuild_tensor_v2, (1, 2, 3, 4, 5, 6))), Evil((dict, ())), pickle.PickleBuffer):
        with pytest.raises((Unsafe, ValueError, TypeError)):
            walk(pickle.dumps({"a": value}, 2))


def test_sparse_and_quantised_tensors_are_refused(tmp_path: Path) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[10**12]]), torch.ones(1), (10**13,), check_invariants=False)
    assert code_of(save(tmp_path / "a.pth", {"w": sparse})) == "model.unsafe-pickle"
    assert code_of(save(tmp_path / "b.pth", {"w": 3})) == "model.bad-pickle"
    assert code_of(save(tmp_path / "c.pth", [torch.ones(2)])) == "model.bad-pickle"
    assert code_of(save(tmp_path / "d.pth", {"w": torch.ones(2, 1).expand(2, 10**9)})) == "model.bad-pickle"


def test_a_zip_bomb_is_refused_from_its_directory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.zeros(1 << 16)})
    assert code_of(rewrite(path, lambda _, data: data, zipfile.ZIP_DEFLATED)) == "model.bad-pickle"


def test_a_shape_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.zeros(1 << 16)})
    assert code_of(rewrite(path, lambda name, data: data[:-4] if name.endswith("/0") else data)) == "model.bad-pickle"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_told(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.zeros(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert code_of(path) in ("model.torn-file", "model.legacy-pickle")


def test_one_flipped_byte_is_told_when_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"w": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 17] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="torn-file"):
        PickleFile(path).read("w")


@given(st.data())
@examples(40, 150)
def test_garbage_has_an_end_of_its_own(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Any change of the pickle is read, or refused with one of our errors: never another exception."""
    path = save(tmp_path_factory.mktemp("g") / "a.pth", {"w": torch.ones(3, 2), "v": torch.ones(4)})

    def spoil(name: str, old: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return old
        new = bytearray(old)
        for _ in range(data.draw(st.integers(1, 3))):
            new[data.draw(st.integers(0, len(new) - 1))] = data.draw(st.integers(0, 255))
        return bytes(new)

    try:
        file = PickleFile(rewrite(path, spoil))
    except ModelError:
        return
    for name in file.specs:
        file.read(name)


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert code_of(tmp_path / "a.pth") == "model.lfs-pointer"


def test_nothing_in_the_package_unpickles() -> None:
    """Not even as a way out when something else fails."""
    banned = re.compile(
        r"weights_only\s*=\s*False|pickle\.loads?\(|joblib|allow_pickle\s*=\s*True|jit\.load|torch\.load\("
    )
    found = [
        f"{path.name}:{number}"
        for path in sorted((ROOT / "hantune").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if banned.search(line.partition("#")[0]) and "``" not in line
    ]
    assert not found
