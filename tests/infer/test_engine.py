"""Laws of answering: the cache, the batch and the stream change nothing; modes and chance stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.data.types import Message
from hantune.errors import RefusedError
from hantune.infer.decode import CachedDecoder
from hantune.infer.engine import Completion, Engine, default_dtype, open_engine
from hantune.infer.prefix import PrefixStore
from hantune.infer.sample import SamplingParams
from hantune.models import prepack
from hantune.models.call import bare_model

QUESTIONS = (
    "你好",
    "推荐一道家常菜。今天天气很好，我们去公园散步吧。",
    "你叫什么名字？",
    "Hello, how are you today?",
    "龘",
)
GREEDY = SamplingParams(max_tokens=12)
DRAWN = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, top_k=50, repetition_penalty=1.2, seed=5)


def ask(*texts: str, system: str | None = None) -> list[Message]:
    head = [Message(role="system", text=system)] if system else []
    roles: Any = ("user", "assistant")
    return head + [Message(role=roles[i % 2], text=text) for i, text in enumerate(texts)]


MANY = [*(ask(question) for question in QUESTIONS), ask("你好", "你好！", "你是谁？", system="简短回答")]


def test_cached_decoding_chooses_what_a_full_forward_chooses(engine: Engine) -> None:
    for messages in MANY:
        ids = engine.prompt_ids(messages)
        answer = engine.answer(messages, GREEDY)
        for token in answer.ids:
            with torch.no_grad():
                logits_V = engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == int(logits_V.argmax())
            ids.append(token)


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("batch_size", [2, 6])
def test_a_batch_answers_what_one_by_one_answers(engine: Engine, params: SamplingParams, batch_size: int) -> None:
    assert engine.answer_many(MANY, params, batch_size) == [engine.answer(messages, params) for messages in MANY]


def test_rows_that_finish_leave_the_batch_and_the_others_go_on(llama: Engine) -> None:
    """One answer is stopped early by a stop string of its own; its batch mates answer as if alone."""
    free = [llama.answer(messages, GREEDY) for messages in MANY]
    stop = free[1].text[2:4]
    params = SamplingParams(max_tokens=12, stops=(stop,))
    together = llama.answer_many(MANY, params, 6)
    assert together[1].finish_reason == "stop"
    assert together[1].text == free[1].text[: free[1].text.index(stop)].strip()
    assert together == [llama.answer(messages, params) for messages in MANY]
    assert {answer.finish_reason for answer in together} == {"stop", "length"}


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_streamed_text_joined_is_the_whole_text(engine: Engine, params: SamplingParams) -> None:
    for messages in MANY:
        parts: list[str] = []
        stream = engine.stream(messages, params)
        whole: Completion | None = None
        while whole is None:
            try:
                parts.append(next(stream))
            except StopIteration as end:
                whole = end.value
        assert "".join(parts) == whole.text
        assert all(parts)
        assert whole == engine.answer(messages, params)


def test_the_prompt_never_enters_the_answer(bloom: Engine) -> None:
    """A prompt that ends inside a character must not put its last bytes in front of the answer (trap F2)."""
    answer = bloom.answer(ask("龘"), GREEDY)
    assert answer.text == bloom.answer(ask("龘"), SamplingParams(max_tokens=12, stops=("Human:",))).text
    assert bloom._pieces.text(answer.ids).strip().startswith(answer.text)


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(engine: Engine) -> None:
    free = engine.answer(MANY[0], GREEDY)
    bare_model(engine.model).generation_config.eos_token_id = [free.ids[3]]
    stopped = engine.answer(MANY[0], GREEDY)
    assert stopped.finish_reason == "stop"
    assert stopped.ids == free.ids[: free.ids.index(free.ids[3])]
    assert free.finish_reason == "length"


def test_greedy_uses_no_random_number_and_drawing_only_its_own(engine: Engine) -> None:
    before = torch.get_rng_state()
    engine.answer_many(MANY, GREEDY)
    engine.answer_many(MANY, DRAWN)
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_may_differ_in_a_batch(llama: Engine) -> None:
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=1)
    one, two = llama.answer_many([MANY[0]] * 2, params, seeds=[1, 2])
    assert one == llama.answer(MANY[0], params)
    assert one != two


def test_modes_and_gradients_are_as_before(engine: Engine) -> None:
    engine.model.train()
    stream = engine.stream(MANY[0], GREEDY)
    next(stream)
    assert torch.is_grad_enabled()
    stream.close()
    assert all(module.training for module in engine.model.modules())
    engine.answer(MANY[0], GREEDY)
    assert all(module.training for module in engine.model.modules())


def test_a_model_in_training_answers_without_dropout(tiny_llama: Any, llama: Engine) -> None:
    model = tiny_llama(llama.encoder.tokenizer, attention_dropout=0.9).train()
    engine = Engine(model, llama.encoder, llama.template)
    assert engine.answer_many(MANY, GREEDY) == llama.answer_many(MANY, GREEDY)


def test_closing_the_stream_stops_the_model(llama: Engine) -> None:
    calls: list[int] = []
    handle = llama.model.register_forward_pre_hook(lambda *_: calls.append(1))
    stream = llama.stream(MANY[0], SamplingParams(max_tokens=100))
    next(stream)
    seen = len(calls)
    stream.close()
    handle.remove()
    assert 0 < seen < 20
    assert len(calls) == seen


def test_only_the_last_position_gets_logits(llama: Engine) -> None:
    rows: list[int] = []
    handle = llama.model.lm_head.register_forward_hook(lambda _, __, output: rows.append(output.shape[1]))
    llama.answer(MANY[1], GREEDY)
    handle.remove()
    assert set(rows) == {1}


def test_rows_without_a_piece_are_never_chosen(tiny_llama: Any, llama: Engine) -> None:
    model = tiny_llama(llama.encoder.tokenizer, vocab_size=llama.encoder.vocab_size + 64)
    with torch.no_grad():
        model.lm_head.weight[: llama.encoder.vocab_size] *= 0.01
    answer = Engine(model, llama.encoder, llama.template).answer(MANY[0], GREEDY)
    assert max(answer.ids) < llama.encoder.vocab_size


def test_the_context_limit_holds(tiny_llama: Any, llama: Engine) -> None:
    prompt = len(llama.prompt_ids(MANY[1]))
    model = tiny_llama(llama.encoder.tokenizer, max_position_embeddings=prompt + 3)
    engine = Engine(model, llama.encoder, llama.template)
    answer = engine.answer(MANY[1], GREEDY)
    assert (len(answer.ids), answer.finish_reason) == (3, "length")
    assert answer.usage == {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3}
    engine.limit = prompt
    with pytest.raises(RefusedError) as caught:
        engine.answer(MANY[1], GREEDY)
    assert caught.value.code == "infer.prompt-too-long"


def test_bloom_has_no_limit(bloom: Engine) -> None:
    assert bloom.limit is None
    assert bloom.fit(MANY[-1], GREEDY) == MANY[-1]


def test_fit_leaves_out_whole_oldest_turns_and_keeps_system_and_question(llama: Engine) -> None:
    messages = ask(*(f"第{i}句话，今天天气很好" for i in range(21)), system="简短回答")
    params = SamplingParams(max_tokens=20)
    llama.limit = 300
    fitted = llama.fit(messages, params)
    dropped = len(messages) - len(fitted)
    assert fitted == [messages[0], *messages[1 + dropped :]]
    assert dropped % 2 == 0
    assert 0 < dropped < 20
    assert len(llama.prompt_ids(fitted)) <= 280
    assert len(llama.prompt_ids([messages[0], *messages[dropped - 1 :]])) > 280
    llama.limit = 10
    assert llama.fit(messages, params) == [messages[0], messages[-1]]


def test_the_adapter_can_be_switched_off(lora: Engine, llama: Engine) -> None:
    with_adapter = lora.answer(MANY[0], GREEDY)
    with lora.without_adapter():
        assert lora.answer(MANY[0], GREEDY) == llama.answer(MANY[0], GREEDY) != with_adapter
    assert lora.answer(MANY[0], GREEDY) == with_adapter
    with llama.without_adapter():
        llama.answer(MANY[0], GREEDY)


def test_open_engine_finds_everything(tiny_llama_folder: Path, tiny_bloom_folder: Path, llama: Engine) -> None:
    opened = open_engine(tiny_llama_folder, device="cpu")
    assert opened.name == str(tiny_llama_folder)
    assert opened.adapter is None
    assert opened.answer(MANY[0], GREEDY) == llama.answer(MANY[0], GREEDY)
    assert len(open_engine(tiny_bloom_folder, device="cpu").answer(MANY[0], GREEDY).ids) > 0


def test_a_cpu_answers_in_float32() -> None:
    assert default_dtype("cpu") == torch.float32


def test_a_chat_reads_its_history_once_and_the_base_has_a_memory_of_its_own(lora: Engine) -> None:
    def said(messages: list[Message]) -> tuple[str, int]:
        columns: list[int] = []

        def note(module: Any, given: Any, named: dict[str, Any]) -> None:
            columns.append(named["input_ids"].shape[1])

        hook = bare_model(lora.model).register_forward_pre_hook(note, with_kwargs=True)
        text = "".join(lora.stream(messages, GREEDY))
        hook.remove()
        return text, columns[0]

    history = MANY[1]
    longer = [*history, Message(role="assistant", text="好"), *MANY[2]]
    wanted = [said(history), said(longer)]
    with lora.without_adapter():
        base = said(longer)
    assert wanted[1][1] == base[1] == len(lora.prompt_ids(longer))
    lora.prefixes = PrefixStore(2**24)
    assert said(history) == wanted[0]
    with lora.without_adapter():
        assert said(longer) == base
    text, read = said(longer)
    assert text == wanted[1][0]
    assert read < wanted[1][1] - len(lora.prompt_ids(history)) + 16


def test_places_that_become_free_are_taken(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 answers, one of which is long: with 4 places it takes about the long one's steps, not three times as many."""
    params = [SamplingParams(max_tokens=40 if number == 0 else 4) for number in range(12)]
    lanes = [llama.lane(MANY[number % len(MANY)], each) for number, each in enumerate(params)]
    steps: list[int] = []
    step = CachedDecoder.step
    monkeypatch.setattr(CachedDecoder, "step", lambda self: (steps.append(len(self.lanes)), step(self)))
    answers = dict(llama.finish(enumerate(lanes), 4))
    assert [len(answers[number].ids) for number in range(12)] == [40] + [4] * 11
    assert len(steps) < 45
    assert max(steps) == 4


