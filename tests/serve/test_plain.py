"""Models, health, metrics, tokens."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest

from tests.serve.conftest import ask


def test_the_base_and_each_adapter_are_models(client: Any) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(model["id"], model["object"], model["parent"]) for model in listed["data"]] == [
        ("tiny", "model", None), ("pupil", "model", "tiny"),
    ]  # fmt: skip
    assert client.get("/v1/models/pupil").json() == listed["data"][1]
    assert listed["data"][0]["max_model_len"] == 512


def test_names_with_a_slash_and_names_that_are_paths(own_client: Any, served: Any) -> None:
    served.models["Org/名字"] = None
    assert own_client.get("/v1/models/" + quote("Org/名字")).json()["id"] == "Org/名字"
    for path in ("..%2f..%2fetc%2fpasswd", "/etc/passwd", quote("C:\\x"), "org/evil", "%00", "a" * 5000):
        response = own_client.get(f"/v1/models/{path}")
        assert response.status_code == 404
        assert len(response.text) < 1000


def test_tokens(own_client: Any, served: Any) -> None:
    engine = served.engine
    text = own_client.post("/tokenize", json={"prompt": "你好</s>"}).json()
    assert text == {"tokens": engine.text_ids("你好</s>"), "count": len(text["tokens"]), "max_model_len": 512}
    chat = own_client.post("/tokenize", json={"model": "pupil", "messages": ask()["messages"]}).json()
    assert chat["count"] == own_client.post("/v1/chat/completions", json=ask()).json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"prompt": "a", "messages": []}, 400), ({"prompt": "a", "model": "x"}, 404), ({"prompt": 1}, 400)],
)
def test_tokens_of_wrong_requests(client: Any, body: dict[str, Any], status: int) -> None:
    assert client.post("/tokenize", json=body).status_code == status


def test_health(own_client: Any, served: Any) -> None:
    for path in ("/health", "/health/ready", "/health/live"):
        assert (own_client.get(path).status_code, own_client.get(path).json()) == (200, {"status": "ok"})
    served.is_closing = True
    assert own_client.get("/health/ready").json() == {"status": "closing"}
    assert own_client.get("/health/ready").status_code == 503
    assert own_client.get("/health/live").status_code == 200
    served.is_closing = False
    served.scheduler.close()  # as if its thread had died: nobody told the server to stop
    assert own_client.get("/health/live").status_code == 503
    assert own_client.get("/health").json() == {"status": "dead"}


def test_metrics_are_what_prometheus_reads(own_client: Any) -> None:
    own_client.post("/v1/chat/completions", json=ask())
    own_client.get("/nowhere")
    text = own_client.get("/metrics").text
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? -?[0-9.e+-]+', line), line
    assert "hantune_completion_tokens_total 8\n" in text
    assert 'hantune_answers_finished_total{reason="length"} 1\n' in text
    assert 'hantune_http_requests_total{route="/v1/chat/completions",status="200"} 1\n' in text
    assert 'hantune_http_requests_total{route="other",status="404"} 1\n' in text
    assert 'hantune_time_to_first_token_seconds_bucket{le="+Inf"} 1\n' in text
    assert "hantune_time_to_first_token_seconds_count 1\n" in text
