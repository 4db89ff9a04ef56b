"""The API reference of both HTTP services as Markdown, from the OpenAPI documents of their apps; no engine starts."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.embedding.api.app import assemble as assemble_embedding
from services.embedding.settings import EmbeddingSettings
from services.generation.__main__ import assemble as assemble_generation
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.pairs.tasks import load_all_tasks
from services.generation.settings import GenerationSettings
from shared.redis import command_client
from shared.settings import Settings

NOWHERE = "unix:///nowhere"
"""No app asks Redis or the disk for its OpenAPI document."""

Schema = Mapping[str, Any]


def documents() -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each HTTP service, by its name."""
    settings, generation = Settings(home=Path(NOWHERE)), GenerationSettings()
    engine = TransformersEngine("", generation)
    writes, _ = assemble_generation(settings, generation, engine, command_client(NOWHERE), load_all_tasks(None))
    reads = assemble_embedding(settings, EmbeddingSettings(), _load_nothing)
    return {"generation": writes.openapi(), "embedding": reads.openapi()}


def _load_nothing(*_: Any) -> Any:
    raise AssertionError("no version is loaded for a document")


def page(service: str, document: Schema) -> str:
    """The reference of one service: its routes, then the schemas that they name."""
    intro = document["info"]["description"]
    parts = [f"# API: {service}", "", intro, "", "Written from the service's OpenAPI document (`/openapi.json`).", ""]
    # What all services have (`/livez` and so on) comes last.
    routes = sorted(document["paths"].items(), key=lambda route: "operations" in str(route[1]))
    for path, operations in routes:
        for method, operation in operations.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts += ["## Schemas", ""]
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        parts += [f"### {name}", "", *_described(schema), *_fields(schema), ""]
    return "\n".join(parts)


def _operation(title: str, operation: Schema) -> Iterator[str]:
    yield from (f"## `{title}`", "", operation.get("summary", ""), "")
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("| parameter | in | type | default | meaning |", "| --- | --- | --- | --- | --- |")
        for one in parameters:
            schema = one["schema"]
            where = one["in"] + (", required" if one.get("required") else "")
            yield _row(f"`{one['name']}`", where, kind(schema), _default(schema), one.get("description", ""))
        yield ""
    body = _json_schema(operation.get("requestBody", {}))
    if body is not None:
        yield from (
            f"Body: {kind(body) if '$ref' in body else body.get('title', kind(body))}",
            "",
            *_described(body),
            *_fields(body),
            "",
        )
    yield from ("| status | answer | content |", "| --- | --- | --- |")
    for status, answer in operation["responses"].items():
        types = ", ".join(f"`{media}`" for media in answer.get("content", {}))
        schema = _json_schema(answer)
        named = f"{types}: {kind(schema)}" if schema and "$ref" in schema else types
        yield _row(status, answer.get("description", ""), named)
    yield ""


def _described(schema: Schema) -> list[str]:
    return [schema["description"], ""] if "description" in schema else []


def _fields(schema: Schema) -> Iterator[str]:
    if not schema.get("properties"):
        return
    yield from ("| field | type | default | meaning |", "| --- | --- | --- | --- |")
    for name, field in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else _default(field)
        yield _row(f"`{name}`", kind(field), default, field.get("description", ""))


def kind(schema: Schema) -> str:
    """A schema's type in a few words; a named schema as a link to its place on the page."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(kind(one) for one in schema[union])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {kind(schema['items'])}"
    return str(schema.get("type", "any")) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None and most is None:
        return ""
    return f" ({_number(least)} to {_number(most)})" if None not in (least, most) else f" (from {_number(least)})"


def _number(value: Any) -> str:
    return f"{value:,.10g}" if value is not None else "any"


def _default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def _json_schema(holder: Schema) -> Schema | None:
    content: Schema = holder.get("content", {}).get("application/json", {})
    return content.get("schema")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
