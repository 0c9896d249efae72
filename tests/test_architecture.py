"""The rules of the house that can be read from the source: layers, heavy imports, network, encodings, sizes, twins.

Each check is a function from one parsed module (or all of them) to a list of complaints ``path:line: what``. The tests
at the end plant bad lines and see them found: a check that finds nothing anywhere holds nothing.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    {"errors", "env", "log", "paths", "assets"},
    {"config"},
    {"data"},
    {"models"},
    {"infer"},
    {"evaluate"},
    {"train"},
    {"report"},
    {"doctor"},
    {"serve", "ui"},
    {"workflow"},
    {"cli", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

TORCH = {"torch", "transformers", "peft", "accelerate"}
HEAVY = TORCH | {
    "matplotlib", "numpy", "pyarrow", "pydantic", "sacrebleu", "safetensors", "sentencepiece", "tokenizers",
}  # fmt: skip
LIGHT = (
    "hantune/cli/", "hantune/__init__.py", "hantune/__main__.py", "hantune/env.py", "hantune/errors.py",
    "hantune/log.py", "hantune/paths.py",
)  # fmt: skip
"""What every start of the command line imports: nothing heavy at import time."""
NETWORK = {
    "socket", "http.client", "http.server", "urllib.request", "httpx", "httpx2", "requests", "huggingface_hub",
    "modelscope", "modelscope_hub",
}  # fmt: skip
ONLINE = (
    "hantune/models/hub.py", "hantune/models/fetch/listing.py", "hantune/models/fetch/transfer.py",
    "hantune/models/export/publish.py", "hantune/data/sources.py", "hantune/serve/", "hantune/ui/",
)  # fmt: skip
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}

FILE_LINES, FUNCTION_LINES, TWIN_LINES = 400, 60, 40
TESTED_BY: dict[str, str] = {
    "hantune/cli/usage.py": "tests/cli/test_frame.py",
    "hantune/data/templates/jinja.py": "tests/data/test_jinja.py",
    "hantune/data/templates/sandbox.py": "tests/data/test_jinja.py",
    "hantune/data/templates/": "tests/data/test_templates.py",
    "hantune/train/planning/memory.py": "tests/train/planning/test_outlook.py",
    "hantune/train/planning/forecast.py": "tests/cli/test_plan.py",
    "hantune/train/ready.py": "tests/train/test_run.py",
    "hantune/train/outcome.py": "tests/train/test_run.py",
}
"""A module, or a folder of small look-alikes (with ``/``), whose tests stand elsewhere -> where."""

START_SECONDS, TRIES = 0.3, 5


@dataclass(frozen=True)
class Import:
    """One imported name: ``from a.b import c`` gives ``a.b.c``."""

    target: str
    line: int
    at_start: bool  # runs when the module is imported, so neither inside a function nor under TYPE_CHECKING


def dotted(node: ast.expr) -> str:
    """The source of an expression; names and attributes without the detour that takes most of the time."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ast.unparse(node)


