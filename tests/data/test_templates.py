"""The byte-exact texts of every template, their Jinja twins, and what a template refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from hantune.data.templates import TEMPLATES, Marks, get_template, restore_template
from hantune.data.types import Message
from hantune.errors import ConfigError, DataError, RefusedError
from tests.data.dialogues import as_dicts, conversations, stripped_texts, talk
from tests.laws import examples

TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
PAIRED_TASK = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
HELPFUL = "You are a helpful assistant. 你是一个乐于助人的助手。"
Pairs = Sequence[tuple[str, str]]


def llama2(system: str, pairs: Pairs) -> str:
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    return "".join(f"<s>[INST] {head if i == 0 else ''}{q} [/INST] {a} </s>" for i, (q, a) in enumerate(pairs))


def llama3(system: str, pairs: Pairs) -> str:
    said = [("system", system)] * bool(system) + [m for q, a in pairs for m in (("user", q), ("assistant", a))]
    return "<s>" + "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in said)


def chatml(system: str, pairs: Pairs) -> str:
    said = [("system", system)] * bool(system) + [m for q, a in pairs for m in (("user", q), ("assistant", a))]
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in said)


def flagalpha(system: str, pairs: Pairs) -> str:
    head = f"<s>System: {system}\n</s>" if system else ""
    return head + "".join(f"<s>Human: {q}\n</s><s>Assistant: {a}\n</s>" for q, a in pairs)


def blocks(before: str, after: str, *, between: str = "", opening: str = "", gap: str = "\n\n") -> Callable[..., str]:
    def text(system: str, pairs: Pairs) -> str:
        head = system + gap if system else opening
        return "<s>" + head + between.join(f"{before}{q}{after}{a}</s>" for q, a in pairs)

    return text


def alpaca(end: str) -> Callable[..., str]:
    return blocks("### Instruction:\n", f"\n\n### Response:{end}", between="\n\n", opening=TASK)


REFERENCE: dict[str, Callable[[str, Pairs], str]] = {
    "llama2": llama2,
    "llama3": llama3,
    "chatml": chatml,
    "belle": blocks("Human: ", "\n\nAssistant: "),
    "belle-v2": blocks("Human: \n", "\n\nAssistant: \n"),
    "flagalpha": flagalpha,
    "alpaca": alpaca("\n"),
    "alpaca-legacy": alpaca(""),
    "alpaca-space": alpaca(" "),
    "huatuo-med": blocks(
        "### 问题:\n", "\n### 回答:\n", between="\n", opening="下面是一个问题，运用医学知识来正确回答提问.\n", gap="\n"
    ),
    "huatuo-qa": blocks("Question:\n", "\n---\n Answer:\n", between="\n"),
    "samsum": blocks("Summarize this dialog:\n", "\n---\nSummary:\n", between="\n"),
    "chinese-alpaca-2": lambda system, pairs: llama2(system or HELPFUL, pairs),
    "plain": lambda system, pairs: "<s>" + system + "".join(f"{q}{a}</s>" for q, a in pairs),
}
"""The formats as ``formats.md`` writes them, in the plainest code."""


def reference(name: str, messages: Sequence[Message]) -> str:
    """What the template must say of a whole conversation."""
    system = messages[0].text if messages[0].role == "system" else ""
    rest = [message.text for message in messages if message.role != "system"]
    return REFERENCE[name](system, list(zip(rest[::2], rest[1::2], strict=True)))


def test_every_template_has_a_reference() -> None:
    assert REFERENCE.keys() == TEMPLATES.keys()


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations(stripped_texts))
@examples(8, 20)
def test_law_2_joined_segments_are_the_reference_text(name: str, messages: list[Message]) -> None:
    assert TEMPLATES[name].render(messages, Marks()).text == reference(name, messages)


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations(stripped_texts, learn=True))
@examples(8, 20)
def test_prompt_segments_are_the_first_training_segments(name: str, messages: list[Message]) -> None:
    template = TEMPLATES[name]
    whole = template.render(messages, Marks()).segments
    for end in (i for i, message in enumerate(messages) if message.role == "assistant"):
        prompt = template.render(messages[:end], Marks()).segments
        assert whole[: len(prompt)] == prompt
        assert whole[len(prompt)].learn == messages[end].is_learned


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_terminators_are_learned_and_nothing_else(name: str) -> None:
    rendered = TEMPLATES[name].render(talk("问一", "答一", "问二", "答二", learn=[False, None]), Marks())
    learned = [segment for segment in rendered.segments if segment.learn]
    assert [segment.control for segment in learned] == [False, True]
    assert learned[0].text.strip() == "答二"
    assert learned[1].text == rendered.stops[0]


def test_prompts_as_the_formats_write_them() -> None:
    asked = talk("你好")
    prompts = {name: template.render(asked, Marks()).text for name, template in TEMPLATES.items()}
    assert prompts["llama2"] == "<s>[INST] 你好 [/INST]"
    assert prompts["llama3"].endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert prompts["chatml"] == "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    assert prompts["belle"] == "<s>Human: 你好\n\nAssistant: "
    assert prompts["flagalpha"] == "<s>Human: 你好\n</s><s>Assistant: "
    assert prompts["alpaca"] == f"<s>{TASK}### Instruction:\n你好\n\n### Response:\n"
    assert prompts["alpaca-legacy"].endswith("### Response:")
    assert prompts["alpaca-space"].endswith("### Response: ")
    assert prompts["huatuo-qa"] == "<s>Question:\n你好\n---\n Answer:\n"


def test_alpaca_opens_for_an_input_when_the_question_has_one() -> None:
    text = TEMPLATES["alpaca"].render(talk("翻译\n\n### Input:\n早上好", "Good morning"), Marks()).text
    assert text == (f"<s>{PAIRED_TASK}### Instruction:\n翻译\n\n### Input:\n早上好\n\n### Response:\nGood morning</s>")


@pytest.mark.parametrize(("file", "name"), [("alpaca", "alpaca"), ("alpaca_legacy", "alpaca-legacy")])
def test_alpaca_equals_the_published_template_files(shared_data: Path, file: str, name: str) -> None:
    import json

    published = json.loads((shared_data / "templates" / f"template_{file}.json").read_bytes())
    template = TEMPLATES[name]
    alone = template.render(talk("问"), Marks(bos=""))
    paired = template.render(talk("问\n\n### Input:\n料"), Marks(bos=""))
    assert alone.text == published["prompt_no_input"].format(instruction="问")
    assert paired.text == published["prompt_input"].format(instruction="问", input="料")


def test_huatuo_med_equals_the_published_template_file(shared_data: Path) -> None:
    import json

    published = json.loads((shared_data / "templates" / "template_huatuo_med.json").read_bytes())
    prompt = TEMPLATES["huatuo-med"].render(talk("头疼"), Marks(bos=""))
    assert prompt.text == published["prompt_no_input"].format(instruction="头疼")


def test_marks_that_a_tokenizer_lacks_are_left_out() -> None:
    assert TEMPLATES["belle"].render(talk("问", "答"), Marks(bos="")).text == "Human: 问\n\nAssistant: 答</s>"
    assert TEMPLATES["llama2"].render(talk("问", "答"), Marks(bos="", eos="")).text == "[INST] 问 [/INST] 答 "


def test_default_system_prompt_and_how_to_keep_it_away() -> None:
    template = get_template("llama2", system="默认")
    assert "<<SYS>>\n默认\n" in template.render(talk("问", "答"), Marks()).text
    assert "默认" not in template.render(talk("问", "答", system="自己的"), Marks()).text
    assert "SYS" not in template.render(talk("问", "答", system=""), Marks()).text
    assert "SYS" not in TEMPLATES["llama2"].render(talk("问", "答"), Marks()).text


def render_with_transformers(tokenizer: Any, source: str, messages: Sequence[Message]) -> str:
    """The text that any program reading ``chat_template.jinja`` makes."""
    return str(
        tokenizer.apply_chat_template(
            as_dicts(messages),
            chat_template=source,
            tokenize=False,
            add_generation_prompt=messages[-1].role == "user",
        )
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, '默认 "系统" {{ x }}\n第二行 😀'])
@given(messages=conversations(stripped_texts), asked=conversations(stripped_texts, prompt=True))
@examples(4, 8)
def test_jinja_twin_says_the_same(
    name: str, system: str | None, messages: list[Message], asked: list[Message], sp_tokenizer: Any
) -> None:
    template = get_template(name, system=system)
    for each in (messages, asked):
        twin = render_with_transformers(sp_tokenizer, template.jinja or "", each)
        assert twin == template.render(each, Marks()).text


def test_jinja_twin_without_bos_where_the_tokenizer_uses_none(byte_tokenizer: Any) -> None:
    marks = Marks(bos="")
    for template in TEMPLATES.values():
        twin = render_with_transformers(byte_tokenizer, template.jinja_for(marks) or "", talk("问", "答"))
        assert twin == template.render(talk("问", "答"), marks).text


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"plain"}))
@pytest.mark.parametrize(
    "messages",
    [[], talk("问")[:0], talk("问", "答")[1:], [*talk("问"), *talk("问")], [*talk("问", "答"), *talk("问", "答")[1:]]],
)
def test_wrong_order_of_roles_is_refused(name: str, messages: list[Message]) -> None:
    with pytest.raises(DataError) as caught:
        TEMPLATES[name].render(messages, Marks())
    assert caught.value.code == "template.roles"


def test_plain_takes_any_order_but_not_nothing() -> None:
    alone = [Message(role="assistant", text="一段文字")]
    assert TEMPLATES["plain"].render(alone, Marks()).text == "<s>一段文字</s>"
    with pytest.raises(DataError, match="空"):
        TEMPLATES["plain"].render([], Marks())


@pytest.mark.parametrize(
    ("model_type", "specials", "expected"),
    [
        ("llama", (), "llama2"),
        ("bloom", (), "belle"),
        ("qwen2", (), "chatml"),
        ("llama", ("<|start_header_id|>",), "llama3"),
        ("llama", ("<|im_start|>",), "chatml"),
    ],
)
def test_auto_without_a_chat_template(model_type: str, specials: tuple[str, ...], expected: str) -> None:
    assert get_template("auto", model_type=model_type, marks=Marks(specials=specials)).name == expected


def test_auto_prefers_the_models_own() -> None:
    own = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for name in ("auto", "llama3", "model"):
        template = get_template(name, chat_template=own, model_type="llama")
        assert (template.name, template.text) == ("model", own)
    assert get_template("belle", chat_template=own).name == "belle"


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="chatml") as caught:
        get_template("chatlm")
    assert caught.value.code == "template.unknown"


def test_model_template_that_does_not_exist() -> None:
    with pytest.raises(ConfigError) as caught:
        get_template("model", model_type="bloom")
    assert caught.value.code == "template.no-chat-template"
    assert "belle" in (caught.value.hint or "")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, "系统"])
def test_template_is_restored_from_what_an_adapter_holds(name: str, system: str | None) -> None:
    template = get_template(name, system=system)
    assert restore_template(template.name, template.text, template.system) == template


def test_template_that_changed_since_training_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        restore_template("belle", TEMPLATES["belle-v2"].text, None)
    assert caught.value.code == "template.changed"


def test_texts_differ_between_templates() -> None:
    assert len({template.text for template in TEMPLATES.values()}) == len(TEMPLATES)


def test_reference_page_shows_every_template_byte_for_byte() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "templates.md").read_text(encoding="utf-8")
    for template in TEMPLATES.values():
        shown = "\n%%\n".join(part.replace("\n", "\\n\n") for part in template.text.split("\n%%\n"))
        assert f"## {template.name}\n" in page
        assert f"```text\n{shown}\n```" in page, template.name
