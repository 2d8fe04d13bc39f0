"""The shape of the code: who may import whom, how long things may be, and what must not be there at all.

Every message names file:line and the limit. CONTRIBUTING.md gives the reasons. The last tests plant an offender for
each rule, so that a rule that has gone blind fails too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from statistics import median

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from launcher.pbtxt import read_config
from tests.source_tree import ROOT, Function, Module, modules

PACKAGES = ("gateway", "python_backends", "launcher", "training")

FORBIDDEN = {
    "gateway": ("torch", "transformers", "tokenizers", "python_backends", "launcher", "training"),
    "python_backends": ("fastapi", "starlette", "uvicorn", "gateway", "launcher", "training"),
    "launcher": ("gateway", "python_backends", "training"),
    "training": ("gateway", "launcher"),
}
# Who examines the demo models must not draw and speak with the code that taught them.
EXAMINATION = "tests/examination"
# (file, import) that breaks FORBIDDEN -> the reason why it may. Empty is best.
ALLOWED: dict[tuple[str, str], str] = {}

TRITON_MODULE = "triton_python_backend_utils"
TRITON_IMPORTER = "python_backends/triton_io.py"
WITHOUT_TORCH = tuple(
    f"python_backends/torch_engine/{name}.py"
    for name in ("scheduler", "slots", "sequence", "rows", "pacing", "progress", "sampling_state", "grammar")
)

# Sources of formulas may be named in docstrings and comments; the code itself must not speak the gateway's language.
GATEWAY_WORDS = re.compile(r"openai|chat\.completion|chatcmpl|max_completion_tokens|event-stream|\[DONE\]", re.I)

MAX_SHELL_LINES = 15
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FUNCTION_P90 = 30
MAX_FUNCTION_MEDIAN = 8
MAX_COMMENTS_PER_100 = 7

Offenders = Iterable[str]
NO_REASON = re.compile(r"#\s*(noqa|type:|pragma|fmt:|pylint)[^#]*$")


def check(rule: str, offenders: Offenders) -> None:
    found = list(offenders)
    assert not found, "\n  ".join([f"{rule}:", *found])


# The dependency rule


def forbidden_imports(module: Module) -> Iterator[str]:
    package = module.path.split("/")[0]
    for found in module.imports:
        for name in FORBIDDEN[package]:
            if found.reaches(name) and (module.path, found.name) not in ALLOWED:
                yield f"{module.at(found.line)} imports {found.name}; {package} must not import {name}"


def foreign_triton_imports(module: Module) -> Iterator[str]:
    for found in module.imports:
        if found.reaches(TRITON_MODULE) and module.path != TRITON_IMPORTER:
            yield f"{module.at(found.line)} imports {TRITON_MODULE}; only {TRITON_IMPORTER} may"


def training_imports(module: Module) -> Iterator[str]:
    for found in module.imports:
        if found.reaches("training"):
            yield f"{module.at(found.line)} imports {found.name}; the examination is independent of it"


def torch_imports(module: Module) -> Iterator[str]:
    for found in module.imports:
        if found.reaches("torch"):
            yield f"{module.at(found.line)} imports {found.name}; its policy is plain Python"


def gateway_words(module: Module) -> Iterator[str]:
    for line, text in module.words:
        if found := GATEWAY_WORDS.search(text):
            yield f"{module.at(line)} says {found.group()!r}; python_backends knows no OpenAI word"


def shell_faults(module: Module) -> Iterator[str]:
    if module.num_lines > MAX_SHELL_LINES:
        yield f"{module.path}:{module.num_lines} is longer than {MAX_SHELL_LINES} lines"
    for node in module.tree.body[1 if ast.get_docstring(module.tree) else 0 :]:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("python_backends."):
            yield f"{module.at(node.lineno)} is more than an import from python_backends"
    bound = [alias.asname for node in module.nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    if "TritonPythonModel" not in bound:
        yield f"{module.at(1)} does not bind TritonPythonModel"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    found = modules(package)
    assert found, f"{package} has no files"
    check("imports against the dependency rule", [text for module in found for text in forbidden_imports(module)])


def test_the_examination_shares_nothing_with_the_training() -> None:
    check("the training is known", [text for module in modules(EXAMINATION) for text in training_imports(module)])


def test_one_file_imports_tritons_module() -> None:
    everywhere = modules(*PACKAGES, "model_repository", "tests")
    check("Triton's module is imported", [text for module in everywhere for text in foreign_triton_imports(module)])


def test_the_policy_of_the_torch_engine_imports_no_torch() -> None:
    found = [module for module in modules("python_backends/torch_engine") if module.path in WITHOUT_TORCH]
    assert len(found) == len(WITHOUT_TORCH), f"expected {WITHOUT_TORCH}"
    check("torch is imported", [text for module in found for text in torch_imports(module)])


def test_backends_do_not_speak_the_gateways_language() -> None:
    found = modules("python_backends")
    check("words of the OpenAI API", [text for module in found for text in gateway_words(module)])


def test_entries_are_shells() -> None:
    found = modules("model_repository")
    assert found, "model_repository has no model.py"
    check("more than a shell", [text for module in found for text in shell_faults(module)])


def test_a_running_gateway_has_loaded_no_model_library() -> None:
    code = "import sys, gateway.app, gateway.__main__; print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.split())
    assert "fastapi" in loaded
    check("import gateway.app also loads", sorted(loaded & set(FORBIDDEN["gateway"])))


# The style budgets


def long_functions(module: Module) -> Iterator[str]:
    for function in module.functions:
        if function.length > MAX_FUNCTION_LINES:
            yield f"{module.at(function.line)} {function.name}: {function.length} lines, limit {MAX_FUNCTION_LINES}"


def long_file(module: Module) -> Iterator[str]:
    if module.num_lines > MAX_FILE_LINES:
        yield f"{module.path}:{module.num_lines} lines, limit {MAX_FILE_LINES}"


def missing_annotations(module: Module) -> Iterator[str]:
    for function in module.functions:
        if function.unannotated:
            yield f"{module.at(function.line)} {function.name}: no type for {', '.join(function.unannotated)}"


def broad_handlers(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{module.at(node.lineno)} catches everything with a bare except"
        elif isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _has_reason(module, node.lineno):
            yield f"{module.at(node.lineno)} catches Exception without the reason as a comment on that line"


def marked_unfinished(module: Module) -> Iterator[str]:
    for line, comment in module.comments.items():
        if re.search(r"\b(TODO|FIXME)\b", comment):
            yield f"{module.at(line)} {comment.strip()}; finish it, or write it down where it is tracked"


def patched_parts(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and (_owner(node), node.attr) in _PATCHING:
            yield f"{module.at(node.lineno)} {_owner(node)}.{node.attr}; test with real parts at the seam"
    for found in module.imports:
        if found.reaches("unittest.mock.patch"):
            yield f"{module.at(found.line)} imports {found.name}; test with real parts at the seam"


def all_functions() -> list[tuple[Module, Function]]:
    return [(module, function) for module in modules(*PACKAGES) for function in module.functions]


def percentile(values: Iterable[int], percent: int) -> int:
    """The value at the nearest rank."""
    ordered = sorted(values)
    return ordered[round(percent / 100 * (len(ordered) - 1))]


_PATCHING = {("mock", "patch"), ("mocker", "patch"), ("monkeypatch", "setattr")}


def _owner(node: ast.Attribute) -> str:
    return getattr(node.value, "id", getattr(node.value, "attr", ""))


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") for kind in kinds)


def _has_reason(module: Module, line: int) -> bool:
    return line in module.comments and not NO_REASON.match(module.comments[line])


BUDGETS = (long_functions, long_file, missing_annotations, broad_handlers, marked_unfinished)


@pytest.mark.parametrize("rule", BUDGETS, ids=lambda rule: str(rule.__name__))
def test_packages_keep_the_budget(rule: Callable[[Module], Iterator[str]]) -> None:
    check(rule.__name__, [text for module in modules(*PACKAGES, EXAMINATION) for text in rule(module)])


def test_the_usual_function_is_short() -> None:
    functions = sorted(all_functions(), key=lambda found: -found[1].length)
    lengths = [function.length for _, function in functions]
    longest = [f"{module.at(function.line)} {function.name}: {function.length}" for module, function in functions[:5]]
    found_median, found_p90 = median(lengths), percentile(lengths, 90)
    within = found_median <= MAX_FUNCTION_MEDIAN and found_p90 <= MAX_FUNCTION_P90
    limits = f"limits {MAX_FUNCTION_MEDIAN} and {MAX_FUNCTION_P90}"
    assert within, f"function median {found_median}, p90 {found_p90}, {limits}; longest: {longest}"


def test_comments_are_few() -> None:
    found = modules(*PACKAGES)
    comments = sum(len(module.comment_lines) for module in found)
    code = sum(len(module.code_lines) for module in found)
    per_100 = 100 * comments / code
    assert per_100 <= MAX_COMMENTS_PER_100, f"{per_100:.1f} comment lines per 100 of code, limit {MAX_COMMENTS_PER_100}"


def test_tests_use_real_parts_and_are_finished() -> None:
    found = modules("tests", "benchmarks")
    check("patched out", [text for module in found for text in patched_parts(module)])
    check("unfinished", [text for module in found for text in marked_unfinished(module)])


# The documents


def entry_configs() -> dict[str, ModelConfig]:
    paths = sorted((ROOT / "model_repository").glob("*/config.pbtxt"))
    return {path.parent.name: read_config(path) for path in paths}


def test_every_entry_has_a_contract() -> None:
    contracts = (ROOT / "docs/contracts.md").read_text()
    described = set(re.findall(r"^(?:\| |## )(\w+)", contracts, re.M))
    configs = entry_configs()
    assert configs, "model_repository has no config.pbtxt"
    missing = [f"model_repository/{name}/config.pbtxt:1" for name in configs if name not in described]
    check("no row and no heading in docs/contracts.md for", missing)


def test_contracts_name_every_tensor_and_parameter() -> None:
    said = set(re.findall(r"\w+", (ROOT / "docs/contracts.md").read_text()))
    missing = [
        f"model_repository/{entry}/config.pbtxt: {name}"
        for entry, config in entry_configs().items()
        for name in [*(tensor.name for tensor in [*config.input, *config.output]), *config.parameters]
        if name not in said
    ]
    check("docs/contracts.md does not mention", missing)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "docker/README.md"])
def test_documents_name_files_that_exist(page: str) -> None:
    folders = "|".join([*PACKAGES, "model_repository", "tests", "docs", "docker", "demo_models"])
    path = re.compile(rf"`((?:{folders})/[\w./-]+)`")
    lines = (ROOT / page).read_text().splitlines()
    named = [(number, name) for number, line in enumerate(lines, 1) for name in path.findall(line)]
    assert named, f"{page} names no file"
    check("no such file", [f"{page}:{number} {name}" for number, name in named if not (ROOT / name).exists()])


# The rules see what they should

BLIND_SPOTS = [
    (forbidden_imports, "gateway/a.py", "def f() -> None:\n    import torch.nn\n"),
    (forbidden_imports, "gateway/a.py", "from python_backends import types\n"),
    (forbidden_imports, "gateway/routes/a.py", "from importlib import import_module\nimport_module('transformers')\n"),
    (forbidden_imports, "python_backends/llm/a.py", "if True:\n    from gateway.sse import DONE\n"),
    (forbidden_imports, "launcher/a.py", "async def f() -> None:\n    import gateway\n"),
    (foreign_triton_imports, "python_backends/llm/a.py", "import triton_python_backend_utils as pb_utils\n"),
    (training_imports, "tests/examination/a.py", "from training.vision_language import scenes\n"),
    (torch_imports, "python_backends/torch_engine/slots.py", "from torch import Tensor\n"),
    (gateway_words, "python_backends/a.py", "kind = 'chat.completion'\n"),
    (gateway_words, "python_backends/a.py", "def to_openai() -> None: ...\n"),
    (shell_faults, "model_repository/a/1/model.py", "import json\n"),
    (shell_faults, "model_repository/a/1/model.py", "from python_backends.a import A\n"),
    (long_functions, "gateway/a.py", "def f() -> None:\n" + "    pass\n" * MAX_FUNCTION_LINES),
    (long_file, "gateway/a.py", "\n" * (MAX_FILE_LINES + 1)),
    (missing_annotations, "gateway/a.py", "def f(a: int, *b, **c: int) -> None: ...\n"),
    (missing_annotations, "gateway/a.py", "class A:\n    def f(self): ...\n"),
    (broad_handlers, "gateway/a.py", "try:\n    pass\nexcept:  # a reason\n    pass\n"),
    (broad_handlers, "gateway/a.py", "try:\n    pass\nexcept (OSError, Exception):\n    pass\n"),
    (broad_handlers, "gateway/a.py", "try:\n    pass\nexcept Exception:  # noqa: BLE001\n    pass\n"),
    (marked_unfinished, "gateway/a.py", "a = 1  # FIXME later\n"),
    (patched_parts, "tests/a.py", "from unittest import mock\nmock.patch('a.b')\n"),
    (patched_parts, "tests/a.py", "from unittest.mock import patch\n"),
    (patched_parts, "tests/a.py", "def test(monkeypatch: object) -> None:\n    monkeypatch.setattr('a', 1)\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BLIND_SPOTS)
def test_a_rule_finds_a_planted_offender(rule: Callable[[Module], Iterator[str]], path: str, text: str) -> None:
    assert any(offender.startswith(path) for offender in rule(Module(path, text)))


def test_what_looks_like_an_offender_but_is_none() -> None:
    text = '"""OpenAI\'s rule."""\n\ntry:\n    import json  # not torch\nexcept Exception:  # a reason\n    pass\n'
    module = Module("python_backends/a.py", text)
    rules = (forbidden_imports, gateway_words, broad_handlers, marked_unfinished, torch_imports, missing_annotations)
    assert [offender for rule in rules for offender in rule(module)] == []
    assert (module.comment_lines, module.code_lines) == (set(), {3, 4, 5, 6})


def test_relative_imports_are_resolved() -> None:
    module = Module("gateway/routes/a.py", "from . import chat\nfrom .. import sse\nfrom ..sse import DONE\n")
    assert [found.name for found in module.imports] == ["gateway.routes.chat", "gateway.sse", "gateway.sse.DONE"]
