"""What of a run is handed on, what never is, and how the hubs are asked."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hantune.data.prepare import prepare
from hantune.errors import ConfigError, HantuneError, MachineError, RefusedError
from hantune.models.export import publish as module
from hantune.models.export.publish import HuggingFace, ModelScope, plan, publish, require_no_private_data
from hantune.models.record import read_record
from hantune.paths import write_json

CLEAN = "你好呀\t你好\t今天天气真好\t是的\n\n早上好\t早\t吃了吗\t吃了\n\n"
PRIVATE = CLEAN + "电话多少\t13812345678\t好的\t记下了\n\n"


@pytest.fixture
def make_run(workshop: Path, tmp_path: Path) -> Callable[..., Path]:
    """``make_run(text, pii=None)``: a RUN with the workshop's adapter, trained on ``text``."""
    import shutil

    def make(text: str = CLEAN, **options: Any) -> Path:
        run = tmp_path / "runs" / "demo"
        run.mkdir(parents=True)
        (tmp_path / "raw.txt").write_text(text.replace("\t", "\n"), encoding="utf-8")
        manifest = prepare([str(tmp_path / "raw.txt")], run / "prepared", val_share=0.0, **options)
        shutil.copytree(workshop / "adapter", run / "adapter")
        record = read_record(run / "adapter") or {}
        write_json(run / "adapter" / "hantune.json", record | {"data": {"fingerprint": manifest["fingerprint"]}})
        (run / "config.yaml").write_text("model: {path: base}\n", encoding="utf-8")
        (run / "events.jsonl").write_text("", encoding="utf-8")
        return run

    return make


def refusal(work: Callable[[], object]) -> HantuneError:
    with pytest.raises(HantuneError) as caught:
        work()
    return caught.value


def test_of_a_run_only_what_others_need_goes(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    adapter = run / "adapter"
    for name in (
        "optimizer.pt",
        "rng_state.pth",
        "raw.pii-map.json",
        ".hidden",
        "train.parquet",
        "hantune-source.json",
    ):
        (adapter / name).write_bytes(b"secret")
    (adapter / "checkpoints").mkdir()
    (tmp_path / "id_rsa").write_bytes(b"key")
    (adapter / "LICENSE").symlink_to(tmp_path / "id_rsa")
    planned = plan(run)
    assert planned.folder == adapter
    assert set(planned.files) >= {"adapter_model.safetensors", "adapter_config.json", "hantune.json", "tokenizer.json"}
    assert set(planned.left) == {
        "optimizer.pt", "rng_state.pth", "raw.pii-map.json", ".hidden", "train.parquet", "hantune-source.json",
        "checkpoints", "LICENSE",
    }  # fmt: skip
    assert planned.bytes == sum((adapter / name).stat().st_size for name in planned.files)
    assert plan(adapter) == planned


def test_a_model_goes_as_it_is_and_a_broken_one_not(workshop: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(workshop / "base", tmp_path / "model"))
    assert "model.safetensors" in plan(model).files
    assert plan(model).privacy == "unknown"
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    assert refusal(lambda: plan(model)).code == "model.torn-file"
    (tmp_path / "empty").mkdir()
    assert refusal(lambda: plan(tmp_path / "nowhere")).code == "model.not-found"
    error = refusal(lambda: plan(tmp_path / "empty"))
    assert (error.code, error.exit_code) == ("publish.nothing", 3)
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "q8.gguf").write_bytes(b"GGUF")
    assert list(plan(tmp_path / "gguf").files) == ["q8.gguf"]


