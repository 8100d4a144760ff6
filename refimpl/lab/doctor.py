"""`refimpl doctor`: what this machine has, what that means for refimpl, and what to do about each problem."""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl import data as datasets
from refimpl._version import __version__
from refimpl.backends import available_backends, get_backend, get_num_threads, native, operations
from refimpl.data import DataNotFound
from refimpl.lab import tune
from refimpl.lab.machine import core, cores, describe, package_version, versions
from refimpl.lab.text import memory, paragraph

__all__ = ["examine", "report"]

# package -> what it is for
_NEEDED = {
    "cffi": "the C core",
    "scipy": "some operations in NumPy",
    "matplotlib": "figures",
    "tqdm": "progress bars",
    "safetensors": "checkpoints",
    "pooch": "downloads of data sets",
}
_OPTIONAL = {
    "threadpoolctl": "--threads for NumPy's BLAS too",
    "torch": "bench --against torch",
    "scikit-learn": "its tools on our learners",
}


def examine() -> dict[str, Any]:
    """Everything that is found, as data; `problems` holds pairs of what is wrong and what to do."""
    problems: list[dict[str, str]] = []

    def problem(what: str, todo: str) -> None:
        problems.append({"what": what, "todo": todo})

    packages = {name: package_version(name) for name in (*_NEEDED, *_OPTIONAL)}
    for name, why in _NEEDED.items():
        if packages[name] is None:
            problem(f"{name} is not installed ({why})", f"pip install {name}")
    if native.lib is None:
        off = os.environ.get("REFIMPL_NATIVE") == "0"
        problem(
            f"the C core is not in use: {native.why_not}",
            "unset REFIMPL_NATIVE"
            if off
            else "install a C compiler (gcc or clang), then: pip install --force-reinstall "
            "--no-deps refimpl (in a clone: pip install -e .)",
        )
    elif not native.has_openmp():
        problem("the C core was built without OpenMP and uses one thread", "build it with a compiler that has OpenMP")
    if get_num_threads() > cores():
        problem(f"{get_num_threads()} threads on {cores()} cores", "set REFIMPL_NUM_THREADS to the number of cores")
    elif get_num_threads() < cores():
        variable = next((v for v in ("REFIMPL_NUM_THREADS", "OMP_NUM_THREADS") if os.environ.get(v)), None)
        if variable:
            problem(f"{variable} limits work to {get_num_threads()} of {cores()} cores", f"unset {variable}")
    data: dict[str, dict[str, Any]] = {}
    for name in datasets.names():
        try:
            data[name] = {"here": True, "path": str(datasets.path(name))}
        except DataNotFound:
            data[name] = {"here": False, "path": None}
    away = [name for name, d in data.items() if not d["here"] and datasets.info(name).downloads]
    if away:
        sizes = ", ".join(f"{name} ({memory(datasets.info(name).download_bytes)})" for name in away)
        problem(f"data sets that are not here: {sizes}", "refimpl data fetch NAME, for those you want to use")
    mirrored = sum("native" in op.bodies for op in operations().values())
    opencl_bodies = sum("opencl" in op.bodies for op in operations().values())
    return {
        "refimpl": __version__,
        "machine": describe(),
        "python": {
            "version": versions()["python"],
            "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        },
        "numpy": {"version": np.__version__, "blas": _blas()},
        "core": {
            "in_use": native.lib is not None,
            "level": core() if native.lib is not None else None,
            "built": native.built_levels().split(),
            "openmp": native.has_openmp(),
            "why_not": native.why_not,
            "operations": len(operations()),
            "mirrored": mirrored,
        },
        "backend": {"setting": get_backend(), "available": list(available_backends())},
        "threads": {"refimpl": get_num_threads(), "cores": cores()},
        "wisdom": tune.state(),
        "opencl": {"library": ctypes.util.find_library("OpenCL"), "operations": opencl_bodies},
        "data": data,
        "packages": packages,
        "problems": problems,
    }


def _blas() -> dict[str, Any]:
    """NumPy's BLAS as it was built, and, where threadpoolctl is installed, how many threads it uses."""
    try:
        config: Any = np.show_config(mode="dicts")
        built = config["Build Dependencies"]["blas"]
        found = {"name": built.get("name"), "version": built.get("version"), "threads": None}
    except (KeyError, TypeError):
        found = {"name": None, "version": None, "threads": None}
    if package_version("threadpoolctl") is not None:
        from threadpoolctl import threadpool_info

        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        if pools:
            found["threads"] = pools[0]["num_threads"]
    return found


def report(found: Mapping[str, Any]) -> str:
    """What `examine` found, as text; problems and what to do come last."""
    c, blas, packages = found["core"], found["numpy"]["blas"], found["packages"]
    built = f"built for {', '.join(c['built'])}" if c["built"] else "not built"
    if c["in_use"]:
        openmp = "with OpenMP" if c["openmp"] else "without OpenMP"
        state = f"in use, level {c['level']} ({built}), {openmp}; {c['mirrored']} of {c['operations']} operations"
    else:
        state = f"not in use: {c['why_not']}"
    threads = "" if blas["threads"] is None else f", {blas['threads']} thread{'s' * (blas['threads'] != 1)}"
    opencl = found["opencl"]
    library = f"library {opencl['library']}" if opencl["library"] else "no library"
    bodies = f"{opencl['operations']} operations" if opencl["operations"] else "no operation uses it in this version"
    here = [name for name, d in found["data"].items() if d["here"]]
    have = [f"{name} {v}" for name, v in packages.items() if v is not None]
    lack = [f"{name} ({_OPTIONAL[name]})" for name in _OPTIONAL if packages[name] is None]
    lines = [
        ("refimpl", found["refimpl"]),
        ("machine", found["machine"]),
        ("Python", found["python"]["version"] + (", free-threaded" if found["python"]["free_threaded"] else "")),
        ("NumPy", f"{found['numpy']['version']}, BLAS {blas['name'] or 'unknown'} {blas['version'] or ''}{threads}"),
        ("C core", state),
        ("threads", f"{found['threads']['refimpl']} on {found['threads']['cores']} cores"),
        ("backend", f"{found['backend']['setting']} (there are {', '.join(found['backend']['available'])})"),
        ("wisdom", tune.summary(found["wisdom"])),
        ("OpenCL", f"{library}; {bodies}"),
        ("data", ", ".join(here)),
        ("packages", ", ".join(have)),
    ]
    if lack:
        lines.append(("optional", f"not installed: {', '.join(lack)}"))
    text = [paragraph(value, " " * 10, f"{name:<10}") for name, value in lines]
    if not found["problems"]:
        text += ["", "No problems found."]
    else:
        text += ["", "What to do:"]
        for p in found["problems"]:
            text += [paragraph(p["what"], "    ", "  - "), paragraph(p["todo"], "      ", "    > ")]
    return "\n".join(text)
