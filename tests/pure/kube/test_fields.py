"""The facts table answers what the decoders and patches ask."""

from edgehive.kube import fields


def test_inlined_fields_are_found_by_name_and_stay_messages_by_number() -> None:
    volume = fields.type_named("k8s.io/api/core/v1.Volume")
    assert volume is not None
    assert "emptyDir" in volume.by_name
    assert volume.by_number[2].type == "k8s.io/api/core/v1.VolumeSource"


def test_merge_keys() -> None:
    spec = fields.type_named("k8s.io/api/core/v1.PodSpec")
    assert spec is not None
    assert spec.by_name["containers"].merge_key == "name"
    assert spec.by_name["containers"].merges
    assert spec.by_name["volumes"].retains_keys
    assert not spec.by_name["tolerations"].merges


def test_unknown_kinds_have_no_type() -> None:
    assert fields.type_of("devices.kubeedge.io/v1beta1", "Device") is None
    assert fields.type_of("v1", "Pod") is not None


def test_containers_are_split_one_layer_at_a_time() -> None:
    assert fields.container_of("map:items:string") == ("map", "items:string")
    assert fields.container_of("[]*int32") == ("list", "int32")
    assert fields.container_of("*bool") == ("", "bool")
