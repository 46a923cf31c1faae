"""What the web process takes from the packages of the extra `serve`, or a sentence with its installation."""

from opendetr.errors import UserError

try:
    import uvicorn
    from fastapi import FastAPI, Query, Request, Response
    from fastapi import Path as PathParameter
    from fastapi.exceptions import RequestValidationError
    from fastapi.staticfiles import StaticFiles
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
    from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
    from starlette.datastructures import Headers, MutableHeaders, UploadFile
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException, MultiPartParser
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse
    from starlette.routing import Match
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    missing = error.name or "fastapi"
    raise UserError(f"serve needs the package {missing}; install it with pip install 'opendetr[serve]'") from None

__all__ = [
    "CONTENT_TYPE_LATEST",
    "ASGIApp",
    "BaseModel",
    "ClientDisconnect",
    "Collector",
    "CollectorRegistry",
    "ConfigDict",
    "Counter",
    "FastAPI",
    "Field",
    "GaugeMetricFamily",
    "HTTPException",
    "Headers",
    "Histogram",
    "JSONResponse",
    "Match",
    "Message",
    "Metric",
    "MultiPartException",
    "MultiPartParser",
    "MutableHeaders",
    "PathParameter",
    "Query",
    "Receive",
    "Request",
    "RequestValidationError",
    "Response",
    "Scope",
    "Send",
    "StaticFiles",
    "TypeAdapter",
    "UploadFile",
    "ValidationError",
    "generate_latest",
    "uvicorn",
]
