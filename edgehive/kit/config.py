"""YAML configuration into frozen Structs and back.

`load` refuses what is wrong with one sentence that names file, key and mend; an unknown key is a warning that
names the nearest known one (a newer or older program may know it). `dump` prints defaults for people to edit.
"""

import difflib
import logging
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from edgehive.kit.json_depth import MAX_DEPTH

T = TypeVar("T")
log = logging.getLogger("edgehive.config")

#: A configuration larger than this is no configuration.
MAX_SIZE = 1024 * 1024
#: YAML aliases let a small text stand for an endless one; no document of ours unfolds to more values than this.
MAX_NODES = 1_000_000


class ConfigError(ValueError):
    """The configuration cannot be used; the text says what to change."""


def load(path: Path, type: type[T]) -> T:
    """Read, check and decode a file. Raises ConfigError; logs a warning for each unknown key."""
    try:
        if path.stat().st_size > MAX_SIZE:
            raise ConfigError(f"{path} is larger than {MAX_SIZE} bytes; this is not a configuration file")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; name an existing file with --config") from None
    return parse(text, type, origin=str(path))


def parse(text: str, type: type[T], *, origin: str = "the configuration") -> T:
    """`load` for text already read."""
    try:
        data = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {_one_line(error)}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{origin} must be a mapping of keys to values, not {_name(data)}")
    for warning in unknown_keys(data, type):
        log.warning("%s: %s", origin, warning)
    try:
        return msgspec.convert(_without_nulls(data), type)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {_readable(error, type)}") from None


def parse_yaml(text: str | bytes) -> Any:
    """One YAML document as plain data, by libyaml where it is built in; raises yaml.YAMLError."""
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _demand_shallow(text, kind)
    loader = kind(text)
    try:
        data = loader.get_single_data()
        if _expanded(data, {}) > MAX_NODES:
            raise yaml.YAMLError(f"its aliases unfold to more than {MAX_NODES} values")
    except RecursionError:
        raise yaml.YAMLError("its aliases make it nest too deeply") from None
    except (ValueError, OverflowError) as error:  # a date or number that looks like one and is none
        raise yaml.YAMLError(f"it holds a value that cannot be read: {error}") from None
    finally:
        loader.dispose()
    return data


def _demand_shallow(text: str | bytes, loader: Any) -> None:
    """Reading descends, and libyaml has the C stack for it, whose end is the end of the process; events do not."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} levels deep")


def _expanded(data: Any, known: dict[int, int]) -> int:
    """How many values the data holds once every alias is written out; each shared part is counted once only."""
    if not isinstance(data, dict | list):
        return 1
    if id(data) not in known:
        known[id(data)] = MAX_NODES + 1  # a part that contains itself never ends
        parts = data.values() if isinstance(data, dict) else data
        known[id(data)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(data)]


def unknown_keys(data: Any, type: Any, path: str = "") -> list[str]:
    """One sentence for each key the type does not know, with the nearest it does."""
    struct = _struct_of(type)
    if struct is None or not isinstance(data, dict):
        return []
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    found: list[str] = []
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key in fields:
            found += unknown_keys(value, fields[key], where)
            continue
        near = difflib.get_close_matches(str(key), fields, n=1)
        found.append(f"unknown key {where!r} is ignored" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def dump(config: msgspec.Struct) -> str:
    """The configuration as YAML, in the order of the fields."""
    builtins = msgspec.to_builtins(config)
    text: str = yaml.safe_dump(builtins, sort_keys=False, default_flow_style=False)
    return text


def _struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)


def _without_nulls(data: Any) -> Any:
    """`key:` with nothing behind it means the default, as it does for the Go loaders."""
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    return data


def _readable(error: msgspec.ValidationError, type: Any) -> str:
    """`Expected `int`, got `str` - at `$.a.b`` as `a.b: Expected int, got str`."""
    text, _, where = str(error).partition(" - at ")
    place = where.strip("`").removeprefix("$").removeprefix(".")
    text = text.replace("`", "")
    if text.startswith("Invalid enum value") and (allowed := _allowed(type, place)):
        text += f"; write {' or '.join(map(repr, allowed))}"
    return f"{place}: {text}" if place else text


def _allowed(annotation: Any, place: str) -> tuple[Any, ...]:
    """The values of the Literal at this place of a type."""
    for key in place.replace("[...]", "").split("."):
        struct = _struct_of(annotation)
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)} if struct else {}
        if key not in fields:
            return ()
        annotation = fields[key]
    return next((get_args(item) for item in (annotation, *get_args(annotation)) if get_origin(item) is Literal), ())


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem


def _name(value: Any) -> str:
    return {list: "a list", str: "a text", int: "a number"}.get(type(value), type(value).__name__)
