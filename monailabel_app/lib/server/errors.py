"""What clients are told when something cannot be done: a 4xx with one sentence.

What nobody foresaw is a 500 with one sentence, and a traceback in the log. MONAI Label alone answers most mistakes with
a bare 500.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException

from lib.errors import RequestError, in_words, is_full
from mnseg.errors import UserError

__all__ = ["install_error_answers"]

logger = logging.getLogger(__name__)


def install_error_answers(api: FastAPI) -> None:
    """Give every exception an answer; the middleware must be built anew afterwards."""
    for kind, answer in (
        (RequestError, lambda error: (error.status, error.sentence)),
        (UserError, lambda error: (400, str(error))),
        (ImageNotFoundException, lambda error: (404, f"{error.msg}.")),
        (LabelNotFoundException, lambda error: (404, f"{error.msg}.")),
        (MONAILabelException, lambda error: (400, f"{error.msg}.")),
        (json.JSONDecodeError, lambda error: (400, f"A field of the request is no valid JSON: {error}.")),
        (RequestValidationError, lambda error: (422, _first_fault(error))),
        (OSError, _of_system),
        (Exception, lambda error: (500, f"The server failed ({type(error).__name__}); its log says where.")),
    ):
        api.add_exception_handler(kind, _handler(answer))


def _of_system(error: OSError) -> tuple[int, str]:
    """507 where a disk is full: somebody can do something about that."""
    if not is_full(error):
        return 500, f"The server failed ({type(error).__name__}: {in_words(error)}); its log says where."
    return 507, "The server's disk is full: nothing can be saved. Free some space, then try again."


def _handler(answer: Callable[[Any], tuple[int, str]]) -> Callable[[Request, Exception], Any]:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        status, sentence = answer(error)
        # With the traceback of an unexpected exception, which the server's own log gets from uvicorn.
        logger.info("%s %s: %d %s", request.method, request.url.path, status, sentence)
        return JSONResponse({"detail": sentence}, status)

    return handle


def _first_fault(error: RequestValidationError) -> str:
    fault = error.errors()[0]
    where = " ".join(str(part) for part in fault.get("loc", ()))
    return f"The request's {where} cannot be used: {fault.get('msg', 'it is not valid')}."