@dataclass(frozen=True)
class Module:
    """One source file; ``path`` is relative to the root, with slashes."""

    path: str
    source: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @functools.cached_property
    def imports(self) -> list[Import]:
        finder = _ImportFinder(self)
        finder.visit(self.tree)
        return finder.found

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @functools.cached_property
    def calls(self) -> list[tuple[str, ast.Call]]:
        """Every call with the dotted text of what is called: ``os.getenv``, ``print``, ``path.open``."""
        return [(dotted(node.func), node) for node in self.nodes if isinstance(node, ast.Call)]

    def at(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"


class _ImportFinder(ast.NodeVisitor):
    def __init__(self, module: Module) -> None:
        package = module.name if module.path.endswith("/__init__.py") else module.name.rpartition(".")[0]
        self.package = package.split(".")
        self.found: list[Import] = []
        self.later = 0

    def _add(self, target: str, line: int) -> None:
        self.found.append(Import(target, line, at_start=self.later == 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.package[: len(self.package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            self._add(base if alias.name == "*" else f"{base}.{alias.name}", node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        if dotted(node.func) in {"importlib.import_module", "import_module", "__import__"} and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._add(name.value, node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if dotted(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self._visit_later(node.body)
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self._visit_later(node.body if isinstance(node.body, list) else [node.body])

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function

    def _visit_later(self, nodes: list[ast.stmt] | list[ast.expr]) -> None:
        self.later += 1
        for child in nodes:
            self.visit(child)
        self.later -= 1


@functools.cache
def modules() -> tuple[Module, ...]:
    paths = sorted((ROOT / "hantune").rglob("*.py"))
    return tuple(Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


def among(target: str, names: set[str]) -> bool:
    """Whether ``a.b.c`` is one of ``names`` or inside one of them."""
    return any(target == name or target.startswith(name + ".") for name in names)


# ---- the checks -----------------------------------------------------------------------------------------------------


def imports_to_the_right(module: Module) -> list[str]:
    """(a) A module imports only from its own layer or ones to the left; imports inside functions count too."""
    part = module.name.split(".")[1:2]
    if part and part[0] not in LEVEL:
        return [module.at(1, f"{part[0]} stands in no layer")]
    own = LEVEL[part[0]] if part else 0
    complaints = []
    for found in module.imports:
        words = found.target.split(".")
        if words[0] == "hantune" and LEVEL.get("".join(words[1:2]), 0) > own:
            complaints.append(module.at(found.line, f"imports {found.target}, which stands to its right"))
    return complaints


def heavy_imports_at_start(module: Module) -> list[str]:
    """(b) Nothing heavy where every start of the command line passes; no torch under data/ but in batch.py."""
    forbidden: set[str] = set()
    if module.path.startswith(LIGHT):
        forbidden = HEAVY
    elif module.path.startswith("hantune/data/") and module.path != "hantune/data/batch.py":
        forbidden = TORCH
    return [
        module.at(found.line, f"imports {found.target} at import time")
        for found in module.imports
        if found.at_start and among(found.target, forbidden)
    ]


def prints_and_exits(module: Module) -> list[str]:
    """(c) Only cli/ prints or ends the process."""
    if module.path.startswith(("hantune/cli/", "hantune/__main__.py")):
        return []
    forbidden = {"print", "exit", "quit", "sys.exit", "os._exit", "SystemExit", "sys.stdout.write"}
    complaints = [module.at(call.lineno, f"calls {name}") for name, call in module.calls if name in forbidden]
    complaints += [module.at(found.line, "imports sys.exit") for found in module.imports if found.target == "sys.exit"]
    return complaints


def environment_reads(module: Module) -> list[str]:
    """(d) Environment variables are read in one place."""
    if module.path == "hantune/env.py":
        return []
    complaints = [
        module.at(node.lineno, f"uses os.{node.attr}")
        for node in module.nodes
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT and ast.unparse(node.value) == "os"
    ]
    names = {f"os.{name}" for name in ENVIRONMENT}
    return complaints + [module.at(f.line, f"imports {f.target}") for f in module.imports if f.target in names]


def network_imports(module: Module) -> list[str]:
    """(e) Only few modules reach the network."""
    if module.path.startswith(ONLINE):
        return []
    return [
        module.at(found.line, f"imports {found.target}") for found in module.imports if among(found.target, NETWORK)
    ]


def opens_without_encoding(module: Module) -> list[str]:
    """(f) Text is read and written with a named encoding; the default is GBK on a Chinese Windows."""
    return [
        module.at(call.lineno, f"{name}() without encoding")
        for name, call in module.calls
        if _lacks_encoding(name, call)
    ]


def _lacks_encoding(name: str, call: ast.Call) -> bool:
    keywords = {item.arg: item.value for item in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    owner, _, method = name.rpartition(".")
    if method == "open":
        return _opens_text(owner, call.args, keywords.get("mode"))
    return len(call.args) < {"read_text": 1, "write_text": 2}.get(method, 0)


def _opens_text(owner: str, arguments: list[ast.expr], mode: ast.expr | None) -> bool:
    """Whether an ``open`` opens text. Where the mode is not written out, it might."""
    if owner in {"os", "webbrowser", "zipfile", "tarfile", "wave", "shelve"}:
        return False
    packed = owner in {"gzip", "bz2", "lzma"}
    position = 1 if packed or owner in {"", "io"} else 0
    if mode is None and len(arguments) > position:
        mode = arguments[position]
        # Path.open takes the mode first; anything else first means an archive's open(member) and the like.
        if position == 0 and not re.fullmatch(r"'[rwaxbt+]+'", ast.unparse(mode)):
            return False
    written = ast.unparse(mode) if mode else ""
    return "t" in written if packed else not (isinstance(mode, ast.Constant) and "b" in written)


def import_cycles(all_modules: tuple[Module, ...]) -> list[str]:
    """(g) No circle among the imports that run at import time."""
    names = {module.name for module in all_modules}
    graph: dict[str, set[str]] = {}
    for module in all_modules:
        needed = (_nearest(found.target, names) for found in module.imports if found.at_start)
        graph[module.name] = {name for name in needed if name and name != module.name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def _nearest(target: str, names: set[str]) -> str:
    """The module that holds ``target``: itself, or the longest of its parents that is one."""
    while target and target not in names:
        target = target.rpartition(".")[0]
    return target


def long_files(module: Module) -> list[str]:
    """(h) A file of more than 400 lines holds a second thing."""
    lines = module.source.count("\n")
    return [f"{module.path}: {lines} lines (at most {FILE_LINES})"] if lines > FILE_LINES else []


def long_functions(module: Module) -> list[str]:
    """(h) A function of more than 60 lines has parts with names."""
    complaints = []
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                complaints.append(module.at(node.lineno, f"{node.name} has {lines} lines (at most {FUNCTION_LINES})"))
    return complaints


def untested_modules(all_modules: tuple[Module, ...]) -> list[str]:
    """(i) ``hantune/x/y.py`` over 40 lines has ``tests/x/test_y.py``, or a line in ``TESTED_BY``."""
    return [
        f"{module.path}: no {twin}"
        for module in all_modules
        if module.source.count("\n") > TWIN_LINES and not (ROOT / (twin := twin_of(module))).is_file()
    ]


def twin_of(module: Module) -> str:
    """Where the tests of a module stand; those of a package's ``__init__.py`` in ``tests/x/test_x.py``."""
    for path, elsewhere in TESTED_BY.items():
        if module.path == path or (path.endswith("/") and module.path.startswith(path)):
            return elsewhere
    path = Path(module.path).relative_to("hantune")
    stem = path.parent.name if path.stem == "__init__" else path.stem
    return (Path("tests") / path.parent / f"test_{stem}.py").as_posix()


def folders_without_init(all_modules: tuple[Module, ...]) -> list[str]:
    """A folder with code but no ``__init__.py`` works from the checkout and is missing in the installed package."""
    folders = {module.path.rpartition("/")[0] for module in all_modules}
    return sorted(folder for folder in folders if not (ROOT / folder / "__init__.py").is_file())


# ---- the checks, held -----------------------------------------------------------------------------------------------

EACH: tuple[Callable[[Module], list[str]], ...] = (
    imports_to_the_right, heavy_imports_at_start, prints_and_exits, environment_reads, network_imports,
    opens_without_encoding, long_files, long_functions,
)  # fmt: skip
ALL: tuple[Callable[[tuple[Module, ...]], list[str]], ...] = (import_cycles, untested_modules, folders_without_init)


@pytest.mark.parametrize("check", EACH, ids=lambda check: check.__name__)
def test_every_module(check: Callable[[Module], list[str]]) -> None:
    complaints = [line for module in modules() for line in check(module)]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
def test_the_whole_package(check: Callable[[tuple[Module, ...]], list[str]]) -> None:
    complaints = check(modules())
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_table_of_twins_is_up_to_date() -> None:
    """A line whose module or test is gone must go too."""
    assert [path for path in TESTED_BY if not (ROOT / path).exists()] == []
    assert [path for path in TESTED_BY.values() if not (ROOT / path).is_file()] == []


def command_lines() -> list[tuple[str, ...]]:
    """Every command there is, groups and their members: ``()``, ``("train",)``, ``("data", "prepare")``."""
    lines: list[tuple[str, ...]] = [()]
    for verb, (module, _) in importlib.import_module("hantune.cli").VERBS.items():
        lines.append((verb,))
        try:
            app = importlib.import_module(module).app
        except ImportError:
            continue  # the test of the verb itself reports it
        members = [str(item.name) for item in app.registered_commands]
        lines += [(verb, member) for member in members if len(members) > 1 or app.registered_callback]
    return lines


def modules_with_heavy_imports() -> set[str]:
    """The parts of hantune that no ``--help`` may load."""
    return {m.name for m in modules() if any(f.at_start and among(f.target, HEAVY) for f in m.imports)}


HELPS = """
import json, os, resource, sys

def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

before = spent()
from hantune.cli import main
start, found = spent() - before, []
for words in json.loads(sys.argv[1]):
    ours, theirs = os.pipe()
    if os.fork() == 0:  # every command begins where a fresh Python would be that has imported what all of them share
        os.close(ours)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        before = spent()
        code = main([*words, "--help"])
        with open(theirs, "w", encoding="utf-8") as answer:
            json.dump([code, start + spent() - before, sorted(sys.modules)], answer)
        os._exit(0)
    os.close(theirs)
    with open(ours, encoding="utf-8") as answer:
        found.append(json.load(answer))
    os.wait()
print(json.dumps(found))
"""
"""For each command: exit code of its help, CPU seconds beyond a bare Python (a busy machine does not change them),
and the modules it has loaded."""


@functools.cache
def helps() -> dict[tuple[str, ...], tuple[int, float, set[str]]]:
    """What the help of each command says about itself; of the times, the best of five counts."""
    # Users have compiled files; a test machine that forbids them would time the compiler.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    lines = command_lines()
    found: dict[tuple[str, ...], tuple[int, float, set[str]]] = {}
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-c", HELPS, json.dumps(lines)], cwd=ROOT, env=env, stdout=subprocess.PIPE,
            encoding="utf-8", check=True,
        )  # fmt: skip
        for words, (code, seconds, loaded) in zip(lines, json.loads(done.stdout), strict=True):
            least = min(seconds, found[words][1]) if words in found else seconds
            found[words] = code, least, set(loaded)
        if all(seconds < START_SECONDS for _, seconds, _ in found.values()):
            break
    return found


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("words", command_lines(), ids=lambda words: " ".join(("hantune", *words)))
def test_help_starts_fast_and_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    code, seconds, loaded = helps()[words]
    assert code == 0
    # typer (0.29) converts every option by pydantic, which takes it 0.03 s; our own models must not be built.
    assert loaded & (HEAVY - {"pydantic"}) == set()
    assert loaded & modules_with_heavy_imports() == set()
    assert seconds < START_SECONDS


# ---- the checks, tested ---------------------------------------------------------------------------------------------

BAD = [
    (imports_to_the_right, "hantune/data/tokens.py", "from hantune.train.loss import nll\n"),
    (imports_to_the_right, "hantune/data/tokens.py", "def f():\n    import hantune.models.load\n"),
    (imports_to_the_right, "hantune/data/formats/a.py", "from ...cli import main\n"),
    (imports_to_the_right, "hantune/data/__init__.py", "from .. import models\n"),
    (imports_to_the_right, "hantune/paths.py", "import importlib\nimportlib.import_module('hantune.config.io')\n"),
    (imports_to_the_right, "hantune/__init__.py", "from hantune.config import io\n"),
    (imports_to_the_right, "hantune/helpers.py", "pass\n"),
    (heavy_imports_at_start, "hantune/cli/train.py", "import numpy as np\n"),
    (heavy_imports_at_start, "hantune/log.py", "try:\n    from torch import nn\nexcept ImportError:\n    pass\n"),
    (heavy_imports_at_start, "hantune/data/tokens.py", "class A:\n    import transformers.models\n"),
    (prints_and_exits, "hantune/train/run.py", "print('x')\n"),
    (prints_and_exits, "hantune/train/run.py", "import sys\nsys.exit(1)\n"),
    (prints_and_exits, "hantune/train/run.py", "raise SystemExit(1)\n"),
    (environment_reads, "hantune/log.py", "import os\nx = os.environ.get('A')\n"),
    (environment_reads, "hantune/log.py", "from os import getenv\n"),
    (network_imports, "hantune/train/run.py", "def f():\n    from urllib import request\n"),
    (network_imports, "hantune/models/load.py", "import huggingface_hub.utils\n"),
    (opens_without_encoding, "hantune/a.py", "open('x')\n"),
    (opens_without_encoding, "hantune/a.py", "open('x', mode)\n"),
    (opens_without_encoding, "hantune/a.py", "path.open()\n"),
    (opens_without_encoding, "hantune/a.py", "(folder / 'x').open('w')\n"),
    (opens_without_encoding, "hantune/a.py", "gzip.open('x', 'rt')\n"),
    (opens_without_encoding, "hantune/a.py", "path.read_text()\n"),
    (opens_without_encoding, "hantune/a.py", "path.write_text('x')\n"),
    (long_files, "hantune/a.py", "\n" * 401),
    (long_functions, "hantune/a.py", "async def f():\n" + "    x = 1\n" * 60),
]
GOOD = [
    (imports_to_the_right, "hantune/train/run.py", "from hantune.data import tokens\nfrom . import loss\n"),
    (imports_to_the_right, "hantune/data/tokens.py", "from hantune import __version__\nimport hantune\n"),
    (
        heavy_imports_at_start,
        "hantune/cli/train.py",
        "if TYPE_CHECKING:\n    import torch\nlambda: __import__('torch')\n",
    ),
    (heavy_imports_at_start, "hantune/data/batch.py", "import torch\n"),
    (heavy_imports_at_start, "hantune/cli/train.py", "import torchlight\n"),
    (prints_and_exits, "hantune/cli/train.py", "print('x')\n"),
    (environment_reads, "hantune/env.py", "import os\nx = os.environ.get('A')\n"),
    (network_imports, "hantune/train/run.py", "from urllib.parse import quote\nfrom http import HTTPStatus\n"),
    (network_imports, "hantune/serve/app.py", "import socket\n"),
    (opens_without_encoding, "hantune/a.py", "open('x', 'rb'); open('x', encoding='gb18030'); path.open('wb')\n"),
    (opens_without_encoding, "hantune/a.py", "path.read_text('utf-8'); path.write_text('x', 'utf-8')\n"),
    (opens_without_encoding, "hantune/a.py", "archive.open(name); os.open(path, flags); gzip.open('x')\n"),
    (long_functions, "hantune/a.py", "def f():\n" + "    x = 1\n" * 59),
]


@pytest.mark.parametrize(("check", "path", "source"), BAD)
def test_planted_faults_are_found(check: Callable[[Module], list[str]], path: str, source: str) -> None:
    assert check(Module(path, source))


@pytest.mark.parametrize(("check", "path", "source"), GOOD)
def test_what_is_allowed_passes(check: Callable[[Module], list[str]], path: str, source: str) -> None:
    assert check(Module(path, source)) == []


def test_a_planted_cycle_is_found() -> None:
    first = Module("hantune/data/a.py", "from hantune.data import b\n")
    second = Module("hantune/data/b.py", "from .a import thing\n")
    lazy = Module("hantune/data/b.py", "def f():\n    from .a import thing\n")
    assert import_cycles((first, second))
    assert import_cycles((first, lazy)) == []


def test_a_module_without_tests_is_found() -> None:
    module = Module("hantune/data/nowhere.py", "x = 1\n" * 41)
    assert untested_modules((module,)) == ["hantune/data/nowhere.py: no tests/data/test_nowhere.py"]
    assert untested_modules((Module("hantune/data/nowhere.py", "x = 1\n"),)) == []
