"""Exporters warn of their own internals as they load and run: nothing that a user can change."""
from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator

import tqdm


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, logging below errors, what is printed, and progress bars of others.

    Handlers that they give the root logger as they load are taken away again.
    """
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.WARNING)
    bar, start = tqdm.tqdm, tqdm.tqdm.__init__
    setattr(bar, "__init__", functools.partialmethod(start, disable=True))  # noqa: B010
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        setattr(bar, "__init__", start)  # noqa: B010
        logging.root.handlers[:] = handlers
        logging.disable(disabled)
