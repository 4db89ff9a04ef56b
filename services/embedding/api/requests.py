"""Reading request bodies: strict JSON into strict models, and the `inputs` that both protocols share."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema

from services.embedding.api.errors import Responses

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request, Body], Awaitable[Response]]

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


async def read_json(request: Request) -> Any:
    """The body's JSON. Raises `RequestValidationError`, also for NaN and lone surrogates: they are no JSON."""
    # Whatever the Content-Type says: some clients send none, or curl's default.
    try:
        return pydantic_core.from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise RequestValidationError([{"type": "json_invalid", "loc": (), "ctx": {"error": str(error)}}]) from None


def parse(body: Any, model: type[Body]) -> Body:
    """A body's JSON as `model`. Raises `RequestValidationError`."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


def post(
    routes: APIRouter, paths: tuple[str, ...], body: type[Body], answer: Any, errors: Responses, summary: str
) -> Callable[[Handler[Body]], Handler[Body]]:
    """Routes to a handler of `body` that answers with ready bytes. OpenAPI names the first of `paths` only."""
    schema = body.model_json_schema()
    schema = _inline(schema, schema.pop("$defs", {}))
    content = {"required": True, "content": {"application/json": {"schema": schema}}}

    def register(handler: Handler[Body]) -> Handler[Body]:
        async def endpoint(request: Request) -> Response:
            return await handler(request, parse(await read_json(request), body))

        for path in paths:
            routes.post(
                path,
                name=handler.__name__,
                summary=summary,
                response_class=Response,
                responses={200: {"model": answer}, **errors},
                openapi_extra={"requestBody": content},
                include_in_schema=path == paths[0],
            )(endpoint)
        return handler

    return register


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its definitions in place of the references, which would be looked up in the whole document."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: _inline(value, definitions) for name, value in node.items()}
