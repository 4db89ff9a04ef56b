"""Reading request bodies: strict JSON into strict models, and the `inputs` that both protocols share."""

from typing import Annotated, Any, TypeVar

import pydantic_core
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema

Body = TypeVar("Body", bound=BaseModel)

NO_TOKEN_IDS = (
    "token ids are not accepted, because they mean something else in each tokenizer: send text "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


def _as_list(value: Any) -> Any:
    """A single text as a list of one. Raises ValueError for anything but texts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of strings")
    for position, item in enumerate(value):
        if isinstance(item, str):
            continue
        if isinstance(item, int | list) and not isinstance(item, bool):
            raise ValueError(NO_TOKEN_IDS)
        raise ValueError(f"must be a string or a list of strings; item {position} is neither text nor a token id")
    return value


Texts = Annotated[
    list[str],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class LenientBody(BaseModel):
    """Strict about the fields it knows, silent about others: clients send what other servers understand."""

    model_config = ConfigDict(strict=True, extra="ignore")


async def read_body(request: Request, model: type[Body]) -> Body:
    """The body as `model`, whatever its Content-Type says: some clients send none, or curl's default.

    Raises `RequestValidationError`. NaN and lone surrogates are no JSON and are refused as such.
    """
    body = await request.body()
    try:
        return model.model_validate(pydantic_core.from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
    except ValueError as error:
        fault = {"type": "json_invalid", "loc": (), "ctx": {"error": str(error)}}
        raise RequestValidationError([fault]) from None


def describe_body(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a route that reads its body with `read_body`."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