def test_a_path_of_this_machine_does_not_go_out(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    config = run / "adapter" / "adapter_config.json"
    told = json.loads(config.read_bytes()) | {"base_model_name_or_path": str(run.parent / "demo" / "base")}
    config.write_text(json.dumps(told), encoding="utf-8")
    error = refusal(lambda: plan(run))
    assert error.code == "publish.local-path"
    assert "adapter_config.json" in error.message
    config.write_text(json.dumps(told | {"base_model_name_or_path": "/home/zhang/base"}), encoding="utf-8")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/zhang"))
    assert "zhang" in refusal(lambda: plan(run)).message
    monkeypatch.setattr(Path, "home", lambda: Path("/home/zha"))
    assert plan(run).files


def test_a_folder_of_runs_names_the_run(make_run: Callable[..., Path]) -> None:
    run = make_run()
    assert str(run) in str(refusal(lambda: plan(run.parent)).hint)


# ---- private data ---------------------------------------------------------------------------------------------------


def test_data_without_private_values_may_go(make_run: Callable[..., Path]) -> None:
    planned = plan(make_run())
    assert (planned.privacy, planned.found) == ("clean", {})
    require_no_private_data(planned)


def test_data_with_private_values_may_not(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(PRIVATE, pii="keep")
    planned = plan(run)
    assert (planned.privacy, sum(planned.found.values())) == ("found", 1)
    error = refusal(lambda: require_no_private_data(planned))
    assert isinstance(error, RefusedError)
    assert (error.code, error.exit_code) == ("publish.private-data", 3)
    assert "1 处" in error.message
    assert "13812345678" not in str(error.as_dict())
    monkeypatch.setattr(module, "ENOUGH", 1)
    assert "至少 1 处" in refusal(lambda: require_no_private_data(plan(run))).message


@pytest.mark.parametrize("mode", ["mask", "drop"])
def test_masked_data_may_go(make_run: Callable[..., Path], mode: str) -> None:
    planned = plan(make_run(PRIVATE, pii=mode))
    assert planned.privacy == "masked"
    require_no_private_data(planned)


def test_other_data_than_the_trained_ones_say_nothing(make_run: Callable[..., Path]) -> None:
    run = make_run(PRIVATE, pii="mask")
    record = read_record(run / "adapter") or {}
    write_json(run / "adapter" / "hantune.json", record | {"data": {"fingerprint": "0" * 64}})
    assert plan(run).privacy == "unknown"


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


class FakeHub:
    """What is used of ``HfApi``; ``private`` is what an existing repository is."""

    def __init__(self, private: bool | None = None, status: int = 0) -> None:
        self.private = private
        self.status = status
        self.sent: dict[str, Any] = {}

    def create_repo(self, repo: str, *, private: bool, repo_type: str, exist_ok: bool) -> None:
        if self.status:
            error = OSError("no")
            error.response = SimpleNamespace(status_code=self.status)  # type: ignore[attr-defined]
            raise error
        self.private = private if self.private is None else self.private

    def model_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo: str, operations: list[Any], **_: object) -> None:
        self.sent = {each.path_in_repo: each.path_or_fileobj for each in operations}


def test_hugging_face_gets_the_listed_files_and_the_card(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(make_run())
    api = FakeHub()
    monkeypatch.setattr(module, "_hugging_face", lambda: HuggingFace(api))
    assert publish(planned, "hf", "me/chat", card="# 卡片") == "https://huggingface.co/me/chat"
    assert api.private is True
    assert set(api.sent) == {*planned.files, "README.md"}
    assert api.sent["README.md"] == "# 卡片".encode()
    api = FakeHub()
    publish(planned, "hf", "me/chat", public=True)
    assert api.private is False
    assert set(api.sent) == set(planned.files)


@pytest.mark.parametrize(
    ("api", "code"),
    [
        (FakeHub(private=False), "publish.public-repo"),
        (FakeHub(status=401), "publish.login"),
        (FakeHub(status=403), "publish.login"),
        (FakeHub(status=500), "publish.failed"),
    ],
)
def test_what_hugging_face_refuses(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, api: FakeHub, code: str
) -> None:
    monkeypatch.setattr(module, "_hugging_face", lambda: HuggingFace(api))
    planned = plan(make_run())
    assert refusal(lambda: publish(planned, "hf", "me/chat")).code == code
    assert not api.sent


def test_without_a_token_one_is_told_to_log_in(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planned = plan(make_run())
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert refusal(lambda: publish(planned, "hf", "me/chat")).code == "publish.login"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    uploader = module._hugging_face()
    assert uploader._api.endpoint == "https://huggingface.co"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["chat", "me/", "me/a b", "me/chat/x", "../chat"])
def test_a_name_without_an_owner_is_refused(make_run: Callable[..., Path], name: str) -> None:
    planned = plan(make_run())
    error = refusal(lambda: publish(planned, "hf", name))
    assert isinstance(error, ConfigError)
    assert error.code == "publish.bad-name"


# ---- ModelScope -----------------------------------------------------------------------------------------------------


class FakeScope:
    """What is used of ``modelscope_hub.HubApi``."""

    def __init__(self, error: Exception | None = None, private: bool = True) -> None:
        self.error = error
        self.private = private
        self.calls: list[tuple[str, Any]] = []

    def create_repo(self, repo: str, kind: str, *, visibility: str) -> None:
        self.calls.append(("create", visibility))
        if self.error:
            raise self.error

    def get_repo(self, repo: str, kind: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private, visibility=None)

    def upload_folder(self, repo: str, kind: str, folder: Path, *, allow_patterns: list[str], **_: object) -> None:
        self.calls.append(("folder", allow_patterns))

    def upload_file(self, repo: str, kind: str, data: bytes, name: str, **_: object) -> None:
        self.calls.append((name, data))


ERRORS = SimpleNamespace(
    **{
        name: type(name, (Exception,), {})
        for name in ("AlreadyExistsError", "AuthenticationError", "PermissionDeniedError")
    }
)


def test_modelscope_gets_the_listed_files_and_the_card(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(make_run())
    api = FakeScope()
    monkeypatch.setattr(module, "_modelscope", lambda: ModelScope(api, ERRORS, "https://ms"))
    assert publish(planned, "modelscope", "me/chat", card="# 卡片") == "https://ms/models/me/chat"
    assert api.calls == [
        ("create", "private"),
        ("folder", [name for name in planned.files if name != "README.md"]),
        ("README.md", "# 卡片".encode()),
    ]


@pytest.mark.parametrize(
    ("api", "code"),
    [
        (FakeScope(ERRORS.AlreadyExistsError()), None),
        (FakeScope(ERRORS.AlreadyExistsError(), private=False), "publish.public-repo"),
        (FakeScope(ERRORS.AuthenticationError()), "publish.login"),
        (FakeScope(OSError()), "publish.failed"),
    ],
)
def test_what_modelscope_refuses(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, api: FakeScope, code: str | None
) -> None:
    planned = plan(make_run())
    monkeypatch.setattr(module, "_modelscope", lambda: ModelScope(api, ERRORS, "https://ms"))
    if code is None:
        assert publish(planned, "modelscope", "me/chat")
    else:
        assert refusal(lambda: publish(planned, "modelscope", "me/chat")).code == code
        assert [name for name, _ in api.calls] == ["create"]


def test_modelscope_needs_its_library_and_a_login(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(make_run())
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    error = refusal(lambda: publish(planned, "modelscope", "me/chat"))
    assert isinstance(error, MachineError)
    assert error.code == "hub.no-library"
    library = ModuleType("modelscope_hub")
    library.HubApi = library.errors = None  # type: ignore[attr-defined]
    library.HubConfig = lambda: SimpleNamespace(token="", endpoint="https://ms")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope_hub", library)
    assert refusal(lambda: publish(planned, "modelscope", "me/chat")).code == "publish.login"


def test_the_calls_fit_the_real_libraries() -> None:
    """The fakes above take what the libraries take."""
    from huggingface_hub import HfApi

    bind = inspect.signature
    bind(HfApi.create_repo).bind(None, "me/x", private=True, repo_type="model", exist_ok=True)
    bind(HfApi.create_commit).bind(None, "me/x", [], commit_message="m", repo_type="model")
    scope = pytest.importorskip("modelscope_hub")
    bind(scope.HubApi.create_repo).bind(None, "me/x", "model", visibility="private")
    bind(scope.HubApi.get_repo).bind(None, "me/x", "model")
    words = {"commit_message": "m", "disable_tqdm": True}
    bind(scope.HubApi.upload_folder).bind(None, "me/x", "model", ".", allow_patterns=[], use_cache=False, **words)
    bind(scope.HubApi.upload_file).bind(None, "me/x", "model", b"", "README.md", **words)
    assert set(vars(ERRORS)) <= set(vars(scope.errors))
