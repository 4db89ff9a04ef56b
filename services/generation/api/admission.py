"""Admission: takes requests for jobs and refuses at once what could not be done."""

import asyncio
import re

from services.generation.jobs.scheduler import JobScheduler, KeyReused
from services.generation.jobs.status import Status
from services.generation.jobs.store import TooManyJobs
from services.generation.pairs.corpus_source import NoCorpus
from services.generation.pairs.languages import language_warning, teacher_languages
from services.generation.pairs.plan import InvalidPlan, Plan
from services.generation.pairs.tasks import Tasks
from services.generation.settings import GenerationSettings
from shared.http.problems import Problem


class JobAdmission:
    """Checks plans against this service's tasks and limits."""

    def __init__(self, scheduler: JobScheduler, tasks: Tasks, settings: GenerationSettings, teacher: str) -> None:
        self.scheduler, self.store, self._teacher = scheduler, scheduler.store, teacher
        self._languages = teacher_languages(settings.teacher_languages, teacher)
        self._stream, self._tasks, self._settings = scheduler.stream, tasks, settings

    async def submit(self, plan: Plan, key: str | None, request_id: str | None = None) -> Status:
        """A durable, queued job; the same one for the same key. Raises `Problem`."""
        try:
            resolved = plan.resolve(self._tasks)
            requested, limit = resolved.pairs_requested, self._settings.max_pairs_per_job
            if requested > limit:
                field = next((name for name in ("pairs", "queries") if getattr(plan, name)), "pairs_per_label")
                raise _invalid(field, f"this asks for {requested} pairs; a job may ask for {limit}")
            self.scheduler.generator.check_form(resolved)
            # Half of the stream is kept for the jobs that run already; a dry run puts nothing into it.
            if not plan.dry_run and await self._stream.backlog() >= max(1, self._stream.limit // 2):
                raise _busy("The trainer is behind: the pair stream is half full.")
            resolved = await asyncio.to_thread(self.scheduler.passages.pin, resolved)
            warning = await asyncio.to_thread(language_warning, resolved, self._languages, self._teacher)
            return await self.scheduler.submit(resolved, key, request_id, [warning] if warning else [])
        except InvalidPlan as error:
            raise _invalid(error.field, error.message) from None
        except NoCorpus as error:
            detail = f"The dataset's passages can't be read: {error}"
            raise Problem(503, "The trainer does not answer", detail, {"Retry-After": "10"}) from None
        except TooManyJobs:
            raise _busy(f"{self._settings.max_open_jobs} jobs are open already.") from None
        except KeyReused:
            raise _invalid("Idempotency-Key", "another request was sent with this key; use a new one") from None

    async def resume(self, job: Status) -> Status:
        """A cancelled job, queued again; the same one if it is open. Raises `Problem`."""
        if job.state != "cancelled" and job.done:
            raise Problem(409, "Not resumed", f"The job is {job.state}: only a cancelled one can go on.")
        try:
            return await self.scheduler.resume(job)
        except TooManyJobs:
            raise _busy(f"{self._settings.max_open_jobs} jobs are open already.") from None

    async def job(self, job_id: str) -> Status:
        """The job of this id. Raises `Problem` 404."""
        job = await self.scheduler.status(job_id) if re.fullmatch(r"[0-9a-f]{32}", job_id) else None
        if job is None:
            kept = f"finished jobs are kept for {self._settings.keep_jobs_hours:g} hours"
            raise Problem(404, "No such job", f"There is no job {job_id[:64]!r}; {kept}.")
        return job


def _invalid(field: str, message: str) -> Problem:
    return Problem(422, "Invalid request", f"{field}: {message}", errors=[{"field": field, "message": message}])


def _busy(detail: str) -> Problem:
    return Problem(429, "Too many requests", f"{detail} Try again later.", {"Retry-After": "10"})
