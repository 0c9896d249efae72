"""Handing a model or adapter on: which files go, whether its data may, and the way to Hugging Face or ModelScope.

Only files that others need are ever taken, by name; checkpoints, data, maps of private values and links stay. A
repository is private unless the user says otherwise.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hantune.data.clean.privacy import find
from hantune.data.prepared import Prepared, is_prepared, open_prepared
from hantune.errors import ConfigError, HantuneError, MachineError, NetworkError, RefusedError
from hantune.log import console
from hantune.models.adapter import require_adapter
from hantune.models.fetch.listing import OFFICIAL
from hantune.models.folder import require_model
from hantune.models.hub import HUB_ID, not_found
from hantune.models.locate import is_adapter, is_run
from hantune.models.record import read_record
from hantune.paths import RunFolder, quoted

Target = Literal["hf", "modelscope"]
WANTED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "hantune.json", "README.md", "LICENSE*", "NOTICE*",
    "USE_POLICY*", "*.gguf", "Modelfile",
)  # fmt: skip
"""What goes up, all at the root of the folder."""
CARD = "README.md"
TOLD = ("config.json", "adapter_config.json", "tokenizer_config.json", "hantune.json", "README.md", "Modelfile")
"""Files in which programs write down where they found things; a vocabulary may hold any word."""
ENOUGH = 1000
"""Private values after which nobody needs to count on."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would go up. ``privacy``: ``masked``, ``clean``, ``found`` or ``unknown``; ``found``: values by kind."""

    folder: Path
    run: RunFolder | None
    is_merged: bool
    files: dict[str, int]
    left: tuple[str, ...]
    privacy: str
    found: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


class Uploader(Protocol):
    """A place that takes models."""

    def open(self, repo: str, *, public: bool) -> str:
        """The page of ``repo``, which exists now and is as public as asked for."""
        ...

    def send(self, repo: str, folder: Path, names: list[str], card: str | None) -> None:
        """Put the files there, with ``card`` as the README."""
        ...


def plan(path: Path) -> Plan:
    """What of a RUN, ADAPTER, MODEL or exported folder would be published.

    Raises: ModelError ``model.*``, ``adapter.*`` for a folder that is not there or that nobody could use;
        RefusedError ``publish.nothing``, ``publish.local-path``.
    """
    folder, run = _result_of(path)
    names = {item.name: item for item in sorted(folder.iterdir())} if folder.is_dir() else {}
    taken = {name: item for name, item in names.items() if _is_wanted(item)}
    if is_adapter(folder):
        require_adapter(folder)
    elif not any(name.endswith(".gguf") for name in taken):
        if not any(name.endswith(".safetensors") for name in taken):
            raise _nothing(folder)
        require_model(folder)
    _require_no_paths(folder, taken)
    privacy, found = _privacy(folder, run)
    return Plan(
        folder=folder,
        run=run,
        is_merged=run is not None and folder.resolve() == run.merged.resolve(),
        files={name: item.stat().st_size for name, item in taken.items()},
        left=tuple(sorted(names.keys() - taken.keys())),
        privacy=privacy,
        found=found,
    )


def _nothing(folder: Path) -> RefusedError:
    """The refusal, with what was probably meant."""
    inner = [each for each in sorted(folder.iterdir()) if is_run(each)] if folder.is_dir() else []
    hint = f"也许是 {inner[-1]}" if inner else "写训练的运行文件夹, 适配器或模型文件夹"
    return RefusedError(
        "publish.nothing", "这里没有可以发布的权重 (*.safetensors, *.gguf)", place=str(folder), hint=hint
    )


def _result_of(path: Path) -> tuple[Path, RunFolder | None]:
    """The folder that goes up, and the run it came out of where that is known."""
    if not path.is_dir():
        raise not_found(path)
    if is_run(path):
        run = RunFolder(path)
        return (run.adapter if run.adapter.is_dir() else run.model), run
    parent = RunFolder(path.resolve().parent)
    return path, parent if parent.is_run else None


def _is_wanted(item: Path) -> bool:
    return item.is_file() and not item.is_symlink() and any(fnmatch.fnmatchcase(item.name, each) for each in WANTED)


