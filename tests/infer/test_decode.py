"""Laws of continuous batching: who else is there, who comes and who goes changes no answer; nor does a known prefix."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Message
from hantune.infer.decode import MOST_READ
from hantune.infer.engine import Engine
from hantune.infer.lane import Completion, Lane
from hantune.infer.prefix import PrefixStore
from hantune.infer.sample import SamplingParams
from hantune.models.call import bare_model

TEXTS = (
    "你好",
    "推荐一道家常菜。今天天气很好，我们去公园散步吧。",
    "你叫什么名字？",
    "Hello, how are you today?",
    "龘",
)
KINDS = (
    SamplingParams(),
    SamplingParams(temperature=1.0, top_p=0.9, seed=5),
    SamplingParams(temperature=0.8, top_k=20, repetition_penalty=1.2, seed=6),
    SamplingParams(presence_penalty=1.5, frequency_penalty=0.5, logprobs=2),
)


def question(number: int) -> list[Message]:
    return [Message(role="user", text=TEXTS[number % len(TEXTS)] * (1 + number // len(TEXTS)))]


def lane_of(engine: Engine, number: int) -> Lane:
    return engine.lane(question(number), replace(KINDS[number % len(KINDS)], max_tokens=3 + number % 9))


def alone(engine: Engine, lane: Lane) -> Completion:
    decoder = engine.decoder()
    decoder.add([lane])
    while not decoder.is_idle:
        decoder.step()
    return lane.completion()


@pytest.mark.parametrize(("seed", "part"), [(0, 512), (1, 512), (2, 7)])
def test_who_comes_and_goes_changes_no_answer(
    engine: Engine, seed: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``part`` 7: every prompt is read in several parts, while others are answered."""
    monkeypatch.setitem(MOST_READ, "cpu", part)
    chance, decoder = random.Random(seed), engine.decoder(PrefixStore(2**24))
    lanes: list[Lane] = []
    dropped: list[Lane] = []
    while len(lanes) < 16 or not decoder.is_idle:
        if len(lanes) < 16 and (decoder.is_idle or chance.random() < 0.4):
            joining = [lane_of(engine, len(lanes) + n) for n in range(chance.randint(1, 3))]
            lanes += joining
            decoder.add(joining)
        elif chance.random() < 0.1:
            here = [lane for lane in lanes if lane.finish_reason is None and lane not in dropped]
            dropped.append(chance.choice(here))
            decoder.drop(dropped[-1])
            decoder.drop(dropped[-1])
        else:
            decoder.step()
    assert dropped
    monkeypatch.setitem(MOST_READ, "cpu", 256)
    for number, lane in enumerate(lanes):
        expected = alone(engine, lane_of(engine, number))
        if lane in dropped:
            assert tuple(lane.ids) == expected.ids[: len(lane.ids)]
        else:
            assert lane.completion() == expected


def rows_read(model: Any) -> tuple[list[tuple[int, int]], Any]:
    """The shapes of what the model reads from now on, and the hook to remove."""
    shapes: list[tuple[int, int]] = []

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    return shapes, model.register_forward_pre_hook(note, with_kwargs=True)


def test_equal_prompts_are_read_once(llama: Engine) -> None:
    params = SamplingParams(max_tokens=6, temperature=1.0)
    lanes = [llama.lane(question(1), replace(params, seed=seed)) for seed in range(4)]
    shapes, hook = rows_read(llama.model)
    decoder = llama.decoder()
    decoder.add(lanes)
    decoder.step()
    hook.remove()
    assert shapes == [(1, len(lanes[0].prompt))]
    while not decoder.is_idle:
        decoder.step()
    assert len({tuple(lane.ids) for lane in lanes}) > 1
    for seed, lane in enumerate(lanes):
        assert lane.completion() == alone(llama, llama.lane(question(1), replace(params, seed=seed)))


