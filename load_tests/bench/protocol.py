"""`python -m load_tests.bench.protocol`: does the protocol class of `service/transport/` pay?

The bare server takes turns with itself under uvicorn's own protocol class, over 64 connections. The figure is CPU time
a request, which other programs on the machine disturb least; the verdict is the median of the rounds' ratios.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from load_tests.bench.load import check_tools
from load_tests.bench.results import BATCHED
from load_tests.bench.rig import Rig
from load_tests.bench.scenarios import digits
from load_tests.subjects import BARE, UVICORN
from training.data.download import DataError


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print CPU time a request of both, and what the own class saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2, help="of a measurement")
    options = parser.parse_args(arguments)
    check_tools()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        rig = Rig.on_this_machine(options.seconds, Path(directory))
        try:
            pictures = digits()
        except DataError as error:
            raise SystemExit(str(error)) from error
        ours, theirs = (stack.enter_context(rig.trying(subject, pictures)) for subject in (BARE, UVICORN))
        rounds = [(ours.load(BATCHED).cpu_us, theirs.load(BATCHED).cpu_us) for _ in range(options.rounds)]
    for title, figures in zip((BARE.title, UVICORN.title), zip(*rounds, strict=True), strict=True):
        print(f"{median(figures):7.1f} us a request, least {min(figures):.1f}: {title}")
    ratio = median(own / other for own, other in rounds)
    print(f"the own class takes {1 - ratio:.1%} less CPU a request, {median(b - a for a, b in rounds):.1f} us")


if __name__ == "__main__":
    main()
