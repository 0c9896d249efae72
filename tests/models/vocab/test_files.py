from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.errors import ModelError
from hantune.models.tokenizer import load_tokenizer
from hantune.models.vocab.files import Vocabulary, open_model
from hantune.models.vocab.pieces import RUN, choose, runs_of
from tests.models.vocab_corpus import OLD, TALK

KINDS = ("sentencepiece_folder", "published_folder", "bytes_folder")
PIECES = 60
MIXED = st.text(
    alphabet=st.one_of(
        st.sampled_from("".join(sorted(set("".join(TALK))))), st.sampled_from("abc ,.\n\t123é▁<s>"), st.characters()
    ),
    max_size=30,
).filter(lambda text: not any(0xD800 <= ord(character) < 0xE000 for character in text))


@pytest.fixture(scope="module", params=KINDS)
def grown(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Vocabulary, Path, list[str]]:
    """An old vocabulary, the folder of the new one, and the pieces that were added."""
    old = Vocabulary(request.getfixturevalue(request.param))
    words = list(old.words(runs_of(TALK * 5)))
    pieces = [piece.text for piece in choose(words, PIECES, old=old)]
    assert len(pieces) == PIECES
    out = tmp_path_factory.mktemp("grown")
    old.write(out, pieces)
    return old, out, pieces


def ids(vocabulary: Vocabulary, text: str) -> list[int]:
    return list(vocabulary.backend.encode(text, add_special_tokens=False).ids)


