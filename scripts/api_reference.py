"""The API reference of the HTTP services as Markdown, from the OpenAPI documents of their apps; no engine starts."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from services.embedding.api.app import assemble as assemble_embedding
from services.embedding.settings import EmbeddingSettings
from services.generation.__main__ import assemble as assemble_generation
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.pairs.tasks import load_all_tasks
from services.generation.settings import GenerationSettings
from services.trainer.metrics import Metrics as TrainerMetrics
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.health_server import trainer_app
from services.trainer.worker.routes import routers
from shared.redis import command_client
from shared.settings import Settings

NOWHERE = "unix:///nowhere"  # no app asks Redis or the disk for its OpenAPI document

Schema = Mapping[str, Any]


def documents() -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each HTTP service, by its name."""
    settings, generation = Settings(home=Path(NOWHERE)), GenerationSettings()
    engine = TransformersEngine("", generation)
    writes, _ = assemble_generation(settings, generation, engine, command_client(NOWHERE), load_all_tasks(None))
    reads = assemble_embedding(settings, EmbeddingSettings(), _load_nothing)
    trains = trainer_app(TrainerMetrics(CollectorRegistry()), _nothing_is_checked, [], routers(DatasetApi("", False)))
    return {"generation": writes.openapi(), "embedding": reads.openapi(), "trainer": trains.openapi()}


async def _nothing_is_checked() -> dict[str, str]:
    return {}


def _load_nothing(*_: Any) -> Any:
    raise AssertionError("no version is loaded for a document")


def page(service: str, document: Schema) -> str:
    """The reference of one service: its routes, then the schemas that they name."""
    intro = document["info"]["description"]
    lines = [f"# API: {service}", "", intro, "", "Written from the service's OpenAPI document (`/openapi.json`).", ""]
    # What all services have (`/livez` and so on) comes last.
    for path, operations in sorted(document["paths"].items(), key=lambda route: "operations" in str(route[1])):
        for method, operation in operations.items():
            lines += [f"## `{method.upper()} {path}`", "", operation.get("summary", ""), "", *_operation(operation)]
    lines += ["## Schemas", ""]
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        lines += [f"### {name}", "", *_schema(schema), ""]
    return "\n".join(lines)


def _operation(operation: Schema) -> Iterator[str]:
    if parameters := operation.get("parameters"):
        yield from _head("parameter", "in", "type", "default", "meaning")
        for one in parameters:
            where, schema = one["in"] + (", required" if one.get("required") else ""), one["schema"]
            yield _row(f"`{one['name']}`", where, kind(schema), _default(schema), one.get("description", ""))
        yield ""
    if body := _json_schema(operation.get("requestBody", {})):
        yield from (f"Body: {kind(body) if '$ref' in body else body.get('title', kind(body))}", "", *_schema(body), "")
    yield from _head("status", "answer", "content")
    for status, answer in operation["responses"].items():
        types, schema = ", ".join(f"`{media}`" for media in answer.get("content", {})), _json_schema(answer)
        yield _row(status, answer.get("description", ""), f"{types}: {kind(schema)}" if "$ref" in schema else types)
    yield ""


def _schema(schema: Schema) -> Iterator[str]:
    if "description" in schema:
        yield from (schema["description"], "")
    if fields := schema.get("properties"):
        yield from _head("field", "type", "default", "meaning")
        for name, field in fields.items():
            default = "required" if name in schema.get("required", ()) else _default(field)
            yield _row(f"`{name}`", kind(field), default, field.get("description", ""))


def kind(schema: Schema) -> str:
    """A schema's type in a few words; a named schema as a link to its place on the page."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if union := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(kind, union))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {kind(schema['items'])}"
    return str(schema.get("type", "any")) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    least, most = (f"{schema[bound]:,.10g}" if bound in schema else "" for bound in ("minimum", "maximum"))
    if least and most:
        return f" ({least} to {most})"
    return f" (from {least})" if least else f" (up to {most})" if most else ""


def _default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def _json_schema(holder: Schema) -> Schema:
    schema: Schema = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _head(*cells: str) -> tuple[str, str]:
    return _row(*cells), _row(*["---"] * len(cells))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
