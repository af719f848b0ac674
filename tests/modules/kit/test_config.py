"""Configuration errors are one sentence with the place and the mend."""

import logging
from pathlib import Path

import msgspec
import pytest

from edgehive.kit.config import ConfigError, dump, load, parse


class Hub(msgspec.Struct, rename="camel", frozen=True):
    keepalive_interval: int = 30
    node_limit: int = 500


class Config(msgspec.Struct, rename="camel", frozen=True):
    name: str = "x"
    hub: Hub = msgspec.field(default_factory=Hub)


def test_what_is_dumped_loads_again() -> None:
    assert parse(dump(Config(name="y")), Config) == Config(name="y")


def test_an_empty_file_and_empty_keys_mean_the_defaults() -> None:
    assert parse("", Config) == Config()
    assert parse("hub:\nname:\n", Config) == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hub: {nodeLimit: many}", "hub.nodeLimit: Expected int, got str"),
        ("hub: [1", r"is not valid YAML: .*\(line 2, column 1\)"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\n"
            + "".join(
                f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("bcdefghij", "cdefghijk", strict=True)
            ),
            "its aliases unfold to more than",
        ),
        ("a: &a [*a]", "its aliases unfold to more than"),
        ("- a", "must be a mapping of keys to values, not a list"),
    ],
)
def test_wrong_input_is_refused_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text, Config)


def test_an_unknown_key_warns_with_the_nearest_known(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse("hub: {nodelimit: 3}", Config)
    assert "unknown key 'hub.nodelimit' is ignored; did you mean 'nodeLimit'?" in caplog.text


def test_a_missing_file_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name an existing file with --config"):
        load(tmp_path / "none.yaml", Config)
