"""Which questions a run asks, and what the figures of its answers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hantune.data.prepare import prepare
from hantune.data.prepared import Prepared, open_prepared
from hantune.data.store import open_tokens
from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Message
from hantune.evaluate.memorised import Repeated
from hantune.evaluate.probes import GENERAL, Probe, Style, choose_probes, figures_of, learned_style, score_of
from hantune.infer.lane import Completion
from tests.runs import write_chats


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("held-out")
    prepare([str(write_chats(folder / "chats.jsonl", 40))], folder / "data", val_share=0.5)
    return open_prepared(folder / "data")


def everything(messages: Any) -> bool:
    return True


def completion(text: str, finish_reason: Any = "stop") -> Completion:
    return Completion(text=text, ids=(), finish_reason=finish_reason, prompt_tokens=1)


def general(text: str) -> Probe:
    return Probe(messages=(Message(role="user", text=text),))


def test_four_questions_are_held_out_with_their_answers(held_out: Prepared) -> None:
    probes = choose_probes(None, held_out, seed=1, fits=everything)
    assert [probe.prompt for probe in probes[:4]] == list(GENERAL[:4])
    assert all(probe.reference is None for probe in probes[:4])
    answers = {
        conversation.source: (conversation.messages[0].text, conversation.messages[1].text)
        for conversation in held_out.conversations("val")
        if conversation.messages[0].role == "user"
    }
    assert len(probes) == len({probe.prompt for probe in probes}) == 8
    for probe in probes[4:]:
        assert answers[str(probe.source)] == (probe.prompt, probe.reference)
    assert choose_probes(None, held_out, seed=1, fits=everything) == probes
    assert choose_probes(None, held_out, seed=2, fits=everything) != probes


def test_only_fitting_questions_are_drawn(held_out: Prepared) -> None:
    probes = choose_probes(None, held_out, seed=1, fits=lambda messages: len(messages[-1].text) < 5)
    drawn = [probe for probe in probes if probe.source]
    assert all(len(probe.prompt) < 5 for probe in drawn)
    assert len(probes) == 8, "general ones take the places"
    assert choose_probes(None, held_out, seed=1, fits=lambda messages: False) == tuple(map(general, GENERAL))


def test_without_held_out_dialogues_all_are_general(tmp_path: Path) -> None:
    prepare([str(write_chats(tmp_path / "chats.jsonl", 4))], tmp_path / "data", val_share=0)
    data = open_prepared(tmp_path / "data")
    assert choose_probes(None, data, seed=1, fits=everything) == tuple(map(general, GENERAL))


def test_own_questions_are_exactly_those(held_out: Prepared) -> None:
    assert choose_probes(["甲", "乙"], held_out, seed=1, fits=everything) == (general("甲"), general("乙"))
    assert choose_probes([], held_out, seed=1, fits=everything) == ()


def test_the_style_is_that_of_the_learned_replies(held_out: Prepared, sp_tokenizer: Any) -> None:
    encoder = Encoder(sp_tokenizer)
    samples = open_tokens(held_out, "train", encoder, get_template("llama2"), max_tokens=500)
    style = learned_style(samples, encoder)
    assert sum(style.lengths) == sum(sum(example.mask) for example in samples)
    assert style.chinese_share > 0.9
    assert list(style.lengths) == sorted(style.lengths)


def test_quantiles_and_covers_of_lengths() -> None:
    style = Style(lengths=(2, 4, 6, 8), chinese_share=1.0)
    assert [style.quantile(share) for share in (0.0, 0.5, 0.75, 1.0)] == [2, 6, 8, 8]
    assert [style.covered(tokens) for tokens in (1, 2, 7, 8)] == [0.0, 0.25, 0.75, 1.0]
    assert (Style(lengths=(), chinese_share=0).quantile(0.5), Style(lengths=(), chinese_share=0).covered(9)) == (0, 0)


def test_the_figures_of_a_round() -> None:
    drawn = Probe(messages=(Message(role="user", text="三"),), reference="好的呀", source="b:1")
    probes = [general("一"), general("二"), drawn]
    answers = [completion("今天很好"), completion("ok ok ok ok ok ok", "length"), completion("好的")]
    found = figures_of(
        probes,
        answers,
        [None, None, Repeated(text="好的", source="a:1")],
        expects_chinese=True,
        judges_stops=True,
    )
    assert found.chinese_share == 6 / 18
    assert (found.stop_rate, found.memorised, found.empty_share) == (2 / 3, 1 / 3, 0)
    assert found.repetition == 1 / 3
    assert found.memorised_held_out == 1
    assert (found.different, found.count) == (3, 3)
    assert found.length_ratio == pytest.approx(2 / 3)
    assert found.score == pytest.approx((100 + 0 + 100 * (1 + 4 / 5) / 2) / 3)
    assert found.times(found.stop_rate) == "2/3"
    without = figures_of(probes[:1], answers[:1], [None], expects_chinese=True, judges_stops=True)
    assert (without.length_ratio, without.memorised_held_out) == (None, None)


@pytest.mark.parametrize(
    ("answer", "reference", "settings", "score"),
    [
        (completion("很好"), None, {}, 100),
        (completion("very good"), None, {}, 0),
        (completion("very good"), None, {"expects_chinese": False}, 100),
        (completion("很好"), "很好", {}, 100),
        (completion("很好"), "再见", {}, 50),
        (completion(""), "再见", {}, 0),
        (completion("很好", "length"), None, {}, 0),
        (completion("很好", "length"), None, {"judges_stops": False}, 100),
        (completion("我很好的" * 4), None, {}, 0),
    ],
)
def test_the_score_of_an_answer(
    answer: Completion, reference: str | None, settings: dict[str, bool], score: float
) -> None:
    found = score_of(answer, reference, **{"expects_chinese": True, "judges_stops": True, **settings})
    assert found == pytest.approx(score)
