"""The package as it is built and installed, and the rules of its imports."""

from __future__ import annotations

import ast
import configparser
import functools
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pomt_edge"

LAYERS = [
    {"errors", "records", "catalogue", "checks", ""},
    {"profiles", "choose", "demo", "machine", "agent"},
    {"simulator"},
    {"models"},
    {"reduce"},
    {"export"},
    {"engines", "targets", "measure"},
    {"deploy"},
    {"report"},
    {"request", "console", "searching"},
    {"decision"},
    {"fleet_file"},
    {"places", "starting"},
    {"job", "checking"},
    {"schedule_costs"},
    {"schedules", "remedies"},
    {"offline"},
    {"deploy_request"},
    {"deploy_subject"},
    {"deploy_steps"},
    {"deployment"},
    {"contest", "finals"},
    {"fleet"},
    {"commands"},
    {"cli"},
]
"""What a layer imports lies in it or above it in this list; modules of one layer may know each other."""

LIGHT = {
    *[
        "errors",
        "records",
        "catalogue",
        "checks",
        "profiles",
        "simulator",
        "agent",
        "choose",
        "machine",
        "report",
        "request",
        "deploy_request",
        "fleet_file",
        "fleet",
        "commands",
        "cli",
        "console",
    ],
    "",
}
"""These never import torch and what hangs on it, so that the help is quick and a board without torch can read."""
HEAVY = {"torch", "torchvision", "timm", "safetensors", "PIL", "huggingface_hub"}
OPTIONAL = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx_bindings", "pynvml", "jtop", "ray", "transformers"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules imported by a file, those for the type checker alone left out."""
    tree = ast.parse(path.read_text())
    checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    nodes = ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    return [*module.split("."), ""][1] if module.startswith("pomt_edge") else module


def layer(module: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if room(module) in rooms)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    if module == "pomt_edge":
        return  # it hands out reduce_model, lazily
    for imported in imports(MODULES[module]):
        if imported.startswith("pomt_edge."):
            known = imported if imported in MODULES else imported.rsplit(".", 1)[0]
            assert layer(known) <= layer(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_light_modules_stay_light_and_optional_ones_stay_optional(module: str) -> None:
    top = {name.split(".")[0] for name in imports(MODULES[module], top_level_only=True)}
    assert not top & OPTIONAL
    if room(module) in LIGHT:
        assert not top & HEAVY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pomt_edge", "device_profiles"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_code_the_demo_the_page_and_the_profiles(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {str(path.relative_to(ROOT)) for path in files}
    expected |= {f"pomt_edge/device_profiles/{path.name}" for path in (ROOT / "device_profiles").glob("*.toml")}
    assert held == expected
    assert {"pomt_edge/demo/fashion_test_2000.npz", "pomt_edge/report/page.js"} <= held


def test_every_module_imports_from_the_wheel_without_any_extra(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = " ".join(config["options.extras_require"].values()).lower()
    blocked = sorted(OPTIONAL | {"pytest", "hypothesis", "selenium", "ruptures", "mypy", "build", "onnx"})
    assert "selenium" in extras and "ruptures" in extras
    code = f"""
import importlib, sys
from importlib.machinery import PathFinder
class Without:
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in {blocked} else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]
sys.meta_path[sys.meta_path.index(PathFinder)] = Without()
sys.path.insert(0, {str(tmp_path)!r})
for name in {list(MODULES)}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
from pomt_edge import profiles
assert 'h200' in profiles.names()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readmes_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if line[:1].isalpha()}
    for command in ("demo", "test"):
        assert f"make {command}" in readme and command in targets
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme))
    names = ("", "offline-compute", "deploy", "import", "show", "compare", "clocks", "clocks lock", "doctor")
    commands = [name.split() for name in names]
    code = "import sys; from pomt_edge import cli; sys.exit(cli.run_any([*sys.argv[1:], '--help']))"
    run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=ROOT, check=True)
    helps = "".join(run([sys.executable, "-c", code, *words]).stdout for words in commands)
    assert not {option for option in shown if option not in helps}
