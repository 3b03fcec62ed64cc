"""Build the compiled core. Everything else about the package stands in pyproject.toml.

The files of the core choose their own instruction sets, so there is one extension and no flag for a single file.
FASTDROP_NO_EXTENSION=1 builds the package without the core; the NumPy reference then runs in its place.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

MSVC = sys.platform == "win32"

core = Extension(
    "fastdrop._core",
    sources=["fastdrop/_core.pyx", *sorted(glob("csrc/*.c"))],
    depends=sorted(glob("csrc/*.h")),
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")],
    extra_link_args=[] if MSVC else ["-pthread", "-lm"],
    # A fused multiply-add rounds once where the reference rounds twice. Nobody asks for the errno of a square root.
    # What a debugger wants, and Python's own flags ask for, would be six times as large as the code.
    extra_compile_args=["/O2", "/std:c11"]
    if MSVC
    else ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-g0"],
)


class SideBySide(build_ext):
    """Compiles the files of an extension on all CPUs."""

    def build_extensions(self):
        compile_all = self.compiler.compile

        def compile_each(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_all([source], **options), sources)
                return [file for files in objects for file in files]

        self.compiler.compile = compile_each
        super().build_extensions()


class WithSources(build_py):
    """Puts the sources of the core into the package, for fastdrop.get_include(); in a checkout they stand beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_tree("csrc", f"{self.build_lib}/fastdrop/csrc")


extensions = [] if os.environ.get("FASTDROP_NO_EXTENSION") == "1" else cythonize([core], language_level=3)
try:
    from jax.ffi import include_dir
except ImportError:  # then "python -m fastdrop build-jax" does it, once JAX is there
    include_dir = None
if extensions and include_dir is not None:
    of_jax = Extension("fastdrop.jax._ffi", ["csrc/clients/jax.c"], ["csrc", include_dir()])
    of_jax.depends, of_jax.extra_compile_args = core.depends, core.extra_compile_args
    # For MSVC, which would look for what Python calls, and Python does not call this.
    of_jax.export_symbols = [f"fastdrop_jax_{name}" for name in ("connect", "dropout", "interface")]
    extensions.append(of_jax)

setup(ext_modules=extensions, cmdclass={"build_ext": SideBySide, "build_py": WithSources})
