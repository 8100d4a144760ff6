"""Build the C core: one cffi API-mode extension, `refimpl._native`.

Every file of native/src but those of UNTYPED is compiled once per (instruction-set level, dtype). The prototypes in
native/include/<family>.h are the only list of kernels: this module reads them and writes

- the cffi declarations (`int ri_layernorm_f32(const float *x, ...)`),
- one table of function pointers per level and the trampolines that jump through the table chosen at load time,
- for each level the table of the parameters that the sources declare (native/include/parameter.h).

Environment: REFIMPL_LEVELS="v2,v3,v4" limits the levels built (a quick developer build takes the machine's own);
REFIMPL_SANITIZE=1 builds with ASan and UBSan; CC and CFLAGS as usual.
"""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
SRC = HERE / "src"

# Compiled once: what knows neither dtype nor instruction-set level.
UNTYPED = ("runtime", "arena")

DTYPES = {"f32": "float", "f64": "double"}
X86_LEVELS = {
    "v2": (2, ["-march=x86-64-v2"]),
    "v3": (3, ["-march=x86-64-v3"]),
    "v4": (4, ["-march=x86-64-v4", "-mprefer-vector-width=512"]),
}
BASE_LEVEL = {"base": (0, [])}
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi", "-Wno-pass-failed"]


