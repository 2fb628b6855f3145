"""What goes in and out, as pydantic models: the OpenAPI page is made from these. Every field has its limits here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_SEED = 2**31 - 1
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=True)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Flag = Annotated[bool, Field(strict=True)]
Tokens = Annotated[int, Field(ge=1, le=512, strict=True)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
Picture = Annotated[str, StringConstraints(min_length=1), Field(description="a PNG, JPEG or WebP file in base64")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    code: str
    message: str
    param: str | None = Field(description="the field that was wrong")
    fix: str = ""


class ErrorBody(BaseModel):
    error: Problem


class Acting(Strict):
    """How to choose among legal values; what is not given is as the bundle was trained to act."""

    temperature: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False, strict=True)] | None = None
    discrete: Literal["greedy", "sample"] | None = None
    continuous: Literal["greedy", "mean", "sample"] | None = None

    top_k: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None

    def chosen(self) -> dict[str, Any]:
        names = ("temperature", "discrete", "continuous", "top_k", "memory")
        return {k: getattr(self, k) for k in names if getattr(self, k, None) is not None}


class OpenSession(Acting):
    task: Name
    seed: Seed = 0
    memory: Literal["window", "xl"] | None = None


class ResetSession(Strict):
    seed: Seed | None = None


class SessionFacts(BaseModel):
    id: str
    task: str
    step: int
    seed: int
    acting: dict[str, Any]
    observation: dict[str, Any] = Field(description="what `act` expects, by field")
    action: dict[str, Any]


class Closed(BaseModel):
    id: str
    closed: bool


class Action(BaseModel):
    action: Any
    step: int


class TaskFacts(BaseModel):
    id: str
    score: str
    installed: bool
    random: float | None
    expert: float | None
    observation: dict[str, str]
    action: dict[str, str]


class TaskList(BaseModel):
    tasks: list[TaskFacts]
    captions: bool
    questions: bool
    text: bool
    parameters: int


class CaptionRequest(Strict):
    image: Picture
    max_tokens: Tokens = 48
    temperature: Temperature = 0.0


class Caption(BaseModel):
    caption: str


class AnswerRequest(Strict):
    image: Picture
    question: Words
    max_tokens: Tokens = 16
    temperature: Temperature = 0.0


class Answer(BaseModel):
    answer: str


class Scene(BaseModel):
    image: str
    caption: str


class Text(BaseModel):
    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=8192)]


class Address(BaseModel):
    url: str = Field(description="data:image/…;base64,… only: nothing is fetched")


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: Address


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, StringConstraints(max_length=8192)]
        | Annotated[list[Text | ImagePart], Field(min_length=1, max_length=16)]
    )


class ChatRequest(BaseModel):
    """The fields that mean something here; the rest of OpenAI's are let by."""

    model: Annotated[str, StringConstraints(max_length=200)] = "gato"
    messages: Annotated[list[Message], Field(min_length=1, max_length=64)]
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Seed | None = None
    stream: Flag | None = None
    n: Literal[1] | None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str


class Choice(BaseModel):
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"]
