"""Clients written by others: OpenAI's own, curl, and among the slow tests a fuzz of the description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.data.types import Message
from hantune.infer.scheduler import Request, Scheduler
from hantune.serve.served import Served
from tests.serve.conftest import KEY, Live, ask

openai = pytest.importorskip("openai")
MESSAGES = [{"role": "user", "content": "你好"}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 8}


@pytest.fixture
def official(live: Live) -> Any:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0, timeout=60) as found:
        yield found


def test_models(official: Any) -> None:
    assert [model.id for model in official.models.list()] == ["tiny", "pupil"]
    assert official.models.retrieve("pupil").id == "pupil"


def test_chat(official: Any) -> None:
    answer = official.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    chunks = list(
        official.chat.completions.create(
            messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    with official.chat.completions.stream(messages=MESSAGES, stop=text[-2:], **GREEDY) as helper:
        helper.until_done()
        assert text.startswith(helper.get_final_completion().choices[0].message.content)


def test_stop_n_seed_and_logprobs(official: Any) -> None:
    def create(**fields: Any) -> Any:
        return official.chat.completions.create(messages=MESSAGES, **GREEDY | fields)

    text = create().choices[0].message.content
    stopped = create(stop=[text[4:6]]).choices[0]
    assert (stopped.finish_reason, stopped.message.content) == ("stop", text[: text.index(text[4:6])].rstrip())
    drawn = create(n=3, temperature=1.5, seed=7)
    assert [choice.index for choice in drawn.choices] == [0, 1, 2]
    again = create(n=3, temperature=1.5, seed=7)
    assert [c.message.content for c in drawn.choices] == [c.message.content for c in again.choices]
    scored = create(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(scored) == 8
    assert all(token.top_logprobs[0].logprob == token.logprob for token in scored)


def test_completions(official: Any) -> None:
    answer = official.completions.create(prompt="今天", logprobs=2, **GREEDY)
    assert len(answer.choices[0].logprobs.tokens) == 8
    stream = official.completions.create(prompt="今天", stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text
    assert len(official.completions.create(prompt=["今天", "明天"], n=2, **GREEDY).choices) == 4


def test_errors_by_class(official: Any, own: Callable[..., Live]) -> None:
    create = official.chat.completions.create
    with pytest.raises(openai.NotFoundError) as caught:
        create(messages=MESSAGES, model="gpt")
    assert caught.value.code == "model_not_found"
    for wrong in ({"n": 100}, {"temperature": -1}, {"messages": []}, {"tools": [{"type": "function"}]}):
        with pytest.raises(openai.BadRequestError):
            create(**{"messages": MESSAGES, **GREEDY, **wrong})
    with pytest.raises(openai.BadRequestError) as caught:
        create(messages=[{"role": "user", "content": "好" * 600}], **GREEDY)
    assert caught.value.code == "context_length_exceeded"
    locked = own(keys=[KEY])
    for key, error in (("wrong", openai.AuthenticationError), (KEY, None)):
        with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as client:
            if error is None:
                assert client.models.list().data
            else:
                with pytest.raises(error):
                    client.models.list()
    locked.served.is_closing = True
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(messages=MESSAGES, **GREEDY)


@pytest.mark.usefixtures("slow")
def test_a_full_server_is_a_rate_limit_that_the_client_waits_out(own: Callable[..., Live]) -> None:
    live = own(max_batch=1, max_queue=0)
    blocker = _occupy(live.served)
    url = f"{live.url}/v1"
    impatient = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
    with impatient as client, pytest.raises(openai.RateLimitError) as full:
        client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert int(full.value.response.headers["retry-after"]) >= 1
    live.served.scheduler.cancel(blocker)
    with openai.OpenAI(base_url=url, api_key="x", max_retries=3) as client:
        assert client.chat.completions.create(messages=MESSAGES, **GREEDY).usage.completion_tokens == 8


def _occupy(served: Served) -> Any:
    """A long answer that nobody reads."""
    scheduler: Scheduler = served.scheduler
    from hantune.infer.sample import SamplingParams

    params = SamplingParams(max_tokens=400)
    return scheduler.submit(Request(messages=(Message(role="user", text="占着"),), params=params))


def test_a_broken_stream_raises(own: Callable[..., Live], breaks: Callable[[], None]) -> None:
    live = own()
    breaks()
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
        with pytest.raises(openai.APIError, match="broken"):
            list(stream)


def test_curl(live: Live) -> None:
    """As the server's own first lines tell to try it."""
    import json
    import shutil
    import subprocess

    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    words = ["curl", "-sS", "-N", f"{live.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d"]
    done = subprocess.run([*words, json.dumps(ask(stream=True))], capture_output=True, timeout=60, check=True)
    assert done.stdout.endswith(b"data: [DONE]\n\n")


@pytest.mark.slow
def test_a_fuzz_of_the_description(
    own: Callable[..., Live], engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the description allows or forbids: no 5xx, no answer that it does not name."""
    import subprocess
    import sys

    pytest.importorskip("schemathesis")
    live = own(keys=[KEY], max_batch=16, max_queue=64)
    monkeypatch.setattr(engine, "limit", 64)  # short answers
    for name in ("ChatRequest", "CompletionRequest"):  # so that half of the guesses get beyond the 404
        live.app.openapi()["components"]["schemas"][name]["properties"]["model"] = {"enum": ["tiny", "nobody"]}
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
        "response_headers_conformance,unsupported_method,ignored_auth,negative_data_rejection"
    )
    words = [sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json", "--checks", checks]
    words += ["-H", f"Authorization: Bearer {KEY}", "--max-examples", "20", "--seed", "1"]
    words += ["--phases", "examples,coverage,fuzzing"]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=280, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert live.served.scheduler.stats().is_alive
