"""All routes on the dataset."""

from fastapi import APIRouter

from services.trainer.worker.browse_api import browse_router
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.documents_api import documents_router
from services.trainer.worker.map_api import map_router
from services.trainer.worker.pairs_api import pairs_router
from services.trainer.worker.reports_api import reports_router
from services.trainer.worker.rounds_api import rounds_router


def routers(api: DatasetApi) -> list[APIRouter]:
    """The routers of the trainer's app."""
    makers = (browse_router, pairs_router, documents_router, rounds_router, reports_router, map_router)
    return [make(api) for make in makers]