def test_old_ids_stay_and_new_ones_follow(grown: tuple[Vocabulary, Path, list[str]]) -> None:
    old, out, pieces = grown
    new = Vocabulary(out)
    assert all(new.pieces[piece] == number for piece, number in old.pieces.items())
    assert [new.pieces[piece] for piece in pieces] == list(range(old.num_ids, old.num_ids + len(pieces)))
    assert new.num_ids == old.num_ids + len(pieces)
    assert new.tokenizer.added_tokens_decoder == old.tokenizer.added_tokens_decoder
    assert [getattr(new.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")] == [
        getattr(old.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    ]


def test_every_piece_is_one_id_and_stands_for_its_old_ones(grown: tuple[Vocabulary, Path, list[str]]) -> None:
    old, out, pieces = grown
    new = Vocabulary(out)
    for place, piece in enumerate(pieces):
        assert new.old_ids(piece) == [old.num_ids + place]
        assert len(old.old_ids(piece)) > 1


@given(text=MIXED)
def test_text_without_chinese_keeps_its_ids_and_all_text_comes_back(
    grown: tuple[Vocabulary, Path, list[str]], text: str
) -> None:
    old, out, _ = grown
    new = _opened(out)
    if not RUN.search(text):
        assert ids(new, text) == ids(old, text)
    assert new.backend.decode(ids(new, text)) == old.backend.decode(ids(old, text))
    assert len(ids(new, text)) <= len(ids(old, text))


_OPEN: dict[Path, Vocabulary] = {}


def _opened(folder: Path) -> Vocabulary:
    if folder not in _OPEN:
        _OPEN[folder] = Vocabulary(folder)
    return _OPEN[folder]


@given(text=st.text(alphabet="".join(sorted(set("".join(TALK)))) + "哈 a\n", max_size=24))
@pytest.mark.parametrize("grown", ["sentencepiece_folder", "published_folder"], indirect=True)
def test_sentencepiece_makes_the_same_ids(grown: tuple[Vocabulary, Path, list[str]], text: str) -> None:
    old, out, _ = grown
    if open_model(old.folder / "tokenizer.model").encode(text) == ids(old, text):
        assert open_model(out / "tokenizer.model").encode(text) == ids(_opened(out), text)


@pytest.mark.parametrize("grown", ["published_folder"], indirect=True)
def test_the_model_file_alone_gives_the_same_ids(grown: tuple[Vocabulary, Path, list[str]], tmp_path: Path) -> None:
    """Whoever takes only ``tokenizer.model`` along has the merges derived from the pieces."""
    _, out, _ = grown
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    alone, beside = load_tokenizer(tmp_path), load_tokenizer(out)
    for text in (*TALK, *OLD, "".join(TALK)):
        assert alone.encode(text) == beside.encode(text)


@pytest.mark.parametrize("grown", ["published_folder"], indirect=True)
def test_scores_fall_and_the_old_bytes_stay(grown: tuple[Vocabulary, Path, list[str]]) -> None:
    old, out, pieces = grown
    model = open_model(out / "tokenizer.model")
    scores = [model.get_score(number) for number in range(model.get_piece_size())]
    assert scores[: old.num_ids] == [
        open_model(old.folder / "tokenizer.model").get_score(number) for number in range(old.num_ids)
    ]
    new = scores[old.num_ids :]
    assert len(new) == len(pieces)
    assert all(one > other for one, other in itertools.pairwise([min(scores[: old.num_ids]), *new]))
    before = (old.folder / "tokenizer.model").read_bytes()
    assert (out / "tokenizer.model").read_bytes()[: len(before)] == before
    assert (out / "tokenizer_config.json").read_bytes() == (old.folder / "tokenizer_config.json").read_bytes()


@pytest.mark.parametrize("grown", ["published_folder"], indirect=True)
def test_google_s_own_reader_sees_a_sound_file(grown: tuple[Vocabulary, Path, list[str]]) -> None:
    from sentencepiece import sentencepiece_model_pb2

    old, out, pieces = grown
    content = (out / "tokenizer.model").read_bytes()
    proto = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined, unused-ignore]
    assert proto.trainer_spec.vocab_size == len(proto.pieces) == old.num_ids + len(pieces)
    assert [piece.piece for piece in proto.pieces[old.num_ids :]] == pieces
    assert {piece.type for piece in proto.pieces[old.num_ids :]} == {proto.SentencePiece.NORMAL}


def test_ids_of_tokens_that_were_added_later_are_kept_in_the_model_file(published_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(published_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((published_folder / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    old = Vocabulary(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    old.write(out, ["病"])
    model = open_model(out / "tokenizer.model")
    start = load_tokenizer(tmp_path).convert_tokens_to_ids("<|im_start|>")
    assert model.id_to_piece(start) == "<|im_start|>"
    assert model.is_control(start)
    assert model.piece_to_id("病") == Vocabulary(out).pieces["病"] == old.num_ids


def test_no_piece_starts_in_the_middle_of_a_character(bytes_folder: Path) -> None:
    old = Vocabulary(bytes_folder)
    pieces = [piece.text for piece in choose(old.words(runs_of(TALK * 5)), 200, old=old)]
    texts = [old.read(piece) for piece in pieces]
    assert not any(bytes.fromhex(text)[0] in range(0x80, 0xC0) for text in texts if not RUN.fullmatch(text))
    assert sum(bool(RUN.fullmatch(text)) for text in texts) > 50


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE, WordLevel
    from transformers import PreTrainedTokenizerFast

    for number, model in enumerate((WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"), BPE({"<unk>": 0, "a": 1}, []))):
        folder = tmp_path / str(number)
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>").save_pretrained(folder)
        with pytest.raises(ModelError) as caught:
            Vocabulary(folder)
        assert caught.value.code == "vocab.unsupported"


def test_what_is_no_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(b"not a model")
    with pytest.raises(ModelError) as caught:
        open_model(tmp_path / "a.model")
    assert caught.value.code == "model.bad-tokenizer"


def test_other_spellings_of_the_vocabulary_are_not_left_behind(bytes_folder: Path, tmp_path: Path) -> None:
    import shutil

    source = tmp_path / "source"
    shutil.copytree(bytes_folder, source)
    (source / "vocab.json").write_text(json.dumps({}), encoding="utf-8")
    (source / "merges.txt").write_text("", encoding="utf-8")
    (tmp_path / "out").mkdir()
    Vocabulary(source).write(tmp_path / "out", [])
    assert not {path.name for path in (tmp_path / "out").iterdir()} & {"vocab.json", "merges.txt"}


def test_words_add_up_to_their_runs(sentencepiece_folder: Path, bytes_folder: Path) -> None:
    runs = Counter({"今天天气": 3, "糖尿病": 2})
    for folder in (sentencepiece_folder, bytes_folder):
        old = Vocabulary(folder)
        spelt = Counter({"".join(word.symbols): word.times for word in old.words(runs)})
        assert spelt == Counter({old.spell(run): count for run, count in runs.items()})
