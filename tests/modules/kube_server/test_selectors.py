"""Label and field selectors as clients write them."""

import pytest

from edgehive.kube.selectors import SelectorError, field_value, labels_from_object, parse_fields, parse_labels


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b,c!=d", {"a": "b"}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a notin (x,y)", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a=", {"a": ""}, True),
        ("n>5", {"n": "6"}, True),
        ("n<5", {"n": "6"}, False),
        ("node-role.kubernetes.io/edge=", {"node-role.kubernetes.io/edge": ""}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], selected: bool) -> None:
    assert parse_labels(selector).matches(labels) is selected


@pytest.mark.parametrize("text", ["a===", "a=b=c", "a in b", "a in (b", ",", "a,", "-a=b", "a=b!", "n>x"])
def test_unreadable_label_selectors_say_so(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_labels(text)


def test_selector_objects() -> None:
    selector = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}
    found = labels_from_object(selector)
    assert found is not None
    assert found.matches({"a": "b"})
    assert not found.matches({"a": "b", "c": ""})
    assert labels_from_object(None) is None
    everything = labels_from_object({})
    assert everything is not None
    assert everything.matches({})


def test_field_selectors() -> None:
    pod = {"spec": {"nodeName": "n", "hostNetwork": True}, "status": {"podIPs": [{"ip": "1"}, {"ip": "2"}]}}

    def selected(text: str) -> bool:
        return parse_fields(text).matches(lambda path: field_value(pod, path))

    assert selected("spec.nodeName=n,status.phase!=Failed")
    assert selected("spec.host=n,spec.hostNetwork=true")
    assert selected("status.podIPs=1\\,2")
    assert not selected("spec.nodeName!=n")
    with pytest.raises(SelectorError):
        parse_fields("nothing")
