"""The three patch languages of Kubernetes on plain JSON values, both ways: apply a patch, and make one.

For the API server (apply) and for whoever reports changes (make). Pure: inputs are never changed, nothing
is validated beyond the patch itself. Strategic merge patch is told merge keys by `kube.fields`.
Go: apimachinery/pkg/util/strategicpatch/patch.go
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from edgehive.api.meta import StatusDetails
from edgehive.kube import fields
from edgehive.kube.errors import BadRequest, Invalid, RequestTooLarge, UnsupportedMediaType
from edgehive.kube.fields import Field, TypeInfo

MAX_JSON_PATCH_OPERATIONS: Final = 10_000
#: `copy` operations may not multiply a document beyond what a request body may hold.
MAX_JSON_PATCH_COPIED_BYTES: Final = 3 * 1024 * 1024

_DIRECTIVE: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_ORDER: Final = "$setElementOrder/"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"

#: Values of JSON that need no copy.
_UNCHANGING: Final = (str, int, float, bool, type(None))

JsonObject = dict[str, Any]


# ---------------------------------------------------------------- JSON patch (RFC 6902)


def apply_json(original: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> JsonObject:
    """Apply RFC 6902 operations; a failed test or a pointer that leads nowhere is `Invalid`."""
    import jsonpatch  # a heavy import few processes need

    _check_operations(operations)
    document: Any = _copied(dict(original))
    copied = 0
    try:
        for operation in operations:
            copied += _copied_bytes(document, operation)
            if copied > MAX_JSON_PATCH_COPIED_BYTES:
                raise RequestTooLarge(
                    f"The copy operations of a JSON patch may add at most {MAX_JSON_PATCH_COPIED_BYTES} bytes"
                )
            document = jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, KeyError, IndexError, TypeError) as error:
        raise _unprocessable() from error
    if not isinstance(document, dict):
        raise _unprocessable()
    return document


def _check_operations(operations: Sequence[Mapping[str, Any]]) -> None:
    if not isinstance(operations, list | tuple) or not all(isinstance(item, Mapping) for item in operations):
        raise BadRequest("error decoding patch: a JSON patch must be a list of operations")
    if len(operations) > MAX_JSON_PATCH_OPERATIONS:
        raise RequestTooLarge(
            f"The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {len(operations)}"
        )


def _copied_bytes(document: Any, operation: Mapping[str, Any]) -> int:
    if operation.get("op") != "copy":
        return 0
    import jsonpointer

    source = jsonpointer.resolve_pointer(document, str(operation.get("from")))
    return len(msgspec.json.encode(source))


def _unprocessable() -> Invalid:
    """The text a Kubernetes API server gives for a patch it understood but could not apply."""
    return Invalid("the server rejected our request due to an error in our request", details=StatusDetails())


# ---------------------------------------------------------------- merge patch (RFC 7386)


def _copied(value: Any) -> Any:
    """A copy of JSON that shares nothing that can be changed; `copy.deepcopy` takes five times as long for it."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value if isinstance(value, _UNCHANGING) else copy.deepcopy(value)


def apply_merge(original: Mapping[str, Any], patch: Mapping[str, Any]) -> JsonObject:
    """Apply an RFC 7386 merge patch; null removes."""
    merged = _merge(_copied(dict(original)), _copied(dict(patch)))
    return merged


def _merge(target: JsonObject, patch: JsonObject) -> JsonObject:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            below = target.get(key)
            target[key] = _merge(below if isinstance(below, dict) else {}, value)
        else:
            target[key] = value
    return target


def create_merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> JsonObject:
    """The merge patch that turns `old` into `new`."""
    patch: JsonObject = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value and type(before) is type(value):
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            patch[key] = create_merge_patch(before, value)
        else:
            patch[key] = _copied(value)
    return patch


# ---------------------------------------------------------------- strategic merge patch


def apply_strategic(original: Mapping[str, Any], patch: Mapping[str, Any], api_version: str, kind: str) -> JsonObject:
    """Apply a strategic merge patch to an object of a built-in kind."""
    schema = fields.type_of(api_version, kind)
    if schema is None:
        raise UnsupportedMediaType(
            f"strategic merge patch is not supported for {kind} in {api_version}; use application/merge-patch+json"
        )
    return _merge_map(_copied(dict(original)), _copied(dict(patch)), schema)


