"""What OpenAPI says of text-embeddings-inference's answers, which leave as ready bytes."""

from typing import Any


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


VECTORS = _json({"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
SIMILARITIES = _json({"type": "array", "items": {"type": "number"}})
TEXTS = _json({"type": "array", "items": {"type": "string"}})
_NUMBER_OR_NULL = {"type": ["integer", "null"]}
TOKENS = _json(
    {
        "type": "array",
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "text", "special", "start", "stop"],
                "properties": {
                    "id": {"type": "integer"},
                    "text": {"type": "string"},
                    "special": {"type": "boolean"},
                    "start": _NUMBER_OR_NULL,
                    "stop": _NUMBER_OR_NULL,
                },
            },
        },
    }
)
INFO = _json({"type": "object"})
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
    "required": ["error", "error_type"],
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, **_json(_ERROR)}
    for status, text in {
        400: "Empty input, or no JSON",
        401: "No known key",
        404: "There is no such version",
        408: "The body came too slowly",
        413: "The body is too large",
        422: "Invalid input",
        429: "Overloaded; see Retry-After",
        503: "No version is loaded yet",
        504: "The deadline has passed",
    }.items()
}
