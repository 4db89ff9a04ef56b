"""Reading request bodies: strict JSON into strict models, and the `inputs` that the protocols share."""

import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, ClassVar, Self, TypeVar

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from services.embedding.api.errors import Responses
from services.embedding.api.serialization import VERSION_HEADER, Kind
from services.embedding.serving.service import InputType

Body = TypeVar("Body", bound="StrictBody")
Handler = Callable[[Request, Body], Awaitable[Response]]

NO_TOKEN_IDS = (
    "token ids are not accepted, because they mean something else in each tokenizer: send text "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)
JSON_TYPES = {
    list: "a list", dict: "an object", int: "a number", float: "a number", bool: "true or false", type(None): "null",
}  # fmt: skip
VERSION_ID = r"^([a-z0-9][a-z0-9-]{0,63}@)?(|current|previous|pairwright|r[0-9]{6,}-[0-9a-f]{8})$"
PIN = {
    "name": VERSION_HEADER, "in": "header", "description": "Which version is to answer; without it, the current one",
    "schema": {"type": "string", "pattern": VERSION_ID},
}  # fmt: skip
NAMES_VERSION = {VERSION_HEADER: {"description": "The version that answered", "schema": {"type": "string"}}}


def check_texts(value: Any) -> Any:
    """A single text as a list of one. Raises ValueError for anything but texts, by the place of the first of it."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of strings")
    for place, item in enumerate(value):
        if not isinstance(item, str):
            raise ValueError(NO_TOKEN_IDS if are_token_ids(value) else _no_text(place, item))
    return value


def are_token_ids(value: list[Any]) -> bool:
    """Whether these are token ids of one text or of several."""
    rows = value if all(isinstance(row, list) for row in value) else [value]
    return bool(value) and all(row and all(type(item) is int for item in row) for row in rows)


def _no_text(place: int, item: Any) -> str:
    return f"must be a string or a list of strings; item {place} is {JSON_TYPES[type(item)]}"


SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
Texts = Annotated[list[str], BeforeValidator(check_texts), WithJsonSchema(SCHEMA)]
Ignored = Annotated[Any, Field(description="Ignored: it changes nothing here")]


class StrictBody(BaseModel):
    """Strict about types, and about fields: one that would be ignored is refused, unless the class names it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    EXAMPLE: ClassVar[dict[str, Any]] = {}


class Prompted(StrictBody):
    """Which of the version's prompts is put before the texts: by its name, or for a type of input."""

    prompt_name: str | None = None
    input_type: InputType | None = None


class Typed(StrictBody):
    """In which type of numbers vectors are answered. Two fields, because some clients send the one, some the other."""

    output_dtype: Kind | None = None
    embedding_types: Annotated[list[Kind], Field(min_length=1, max_length=1)] | None = None

    @property
    def kind(self) -> Kind | None:
        """The type; None where neither field asks for one."""
        return self.embedding_types[0] if self.embedding_types else self.output_dtype

    @model_validator(mode="after")
    def _one_kind_of_unit_vectors(self) -> Self:
        if self.output_dtype is not None and self.kind != self.output_dtype:
            raise ValueError("`output_dtype` and `embedding_types` name two types: send one of them")
        if self.kind in ("int8", "uint8") and getattr(self, "normalize", None) is False:
            raise ValueError(f"{self.kind} holds normalised vectors only: leave out `normalize`")
        return self


async def read_json(request: Request) -> Any:
    """The body's JSON. Raises `RequestValidationError`, also for NaN and lone surrogates: they are no JSON."""
    # Whatever the Content-Type says: some clients send none, or curl's default. Windows' tools write a mark and UTF-16.
    body = await request.body()
    try:
        encoding = json.detect_encoding(body)
        return pydantic_core.from_json(body if encoding == "utf-8" else body.decode(encoding), allow_inf_nan=False)
    except ValueError as error:
        reason = f"{error}{_place_of_surrogate(body)}"
        raise RequestValidationError([{"type": "json_invalid", "loc": (), "ctx": {"error": reason}}]) from None


def _place_of_surrogate(body: bytes) -> str:
    """Which item of which field can't be written in UTF-8; nothing where that isn't what is wrong."""
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(body)
        for field, value in fields.items() if isinstance(fields, dict) else ():
            for place, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, str) and any("\ud800" <= char <= "\udfff" for char in item):
                    return f" (item {place} of `{field}`)"
    return ""


def parse(body: Any, model: type[Body]) -> Body:
    """A body's JSON as `model`. Raises `RequestValidationError`."""
    if isinstance(body, dict):  # null asks for nothing, in fields of other servers too
        body = {name: value for name, value in body.items() if value is not None or name in model.model_fields}
    try:
        return model.model_validate(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        for one in errors:
            if one["type"] == "extra_forbidden":
                known = ", ".join(model.model_fields) if len(one["loc"]) == 1 else "others"
                one["type"], one["msg"] = "unknown_field", f"unknown field; there is {known}"
        raise RequestValidationError(errors) from None


def post(
    routes: APIRouter,
    paths: tuple[str, ...],
    body: type[Body],
    answer: Any,
    errors: Responses,
    summary: str,
    names_version: bool = True,
) -> Callable[[Handler[Body]], Handler[Body]]:
    """Routes to a handler of `body` that answers with ready bytes. OpenAPI names the first of `paths` only.

    Where the header `names_version`, OpenAPI says so.
    """
    schema = body.model_json_schema()
    schema = _inline(schema, schema.pop("$defs", {}))
    content = {"required": True, "content": {"application/json": {"schema": schema, "example": body.EXAMPLE}}}

    def register(handler: Handler[Body]) -> Handler[Body]:
        async def endpoint(request: Request) -> Response:
            return await handler(request, parse(await read_json(request), body))

        for path in paths:
            routes.post(
                path,
                name=handler.__name__,
                summary=summary,
                response_class=Response,
                responses={200: {"model": answer, "headers": NAMES_VERSION}, **errors},
                openapi_extra={"requestBody": content, "parameters": [PIN] if names_version else []},
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
