"""What files a model has on Hugging Face, on ModelScope, on a web server or in a folder, and what they must hash to.

The hubs are asked through their own libraries. Who may see a token is settled here: Hugging Face's only
huggingface.co (a mirror only where the user says so), ModelScope's only ModelScope.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx2

from hantune.env import environment
from hantune.errors import ConfigError, HantuneError, MachineError, ModelError, NetworkError, RefusedError
from hantune.models.fetch.needed import SOURCE, require_safe
from hantune.models.fetch.part import RemoteFile
from hantune.models.fetch.retry import AGAIN, backoff, retry_after
from hantune.models.fetch.transfer import REDIRECTS, Token, new_client, origin_of
from hantune.models.headers import INDEX, WEIGHTS

Hub = Literal["hf", "modelscope", "url", "folder"]
OFFICIAL = "https://huggingface.co"
SECONDS = 20.0
TRIES = 3
KNOWN = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "hantune.json",
    "README.md", "LICENSE", WEIGHTS, "adapter_config.json", "adapter_model.safetensors",
)  # fmt: skip
"""Names to ask a web server for that lists nothing."""
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of one version of a model. ``revision``: the commit where the hub tells it.

    ``origin``: the hub that a folder or web server says its copy is from, where that is another than ``hub``.
    """

    hub: Hub
    id: str
    files: tuple[RemoteFile, ...]
    revision: str | None = None
    token: Token | None = None
    page: str = ""
    is_gated: bool = False
    is_mirror: bool = False
    origin: Hub | None = None


class NoApi(Exception):
    """The server answers, but it is no Hugging Face."""


def list_model(name: str, source: str, *, revision: str | None = None, send_token: bool = False) -> Listing:
    """The files of ``name`` at ``source``: ``hf``, ``modelscope``, a web address or a folder.

    Raises: ModelError ``model.not-found``; RefusedError ``hub.gated``, ``hub.unsafe-name``; NetworkError
        ``hub.unreachable``, ``hub.busy``; MachineError ``hub.no-library``; ConfigError ``hub.bad-source``.
    """
    if source == "hf":
        return _official(name, revision, send_token)
    if source == "modelscope":
        return _from_modelscope(name, revision)
    if source.startswith(("http://", "https://")):
        try:
            if "/" in name:
                return _from_hf(name, revision, source.rstrip("/"), send_token)
        except NoApi:
            pass
        return _from_web(name, source)
    if Path(source).expanduser().is_dir():
        return _from_folder(name, Path(source).expanduser())
    raise ConfigError(
        "hub.bad-source",
        "不认识这个来源",
        place=f"--from {source}",
        hint="写 hf, modelscope, 网址 (https://...), 或者一个存在的文件夹",
    )


def _official(name: str, revision: str | None, send_token: bool) -> Listing:
    """From Hugging Face, or the mirror that ``HF_ENDPOINT`` names."""
    endpoint = environment().hf_endpoint or OFFICIAL
    try:
        return _from_hf(name, revision, endpoint, send_token)
    except NoApi as error:
        raise _unreachable(name, endpoint, f"{endpoint} 答的不是 Hugging Face 的格式") from error


def _from_hf(name: str, revision: str | None, endpoint: str, send_token: bool) -> Listing:
    from huggingface_hub import HfApi, constants, get_token

    is_own = origin_of(endpoint) == OFFICIAL
    value = get_token() if (is_own or send_token) and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else None
    api = HfApi(endpoint=endpoint, token=value or False)
    try:
        info = _patiently(lambda: api.model_info(name, revision=revision, files_metadata=True, timeout=SECONDS))
    except Exception as error:
        raise _hf_problem(error, api, name, revision, endpoint, has_token=bool(value)) from error
    found = info.id or name
    base = f"{endpoint}/{quote(found)}/resolve/{quote(info.sha or revision or 'main', safe='')}/"
    files = [
        RemoteFile(
            path=each.rfilename,
            url=base + quote(each.rfilename),
            size=each.lfs.size if each.lfs else each.size,
            sha256=each.lfs.sha256 if each.lfs else None,
            git_sha1=None if each.lfs or each.size is None else each.blob_id,
        )
        for each in info.siblings or ()
    ]
    return Listing(
        hub="hf", id=found, revision=info.sha, files=tuple(files), is_gated=bool(info.gated),
        token=Token(origin_of(endpoint), value) if value else None, page=f"{endpoint}/{found}", is_mirror=not is_own,
    )  # fmt: skip


def _patiently(ask: Callable[[], Result]) -> Result:
    """What ``ask`` gives, after a few tries where the server is busy or cuts the line."""
    for failures in range(1, TRIES):
        try:
            return ask()
        except Exception as error:
            response = getattr(error, "response", None)
            if response is None and not isinstance(error, httpx2.TransportError):
                raise
            if response is not None and response.status_code not in AGAIN:
                raise
            wait = retry_after(response.headers) if response is not None else None
            time.sleep(min(SECONDS, backoff(failures) if wait is None else wait))
    return ask()