def _merge_map(original: JsonObject, patch: JsonObject, schema: TypeInfo | None) -> JsonObject:
    directive = patch.pop(_DIRECTIVE, None)
    if directive == "replace":
        return {key: _without_directives(value) for key, value in patch.items() if value is not None}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadRequest(f"unknown $patch directive {directive!r}: use replace, delete or merge")
    _retain_keys(original, patch)
    for key in [key for key in patch if key.startswith(_DELETE_PRIMITIVES)]:
        _delete_primitives(original, key.removeprefix(_DELETE_PRIMITIVES), patch.pop(key))
    for key in [key for key in patch if key.startswith(_ORDER)]:
        _merge_ordered(original, patch, key, schema)
    for key, value in patch.items():
        if value is None:
            original.pop(key, None)
        else:
            original[key] = _merge_value(original.get(key), value, _field(schema, key))
    return original


def _merge_value(before: Any, value: Any, field: Field | None) -> Any:
    strategy_replaces = field is not None and "replace" in field.strategies.split(",")
    if isinstance(value, dict) and isinstance(before, dict) and not strategy_replaces:
        return _merge_map(before, value, _below(field))
    if isinstance(value, list) and isinstance(before, list) and field is not None and field.merges:
        return _merge_list(before, value, field)
    return _without_directives(value)


def _retain_keys(original: JsonObject, patch: JsonObject) -> None:
    if _RETAIN_KEYS not in patch:
        return
    retained = patch.pop(_RETAIN_KEYS)
    if not isinstance(retained, list) or any(key not in retained for key, value in patch.items() if value is not None):
        raise BadRequest("invalid $retainKeys: it must be a list that names every key of the patch")
    for key in [key for key in original if key not in retained]:
        del original[key]


def _delete_primitives(original: JsonObject, name: str, doomed: Any) -> None:
    if not isinstance(doomed, list):
        raise BadRequest(f"{_DELETE_PRIMITIVES}{name} must be a list")
    if isinstance(original.get(name), list):
        original[name] = [item for item in original[name] if item not in doomed]


def _merge_ordered(original: JsonObject, patch: JsonObject, key: str, schema: TypeInfo | None) -> None:
    """Merge the list a `$setElementOrder/NAME` speaks of, then put it in that order."""
    name, order = key.removeprefix(_ORDER), patch.pop(key)
    field = _field(schema, name)
    before, change = original.get(name), patch.get(name)
    if not isinstance(order, list) or field is None or (name in patch and not isinstance(change, list)):
        if name in patch and change is None:
            return
        raise BadRequest(f"{key} must be a list that belongs to a list field")
    if not isinstance(before, list) and change is None:
        return
    patch.pop(name, None)
    merged = _merge_value(before, change, field) if change is not None else list(before or ())
    original[name] = _in_order(merged, order, before if isinstance(before, list) else [], _identity(field))


def _merge_list(original: list[Any], patch: list[Any], field: Field) -> list[Any]:
    if not field.merge_key or not _is_map_list([*original, *patch]):
        merged = _unique([*original, *patch])
        return _in_order(merged, patch, original, _primitive_identity)
    identity = _identity(field)
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [_without_directives(item) for item in patch if item.get(_DIRECTIVE) != "replace"]
    merged, kept = list(original), []
    for item in patch:
        if item.get(_DIRECTIVE) == "delete":
            merged = [other for other in merged if identity(other) != identity(item)]
        else:
            kept.append(item)
            _merge_item(merged, item, field, identity)
    return _in_order(merged, kept, original, identity)


def _merge_item(merged: list[Any], item: JsonObject, field: Field, identity: Callable[[Any], Any]) -> None:
    wanted = identity(item)
    for index, other in enumerate(merged):
        if identity(other) == wanted:
            merged[index] = _merge_map(other, dict(item), _below(field))
            return
    merged.append(_without_directives(item))


def _in_order(merged: list[Any], wanted: list[Any], server: list[Any], identity: Callable[[Any], Any]) -> list[Any]:
    """Items the patch names stand in the patch's order; the server's own stay in front of those they preceded."""
    place = {_hashable(identity(item)): index for index, item in reversed(list(enumerate(wanted)))}
    rank = {_hashable(identity(item)): index for index, item in reversed(list(enumerate(server)))}
    named = [item for item in merged if _hashable(identity(item)) in place]
    own = [item for item in merged if _hashable(identity(item)) not in place]
    named.sort(key=lambda item: place[_hashable(identity(item))])
    own.sort(key=lambda item: rank.get(_hashable(identity(item)), len(rank)))
    result: list[Any] = []
    for item in named:
        at = rank.get(_hashable(identity(item)))
        while own and at is not None and rank.get(_hashable(identity(own[0])), len(rank)) < at:
            result.append(own.pop(0))
        result.append(item)
    return result + own


