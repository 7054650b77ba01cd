"""Site: the pages of one model and one genome on this machine, and what may reach them.

All addresses begin with a secret token. Nothing that a user sends becomes a path: a job is looked
up by its id, its files by fixed names. Pages run one script, by a nonce, and load nothing remote.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import ChoiceLoader, PackageLoader

import genobird
from genobird.demo import GENOME, STRETCH, bundled
from genobird.errors import GenobirdError, UsageError
from genobird.files import scratch
from genobird.genome.fasta import Genome
from genobird.names import require
from genobird.report.page import STATUSES, environment
from genobird.report.scored import CURVES
from genobird.scoring.scorer import Scorer
from genobird.serve.jobs import DOWNLOADS, KEPT, REPORT, Job, Jobs, State, answer
from genobird.serve.question import ASKED, Limits, Question, typed, uploaded

HOSTS = ["127.0.0.1", "localhost"]
_FORM_BYTES = 1 << 16  # of an upload, beside the file
_LOGOS = 3
_CHUNK = 4  # places after which the progress moves
_GRACE = 2  # seconds that answers under way are sent on
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-{nonce}'; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Place:
    """The genome that the pages show."""

    genome: Genome
    name: str
    """Of the genome."""
    note: str = ""
    """What is to be known about it."""
    examples: tuple[str, ...] = ()


class Site:
    """The pages; `app` is the ASGI application. Every address begins with the token."""

    def __init__(self, jobs: Jobs, place: Place, token: str, limits: Limits) -> None:
        self._jobs, self._place, self._token, self._limits = jobs, place, token, limits
        self._templates = environment()
        own = PackageLoader("genobird.serve")
        self._templates.loader = ChoiceLoader([own, PackageLoader("genobird.report")])
        self.app = FastAPI(openapi_url=None)
        self.app.middleware("http")(self._guard)
        self.app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
        for fault in (400, 404, 405, RequestValidationError, OSError):
            self.app.exception_handler(fault)(self._failure)
        router = APIRouter(prefix=f"/{token}")
        router.get("/")(self.start)
        router.post("/")(self.ask)
        router.get("/jobs/{id}/")(self.job)
        router.get("/jobs/{id}/state")(self.state)
        router.get("/jobs/{id}/{name}")(self.file)
        router.post("/jobs/{id}/cancel")(self.cancel)
        router.post("/jobs/{id}/delete")(self.delete)
        self.app.include_router(router)

    def start(self, text: str = "") -> Response:
        """Show the form, with what an example gives."""
        return self._form(text)

    def ask(
        self,
        text: Annotated[str, Form()] = "",
        vcf: Annotated[UploadFile | None, File()] = None,
        logos: Annotated[bool, Form()] = False,
    ) -> Response:
        """Take a question and lead to its job, or show the form again with what is wrong."""
        drawn = _LOGOS if logos else 0

        def question(folder: Path) -> Question:
            if vcf is None or not vcf.filename:
                return typed(text, self._place.genome, folder, self._limits, drawn)
            with (folder / ASKED).open("wb") as file:
                shutil.copyfileobj(vcf.file, file)
            return uploaded(vcf.filename, folder, self._limits, drawn)

        try:
            job = self._jobs.add(question)
        except GenobirdError as error:
            return self._form(text, str(error))
        return RedirectResponse(f"jobs/{job.id}/", 303)

    def job(self, id: str) -> Response:
        """Show how far a job is, and its answer."""
        job = self._find(id)
        state, has_report = job.state, job.has_report  # once, for they may change at any time
        names = [name for name in DOWNLOADS if (job.folder / name).is_file()]
        return self._page(
            "job.html.j2",
            job=job,
            message=self._named(job.message),
            notes=[self._named(note) for note in job.notes],
            over=state.is_over,
            view=_view(state, has_report),
            says=self._says(job, state, has_report),
            downloads={name: DOWNLOADS[name] for name in names} if has_report else {},
            report=REPORT,
            statuses=STATUSES,
            kept=KEPT,
        )

    def state(self, id: str) -> dict[str, Any]:
        """Return how far a job is."""
        job = self._find(id)
        state, has_report = job.state, job.has_report
        says = self._says(job, state, has_report)
        return {"view": _view(state, has_report), "says": says, "done": job.done}

    def file(self, id: str, name: str) -> Response:
        """Send the report or a table."""
        job = self._find(id)
        if name == REPORT and job.has_report:
            headers = {"Content-Security-Policy": _REPORT_POLICY}
            return FileResponse(job.folder / REPORT, media_type="text/html", headers=headers)
        known = next((known for known in DOWNLOADS if known == name), None)
        if known is None or not (job.has_report and (job.folder / known).is_file()):
            raise HTTPException(404)
        octets = "application/octet-stream"
        return FileResponse(job.folder / known, media_type=octets, filename=known)

    def cancel(self, id: str) -> Response:
        """Stop a job."""
        self._jobs.cancel(self._find(id))
        return RedirectResponse("./", 303)

    def delete(self, id: str) -> Response:
        """Remove a job with all its files."""
        self._jobs.forget(self._find(id))
        return RedirectResponse("../../", 303)

    def _has_token(self, path: str) -> bool:
        token = path.removeprefix("/").split("/")[0]
        return secrets.compare_digest(token.encode(), self._token.encode())

    def _find(self, id: str) -> Job:
        job = self._jobs.find(id)
        if job is None:
            raise HTTPException(404)
        return job

    def _says(self, job: Job, state: State, has_report: bool) -> str:
        """Say in a sentence how far a job is."""
        if state is State.WAITING:
            before = self._jobs.before(job)
            return f"Waiting: {before} before it." if before else "Waiting."
        if state is State.RUNNING:
            return "The report is ready; pictures follow." if has_report else "Scoring."
        return {
            State.DONE: "Done.",
            State.FAILED: "This could not be scored.",
            State.CANCELLED: "Cancelled.",
        }[state]

    def _named(self, text: str) -> str:
        """Return a message with the name that pages have for the genome in place of its path."""
        return text.replace(str(self._place.genome.path), self._place.name)

    def _form(self, text: str = "", error: str = "") -> Response:
        return self._page(
            "ask.html.j2",
            422 if error else 200,
            text=text,
            error=self._named(error),
            place=self._place,
            limits=self._limits,
            logos=_LOGOS,
            curves=CURVES,
            kept=KEPT,
        )

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        values |= {"nonce": nonce, "version": genobird.__version__}
        text = self._templates.get_template(template).render(values)
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        return HTMLResponse(text, status, headers)

    async def _guard(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        size = request.headers.get("content-length", "0" if request.method == "GET" else "")
        if not self._has_token(request.url.path):  # before anything of a body is kept
            response = await self._failure(request, HTTPException(404))
        elif not size.isdecimal():  # every browser tells; the server holds it to that
            response = await self._failure(request, HTTPException(411))
        elif int(size) > self._limits.upload + _FORM_BYTES:
            response = await self._failure(request, HTTPException(413))
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    async def _failure(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500 if isinstance(error, OSError) else 400)
        most = f"{self._limits.upload >> 20} MiB"
        title, says = {
            404: (
                "Not here",
                "There is nothing at this address. The address of the page has a token: use the "
                f"whole one that genobird serve wrote. Answers are kept until {KEPT} newer ones "
                "are there or genobird serve ends.",
            ),
            413: ("Too large", f"{most} are the most. Cut the file, or use genobird variants."),
            500: ("Not kept", f"A file cannot be kept or read: {error}; is the disk full?"),
        }.get(status, ("Not understood", "This cannot be read."))
        return self._page("failure.html.j2", status, title=title, says=says)


def _view(state: State, has_report: bool) -> str:
    """Return what of a job changes its page beyond the progress."""
    return f"{state} {has_report}"


def serve(
    scorer: Scorer, place: Place, port: int, limits: Limits, announce: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM; what was asked and answered is removed then.

    The port is one of 127.0.0.1; 0 is any that is free. The address is announced when it can be
    opened.

    Raises:
        UsageError: the port is taken.
        KeyboardInterrupt, SystemExit: the end.
    """
    require("python_multipart", "genobird serve")  # FastAPI reads forms by it
    scorer.chunk = min(scorer.chunk, _CHUNK)
    signal.signal(signal.SIGTERM, _terminate)
    with scratch("genobird-serve-") as folder, _bound(port) as bound:

        def work(job: Job) -> Counter[str]:
            return answer(job.question, job.folder, scorer, place.genome, job.advance)

        jobs = Jobs(folder, work)
        # Called before each pass, so that nobody waits for the end of what is not wanted.
        hook = scorer.checkpoint.encoder.register_forward_pre_hook(lambda *_: jobs.require_wanted())
        token = secrets.token_urlsafe(24)
        config = uvicorn.Config(
            Site(jobs, place, token, limits).app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE,
        )
        try:
            announce(f"http://{HOSTS[0]}:{bound.getsockname()[1]}/{token}/")
            uvicorn.Server(config).run(sockets=[bound])
        finally:
            jobs.close()
            hook.remove()


def place_of(genome: Genome | None) -> Place:
    """Return what pages say of a genome; without one, of the demo's."""
    if genome is not None:
        return Place(genome, f"{genome.path.name}, {genome.assembly or 'unknown assembly'}")
    return Place(
        Genome(bundled(GENOME)),
        STRETCH,
        "This is the demo, a small part of one chromosome; genobird serve --fasta FILE takes a "
        "whole genome.",
        ("chr20:55046052 C>T", "chr20:55,043,600-55,043,800"),
    )


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOSTS[0], port))
        bound.listen()
    except OSError as error:
        bound.close()
        raise UsageError(
            f"port {port} cannot be used: {error.strerror}; choose another --port, 0 is any"
        ) from error
    return bound


def _terminate(number: int, _: Any) -> None:
    raise SystemExit(128 + number)
