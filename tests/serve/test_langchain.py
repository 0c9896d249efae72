"""LangChain's own suite for chat models, through its client for OpenAI's API. Tools and pictures are not here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.conftest import Live

standard = pytest.importorskip("langchain_tests.integration_tests")
langchain_openai = pytest.importorskip("langchain_openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore:The test .* is marked with '@pytest.mark.asyncio'"),
]


class TestChat(standard.ChatModelIntegrationTests):  # type: ignore[misc]
    """Invoke, stream, batch, sync and async, usage, stop, conversations."""

    @pytest.fixture(autouse=True)
    def _address(self, live: Live) -> None:
        type(self).address = f"{live.url}/v1"

    @property
    def chat_model_class(self) -> Any:
        return langchain_openai.ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "base_url": self.address, "api_key": "none", "model": "tiny", "max_tokens": 32, "stream_usage": True,
            "max_retries": 0,
        }  # fmt: skip

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return False

    @property
    def supports_image_inputs(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "pupil"
