"""``model convert``: what the converted model computes is what Meta's files say, whenever the work was killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hantune.errors import ConfigError, HantuneError, MachineError, ModelError, RunError
from hantune.log import console
from hantune.models.convert import convert as module
from hantune.models.convert import meta
from hantune.models.convert.convert import convert
from hantune.models.convert.unfinished import unfinished_path
from hantune.models.load import load_model, load_tokenizer
from hantune.models.locate import locate
from tests.meta_folder import forward, meta_params, meta_tensors, write_meta

VOCAB = 640
LLAMA_3 = {"rope_theta": 500000.0, "use_scaled_rope": True, "ffn_dim_multiplier": 1.3}


@pytest.fixture
def make(sentencepiece_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """``make(shards=2, vocab=640, dtype=..., **params)``: a Meta folder."""

    def write(
        *, shards: int = 2, vocab: int = VOCAB, tokenizer: Path = sentencepiece_model, axis: int = 1,
        dtype: torch.dtype = torch.float32, checklist: bool = True, **params: Any,
    ) -> Path:  # fmt: skip
        values = meta_params(**params)
        tensors = meta_tensors(values, vocab, dtype=dtype)
        folder = tmp_path / "llama"
        shutil.rmtree(folder, ignore_errors=True)
        return write_meta(folder, values, tensors, tokenizer, shards=shards, embedding_axis=axis, checklist=checklist)

    return write


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits_differ(folder: Path, params: dict[str, Any], vocab: int) -> float:
    """The largest difference between Meta's forward on the seeded tensors and transformers on ``folder``."""
    tokens = torch.randint(vocab, (40,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = load_model(folder, dtype=torch.float32)(tokens[None]).logits[0]
    return float((ours - forward(params, meta_tensors(params, vocab), tokens)).abs().max())


@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_heads": 8}, {"dim": 128, "n_heads": 32, "n_kv_heads": 4}, {"n_kv_heads": 8, **LLAMA_3}],
    ids=["mha", "kv-named", "gqa-32-4", "llama-3.1"],
)
def test_the_converted_model_computes_the_same(make: Any, tmp_path: Path, shards: int, changes: dict[str, Any]) -> None:
    if shards > changes.get("n_kv_heads", 8):
        changes = changes | {"n_heads": 32, "n_kv_heads": 8, "dim": 128}  # a file holds at least one head
    folder = make(shards=shards, axis=int("use_scaled_rope" not in changes), **changes)
    found = convert(folder, tmp_path / "out")
    assert found["findings"] == []
    assert found["sources"] == shards
    assert logits_differ(tmp_path / "out", meta_params(**changes), VOCAB) < 1e-5


def test_the_law_sees_a_missing_permutation(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta, "halves_apart", lambda weight, heads: weight)
    convert(make(), tmp_path / "out")
    assert logits_differ(tmp_path / "out", meta_params(), VOCAB) > 0.01


def test_what_lies_beside_the_weights(make: Any, tmp_path: Path) -> None:
    source = make(dtype=torch.bfloat16)
    (source / "LICENSE").write_text("licence", encoding="utf-8")
    secret = tmp_path / "secret"
    secret.write_text("key", encoding="utf-8")
    (source / "NOTICE").symlink_to(secret)
    found = convert(source, tmp_path / "out", chat=True, shard_bytes=60_000)
    out = files_of(tmp_path / "out")
    assert "LICENSE" in out
    assert "NOTICE" not in out  # leads out of the folder: not taken along
    config, generation = json.loads(out["config.json"]), json.loads(out["generation_config.json"])
    assert (config["torch_dtype"], config["vocab_size"], config["max_position_embeddings"]) == ("bfloat16", VOCAB, 4096)
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (1, 2)
    text = json.loads(out["tokenizer_config.json"])["chat_template"]
    assert text.encode() == out["chat_template.jinja"]
    assert "[INST]" in text
    assert found["template"] == locate(tmp_path / "out").template.name == "llama2"
    assert found["files"] > 3
    assert found["dtype"] == "bfloat16"


def test_a_base_model_gets_no_template(make: Any, tmp_path: Path) -> None:
    console.warnings.clear()
    found = convert(make(), tmp_path / "out")
    assert console.warnings == []
    shutil.rmtree(tmp_path / "out")
    convert(make().rename(tmp_path / "llama-chat"), tmp_path / "out")
    assert [line for line in console.warnings if "--chat" in line]
    assert found["template"] is None
    assert not {"chat_template.jinja", "hantune.json"} & {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("late", [False, True])
def test_llama_3_has_its_own_tokenizer_and_marks(make: Any, tmp_path: Path, tiktoken_model: Path, late: bool) -> None:
    first = len(tiktoken_model.read_bytes().splitlines())
    params = {"rope_theta": 500000.0} | ({"use_scaled_rope": True} if late else {})
    folder = make(tokenizer=tiktoken_model, axis=0, vocab=first + 256, n_kv_heads=2, **params)
    found = convert(folder, tmp_path / "out", chat=True)
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.eos_token == "<|eot_id|>"
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") == first + 9
    assert tokenizer("习")["input_ids"][0] == first == tokenizer.bos_token_id
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_bytes())
    assert generation["eos_token_id"] == [first + 1, *([first + 8] if late else []), first + 9]
    assert (found["template"], found["findings"]) == ("llama3", [])


def test_killed_at_any_tensor_it_goes_on_and_comes_to_the_same_bytes(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make()
    convert(source, tmp_path / "whole", shard_bytes=60_000)
    whole = files_of(tmp_path / "whole")
    count = len(meta_tensors(meta_params(), VOCAB)) - 1
    read = meta.MetaModel.tensor_of
    kept = []
    for last in range(0, count, 3):
        left = last

        def stop(self: Any, name: str) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return read(self, name)

        monkeypatch.setattr(meta.MetaModel, "tensor_of", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out", shard_bytes=60_000)
        assert not (tmp_path / "out").exists()
        monkeypatch.setattr(meta.MetaModel, "tensor_of", read)
        kept.append(convert(source, tmp_path / "out", shard_bytes=60_000)["kept_bytes"])
        assert files_of(tmp_path / "out") == whole
        assert not unfinished_path(tmp_path / "out").exists()
        shutil.rmtree(tmp_path / "out")
    assert kept == sorted(kept)
    assert kept[0] == 0 < kept[-1]


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_torn(make: Any, tmp_path: Path) -> None:
    """SIGKILL as soon as one more file is whole, four times; then to the end: the bytes of an undisturbed process."""
    source, out = make(dim=256, n_layers=6), tmp_path / "out"
    convert(source, tmp_path / "whole", shard_bytes=1_000_000)
    code = (
        "import sys; from pathlib import Path; from hantune.models.convert.convert import convert; "
        "convert(sys.argv[1], Path(sys.argv[2]), shard_bytes=1_000_000)"
    )
    command = [sys.executable, "-c", code, str(source), str(out)]
    root = Path(__file__).resolve().parents[3]
    for number in range(1, 5):
        process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(unfinished_path(out).glob("model-*.safetensors"))) < number:
            pass
        process.kill()
        process.wait()
        assert not out.exists()
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, encoding="utf-8")
    assert "接着上次做" in done.stderr
    assert files_of(out) == files_of(tmp_path / "whole")


def test_an_unfinished_folder_of_another_source_is_begun_anew(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make()
    with monkeypatch.context() as patch:
        patch.setattr(module, "check_model", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out", shard_bytes=60_000)
    assert unfinished_path(tmp_path / "out").is_dir()
    assert convert(make(n_kv_heads=2), tmp_path / "out", shard_bytes=60_000)["kept_bytes"] == 0


def _edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "params.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")

    return change


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _flip(folder: Path) -> None:
    """A bit of the date of a member of the zip: no checksum of its own covers it."""
    path = folder / "consolidated.01.pth"
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04", 1) + 10] ^= 1
    path.write_bytes(bytes(data))


def _no_list(folder: Path) -> None:
    (folder / "checklist.chk").unlink()


def _last_shard_gone(folder: Path) -> None:
    _no_list(folder)
    (folder / "consolidated.01.pth").unlink()


def _gap(folder: Path) -> None:
    _no_list(folder)
    (folder / "consolidated.00.pth").rename(folder / "consolidated.02.pth")


def _other_heads(folder: Path) -> None:
    _no_list(folder)
    torch.save(meta_tensors(meta_params(dim=32, n_heads=4), VOCAB), folder / "consolidated.01.pth")


@pytest.mark.parametrize(
    ("code", "spoil", "word"),
    [
        ("model.bad-params", _edit(dim=-1), "dim"),
        ("model.bad-params", _edit(n_layers="2"), "n_layers"),
        ("model.bad-params", _edit(n_heads=3), "64 维"),
        ("model.bad-params", _edit(dim=2**40), "dim"),
        ("model.bad-params", _without("params.json"), "没有这个文件"),
        ("model.bad-params", lambda f: (f / "params.json").write_text("[1", encoding="utf-8"), "JSON"),
        ("model.params-mismatch", _edit(n_layers=3), "layers.2"),
        ("model.params-mismatch", _edit(n_layers=1), "层数"),
        ("model.params-mismatch", _edit(multiple_of=256), "前馈层"),
        ("model.params-mismatch", _edit(n_kv_heads=2), "wk"),
        ("model.params-mismatch", _other_heads, "consolidated.01.pth"),
        ("model.wrong-vocab-size", _edit(vocab_size=32000), "32000"),
        ("model.shard-missing", _without("consolidated.01.pth"), "checklist.chk"),
        ("model.shard-missing", _last_shard_gone, "应有 2 个分片"),
        ("model.shard-missing", _gap, "consolidated.00.pth"),
        ("model.no-tokenizer", _without("tokenizer.model"), "tokenizer.model"),
        ("model.bad-checksum", _flip, "consolidated.01.pth"),
    ],
)
def test_bad_folders_are_refused_and_nothing_is_left(
    make: Any, tmp_path: Path, code: str, spoil: Callable[[Path], None], word: str
) -> None:
    source = make()
    spoil(source)
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out")
    assert caught.value.code == code
    assert word in caught.value.message
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]


def test_the_vocabulary_may_be_said_and_must_be_right(make: Any, tmp_path: Path) -> None:
    source = make(vocab_size=32000)
    with pytest.raises(ModelError, match="wrong-vocab-size"):
        convert(source, tmp_path / "out", vocab_size=VOCAB + 1)
    assert convert(source, tmp_path / "out", vocab_size=VOCAB)["vocab_rows"] == VOCAB


def test_a_tokenizer_of_another_model_is_refused(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vocab-too-small"):
        convert(make(vocab=160), tmp_path / "out")


def test_edited_params_are_no_damage(make: Any, tmp_path: Path) -> None:
    source = make()
    _edit(vocab_size=VOCAB)(source)
    assert "params.json" not in convert(source, tmp_path / "out")["md5_checked"]


def test_room_and_goal_are_looked_at_first(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(RunError, match="run.exists"):
        convert(source, tmp_path / "full")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match="no-room"):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "llama"]


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bloom"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_pickled_weights_become_safetensors(name: str, pieces: int, request: Any, tmp_path: Path) -> None:
    source = tmp_path / "bin"
    shutil.copytree(request.getfixturevalue(f"{name}_folder"), source)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    old = dict(tensors)
    if name == "tiny_llama":
        old["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as transformers 4.30 wrote
    else:
        old["lm_head.weight"] = old["transformer.word_embeddings.weight"]
    names = list(old)
    if pieces == 1:
        torch.save(old, source / "pytorch_model.bin")
    else:
        where = {n: f"pytorch_model-{i % pieces + 1:05d}-of-{pieces:05d}.bin" for i, n in enumerate(names)}
        for file in set(where.values()):
            torch.save({n: old[n] for n in names if where[n] == file}, source / file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    found = convert(source, tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[n], tensors[n]) for n in tensors)
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert found["findings"] == []
    with pytest.raises(ConfigError, match="only-meta"):
        convert(source, tmp_path / "out2", chat=True)


def test_what_needs_no_conversion_is_said(tiny_llama_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama_folder, tmp_path / "mistral")
    (tmp_path / "mistral" / "params.json").write_text("{}", encoding="utf-8")
    for source in (tiny_llama_folder, tmp_path, tmp_path / "mistral"):
        with pytest.raises(HantuneError, match="convert.nothing"):
            convert(source, tmp_path / "out")
