from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.config.schema import AdapterSection
from hantune.data.templates import get_template
from hantune.errors import ConfigError, DataError, ModelError, RunError
from hantune.models.adapter import NEW_ROWS, attach_lora, load_adapter, save_adapter
from hantune.models.load import load_model, load_tokenizer
from hantune.models.locate import locate
from hantune.models.merge.merge import merge
from hantune.models.record import read_record
from hantune.models.save import save_model
from hantune.models.vocab.expand import expand_vocab
from hantune.models.vocab.files import Vocabulary
from tests.models.vocab_corpus import TALK, records

TEXT = "糖尿病患者应该注意饮食。Hello 123"


@pytest.fixture(scope="module")
def expanded(
    model_of: Callable[..., Path], published_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """(source, expanded folder, report) of an untied Llama with SentencePiece."""
    source = model_of(published_folder)
    out = tmp_path_factory.mktemp("expanded") / "model"
    return source, out, expand_vocab(source, out, corpus=[str(corpus)], num_pieces=40)


def test_the_report_says_what_was_gained(expanded: tuple[Path, Path, dict[str, Any]]) -> None:
    source, out, report = expanded
    assert report["pieces"] == 40
    assert report["rows"] % 64 == 0
    assert report["measured"][0]["fewer"] > 1.5
    assert report["kept"]["unreachable"] == 0
    assert report["kept"]["compared_with_sentencepiece"] > 0
    assert set(report["bits_per_character"]) == {"before", "after", "characters"}
    record = read_record(out)
    assert record is not None
    assert record["vocab"]["measured"] == report["measured"]
    assert record["base"]["fingerprint"] == locate_fingerprint(source)
    assert "还没有学过" in (out / "README.md").read_text(encoding="utf-8")
    written = [path.read_text(encoding="utf-8") for path in out.iterdir() if path.suffix in (".json", ".md")]
    assert not any("pytest-of" in text for text in written)  # no path of this machine


def locate_fingerprint(folder: Path) -> str:
    from hantune.models.fingerprint import fingerprint

    return fingerprint(folder)


def test_the_expanded_folder_is_a_model_like_any_other(expanded: tuple[Path, Path, dict[str, Any]]) -> None:
    from hantune.models.check import check_model

    source, out, _ = expanded
    assert check_model(str(out))["findings"] == check_model(str(source))["findings"]
    assert locate(out).template.text == locate(source).template.text


@pytest.mark.parametrize(
    ("kind", "family", "tied"),
    [("published_folder", "llama", False), ("bytes_folder", "llama", True), ("bytes_folder", "bloom", True)],
)
def test_training_teaches_new_rows_beside_lora_and_the_adapter_carries_them(
    request: pytest.FixtureRequest, model_of: Callable[..., Path], corpus: Path, tmp_path: Path,
    kind: str, family: str, tied: bool,
) -> None:  # fmt: skip
    source = model_of(request.getfixturevalue(kind), family, tie_word_embeddings=tied)
    base = tmp_path / "base"
    report = expand_vocab(source, base, corpus=[str(corpus)], num_pieces=20, measure=False)
    tokenizer = load_tokenizer(base)
    tokens_1T = torch.tensor([tokenizer.encode(TEXT)])
    new = slice(report["first_id"], report["first_id"] + 20)
    assert ((tokens_1T >= new.start) & (tokens_1T < new.stop)).any()

    model = attach_lora(load_model(base, dtype=torch.float32), AdapterSection(), seed=0)
    before = _ends(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    names = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert len(names) == (1 if tied else 2)
    assert all("trainable_tokens_delta" in name for name in names)
    for _ in range(2):  # A has no gradient while B is zero
        loss = model(input_ids=tokens_1T, labels=tokens_1T).loss
        loss.backward()
        with torch.no_grad():
            for parameter in trained:
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
    after = _ends(model)
    for old, moved in zip(before, after, strict=True):
        changed = (old != moved).any(1).nonzero().flatten().tolist()
        assert changed
        assert all(new.start <= row < new.stop for row in changed)
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    original = dict(load_model(base, dtype=torch.float32).named_parameters())
    for name, parameter in original.items():
        spelt = next(n for n in frozen if n.removeprefix("base_model.model.").replace("base_layer.", "").replace(
            "token_adapter.", "").replace("original_module.", "") == name)  # fmt: skip
        assert torch.equal(frozen[spelt], parameter)

    with torch.no_grad():
        wanted = model.eval()(input_ids=tokens_1T).logits
    template = get_template("llama2")
    save_adapter(model, tmp_path / "adapter", base=str(base), tokenizer=tokenizer, template=template, info={})
    loaded = load_adapter(load_model(base, dtype=torch.float32), tmp_path / "adapter")
    proof = merge(tmp_path / "adapter", tmp_path / "merged")["proof"]
    merged = load_model(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=tokens_1T).logits, wanted)
        torch.testing.assert_close(merged(input_ids=tokens_1T).logits, wanted, rtol=1e-4, atol=1e-4)
    assert proof["holds"]
    assert NEW_ROWS not in json.loads((tmp_path / "merged" / "config.json").read_bytes())
    assert load_tokenizer(tmp_path / "merged").encode(TEXT) == tokenizer.encode(TEXT)


def _ends(model: Any) -> list[torch.Tensor]:
    """The effective matrices of embedding and head."""
    bare = model.get_base_model()
    found = []
    for end in (bare.get_input_embeddings(), bare.get_output_embeddings()):
        adapter = end.token_adapter
        found.append(adapter.get_merged_weights(["default"]).detach().clone())
    return found


def test_new_rows_are_trained_in_float32_whatever_the_base(expanded: tuple[Path, Path, dict[str, Any]]) -> None:
    model = attach_lora(load_model(expanded[1], dtype=torch.bfloat16), AdapterSection(), seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_an_adapter_whose_new_rows_alone_are_there_is_untrained(
    expanded: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    from hantune.errors import TrainError

    model = attach_lora(load_model(expanded[1], dtype=torch.float32), AdapterSection(), seed=0)
    with pytest.raises(TrainError) as caught:
        save_adapter(
            model, tmp_path / "a", base=str(expanded[1]), tokenizer=load_tokenizer(expanded[1]),
            template=get_template("llama2"), info={},
        )  # fmt: skip
    assert caught.value.code == "adapter.not-saved"


def test_a_model_that_was_trained_whole_has_no_untaught_rows(
    expanded: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    model, tokenizer = load_model(expanded[1], dtype=torch.float32), load_tokenizer(expanded[1])
    save_model(model, tmp_path / "m", base=None, tokenizer=tokenizer, template=get_template("llama2"), info={})
    assert NEW_ROWS not in json.loads((tmp_path / "m" / "config.json").read_bytes())


def test_pieces_from_a_file_and_from_a_sentencepiece_model(
    expanded: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, out, report = expanded
    listed = tmp_path / "words.txt"
    listed.write_text("糖尿病\n高血压\n\nabc\n糖尿病\n两 字\n", encoding="gb18030")
    found = expand_vocab(source, tmp_path / "one", pieces=listed)
    new = Vocabulary(tmp_path / "one")
    assert {"糖尿病", "高血压"} <= new.pieces.keys()
    assert found["kept"]["unreachable"] == 0
    assert sum(found["left_out"].values()) == 2
    again = expand_vocab(source, tmp_path / "two", sp_model=out / "tokenizer.model", measure=False)
    assert Vocabulary(tmp_path / "two").pieces == Vocabulary(out).pieces
    assert again["pieces"] == report["pieces"]


def test_the_same_call_gives_the_same_folder(
    expanded: tuple[Path, Path, dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    source, out, report = expanded
    again = expand_vocab(source, tmp_path / "again", corpus=[str(corpus)], num_pieces=40)
    assert again["fingerprint"] == report["fingerprint"]
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_second_expansion_goes_on_where_the_first_stopped(
    expanded: tuple[Path, Path, dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    _, out, report = expanded
    again = expand_vocab(out, tmp_path / "more", corpus=[str(corpus)], num_pieces=10, measure=False)
    assert again["first_id"] == report["first_id"] + 40
    assert json.loads((tmp_path / "more" / "config.json").read_bytes())[NEW_ROWS] == [
        report["first_id"],
        again["first_id"] + 10,
    ]


def test_a_vocabulary_that_gains_nothing_is_refused(
    expanded: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    english = tmp_path / "english.jsonl"
    lines = [json.dumps({"instruction": f"What is {n}?", "output": f"It is {n}."}) for n in range(60)]
    english.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        expand_vocab(expanded[0], tmp_path / "out", corpus=[str(english)])
    assert caught.value.code == "vocab.no-pieces"
    assert not (tmp_path / "out").exists()


def test_a_missing_list_a_text_too_short_a_full_folder(
    expanded: tuple[Path, Path, dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    source = expanded[0]
    with pytest.raises(ConfigError) as missing:
        expand_vocab(source, tmp_path / "out", pieces=tmp_path / "nowhere.txt")
    assert missing.value.code == "vocab.no-pieces"
    short = tmp_path / "short.jsonl"
    short.write_text(records(TALK[:2], 1), encoding="utf-8")
    with pytest.raises(DataError) as scarce:
        expand_vocab(source, tmp_path / "out", corpus=[str(short)])
    assert scarce.value.code == "vocab.no-text"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a", encoding="utf-8")
    with pytest.raises(RunError) as full:
        expand_vocab(source, tmp_path / "full", corpus=[str(corpus)], num_pieces=5)
    assert full.value.code == "run.exists"


def test_a_tokenizer_that_breaks_old_text_is_never_left_behind(
    expanded: tuple[Path, Path, dict[str, Any]], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Vocabulary.write

    def spoil(self: Vocabulary, out: Path, pieces: list[str]) -> None:
        write(self, out, ["(a", *pieces])

    monkeypatch.setattr(Vocabulary, "write", spoil)
    with pytest.raises(ModelError) as caught:
        expand_vocab(expanded[0], tmp_path / "out", corpus=[str(corpus)], num_pieces=5)
    assert caught.value.code == "vocab.not-kept"
    assert list(tmp_path.iterdir()) == []


def test_equal_scores_are_found_out(
    expanded: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Chinese-LLaMA-2 was published: SentencePiece takes the leftmost of equals, the Rust backend the first."""
    from hantune.models.vocab import files as vocab_files

    talk, listed = tmp_path / "talk.jsonl", tmp_path / "words.txt"
    talk.write_text(records(("我发现在这里很好。", "现在去吧。"), 40), encoding="utf-8")
    listed.write_text("现在\n发现\n", encoding="utf-8")
    expand_vocab(expanded[0], tmp_path / "right", corpus=[str(talk)], pieces=listed, measure=False)
    piece = vocab_files._piece
    monkeypatch.setattr(vocab_files, "_piece", lambda text, score, kind: piece(text, -400.0, kind))
    with pytest.raises(ModelError) as caught:
        expand_vocab(expanded[0], tmp_path / "wrong", corpus=[str(talk)], pieces=listed, measure=False)
    assert caught.value.code == "vocab.not-kept"
    assert "tokenizer.model" in caught.value.message


def test_the_real_llama_2_tokenizer(shared_data: Path, model_of: Callable[..., Path], tmp_path: Path) -> None:
    source = model_of(shared_data / "tokenizers" / "llama2")
    toy = shared_data / "lccc" / "lccc_toy_split.json"
    report = expand_vocab(source, tmp_path / "out", corpus=[str(toy)], num_pieces=1600, measure=False)
    assert report["first_id"] == 32000
    assert report["rows"] == 33600
    assert report["measured"][0]["fewer"] > 1.6
    english = json.loads((shared_data / "alpaca" / "alpaca_en_999.json").read_bytes())[:200]
    old, new = Vocabulary(source), Vocabulary(tmp_path / "out")
    for record in english:
        assert new.tokenizer.encode(record["output"]) == old.tokenizer.encode(record["output"])
    shutil.rmtree(tmp_path / "out")
