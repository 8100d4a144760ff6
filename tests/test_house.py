"""The floors of the house: each imports only floors below it, and `import refimpl` stays light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "refimpl"

# module prefix -> floor (docs/architecture.md); the longest prefix counts
FLOORS = {
    "refimpl._disk": 0,
    "refimpl._version": 0,
    "refimpl._waiting": 0,
    "refimpl._native": 0,
    "refimpl.backends": 1,
    "refimpl.ops": 2,
    "refimpl.nn": 3,
    "refimpl.optim": 3,
    "refimpl.data": 3,
    "refimpl.estimator": 4,
    "refimpl.record": 4,
    "refimpl.models": 4,
    "refimpl.baselines": 4,
    "refimpl.methods": 5,
    "refimpl.viz": 5,
    "refimpl.lab": 6,
    "refimpl.cli": 7,
    "refimpl.__main__": 7,
    "refimpl": 2,  # the top-level names; methods and baselines behind them are imported on first use
}


def floor(module):
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        found = FLOORS.get(".".join(parts[:n]))
        if found is not None:
            return found
    raise AssertionError(f"{module} stands on no floor: add it to FLOORS and to docs/architecture.md")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "refimpl")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "refimpl":
                for a in node.names:
                    full = f"{node.module}.{a.name}"
                    place = ROOT / Path(*full.split("."))
                    is_module = full in FLOORS or place.with_suffix(".py").exists() or place.is_dir()
                    yield full if is_module else node.module


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_go_down_or_stay_on_the_floor(module, path):
    if module == "refimpl":
        return  # its lazy names are strings
    for imported in imports(path):
        assert floor(imported) <= floor(module), f"{module} (floor {floor(module)}) imports {imported}"


def test_methods_do_not_import_each_other():
    for module, path in modules():
        if not module.startswith("refimpl.methods.") or module.count(".") < 3:
            continue
        own = ".".join(module.split(".")[:4])
        for imported in imports(path):
            if imported.startswith("refimpl.methods."):
                assert imported.startswith(own), f"{module} imports {imported}"


def test_baselines_do_not_import_methods_and_ops_do_no_randomness():
    for module, path in modules():
        if module.startswith("refimpl.baselines"):
            assert not any(i.startswith("refimpl.methods") for i in imports(path))
        if module.startswith("refimpl.ops"):
            assert "np.random" not in path.read_text(encoding="utf-8"), f"{module} draws random numbers"


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_refimpl_loads_only_numpy_and_cffi():
    heavy = ("scipy", "matplotlib", "tqdm", "pooch", "safetensors", "sklearn", "torch", "requests")
    loaded = python(f"import sys, refimpl; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_importing_refimpl_costs_little_over_numpy(tmp_path):
    """Processor time, least of five, with compiled modules as in an installation: other processes do not count."""
    code = "import numpy, time; t = time.process_time(); import refimpl; print(time.process_time() - t)"
    warm = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    python(code, **warm)
    best = min(float(python(code, **warm)) for _ in range(5))
    assert best < 0.060, f"import refimpl takes {best * 1000:.0f} ms over numpy, expected at most 60"


def test_every_public_top_level_name_can_be_had():
    python("import refimpl; [getattr(refimpl, n) for n in refimpl.__all__]")


def test_idle_threads_sleep_soon_unless_the_user_says_otherwise():
    script = "import refimpl, os; print(os.environ['OPENBLAS_THREAD_TIMEOUT'], os.environ.get('GOMP_SPINCOUNT'))"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "OPENBLAS_"))}
    for given, told in (({}, "20 4000"), ({"OPENBLAS_THREAD_TIMEOUT": "26", "OMP_WAIT_POLICY": "active"}, "26 None")):
        done = subprocess.run([sys.executable, "-c", script], env=plain | given, capture_output=True, text=True)
        assert done.stdout.strip() == told, done.stderr