def _require_no_paths(folder: Path, taken: dict[str, Path]) -> None:
    """No text that goes up tells where somebody's files lie.

    Raises: RefusedError ``publish.local-path``.
    """
    places = [place for place in (Path.home(), folder.resolve().parent) if place.name]
    for name, item in taken.items():
        if name in TOLD:
            text = item.read_text(encoding="utf-8", errors="replace")
            for place in places:
                if re.search(rf"(?<![\w.-]){re.escape(str(place))}(?![\w.-])", text):
                    raise RefusedError(
                        "publish.local-path",
                        f"{name} 里写着这台机器上的路径: {place}",
                        place=str(item),
                        hint=f"打开 {quoted(item)}, 把路径改成模型在网上的名字 (作者/模型), 再运行同一条命令",
                    )


def _privacy(folder: Path, run: RunFolder | None) -> tuple[str, dict[str, int]]:
    """Whether private values were in the data: as the manifest says, else as the data themselves do."""
    fingerprint = ((read_record(folder) or {}).get("data") or {}).get("fingerprint")
    prepared = _prepared_of(run) if run else None
    if prepared is None or (fingerprint and prepared.fingerprint != fingerprint):
        return "unknown", {}
    if prepared.manifest.get("flags", {}).get("pii") in ("mask", "drop"):
        return "masked", {}
    found = _count(prepared)
    return ("found" if found else "clean"), dict(sorted(found.items()))


def _prepared_of(run: RunFolder) -> Prepared | None:
    """The data that a run learned, where they still lie as its config says."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    folders = [run.prepared]
    try:
        named = YAML(typ="safe").load(run.config.read_text(encoding="utf-8"))["data"]["path"]
        folders += [Path(named), run.root / named]
    except (OSError, YAMLError, KeyError, TypeError, ValueError):
        pass
    return next((open_prepared(folder) for folder in folders if is_prepared(folder)), None)


def _count(prepared: Prepared) -> Counter[str]:
    """Private values in the conversations, by kind; counted up to ``ENOUGH``."""
    found: Counter[str] = Counter()
    parts: tuple[Literal["train"], Literal["val"]] = ("train", "val")
    with console.progress("找隐私内容", sum(prepared.count(part) for part in parts)) as bar:
        for part in parts:
            for conversation in prepared.conversations(part):
                found.update(each.kind for message in conversation.messages for each in find(message.text))
                bar.advance()
                if found.total() >= ENOUGH:
                    return found
    return found


def require_no_private_data(planned: Plan) -> None:
    """Nothing, unless the model learned private values.

    Raises: RefusedError ``publish.private-data``.
    """
    if planned.found:
        many = "至少 " if sum(planned.found.values()) >= ENOUGH else ""
        kinds = ", ".join(f"{kind} {many}{count} 处" for kind, count in planned.found.items())
        raise RefusedError(
            "publish.private-data",
            f"训练数据里有没遮盖的隐私内容: {kinds}. 模型可能会说出来",
            place=str(planned.run.root if planned.run else planned.folder),
            hint="hantune data prepare 数据 --pii mask --out 新文件夹, 再训练一次; 看过都不是隐私就加 --allow-private",
        )


def publish(planned: Plan, to: Target, repo: str, *, public: bool = False, card: str | None = None) -> str:
    """The page of ``repo``, which now holds the files of ``planned``, and ``card`` as its README.

    Raises: ConfigError ``publish.bad-name``; RefusedError ``publish.login``, ``publish.public-repo``; NetworkError
        ``publish.failed``; MachineError ``hub.no-library``.
    """
    if not HUB_ID.fullmatch(repo):
        raise ConfigError(
            "publish.bad-name", "名字要写成 你的用户名/模型名", place=f"--repo {repo}", hint="--repo me/chat"
        )
    names = [name for name in planned.files if card is None or name != CARD]
    uploader = _hugging_face() if to == "hf" else _modelscope()
    page = uploader.open(repo, public=public)
    uploader.send(repo, planned.folder, names, card)
    return page


def _login(to: str, command: str) -> RefusedError:
    return RefusedError(
        "publish.login",
        f"还没有登录 {to}, 或者登录凭证不能写这个名字",
        place=to,
        hint=f"先登录: {command} (凭证要有写的权限)",
    )


def _is_public(repo: str, page: str) -> RefusedError:
    return RefusedError(
        "publish.public-repo",
        f"{repo} 已经存在, 而且是公开的",
        place=page,
        hint="换一个 --repo; 真的要公开: 加 --public",
    )


def _failed(to: str, error: Exception) -> NetworkError:
    return NetworkError(
        "publish.failed",
        f"上传到 {to} 没有成功: {type(error).__name__}",
        place=to,
        hint="检查网络后再运行同一条命令; 已经传上去的大文件不会再传",
    )


def _hugging_face() -> Uploader:
    """Hugging Face itself, never a mirror: nobody else may have the token or the model."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise _login("Hugging Face", "hf auth login")
    return HuggingFace(HfApi(endpoint=OFFICIAL, token=token))


