"""Coverage-guided fuzzing of a parser of `test_parsers.py`, or of each in turn; by hand, since it needs atheris.

    python tests/fuzz/coverage_guided.py SECONDS [NAME]

What it finds is printed with the bytes that did it; they belong into the parser's samples, with the mend.
"""

import importlib.util
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

HERE = Path(__file__).parent


def load() -> Any:
    """The table of parsers."""
    spec = importlib.util.spec_from_file_location("test_parsers", HERE / "test_parsers.py")
    assert spec is not None
    assert spec.loader is not None
    parsers = importlib.util.module_from_spec(spec)
    sys.modules["test_parsers"] = parsers
    spec.loader.exec_module(parsers)
    return parsers


def hunt(name: str, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    with atheris.instrument_imports(include=["edgehive"]):
        parsers = load()
    parser = parsers.PARSERS[name]
    findings = Path(tempfile.gettempdir(), "finding-")
    with tempfile.TemporaryDirectory() as corpus:
        for number, sample in enumerate(parser.samples):
            Path(corpus, str(number)).write_bytes(sample)
        flags = [f"-max_total_time={seconds}", "-max_len=4096", "-verbosity=0", "-timeout=10", "-rss_limit_mb=1024"]
        arguments = [name, *flags, f"-artifact_prefix={findings}", corpus]
        atheris.Setup(arguments, lambda data: parsers.demand(parser, data))
        atheris.Fuzz()


def main(seconds: int, chosen: list[str]) -> int:
    found = 0
    context = multiprocessing.get_context("spawn")
    for name in chosen or load().PARSERS:
        process = context.Process(target=hunt, args=(name, seconds))
        process.start()
        process.join()
        print(f"{name}: {'nothing found' if process.exitcode == 0 else f'ended with {process.exitcode}'}", flush=True)
        found += process.exitcode != 0
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
