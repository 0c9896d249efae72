"""OpenAI's requests and answers as types: what is checked on the way in, and what ``/openapi.json`` promises.

Fields that are not named here are ignored (clients send many), but for those in ``UNSUPPORTED``: to ignore these would
give an answer to another question.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hantune.data.types import Message
from hantune.infer.sample import MOST_LOGPROBS, SamplingParams
from hantune.serve.errors import ApiError

MOST_CHOICES, MOST_STOPS, LONGEST_STOP, MOST_MESSAGES, MOST_PROMPTS = 8, 16, 256, 2048, 16
MOST_TOKENS = 65_536
"""Of an answer, where the model itself sets no limit."""
DEFAULT_TOKENS = 1024
"""Of an answer whose request names no ``max_tokens``; the context may cut it down."""
UNSUPPORTED = {
    "tools": "工具调用", "functions": "工具调用", "tool_choice": "工具调用", "function_call": "工具调用",
    "logit_bias": "词元偏置", "audio": "语音", "prompt_embeds": "向量输入", "documents": "文档输入",
    "chat_template": "请求自带的模板", "suffix": "中间补全", "guided_json": "限定输出", "guided_regex": "限定输出",
    "guided_choice": "限定输出", "guided_grammar": "限定输出", "structured_outputs": "限定输出",
}  # fmt: skip
"""Field -> what it would need. ``none`` and ``auto`` for a choice of tools mean nothing without tools."""
HARMLESS: tuple[Any, ...] = (None, False, "", "none", "auto", [], {})

Count = Annotated[int, Field(ge=1)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Model(BaseModel):
    """Strict: a number in quotes is no number."""

    model_config = ConfigDict(strict=True, extra="ignore")


class StreamOptions(Model):
    include_usage: bool | None = None


class ResponseFormat(Model):
    type: Literal["text"] = Field(description="json_object and json_schema are not supported (400)")


class Asked(Model):
    """What chat and completion requests have in common."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: Annotated[str, Field(max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000, description="an extension; 0 and -1 are off")] | None = None
    max_tokens: Count | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    user: str | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    def require_supported(self) -> None:
        """Nothing, if no field asks for what this server cannot do.

        Raises: ApiError 400.
        """
        for name, value in (self.model_extra or {}).items():
            if name in UNSUPPORTED and value not in HARMLESS:
                message = f"不支持 {name} ({UNSUPPORTED[name]}), 去掉它再发"
                raise ApiError(400, message, code="unsupported_parameter", param=name)
        if self.stream_options is not None and not self.stream:
            message = "stream_options 只能和 stream: true 一起用"
            raise ApiError(400, message, code="invalid_value", param="stream_options")

    def sampling(self, limit: int | None, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """The engine's parameters. More tokens than the context has are an error; what the prompt leaves is not.

        Raises: ApiError 400.
        """
        most = limit or MOST_TOKENS
        if max_tokens is not None and max_tokens > most:
            message = f"max_tokens 是 {max_tokens}, 这个模型的上下文一共 {most} 个词元"
            raise ApiError(400, message, code="invalid_value", param="max_tokens")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            max_tokens=max_tokens or min(DEFAULT_TOKENS, most),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-6),
            top_k=max(self.top_k or 0, 0),
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            seed=self.seed,
            stops=tuple(stops),
            logprobs=logprobs,
        )


class TextPart(Model):
    type: Literal["text"]
    text: str


class ChatMessage(Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(Asked):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None

    def params(self, limit: int | None) -> SamplingParams:
        """Raises: ApiError 400."""
        if self.top_logprobs and not self.logprobs:
            message = "top_logprobs 要和 logprobs: true 一起用"
            raise ApiError(400, message, code="invalid_value", param="top_logprobs")
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.sampling(limit, max_tokens=most, logprobs=(self.top_logprobs or 0) if self.logprobs else None)


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Asked):
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def params(self, limit: int | None) -> SamplingParams:
        """Raises: ApiError 400."""
        if self.best_of is not None and self.best_of != self.choices:
            message = f"best_of 只能和 n 一样 ({self.choices})"
            raise ApiError(400, message, code="unsupported_parameter", param="best_of")
        if self.echo and self.logprobs is not None:
            message = "不支持 echo 和 logprobs 一起用 (提示的概率)"
            raise ApiError(400, message, code="unsupported_parameter", param="echo")
        return self.sampling(limit, max_tokens=self.max_tokens, logprobs=self.logprobs)


class TokenizeRequest(Model):
    """The text ``prompt``, or ``messages`` in the template of ``model``."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None


def conversation(messages: list[ChatMessage]) -> tuple[Message, ...]:
    """Messages as templates want them: neighbours of one role are one message (OpenAI allows them, templates do not).

    Raises: ApiError 400 where the last is not the user's.
    """
    joined: list[Message] = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        if joined and joined[-1].role == role:
            joined[-1] = Message(role=role, text=f"{joined[-1].text}\n\n{message.text}")
        else:
            joined.append(Message(role=role, text=message.text))
    if joined[-1].role != "user":
        raise ApiError(400, "messages 的最后一条要是 user 的", code="invalid_value", param="messages")
    return tuple(joined)


def seeded(params: SamplingParams, times: int) -> list[SamplingParams]:
    """The parameters of each of ``times`` answers to one question: every one has a chance of its own."""
    seed = params.seed
    return [params if seed is None else replace(params, seed=seed + number) for number in range(times)]


# ---- answers: only described here, written by chat.py and completions.py ---------------------------------------------


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class ChosenToken(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(ChosenToken):
    top_logprobs: list[ChosenToken]


class ChatLogprobs(BaseModel):
    content: list[ScoredToken]
    refusal: None


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int | None


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int | None


class Health(BaseModel):
    status: Literal["ok", "closing", "dead"]
