"""`python deploy/trim.py SITE_PACKAGES`: takes out of an installed environment what serving never runs, a third of it.

The image is built with this; it needs binutils. OpenCV's wheel brings FFmpeg, with an OpenSSL that gets no more fixes,
and a second OpenBLAS. Only its video and its linear algebra call them, but it does not load without them. So libraries
take their places that have the names of the functions and nothing else: who calls one, crashes. Building the image
loads OpenCV, and its test reads pictures, so that a release which needs more is noticed.
"""

import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

UNUSED = (
    "numpy/**/tests",
    "onnxruntime/capi/libonnxruntime.so.*",  # for programs in C: Python's module has all of it inside
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "pygments/lexers/[a-oq-z]*",  # rich highlights Python at most
    # What only the libraries below ask for.
    *(f"opencv_python_headless.libs/lib{name}*" for name in ("crypto", "ssl", "vpx", "drm", "swresample")),
    *(f"opencv_python_headless.libs/lib{name}*" for name in ("gfortran", "quadmath")),
)
WITH_DEBUG_SYMBOLS = ("aiohttp", "httptools", "multidict", "uvloop", "yaml")
OPENCV = "cv2/cv2.abi3.so"
HOLLOWED = tuple(
    f"opencv_python_headless.libs/lib{name}*" for name in ("openblas", "avcodec", "avformat", "avutil", "swscale")
)


def main(packages: Path) -> None:
    """Trims the environment whose site-packages are `packages`.

    Raises:
        FileNotFoundError: one of the parts is not there: another release is installed, which has to be looked at.
    """
    wanted = _symbols(packages / OPENCV, "--undefined-only")
    for pattern in HOLLOWED:
        [library] = _found(packages, pattern)
        _hollow(library, wanted & _symbols(library, "--defined-only"))
    for pattern in UNUSED:
        for path in _found(packages, pattern):
            subprocess.run(["rm", "-r", path], check=True)
    for package in WITH_DEBUG_SYMBOLS:
        for module in _found(packages, f"{package}/**/*.so"):
            subprocess.run(["strip", "--strip-unneeded", module], check=True)


def _found(packages: Path, pattern: str) -> list[Path]:
    if not (paths := sorted(packages.glob(pattern))):
        raise FileNotFoundError(packages / pattern)
    return paths


def _symbols(library: Path, which: str) -> frozenset[str]:
    """Names with their versions: `av_free@LIBAVUTIL_60`."""
    listed = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout
    return frozenset(line.split()[-1].replace("@@", "@") for line in listed.splitlines())


def _hollow(library: Path, symbols: frozenset[str]) -> None:
    """Replaces a library by one of the same name that has these symbols, all of them nowhere."""
    versions = defaultdict(list)
    for symbol in symbols:
        name, _, version = symbol.partition("@")
        versions[version].append(name)
    with tempfile.TemporaryDirectory() as folder:
        source, made, nodes = (Path(folder, name) for name in ("names.s", "names.o", "versions"))
        names = [name for names in versions.values() for name in names]
        source.write_text("".join(f".globl {name}\n.set {name}, 0\n" for name in names))
        nodes.write_text("".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in versions.items()))
        subprocess.run(["as", source, "-o", made], check=True)
        subprocess.run(
            ["ld", "-shared", "-soname", library.name, "--version-script", nodes, "-o", library, made], check=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
