"""Devices out of YAML files: the Device and DeviceModel objects that `kubectl apply` takes, in one file.

What is wrong is said in one sentence with the file, the object and the field; a name that is misspelt is told with the
one that was meant.
"""

import difflib
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
import yaml

from edgehive.api import devices as api
from edgehive.mapper.definition import Definition, definition_of

GROUP = "devices.kubeedge.io"
SIZE_LIMIT = 4 * 1024 * 1024
_KINDS: dict[str, type[msgspec.Struct]] = {"Device": api.Device, "DeviceModel": api.DeviceModel}


class BadFile(Exception):
    """The text says what is wrong and where."""


def read(path: Path, protocol: str = "") -> list[Definition]:
    """The devices of a file, of one protocol if it is named; raises BadFile."""
    devices, models = list[api.Device](), dict[tuple[str, str], api.DeviceModel]()
    for written in _documents(path):
        item = _object(path, written)
        if isinstance(item, api.DeviceModel):
            models[item.metadata.namespace or "default", item.metadata.name] = item
        elif isinstance(item, api.Device):
            devices.append(item)
    if not devices:
        raise BadFile(f"{path} has no Device; it needs one object of kind Device and one of kind DeviceModel")
    return [_definition(path, device, models, protocol) for device in devices]


def _documents(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise BadFile(f"{path} is larger than {SIZE_LIMIT} bytes")
        return [item for item in yaml.safe_load_all(path.read_text()) if item is not None]
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadFile(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise BadFile(f"{path}{where} is not YAML: {getattr(error, 'problem', None) or error}") from None


def _object(path: Path, written: Any) -> object:
    if not isinstance(written, dict):
        raise BadFile(f"{path} holds {type(written).__name__} where an object with kind: Device is expected")
    kind, version = str(written.get("kind", "")), str(written.get("apiVersion", ""))
    if kind not in _KINDS:
        raise BadFile(f"{path} holds kind {kind!r}; known are Device and DeviceModel{_meant(kind, _KINDS)}")
    if version != f"{GROUP}/v1beta1":
        raise BadFile(f"{path}: {kind} has apiVersion {version!r}; write {GROUP}/v1beta1")
    content = {key: item for key, item in written.items() if key not in ("apiVersion", "kind")}
    name = content["metadata"].get("name", "") if isinstance(content.get("metadata"), dict) else ""
    if not name:
        raise BadFile(f"{path}: a {kind} has no metadata.name")
    where = f"{path}: {kind} {name!r}"
    for part in ("spec", "status"):
        _check_names(where, part, content.get(part), _KINDS[kind])
    try:
        return msgspec.convert(content, _KINDS[kind])
    except msgspec.ValidationError as error:
        raise BadFile(f"{where}: {error}") from None


def _definition(
    path: Path, device: api.Device, models: dict[tuple[str, str], api.DeviceModel], protocol: str
) -> Definition:
    meta, wanted = device.metadata, device.spec.model_name
    model = models.get((meta.namespace or "default", wanted))
    if model is None:
        known = ", ".join(name for _, name in models) or "none"
        raise BadFile(
            f"{path}: Device {meta.name!r} refers to DeviceModel {wanted!r}, which is not in the file; it has: {known}"
        )
    found = definition_of(device, model)
    if protocol and found.protocol != protocol:
        raise BadFile(f"{path}: Device {meta.name!r} speaks {found.protocol!r} and the driver is for {protocol!r}")
    if found.faults:
        raise BadFile(f"{path}: Device {meta.name!r}: {found.faults[0]}")
    return found


# Names


def _check_names(where: str, field: str, written: Any, parent: type[msgspec.Struct]) -> None:
    """Raise at the first field that no lens knows; free-form parts are not looked into."""
    names = {item.encode_name: item.type for item in msgspec.structs.fields(parent)}
    type = _struct_in(names.get(field))
    if type is None or written is None:
        return
    for entry in written if isinstance(written, list) else [written]:
        if not isinstance(entry, dict):
            continue
        known = [item.encode_name for item in msgspec.structs.fields(type)]
        for name, inner in entry.items():
            if name not in known:
                label = f" of {entry['name']!r}" if isinstance(entry.get("name"), str) else ""
                raise BadFile(f"{where}: {field}{label} has no field {name!r}{_meant(str(name), known)}")
            _check_names(where, str(name), inner, type)


def _struct_in(type: Any) -> type[msgspec.Struct] | None:
    """The lens in `X`, `X | None` or `list[X] | None`."""
    if isinstance(type, types.UnionType) or typing.get_origin(type) in (typing.Union, list):
        return next((found for item in typing.get_args(type) if (found := _struct_in(item)) is not None), None)
    return type if isinstance(type, msgspec.StructMeta) else None  # type: ignore[return-value]


def _meant(name: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
