"""`python -m edgehive.testing.pair SEED [SEED …]`: replay schedules, or `FIRST-LAST`: try a whole range.

python -m edgehive.testing.pair 4711          # what went wrong, and the story of the objects concerned
python -m edgehive.testing.pair --all 4711    # the story of everything, also when nothing went wrong
python -m edgehive.testing.pair 0-1999        # a line for each schedule that broke
"""

import os
import sys

import click


@click.command()
@click.option("--all", "tell_all", is_flag=True, help="Tell of every object, not only of those concerned.")
@click.argument("seeds", nargs=-1, required=True)
def main(seeds: tuple[str, ...], tell_all: bool) -> None:
    """Perform simulated schedules; exit 1 when one broke."""
    _same_order_everywhere()
    from edgehive.testing.pair.simulation import Broken, simulate

    broken = 0
    numbers = [number for text in seeds for number in _range(text)]
    for seed in numbers:
        try:
            story = simulate(seed, tell_all=tell_all)
        except Broken as error:
            broken += 1
            click.echo(str(error) if len(numbers) == 1 or tell_all else error.summary)
        else:
            if len(numbers) == 1:
                click.echo(f"{story}\nseed {seed}: all is as it must be")
    if len(numbers) > 1:
        click.echo(f"{len(numbers)} schedules, {broken} broken")
    sys.exit(1 if broken else 0)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or (last and not last.isdecimal()):
        raise click.BadParameter(f"{text!r} is no number and no range such as 0-1999")
    return range(int(first), int(last or first) + 1)


def _same_order_everywhere() -> None:
    """Sets of texts are gone through in the order of their hashes, which differ in every process unless told not to."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "edgehive.testing.pair", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