def test_prompts_of_like_length_are_read_together_and_no_call_is_too_large(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST_READ, "cpu", 150)
    lanes = [lane_of(llama, number) for number in range(10)]
    shapes, hook = rows_read(llama.model)
    decoder = llama.decoder()
    decoder.add(lanes)
    while not all(lane.ids for lane in lanes):
        decoder.step()
    hook.remove()
    prompts = [(rows, columns) for rows, columns in shapes if columns > 1]
    assert sum(rows for rows, _ in prompts) == 10
    assert len(prompts) < 10
    assert all(rows * columns <= 150 for rows, columns in prompts)


def test_a_long_prompt_is_read_in_parts_while_others_are_answered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log-probabilities too are those of a prompt that is read whole; short prompts need not wait for its end."""
    params = SamplingParams(max_tokens=6, logprobs=1)
    system = Message(role="system", text="你是一个喜欢说话的助手，每次都说很多。")
    whole = engine.lane([system, *question(26)], params)
    alone(engine, whole)
    monkeypatch.setitem(MOST_READ, "cpu", 40)
    store = PrefixStore(2**24)
    for number in (0, 26):  # the second knows the first's beginning
        known = engine.lane([system, *question(number)], params)
        decoder = engine.decoder(store)
        decoder.add([known])
        while not decoder.is_idle:
            decoder.step()
    early, late = engine.lane(question(0), params), engine.lane(question(2), params)
    long = [engine.lane([system, *question(26)], params) for _ in range(2)]
    shapes, hook = rows_read(engine.model.get_base_model() if engine.adapters else engine.model)
    decoder = engine.decoder(PrefixStore(2**24))
    decoder.add([early])
    decoder.step()
    decoder.add(long)
    decoder.step()
    decoder.add([late])
    while not long[0].ids:
        decoder.step()
    assert late.ids
    assert len(early.ids) >= 3
    while not decoder.is_idle:
        decoder.step()
    hook.remove()
    assert all(rows * columns <= 40 for rows, columns in shapes)
    for lane in (*long, known):
        assert lane.completion() == whole.completion()
        for score, wanted in zip(lane.scores, whole.scores, strict=True):
            assert score.value == pytest.approx(wanted.value, abs=1e-4)
    assert known.cached_tokens > 0


@pytest.mark.parametrize("step", range(5))
def test_a_prompt_that_is_dropped_while_it_is_read_is_forgotten(
    llama: Engine, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setitem(MOST_READ, "cpu", 40)
    params = SamplingParams(max_tokens=4)
    long, other = (llama.lane(question(number), params) for number in (26, 0))
    twin = llama.lane(question(26), params)
    decoder = llama.decoder()
    decoder.add([long, twin, other])
    for _ in range(step):
        decoder.step()
    decoder.drop(long)
    decoder.drop(twin)
    decoder.drop(twin)
    while not decoder.is_idle:
        decoder.step()
    assert other.completion() == alone(llama, llama.lane(question(0), params))
    assert len(long.ids) <= step


def test_a_growing_history_is_read_once_and_answered_the_same(engine: Engine) -> None:
    store = PrefixStore(2**24)
    history = [Message(role="system", text="你是一个喜欢说话的助手，每次都说很多。"), *question(1)]
    params = SamplingParams(max_tokens=8)
    for turn in range(3):
        fresh, reusing = engine.lane(history, params), engine.lane(history, params)
        decoder = engine.decoder(store)
        shapes, hook = rows_read(engine.model.get_base_model() if engine.adapters else engine.model)
        decoder.add([reusing])
        decoder.step()
        hook.remove()
        while not decoder.is_idle:
            decoder.step()
        assert alone(engine, fresh) == reusing.completion()
        assert shapes[0][1] == len(reusing.prompt) - reusing.cached_tokens
        assert reusing.cached_tokens > 0 or turn == 0
        history += [Message(role="assistant", text=reusing.completion().text or "好"), *question(turn + 2)]


def test_rows_that_know_unequal_parts_of_their_prompts_are_read_together(engine: Engine) -> None:
    system = Message(role="system", text="你是一个喜欢说话的助手，每次都说很多。今天天气很好。")
    store = PrefixStore(2**24)
    first = engine.lane([system, *question(1)], SamplingParams(max_tokens=2))
    decoder = engine.decoder(store)
    decoder.add([first])
    while not decoder.is_idle:
        decoder.step()
    asked = [[system, *question(number)] for number in (2, 3, 4, 6, 1)] + [question(1)]
    params = SamplingParams(max_tokens=8)
    lanes = [engine.lane(messages, params) for messages in asked]
    decoder.add(lanes)
    while not decoder.is_idle:
        decoder.step()
    assert sum(lane.cached_tokens > 0 for lane in lanes) >= 3
    assert [lane.completion() for lane in lanes] == [alone(engine, engine.lane(each, params)) for each in asked]


def test_log_probabilities_are_those_of_a_full_forward(llama: Engine) -> None:
    lane = llama.lane(question(0), SamplingParams(max_tokens=5, logprobs=3, temperature=1.0, seed=3))
    alone(llama, lane)
    ids = torch.tensor([[*lane.prompt, *lane.ids]])
    with torch.no_grad():
        logs_TV = llama.model(input_ids=ids).logits[0].log_softmax(1)
    for place, score in enumerate(lane.scores):
        row_V = logs_TV[len(lane.prompt) + place - 1]
        assert score.value == pytest.approx(float(row_V[score.id]), abs=1e-4)
        assert [value for _, value in score.top] == pytest.approx(row_V.topk(3).values.tolist(), abs=1e-4)


def test_a_model_without_keys_and_values_answers_too(byte_tokenizer: Any) -> None:
    """A Mamba: batches, joins and answers one by one are equal, and are what ``generate`` says."""
    from transformers import MambaConfig, MambaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.5}
        model = MambaForCausalLM(MambaConfig(vocab_size=len(byte_tokenizer), **sizes)).eval()
    engine = Engine(model, Encoder(byte_tokenizer), get_template("belle"))
    lanes = [lane_of(engine, number) for number in range(6)]
    decoder = engine.decoder(PrefixStore(2**24))
    decoder.add(lanes[:2])
    decoder.step()
    decoder.add(lanes[2:])
    while not decoder.is_idle:
        decoder.step()
    assert [lane.completion() for lane in lanes] == [alone(engine, lane_of(engine, number)) for number in range(6)]
    prompt = torch.tensor([lanes[0].prompt])
    made = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=3, pad_token_id=0
    )
    assert made[0, prompt.shape[1] :].tolist() == lanes[0].ids


def test_windows_and_shared_heads_answer_what_generate_says(sp_tokenizer: Any) -> None:
    """Gemma 3 has layers that see a window only and layers that see all, and fewer heads of keys than of queries."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    heads = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2, "sliding_window": 12}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Gemma3TextConfig(
            vocab_size=len(sp_tokenizer), intermediate_size=96, initializer_range=0.2, **heads, **layers
        )
        model = Gemma3ForCausalLM(config).eval()
    engine = Engine(model, Encoder(sp_tokenizer), get_template("llama2"))
    asked = [question(number) for number in (0, 1, 6, 3)]
    for messages, answer in zip(asked, engine.answer_many(asked, SamplingParams(max_tokens=16), 3), strict=True):
        prompt = torch.tensor([engine.prompt_ids(messages)])
        made = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
            max_new_tokens=len(answer.ids), pad_token_id=0,
        )  # fmt: skip
        assert made[0, prompt.shape[1] :].tolist() == list(answer.ids)
        assert len(answer.ids) + prompt.shape[1] > 12


def test_the_head_gets_no_view(engine: Engine) -> None:
    """Of a view torch makes one product for each answer, and in bf16 a copy of the whole head with it (CPU)."""
    seen: list[bool] = []
    head = bare_model(engine.model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    engine.answer_many([question(0), question(1), question(2)], SamplingParams(max_tokens=2))
    hook.remove()
    assert seen
    assert all(seen)