class HuggingFace:
    """Uploads through ``huggingface_hub``, all files in one commit."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def open(self, repo: str, *, public: bool) -> str:
        page = f"{OFFICIAL}/{repo}"
        try:
            self._api.create_repo(repo, private=not public, repo_type="model", exist_ok=True)
            is_private = self._api.model_info(repo).private
        except Exception as error:
            raise self._problem(error) from error
        if not public and not is_private:
            raise _is_public(repo, page)
        return page

    def send(self, repo: str, folder: Path, names: list[str], card: str | None) -> None:
        from huggingface_hub import CommitOperationAdd

        files: dict[str, str | bytes] = {name: str(folder / name) for name in names}
        if card is not None:
            files[CARD] = card.encode()
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
        try:
            self._api.create_commit(repo, operations, commit_message="hantune publish", repo_type="model")
        except Exception as error:
            raise self._problem(error) from error

    @staticmethod
    def _problem(error: Exception) -> HantuneError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return _login("Hugging Face", "hf auth login") if status in (401, 403) else _failed("Hugging Face", error)


def _modelscope() -> Uploader:
    try:
        from modelscope_hub import HubApi, HubConfig, errors
    except ImportError as error:
        raise MachineError(
            "hub.no-library",
            "没有安装 modelscope-hub, 不能连魔搭",
            place="modelscope",
            hint='.venv/bin/python -m pip install -e ".[modelscope]" -c constraints.txt',
        ) from error
    config = HubConfig()
    if not config.token:
        raise _login("魔搭", "ms-hub login")
    return ModelScope(HubApi(config), errors, str(config.endpoint))


class ModelScope:
    """Uploads through ``modelscope_hub``."""

    def __init__(self, api: Any, errors: Any, endpoint: str) -> None:
        self._api = api
        self._errors = errors
        self._endpoint = endpoint

    def open(self, repo: str, *, public: bool) -> str:
        page = f"{self._endpoint}/models/{repo}"
        try:
            self._api.create_repo(repo, "model", visibility="public" if public else "private")
        except self._errors.AlreadyExistsError:
            if not public and self._sees_everybody(repo):
                raise _is_public(repo, page) from None
        except Exception as error:
            raise self._problem(error) from error
        return page

    def _sees_everybody(self, repo: str) -> bool:
        """Whether a repository is not plainly private; one that does not tell counts as public."""
        try:
            info = self._api.get_repo(repo, "model")
        except Exception as error:
            raise self._problem(error) from error
        return not info.private and getattr(info.visibility, "label", "") != "private"

    def send(self, repo: str, folder: Path, names: list[str], card: str | None) -> None:
        patterns = [glob.escape(name) for name in names]
        message = {"commit_message": "hantune publish"}
        try:
            self._api.upload_folder(
                repo, "model", folder, allow_patterns=patterns, use_cache=False, disable_tqdm=True, **message
            )
            if card is not None:
                self._api.upload_file(repo, "model", card.encode(), CARD, disable_tqdm=True, **message)
        except Exception as error:
            raise self._problem(error) from error

    def _problem(self, error: Exception) -> HantuneError:
        is_refused = isinstance(error, (self._errors.AuthenticationError, self._errors.PermissionDeniedError))
        return _login("魔搭", "ms-hub login") if is_refused else _failed("魔搭", error)