def _without_directives(value: Any) -> Any:
    """A patch value that meets nothing to merge with: nulls and directives drop out."""
    if isinstance(value, dict):
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None and not key.startswith(("$patch", "$retainKeys", _ORDER, _DELETE_PRIMITIVES))
        }
    if isinstance(value, list):
        return [
            _without_directives(item)
            for item in value
            if not (isinstance(item, dict) and item.get(_DIRECTIVE) in ("delete", "replace"))
        ]
    return value


# ---------------------------------------------------------------- making strategic patches


def create_strategic_patch(old: Mapping[str, Any], new: Mapping[str, Any], api_version: str, kind: str) -> JsonObject:
    """The strategic merge patch that turns `old` into `new`; a merge patch for kinds without merge keys."""
    return _diff_map(old, new, fields.type_of(api_version, kind))


def _diff_map(old: Mapping[str, Any], new: Mapping[str, Any], schema: TypeInfo | None) -> JsonObject:
    patch: JsonObject = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = _copied(value)
        elif old[key] != value or type(old[key]) is not type(value):
            patch |= _diff_value(key, old[key], value, _field(schema, key))
    return patch


def _diff_value(key: str, old: Any, new: Any, field: Field | None) -> JsonObject:
    if isinstance(old, dict) and isinstance(new, dict) and not (field and field.strategies == "replace"):
        below = _diff_map(old, new, _below(field))
        if field and field.retains_keys:
            below[_RETAIN_KEYS] = sorted(new)
        return {key: below}
    if isinstance(old, list) and isinstance(new, list) and field is not None and field.merges:
        return _diff_list(key, old, new, field)
    return {key: _copied(new)}


def _diff_list(key: str, old: list[Any], new: list[Any], field: Field) -> JsonObject:
    if not field.merge_key:
        return _diff_primitives(key, old, new)
    if not _has_unique_keys(old, field.merge_key) or not _has_unique_keys(new, field.merge_key):
        return {key: [*_copied(new), {_DIRECTIVE: "replace"}]}
    merge_key, schema = field.merge_key, _below(field)
    before = {_hashable(item[merge_key]): item for item in old}
    after = {_hashable(item[merge_key]) for item in new}
    changes: list[Any] = []
    for item in new:
        previous = before.get(_hashable(item[merge_key]))
        if previous is None:
            changes.append(_copied(item))
        elif previous != item:
            change = _diff_map(previous, item, schema) | {merge_key: item[merge_key]}
            changes.append(change | ({_RETAIN_KEYS: sorted(item)} if field.retains_keys else {}))
    changes += [
        {_DIRECTIVE: "delete", merge_key: item[merge_key]} for item in old if _hashable(item[merge_key]) not in after
    ]
    patch: JsonObject = {_ORDER + key: [{merge_key: item[merge_key]} for item in new]}
    return patch | ({key: changes} if changes else {})


def _diff_primitives(key: str, old: list[Any], new: list[Any]) -> JsonObject:
    added, gone = [item for item in new if item not in old], [item for item in old if item not in new]
    patch: JsonObject = {_ORDER + key: list(new)}
    if gone:
        patch[_DELETE_PRIMITIVES + key] = gone
    if added:
        patch[key] = added
    return patch


# ---------------------------------------------------------------- small judgements


def _field(schema: TypeInfo | None, key: str) -> Field | None:
    return schema.by_name.get(key) if schema else None


def _below(field: Field | None) -> TypeInfo | None:
    if field is None:
        return None
    container, inner = fields.container_of(field.type)
    return None if container == "map" or inner in fields.SPECIAL else fields.type_named(inner)


def _identity(field: Field) -> Callable[[Any], Any]:
    if not field.merge_key:
        return _primitive_identity

    def by_merge_key(item: Any) -> Any:
        if not isinstance(item, dict) or field.merge_key not in item:
            raise BadRequest(f"map: {item} does not contain declared merge key: {field.merge_key}")
        return item[field.merge_key]

    return by_merge_key


def _primitive_identity(item: Any) -> Any:
    return item


def _is_map_list(items: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in items)


def _has_unique_keys(items: list[Any], merge_key: str) -> bool:
    keys = [_hashable(item[merge_key]) for item in items if isinstance(item, dict) and merge_key in item]
    return len(keys) == len(items) == len(set(keys))


def _unique(items: Iterable[Any]) -> list[Any]:
    return list({_hashable(item): item for item in reversed(list(items))}.values())[::-1]


def _hashable(value: Any) -> Any:
    return msgspec.json.encode(value, order="sorted") if isinstance(value, dict | list) else (type(value), value)
