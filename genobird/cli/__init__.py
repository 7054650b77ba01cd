"""The command line: typer verbs over public functions, one file a kind of work."""

from __future__ import annotations

from genobird.cli.app import main

__all__ = ["main"]
