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
    "body{font:15px/1.6 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "h2{margin:2.5rem 0 0;font-size:1.1rem}p{margin:.2rem 0}table{border-collapse:collapse;margin-top:.6rem}"
    "td{border-top:1px solid #8884;padding:.2rem 1.5rem .2rem 0;vertical-align:top}code{font-size:13px}"
)
LIMITS = {
    "minimum": ">= {:g}", "exclusiveMaximum": "< {:g}", "maximum": "<= {:g}", "maxLength": "up to {} characters",
    "minItems": "at least {}", "maxItems": "up to {}",
}  # fmt: skip


def chat_page() -> HTMLResponse:
    """The chat page; its own script and style, by their hashes, are all that may run on it."""
    return _page(*_read())


@functools.cache
def _read() -> tuple[str, str]:
    """(page, policy)."""
    page = files("hantune.serve").joinpath("page").joinpath("chat.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    own = f"script-src {_hash(script)}; style-src {_hash(style)}"
    return page, f"default-src 'none'; connect-src 'self'; img-src data:; {own}"


def interface_page(schema: dict[str, Any]) -> HTMLResponse:
    """Every route with the fields of its request, from ``/openapi.json``; no script."""
    schemas = schema["components"]["schemas"]
    parts = [
        f"<h1>{schema['info']['title']} {schema['info']['version']}</h1>",
        f"<p>{schema['info']['description']} <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation['description'].replace('``', ''))}</p>")
            parts.append(f"<p>{', '.join(operation['responses'])}</p>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                parts.append(_fields(schemas[_name(body)], schemas))
    text = f"<!doctype html><meta charset=utf-8><title>hantune</title><style>{STYLE}</style>{''.join(parts)}"
    return _page(text, f"default-src 'none'; style-src {_hash(STYLE)}")


def _fields(model: dict[str, Any], schemas: dict[str, Any]) -> str:
    """A table: name, what it takes."""
    rows = []
    for name, field in model["properties"].items():
        must = " *" if name in model.get("required", ()) else ""
        words = ". ".join(filter(None, (_kind(field, schemas), field.get("description"))))
        rows.append(f"<tr><td><code>{html.escape(name + must)}</code><td>{html.escape(words)}")
    return f"<table>{''.join(rows)}</table>"


def _kind(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    """What a field takes, in words: ``number >= 0 <= 2``."""
    if "anyOf" in field:
        kinds = [_kind(each, schemas) for each in field["anyOf"] if each.get("type") != "null"]
        return " or ".join(kinds)
    if "$ref" in field:
        inner = schemas[_name(field)]["properties"]
        return "{" + ", ".join(f"{name}: {_kind(each, schemas)}" for name, each in inner.items()) + "}"
    if "const" in field or "enum" in field:
        return " | ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    limits = [words.format(field[key]) for key, words in LIMITS.items() if key in field]
    if field.get("type") == "array":
        return " ".join([f"[{_kind(field['items'], schemas)}]", *limits])
    return " ".join([field.get("type", "anything"), *limits])


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _page(text: str, policy: str) -> HTMLResponse:
    headers = {
        "content-security-policy": f"{policy}; {COMMON}",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(text, headers=headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