def _hf_problem(
    error: Exception, api: Any, name: str, revision: str | None, endpoint: str, *, has_token: bool
) -> Exception:
    """What an error of the library means to the user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return gated(name, is_mirror=origin_of(endpoint) != OFFICIAL, has_token=has_token)
    if isinstance(error, RevisionNotFoundError):
        return ModelError(
            "model.not-found", f"{name} 没有版本 {revision}", place=name, hint="去掉 --revision, 用最新的版本"
        )
    if isinstance(error, RepositoryNotFoundError):
        return _not_found(name, _near(api, name), f"{endpoint} 上没有 {name}, 或者它是别人私有的")
    if status == 429:
        return NetworkError(
            "hub.busy", "服务器限制了次数", place=endpoint, hint="过几分钟再试; 登录以后限制会松一些: hf auth login"
        )
    is_offline = type(error).__name__ == "OfflineModeIsEnabled"
    if status == 404 or (isinstance(error, (ValueError, TypeError, KeyError)) and not is_offline):
        return NoApi(str(error))
    return _unreachable(name, endpoint, f"服务器答 {status}" if status else "连不上")


def gated(name: str, *, is_mirror: bool, has_token: bool) -> RefusedError:
    """Why a model cannot be had without an agreement, and how to come by it."""
    page = f"{OFFICIAL}/{name}"
    if is_mirror and not has_token:
        why, hint = ", 而镜像收不到你的登录凭证", "信得过这个镜像就加 --send-token (先 hf auth login); "
    elif has_token:
        why, hint = ", 你的账号还没有得到许可", f"浏览器登录后打开 {page} 申请, 批准后再试; "
    else:
        why, hint = "", f"浏览器登录后打开 {page} 同意条款, 再 hf auth login, 然后重新运行; "
    return RefusedError(
        "hub.gated", f"{name} 要先得到作者的许可{why}", place=page, hint=f"{hint}国内也可以试 --from modelscope"
    )


def _near(api: Any, name: str) -> list[str]:
    """Names on the hub that look like ``name``; none where the hub cannot be asked."""
    owner, _, short = name.partition("/")
    for question in ({"author": owner}, {"search": short}):
        try:
            names = [model.id for model in api.list_models(limit=200, **question)]
        except Exception:  # a hint is not worth an error
            return []
        if near := difflib.get_close_matches(name, names, n=3, cutoff=0.6):
            return near
    return []


def _not_found(name: str, near: list[str], what: str) -> ModelError:
    return ModelError(
        "model.not-found",
        what + (f"; 名字相近的有: {'、'.join(near)}" if near else ""),
        place=name,
        hint=f"hantune model get {near[0]}"
        if near
        else "核对名字 (作者/模型, 大小写有别); 私有的先登录: hf auth login",
    )


def _unreachable(name: str, endpoint: str, why: str) -> NetworkError:
    return NetworkError(
        "hub.unreachable",
        f"问不到 {name} 有哪些文件: {why}",
        place=endpoint,
        hint="检查网络; 国内可以 --from modelscope, 或先 export HF_ENDPOINT=镜像网址",
    )


def _from_modelscope(name: str, revision: str | None) -> Listing:
    try:
        from modelscope_hub import HubApi, HubConfig, errors
    except ImportError as error:
        raise MachineError(
            "hub.no-library",
            "没有安装 modelscope-hub, 不能连魔搭",
            place=name,
            hint='.venv/bin/python -m pip install -e ".[modelscope]" -c constraints.txt',
        ) from error
    config = HubConfig()
    api = HubApi(config)
    page = f"{config.endpoint}/models/{name}"
    try:
        listed = api.list_repo_files(name, "model", revision=revision)
        url_of = api.legacy.get_download_url
        files = [
            RemoteFile(
                path=each.path,
                url=url_of(name, "model", each.path, revision or "master"),
                size=each.size,
                sha256=each.sha256 or None,
            )
            for each in listed
            if not each.is_dir
        ]
    except errors.NotExistError as error:
        raise _not_found(name, [], f"魔搭上没有 {name}" + (f" 的版本 {revision}" if revision else "")) from error
    except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
        raise RefusedError(
            "hub.gated", f"魔搭上的 {name} 要登录或得到许可", place=page, hint=f"打开 {page} 申请; 登录: ms-hub login"
        ) from error
    except (errors.HubError, OSError) as error:
        raise _unreachable(name, str(config.endpoint), "连不上魔搭") from error
    token = Token(origin_of(config.endpoint), config.token) if config.endpoint and config.token else None
    return Listing(hub="modelscope", id=name, revision=revision or "master", files=tuple(files), token=token, page=page)


def _from_web(name: str, source: str) -> Listing:
    """From a server that only serves files: with ``hantune-source.json`` (sizes and hashes), or by well-known names."""
    source = source.rstrip("/")
    bases = [f"{source}/{quote(name)}/", f"{source}/"] if name else [f"{source}/"]
    with new_client() as client:
        for base in bases:
            try:
                record = _recorded(client, base)
                files = _files_of(record, base) or _known_files(client, base)
            except httpx2.HTTPError as error:
                raise _unreachable(name, source, "连不上") from error
            if files:
                id = name or str(record.get("id") or source.rpartition("/")[2])
                return Listing(hub="url", id=id, files=tuple(files), page=base, **_origin(record, id))
    raise _not_found(name or source, [], f"{bases[0]} 里没有 config.json")


def _recorded(client: httpx2.Client, base: str) -> dict[str, Any]:
    """What ``model get`` noted of the folder behind ``base``."""
    response = _get(client, base + SOURCE)
    return _json(response.content) if response.is_success else {}


def _origin(record: dict[str, Any], id: str) -> dict[str, Any]:
    """Where a copy of the model ``id`` came from first, as its note says."""
    hub = record.get("hub")
    if hub not in ("hf", "modelscope") or record.get("id") != id or not isinstance(record.get("revision"), str):
        return {}
    return {"origin": hub, "revision": record["revision"]}


def _files_of(record: dict[str, Any], base: str | Path) -> list[RemoteFile]:
    """The files that a note names, below a web address (with its last slash) or a folder."""
    entries = record.get("files")
    if not isinstance(entries, dict):
        return []
    return [
        RemoteFile(
            path=path,
            url=str(base / path) if isinstance(base, Path) else base + quote(path),
            size=entry["size"],
            sha256=entry["sha256"],
        )
        for path, entry in entries.items()
        if isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
    ]


def _known_files(client: httpx2.Client, base: str) -> list[RemoteFile]:
    """Of the well-known names, and the shards that the index names, those that are there."""
    index = _get(client, base + INDEX)
    shards: set[str] = set()
    if index.is_success:
        named = _json(index.content).get("weight_map")
        shards = {str(file) for file in named.values()} if isinstance(named, dict) else set()
        require_safe(shards, place=base + INDEX)
    files = []
    for name in (*KNOWN, *sorted(shards), *([INDEX] if shards else [])):
        response = _get(client, base + quote(name), method="HEAD")
        if response.is_success:
            size = response.headers.get("content-length", "")
            files.append(RemoteFile(path=name, url=base + quote(name), size=int(size) if size.isdigit() else None))
    return files if any(file.path.endswith("config.json") for file in files) else []


def _get(client: httpx2.Client, url: str, method: str = "GET") -> httpx2.Response:
    """The answer after redirects; no secret is ever sent here."""
    request = client.build_request(method, url)
    for _ in range(REDIRECTS):
        response = client.send(request)
        if response.next_request is None:
            break
        request = response.next_request
    return response


def _json(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _from_folder(name: str, folder: Path) -> Listing:
    """From a folder that holds models: by whole name, by last name, as the cache of Hugging Face lays it, or itself."""
    short = name.rpartition("/")[2]
    places = [folder / name, folder / short, folder / name.replace("/", "--"), *_cached(folder, name), folder]
    for place in places:
        if (place / "config.json").is_file() or (place / "adapter_config.json").is_file():
            break
    else:
        near = difflib.get_close_matches(short, sorted(each.name for each in folder.iterdir() if each.is_dir()), n=3)
        what = f"{folder} 里没有 {name}" + (f"; 名字相近的有: {'、'.join(near)}" if near else "")
        raise ModelError("model.not-found", what, place=str(folder), hint=f"ls {folder}")
    record = _json((place / SOURCE).read_bytes()) if (place / SOURCE).is_file() else {}
    proved = {file.path: file for file in _files_of(record, place)}
    files = []
    for each in sorted(place.rglob("*")):
        path = each.relative_to(place).as_posix()
        if each.is_file() and path.count("/") < 2:
            files.append(proved.get(path) or RemoteFile(path=path, url=str(each), size=each.stat().st_size))
    return Listing(hub="folder", id=name, files=tuple(files), page=str(place), **_origin(record, name))


def _cached(folder: Path, name: str) -> list[Path]:
    """Where the cache of Hugging Face below ``folder`` keeps the main version of ``name``."""
    root = folder / f"models--{name.replace('/', '--')}"
    main = root / "refs" / "main"
    return [root / "snapshots" / main.read_text(encoding="utf-8").strip()] if main.is_file() else []


def problem_of(listing: Listing, status: int, path: str) -> HantuneError:
    """What it means that the server refuses a file of the list."""
    if status in (401, 403):
        if listing.hub == "hf":
            return gated(listing.id, is_mirror=listing.is_mirror, has_token=listing.token is not None)
        return RefusedError(
            "hub.gated", f"服务器不给 {path} ({status})", place=listing.page, hint="登录或得到许可以后再试"
        )
    return NetworkError(
        "hub.missing-file",
        f"列表里有 {path}, 服务器却不给 ({status})",
        place=listing.page,
        hint="镜像可能还没有同步完: 换一个来源, 或过一会儿再试",
    )
