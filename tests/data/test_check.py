"""The check counts, names the first sample and refuses; real data with the right template passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hantune.data.check import check_data
from hantune.data.rules import RULES
from hantune.data.templates import TEMPLATES, Template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation, Message
from hantune.errors import RefusedError
from tests.data import chat_templates as shapes
from tests.data.dialogues import conversation, encoder_of
from tests.data.mutants import ForgetsTerminator, LearnsNothing

LLAMA2 = TEMPLATES["llama2"]
GOOD = [conversation("你好", "你好呀", "再见", "再见啦", source=f"好.json:{n}") for n in (1, 2)]


@pytest.fixture
def encoder(sp_tokenizer: Any) -> Encoder:
    return encoder_of(sp_tokenizer)


def refused(
    conversations: Sequence[Conversation], encoder: Encoder, template: Template, **settings: Any
) -> RefusedError:
    """The refusal that the data must meet."""
    with pytest.raises(RefusedError) as caught:
        check_data(conversations, encoder, template, **{"max_tokens": 999, **settings})
    assert caught.value.exit_code == 3
    return caught.value


def test_good_data_passes_with_every_template(encoder: Encoder, byte_tokenizer: Any) -> None:
    for template in TEMPLATES.values():
        report = check_data(GOOD, encoder_of(byte_tokenizer), template, max_tokens=999)
        assert (report.samples, report.kept, report.answers, report.lost_answers) == (2, 2, 4, 0)
        assert 0 < report.learned < report.tokens
        assert all(finding.level == "warn" for finding in report.findings)
    assert check_data(GOOD, encoder, LLAMA2, max_tokens=999).findings == []


def test_nothing_learned(encoder: Encoder) -> None:
    assert refused(GOOD, encoder, LearnsNothing(name="llama2")).code == "mask.nothing-learned"


def test_sample_whose_answers_are_all_switched_off(encoder: Encoder) -> None:
    error = refused([*GOOD, conversation("问", "答", source="坏.json:9", learn=[False])], encoder, LLAMA2)
    assert (error.code, error.place) == ("mask.nothing-learned", "坏.json:9")
    assert "3 条里有 1 条" in error.message


def test_template_of_the_model_is_another(encoder: Encoder) -> None:
    error = refused(GOOD, encoder, TEMPLATES["belle"], chat_template=shapes.LLAMA2)
    assert (error.code, error.place) == ("template.mismatch", "好.json:1")
    assert "Human" in error.message


def test_template_that_the_user_names_is_only_warned_of(encoder: Encoder) -> None:
    report = check_data(
        GOOD, encoder, TEMPLATES["belle"], max_tokens=999, chat_template=shapes.LLAMA2, is_explicit=True
    )
    assert [finding.code for finding in report.findings] == ["template.mismatch"]
    assert "template.mismatch" in report.warnings[0]


def test_template_equal_to_the_models_own_is_no_mismatch(encoder: Encoder) -> None:
    assert check_data(GOOD, encoder, LLAMA2, max_tokens=999, chat_template=shapes.LLAMA2).findings == []


def test_model_template_that_refuses_the_data_is_a_mismatch(encoder: Encoder) -> None:
    with_system = [conversation("问", "答", system="系统")]
    error = refused(with_system, encoder, LLAMA2, chat_template=shapes.NO_SYSTEM)
    assert (error.code, "System role" in error.message) == ("template.mismatch", True)


def test_max_tokens_that_leaves_nothing(encoder: Encoder) -> None:
    error = refused(GOOD, encoder, LLAMA2, max_tokens=8)
    assert error.code == "tokens.nothing-left"
    assert "data.max_tokens" in (error.hint or "")


def test_share_of_answers_that_max_tokens_cuts(encoder: Encoder) -> None:
    whole = check_data(GOOD, encoder, LLAMA2, max_tokens=999)
    limit = whole.tokens // 2 - 1
    report = check_data(GOOD, encoder, LLAMA2, max_tokens=limit)
    assert (report.answers, report.lost_answers, report.lost_share) == (4, 2, 0.5)
    assert any(f"max_tokens={limit}" in line and "50.0%" in line for line in report.lines())


def test_several_broken_rules_are_all_named(encoder: Encoder) -> None:
    mixed = [*GOOD, conversation("问", "答", learn=[False])]
    error = refused(mixed, encoder, ForgetsTerminator(name="llama2"))
    assert "mask.nothing-learned" in error.message


def test_report_as_lines_and_as_data(encoder: Encoder) -> None:
    report = check_data(GOOD, encoder, TEMPLATES["chatml"], max_tokens=999)
    lines = "\n".join(report.lines())
    lines.encode("gbk")
    assert "√" in lines
    assert "template.control-not-token" in lines
    assert report.as_dict()["findings"][0]["count"] == 2
    assert report.as_dict()["learned_share"] == report.learned_share


def test_every_rule_has_its_page() -> None:
    pages = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting"
    codes = [rule.code for rule in RULES] + ["mask.nothing-learned", "template.mismatch", "tokens.nothing-left"]
    assert [code for code in codes if not (pages / f"{code}.md").is_file()] == []


def test_real_dialogues_pass(shared_data: Path, llama2_tokenizer: Any) -> None:
    import json

    lines = (shared_data / "sharegpt" / "sharegpt_zh_1000.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    roles = {"human": "user", "gpt": "assistant"}
    talks = []
    for number, line in enumerate(lines):
        said = [Message(role=roles[t["from"]], text=t["value"]) for t in json.loads(line)["conversations"]]  # type: ignore[arg-type]
        talks.append(Conversation(messages=tuple(said), source=f"sharegpt:{number + 1}"))
    report = check_data(talks, encoder_of(llama2_tokenizer), LLAMA2, max_tokens=2048)
    assert report.findings == []
    assert report.kept == report.samples == len(talks)
    assert 0 < report.lost_share < 1