def test_plain_text_is_encoded_behind_the_beginning_mark(llama: Engine, bloom: Engine) -> None:
    ids = llama.text_ids("你好</s>")
    assert ids[0] == llama.encoder.tokenizer.bos_token_id
    assert llama.encoder.tokenizer.eos_token_id not in ids
    assert bloom.encoder.decode(bloom.text_ids("你好")) == "你好"
    assert b"".join(map(bloom.piece, bloom.text_ids("你好"))).decode() == "你好"


def test_weights_are_laid_out_once_and_answer_the_same(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = (open_engine(tiny_llama_folder, device="cpu") for _ in range(2))
    monkeypatch.setattr(prepack, "pays", lambda dtype: False)
    wanted = plain.answer(ask("你好"), GREEDY)
    assert not any(map(prepack.is_prepacked, plain.model.modules()))
    if not torch.backends.mkldnn.is_available():
        pytest.skip("oneDNN")
    monkeypatch.setattr(prepack, "pays", lambda dtype: True)
    assert engine.answer(ask("你好"), GREEDY) == wanted
    assert any(map(prepack.is_prepacked, engine.model.modules()))
    monkeypatch.setattr(prepack, "_layers", lambda model, is_trained: pytest.fail("looked for again"))
    engine.answer(ask("你好"), GREEDY)
    assert plain.answer(ask("你好"), GREEDY) == wanted, "what was decided for an engine stays"


def test_a_model_that_somebody_else_holds_is_not_laid_out(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepack, "pays", lambda dtype: True)
    weights = dict(llama.model.named_parameters())
    llama.get_ready()
    llama.answer(ask("你好"), GREEDY)
    assert all(parameter is weights[name] for name, parameter in llama.model.named_parameters())