def levels():
    """The instruction-set levels to compile: name -> (number that ri_cpu_level compares with, compiler flags)."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return BASE_LEVEL
    chosen = os.environ.get("REFIMPL_LEVELS")
    if not chosen:
        return X86_LEVELS
    names = [n.strip() for n in chosen.split(",") if n.strip()]
    unknown = sorted(set(names) - set(X86_LEVELS))
    if unknown or not names:
        raise SystemExit(f"REFIMPL_LEVELS={chosen!r}: expected some of {', '.join(X86_LEVELS)}")
    return {n: X86_LEVELS[n] for n in names}


def families():
    """Kernel families: those with both a header of prototypes and a source of that name."""
    return sorted(p.stem for p in INCLUDE.glob("*.h") if (SRC / f"{p.stem}.c").exists())


def typed_sources():
    """What is compiled per level and dtype. A family may have more files than its <family>.c, such as <family>_x.c."""
    return sorted(p for p in SRC.glob("*.c") if p.stem not in UNTYPED)


_PROTOTYPE = re.compile(r"^int RI\((\w+)\)\(([^;{]*)\);", re.MULTILINE)


def prototypes(family):
    """[(name, argument list)] as written in native/include/<family>.h."""
    text = re.sub(r"/\*.*?\*/", "", (INCLUDE / f"{family}.h").read_text(), flags=re.DOTALL)
    return [(name, " ".join(args.split())) for name, args in _PROTOTYPE.findall(text)]


def argument_names(args):
    return [re.search(r"(\w+)$", a.strip()).group(1) for a in args.split(",")]


def kernels():
    """[(name, dtype, arguments with `real` replaced)] for all families."""
    found = []
    for family in families():
        for name, args in prototypes(family):
            for dtype, c_type in DTYPES.items():
                found.append((name, dtype, re.sub(r"\breal\b", c_type, args)))
    return found


_PARAMETER = re.compile(r"^RI_PARAMETER\((\w+),", re.MULTILINE)


def parameters():
    """[(name, dtype)] of the numbers that kernels declare by RI_PARAMETER (native/include/parameter.h)."""
    names = [name for family in families() for name in _PARAMETER.findall((SRC / f"{family}.c").read_text())]
    found = [(name, dtype) for name in names for dtype in DTYPES]
    assert len(found) <= 128, "RI_MOST_PARAMETERS"
    return found


def untyped(args):
    """Arrays cross the Python boundary as `void *`: cffi then takes any C-contiguous buffer without a cast per call.
    The mirrors have checked dtypes by then, and the trampolines convert back to the typed pointers."""
    return re.sub(r"\b\w+ *\*", "void *", args)


def cdef():
    lines = ["typedef int64_t i64;", "int ri_cpu_level(void);", "int ri_openmp(void);", "int ri_select(int level);"]
    lines += ["const char *ri_levels(void);", "void *ri_arena_handler(void);", "i64 ri_arena_count(int which);"]
    lines += ["void ri_arena_open(void);", "void ri_arena_close(void);"]
    lines += ["int ri_parameters(void);", "const char *ri_parameter_name(int i);", "i64 ri_parameter_default(int i);"]
    lines += ["int ri_parameter_values(int i, i64 values[]);"]
    lines += ["i64 ri_get_parameter(int i);", "int ri_set_parameter(int i, i64 value);"]
    lines += [f"int ri_{name}_{dtype}({untyped(args)});" for name, dtype, args in kernels()]
    return "\n".join(lines)


# The parameters of the chosen level, by number: names in order, defaults, what is allowed, what is set.
PARAMETERS = """
static const char *const parameter_names[] = {%(names)s0};
int ri_parameters(void) { return chosen ? (int)(sizeof parameter_names / sizeof *parameter_names) - 1 : 0; }
static struct ri_parameter *parameter(int i) { return i >= 0 && i < ri_parameters() ? chosen->parameters[i] : 0; }
const char *ri_parameter_name(int i) { return parameter(i) ? parameter_names[i] : 0; }
i64 ri_parameter_default(int i) { return parameter(i) ? parameter(i)->normal : -1; }
int ri_parameter_values(int i, i64 values[]) {
    struct ri_parameter *p = parameter(i);
    for (int k = 0; p && k < p->count; k++) values[k] = p->values[k];
    return p ? p->count : 0;
}
i64 ri_get_parameter(int i) { return parameter(i) ? ri_value(parameter(i)) : -1; }
int ri_set_parameter(int i, i64 value) {
    struct ri_parameter *p = parameter(i);
    for (int k = 0; p && k < p->count; k++) {
        if (p->values[k] == value) {
            ri_set_values[i] = value == p->normal ? 0 : value + 1;
            return RI_OK;
        }
    }
    return RI_BADARG;
}
"""


def glue():
    """C source of the tables and trampolines."""
    built, all_kernels = levels(), kernels()
    out = ['#include "refimpl.h"', '#include "parameter.h"', "int ri_cpu_level(void);", "int ri_openmp(void);"]
    out += ["void *ri_arena_handler(void);", "i64 ri_arena_count(int which);"]
    out += ["void ri_arena_open(void);", "void ri_arena_close(void);"]
    out.append("struct table {")
    out += [f"    int (*{name}_{dtype})({args});" for name, dtype, args in all_kernels]
    out.append("    int level;\n    struct ri_parameter *const *parameters;\n};")
    for level, (number, _) in built.items():
        out += [f"int ri_{name}_{dtype}_{level}({args});" for name, dtype, args in all_kernels]
        out += [f"extern struct ri_parameter ri_parameter_{name}_{dtype}_{level};" for name, dtype in parameters()]
        out.append(f"static struct ri_parameter *const parameters_{level}[] = {{")
        out += [f"    &ri_parameter_{name}_{dtype}_{level}," for name, dtype in parameters()]
        out.append("    0,\n};")
        out.append(f"static const struct table table_{level} = {{")
        out += [f"    .{name}_{dtype} = ri_{name}_{dtype}_{level}," for name, dtype, _ in all_kernels]
        out.append(f"    .level = {number},\n    .parameters = parameters_{level},\n}};")
    out.append("static const struct table *chosen = 0;")
    out.append(f'const char *ri_levels(void) {{ return "{",".join(built)}"; }}')
    # The highest built level that the caller and the CPU allow; -1 when none fits (then the core must not be used).
    out.append("int ri_select(int level) {")
    out.append("    int cpu = ri_cpu_level();\n    if (level < 0 || level > cpu) level = cpu;\n    chosen = 0;")
    for level, (number, _) in sorted(built.items(), key=lambda item: item[1][0]):
        out.append(f"    if (level >= {number}) chosen = &table_{level};")
    out.append("    for (int i = 0; chosen && chosen->parameters[i]; i++) chosen->parameters[i]->number = i;")
    out.append("    return chosen ? chosen->level : -1;\n}")
    out.append(PARAMETERS % {"names": "".join(f'"{name}_{dtype}", ' for name, dtype in parameters())})
    for name, dtype, args in all_kernels:
        out.append(f"int ri_{name}_{dtype}({untyped(args)})")
        out.append(f"{{ return chosen ? chosen->{name}_{dtype}({', '.join(argument_names(args))}) : RI_BADARG; }}")
    return "\n".join(out)


def sanitizing():
    return os.environ.get("REFIMPL_SANITIZE", "") not in ("", "0")


def compile_flags():
    flags = ["-std=gnu11", "-fPIC", "-fvisibility=hidden", "-I", str(INCLUDE), *WARNINGS]
    # No -ffast-math: NaN and infinity keep their meaning. These three change no finite result's definition.
    flags += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
    if sanitizing():
        flags += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    else:
        flags += ["-O3"]
    return flags + shlex.split(os.environ.get("CFLAGS", ""))


def openmp_flag(cc):
    """-fopenmp where compiler and linker know it, else nothing (the core then runs on one thread)."""
    source = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "omp.c"
        path.write_text(source)
        command = [*cc, "-fopenmp", str(path), "-o", str(Path(tmp) / "omp")]
        ok = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    if not ok:
        print("refimpl: this compiler has no OpenMP; the C core will use one thread", file=sys.stderr)
    return ["-fopenmp"] if ok else ["-fopenmp-simd"]


def digest(*parts):
    """A short name for these bytes and texts."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part if isinstance(part, bytes) else part.encode())
        state.update(b"\0")
    return state.hexdigest()[:12]


