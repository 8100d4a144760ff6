"""`make docs`: write every page that can be written from the library itself, then let Sphinx build the site.

    python docs/build.py                  into build/docs/html, warnings are errors
    python docs/build.py --quick          tutorials in quick mode: for a look at pages, not for publication
    python docs/build.py --check-links    every external link of the site is asked for, too (needs the network)

Pages come from three places: docs/*.md as they stand, tutorials/*.md (executed), and generate/, which reads the
registries, sources and published results. All are put together in build/docs/source: the source tree stays clean.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from generate import links, pages

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tutorials in quick mode")
    parser.add_argument("--check-links", action="store_true", help="ask for external links, too")
    options = parser.parse_args()
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REFIMPL_WISDOM": "off"}
    if options.quick:
        environment["REFIMPL_TUTORIAL_QUICK"] = "1"
    environment["IPYTHONDIR"] = str(_profile(BUILD / "ipython"))
    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    pages.write(ROOT, source)
    print(f"pages written, {time.perf_counter() - started:.0f} s", flush=True)
    for builder in ("html", *(["linkcheck"] if options.check_links else [])):
        strict = ["-W", "--keep-going", "-n"]
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-b",
            builder,
            *strict,
            "-c",
            str(HERE),
            "-d",
            str(BUILD / "doctrees"),
        ]
        done = subprocess.run([*command, str(source), str(BUILD / builder)], env=environment)
        if done.returncode:
            return done.returncode
    broken = links.broken(BUILD / "html")
    for message in broken:
        print(message, file=sys.stderr)
    print(f"{BUILD / 'html' / 'index.html'}, {time.perf_counter() - started:.0f} s")
    return 1 if broken else 0


def _profile(folder: Path) -> Path:
    """A profile for the kernels that execute tutorials: not the user's own, and without the remark that a kernel is
    spoken to over unencrypted local sockets."""
    config = folder / "profile_default" / "ipython_kernel_config.py"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("c.IPKernelApp.log_level = 40\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(main())
