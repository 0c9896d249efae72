"""Pages for people: the chat page, and the description of the interface. Neither asks anything but this server."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import Any

from starlette.responses import HTMLResponse

COMMON = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STYLE = (
    "body{font:15px/1.6 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#8881;padding:.8rem;overflow:auto;font-size:13px}h2{margin-top:2rem;font-size:1.1rem}"
)


def chat_page() -> HTMLResponse:
    """The chat page; its own script and style, by their hashes, are all that may run on it."""
    return _page(*_read())


@functools.cache
def _read() -> tuple[str, str]:
    """(page, policy)."""
    page = files("hantune.serve").joinpath("page").joinpath("chat.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = f"default-src 'none'; connect-src 'self'; script-src {_hash(script)}; style-src {_hash(style)}"
    return page, policy


def interface_page(schema: dict[str, Any]) -> HTMLResponse:
    """Every route with its fields, from ``/openapi.json``; no script."""
    parts = [f"<h1>{html.escape(schema['info']['title'])} {html.escape(schema['info']['version'])}</h1>"]
    parts.append("<p>OpenAPI: <a href='/openapi.json'>/openapi.json</a></p>")
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2>")
            parts.append(f"<p>{html.escape(operation.get('description') or operation.get('summary', ''))}</p>")
            statuses = ", ".join(operation["responses"])
            parts.append(f"<p>{html.escape(statuses)}</p>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                name = body["$ref"].rpartition("/")[2]
                fields = schema["components"]["schemas"][name]
                parts.append(f"<pre>{html.escape(json.dumps(fields, ensure_ascii=False, indent=2))}</pre>")
    text = f"<!doctype html><meta charset=utf-8><title>hantune</title><style>{STYLE}</style>{''.join(parts)}"
    return _page(text, f"default-src 'none'; style-src {_hash(STYLE)}")


def _page(text: str, policy: str) -> HTMLResponse:
    headers = {
        "content-security-policy": f"{policy}; {COMMON}",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(text, headers=headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
