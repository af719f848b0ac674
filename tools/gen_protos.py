"""Generate `edgehive/protos/*_pb2.py` and `.pyi` from the .proto files beside this script.

For maintainers, after a change of a .proto file: `python tools/gen_protos.py`; `--check` only compares and
fails when the checked-in code is stale. Never run at build or install time: the generated code is checked in.
"""

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).parent / "protos"
TARGET = Path(__file__).parent.parent / "edgehive" / "protos"
#: Where the sources appear to live: it makes generated modules import each other from the package.
VIRTUAL = "edgehive/protos"


def generate(into: Path) -> Path:
    """Run the compiler on every source; returns the folder the generated files are in."""
    names = [f"{VIRTUAL}/{source.name}" for source in sorted(SOURCES.glob("*.proto"))]
    well_known = files("grpc_tools") / "_proto"
    code = protoc.main([
        "protoc", f"-I{VIRTUAL}={SOURCES}", f"-I{well_known}", f"--python_out={into}", f"--pyi_out={into}", *names
    ])  # fmt: skip
    if code:
        raise SystemExit(code)
    return into / VIRTUAL


def stale(fresh: Path) -> list[str]:
    """Names of generated files that differ from, or are missing in, the checked-in ones, and of left-overs."""
    made = {path.name: path.read_bytes() for path in fresh.iterdir()}
    kept = {path.name: path.read_bytes() for path in TARGET.glob("*_pb2.py*")}
    return sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; fail when something is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        names = stale(fresh)
        if check:
            if names:
                print(f"stale: {', '.join(names)}; run python tools/gen_protos.py", file=sys.stderr)
            return 1 if names else 0
        for name in names:
            source = fresh / name
            if source.exists():
                (TARGET / name).write_bytes(source.read_bytes())
            else:
                (TARGET / name).unlink()
            print(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
