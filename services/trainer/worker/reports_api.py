"""A version's report over HTTP, as it was written. Whatever its sentences hold, nothing in it runs."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from services.trainer.worker.dataset_api import DatasetApi, problem_errors
from shared.http.problems import Problem
from shared.model_store import NoVersion

REPORT = "report/report.html"
HEADERS = {
    # Its pictures are inside it, and so is its style.
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none';"
    " base-uri 'none'; frame-ancestors 'self'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def reports_router(api: DatasetApi) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["versions"])
    summary = "The report of a version (an id, `current` or `previous`) or of a rejected candidate"

    # Not async: it looks on the disk.
    @router.get(
        "/versions/{id}/report",
        summary=summary,
        response_class=FileResponse,
        responses={200: {"content": {"text/html": {}}}, **problem_errors(401, 403, 404, 503)},
    )
    def report(id: str) -> FileResponse:
        with api.parts() as parts:
            try:
                file = parts.store.any_path(id) / REPORT
            except NoVersion as error:
                raise Problem(404, "No such version", str(error)) from None
            if not file.is_file():
                raise Problem(404, "No report", f"{id} has no report: it was not made by a round of the trainer.")
            return FileResponse(file, media_type="text/html; charset=utf-8", headers=HEADERS)

    return router