def compile_objects(cc, openmp, folder=HERE.parent / "build" / "kernels"):
    """Compile all kernels for all levels and dtypes, in parallel. Returns the paths of the objects.

    An object's name holds a hash of its source, all headers, the compiler and its flags, so it is compiled once,
    however often the package is built from this tree (`pip install` uses a fresh folder each time).
    """
    common = [*compile_flags(), *openmp]
    version = subprocess.run([*cc, "--version"], capture_output=True, text=True, check=True).stdout
    headers = digest(version, " ".join([*cc, *common]), *(p.read_bytes() for p in sorted(INCLUDE.glob("*.h"))))
    folder = Path(folder) / ("sanitize" if sanitizing() else "plain")
    folder.mkdir(parents=True, exist_ok=True)

    jobs = [(SRC / f"{name}.c", name, []) for name in UNTYPED]
    for source in typed_sources():
        for level, (_, march) in levels().items():
            for dtype, c_type in DTYPES.items():
                defines = [f"-DRI_REAL={c_type}", f"-DRI_SUFFIX={dtype}_{level}", f"-DRI_IS_{dtype.upper()}=1"]
                jobs.append((source, f"{source.stem}_{dtype}_{level}", [*march, *defines]))

    def compile_one(job):
        source, name, extra = job
        target = folder / f"{name}-{digest(headers, ' '.join(extra), source.read_bytes())}.o"
        if target.exists():
            return str(target)
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        done = subprocess.run(
            [*cc, *common, *extra, "-c", str(source), "-o", str(partial)], capture_output=True, text=True, check=False
        )
        if done.stderr:
            print(done.stderr, file=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"compiling {source.name} for {name} failed:\n{done.stderr[-2000:]}")
        for old in folder.glob(f"{name}-*.o"):
            old.unlink(missing_ok=True)
        partial.replace(target)
        return str(target)

    jobs.sort(key=lambda job: -job[0].stat().st_size)  # the longest first
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(compile_one, jobs))


def make_ffi():
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(cdef())
    # Sources, objects and flags that need the compiler are added by setup.py's build step.
    ffi.set_source("refimpl._native", glue(), include_dirs=[str(INCLUDE)], libraries=["m", "pthread"])
    return ffi
