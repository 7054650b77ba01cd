"""Server: the page of one model and one genome on this machine, until it is interrupted."""

from __future__ import annotations

import secrets
import signal
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvicorn

from genobird import extras
from genobird.demo import GENOME, STRETCH, bundled
from genobird.errors import UsageError
from genobird.files import scratch
from genobird.genome.fasta import Genome
from genobird.scoring.scorer import Scorer
from genobird.serve.answer import answer
from genobird.serve.jobs import Job, Jobs
from genobird.serve.question import Limits
from genobird.serve.site import HOSTS, Place, Site

_GRACE = 2  # seconds that answers under way are sent on


def serve(
    scorer: Scorer, place: Place, port: int, limits: Limits, announce: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM; what was asked and answered is removed then.

    Args:
        scorer: the model.
        place: the genome.
        port: of 127.0.0.1; 0 is any that is free.
        limits: of one question.
        announce: called with the address, when it can be opened.

    Raises:
        UsageError: the port is taken.
        KeyboardInterrupt, SystemExit: the end.
    """
    extras.require("python_multipart", "genobird serve")  # FastAPI reads forms by it
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
