"""Build step of the C core (everything else about the package stands in pyproject.toml).

Without a working C compiler the package still installs; it then runs on NumPy alone and says so once.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent / "native"))
import build as native


def compiler():
    """The C compiler: $CC, else the one Python was built with if it is on this machine, else cc/gcc/clang."""
    candidates = [os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    if os.environ.get("CC"):
        candidates = candidates[:1]  # an explicit choice is not second-guessed
    for candidate in filter(None, candidates):
        command = shlex.split(candidate)[:1]
        try:
            subprocess.run([*command, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    raise RuntimeError(f"no C compiler among {', '.join(filter(None, candidates))}")


class BuildCore(build_ext):
    """Compile the kernels per level and dtype, then link them into the cffi extension."""

    def build_extension(self, ext):
        try:
            cc = compiler()
            openmp = native.openmp_flag(cc)
            objects = native.compile_objects(cc, openmp)
            ext.extra_objects = objects
            ext.depends = objects  # a changed kernel means a new link
            ext.extra_compile_args = [*native.compile_flags(), *openmp]
            ext.extra_link_args = [*openmp]
            if native.sanitizing():
                ext.extra_link_args += ["-fsanitize=address,undefined"]
            self.compiler.set_executable("compiler_so", [*cc])
            self.compiler.set_executable("linker_so", [*cc, "-shared"])
            if sys.platform == "darwin":
                self.compiler.set_executable("linker_so", [*cc, "-bundle", "-undefined", "dynamic_lookup"])
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("REFIMPL_REQUIRE_NATIVE", "") not in ("", "0"):
                raise
            print(f"refimpl: the C core was not built, NumPy will serve: {error}", file=sys.stderr)
            ext.optional = True

    def copy_extensions_to_source(self):
        built = [e for e in self.extensions if (Path(self.build_lib) / self.get_ext_filename(e.name)).exists()]
        self.extensions = built
        super().copy_extensions_to_source()


class BuildPython(build_py):
    """The package, and in it the C sources as `refimpl/_c`: `refimpl trace` shows them beside the NumPy bodies."""

    def run(self):
        super().run()
        if self.editable_mode:  # a checkout has native/ itself
            return
        for part in ("src", "include"):
            target = Path(self.build_lib) / "refimpl" / "_c" / part
            self.mkpath(str(target))
            for source in sorted((native.HERE / part).glob("*.[ch]")):
                self.copy_file(str(source), str(target / source.name))


class Wheel(bdist_wheel):
    """abi3: one wheel serves every CPython from 3.10 on."""

    def finalize_options(self):
        self.py_limited_api = "cp310"
        super().finalize_options()


setup(
    cffi_modules=["native/build.py:make_ffi"],
    cmdclass={"build_py": BuildPython, "build_ext": BuildCore, "bdist_wheel": Wheel},
)
