"""String formats of custom resources, as a Kubernetes API server judges them."""

import pytest

from edgehive.kube.server.crd_validation import unknown_formats
from edgehive.kube.server.formats import fits, is_known
from edgehive.kube.server.schema import validate

#: Format, what fits it, what does not; recorded from an API server.
CASES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("bsonobjectid", ("507F1f77bcf86cd799439011",), ("507f", "", "zz7f1f77bcf86cd799439011")),
    ("uri", ("http://a.b/c?d#e", "/x/y", "mailto:a@b", "http://a/b c", "http://[::1]:80/", "a:b", "//h/p"),
     ("x", "http://a b/", "http://a:x/", "http://%zz", "", "http://a/%zz", "1a:b")),
    ("email", ("a@b", "Bob <a@b>", '"x y"@z'), ("a", "a b@c", "@b", "a@", "", "a@b@c")),
    ("hostname", ("a", "a-b", "a.bc", "foo.com", "1a.com"), ("my-host", "a.b", "foo.com.", "-a.com", "a_b.com", "")),
    ("ipv4", ("1.2.3.4", "01.2.3.04", "::ffff:1.2.3.4"), ("::1", "1.2.3", "256.1.1.1", "", "1.2.3.4 ")),
    ("ipv6", ("::1", "::ffff:1.2.3.4"), ("fe80::1%eth0", "1.2.3.4", "g::", "")),
    ("cidr", ("10.0.0.0/8", "10.0.0.1/08", "::/0", "010.0.0.0/8"), ("10.0.0.0", "10.0.0.0/33", "10.0.0.0/255.0.0.0")),
    ("mac", ("00:11:22:33:44:55", "00-11-22-33-44-55", "0011.2233.4455", "00:11:22:33:44:55:66:77"),
     ("00:11:22:33:44", "0:1:2:3:4:5", "")),
    ("uuid", ("507f1f77-BCF8-6cd7-9943-9011aaaabbbb", "507f1f77bcf86cd799439011aaaabbbb"), ("x", "")),
    ("uuid3", ("507f1f77-bcf8-3cd7-9943-9011aaaabbbb",), ("507f1f77-bcf8-4cd7-9943-9011aaaabbbb",)),
    ("uuid4", ("507f1f77-bcf8-4cd7-9943-9011aaaabbbb",), ("507f1f77-bcf8-4cd7-7943-9011aaaabbbb",)),
    ("uuid5", ("507f1f77-bcf8-5CD7-9943-9011aaaabbbb",), ("507f1f77-bcf8-4cd7-9943-9011aaaabbbb",)),
    ("isbn", ("0321751043", "978-0321751041"), ("0321751044", "")),
    ("isbn10", ("0-321-75104-3", "080442957X"), ("978-0321751041", "080442957x")),
    ("isbn13", ("978 0321751041",), ("0321751043",)),
    ("creditcard", ("4111 1111 1111 1111", "375556917985515"), ("4111111111111112", "abc", "")),
    ("ssn", ("111-22-3333", "111 22 3333"), ("111223333", "1112-2-333", "")),
    ("hexcolor", ("#fff", "FFFFFF"), ("#ffff", "#ggg", "")),
    ("rgbcolor", ("rgb(255,255,255)", "rgb( 1 , 2 , 3 )"), ("rgb(256,1,1)", "rgb(01,1,1)")),
    ("byte", ("YWJj", "YWI=", "YQ=="), ("", "YWJ", "a b c", "YW-_", "YWJj\n")),
    ("password", ("", "x"), ()),
    ("date", ("2020-01-02",), ("2020-13-02", "20200102", "2020-1-2", "2020-W01-1", "")),
    ("duration", ("1h30m", "22 ns", "2 minutes", "0", "+1.5h", "3 days", "- 5 s", ".5s", "5 weeks ago", "P1D"),
     ("1", "abc", "1 fortnight", "")),
    ("date-time", ("2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20z", "2014-12-15T19:30:20+02:00"),
     ("2014-12-15 19:30:20Z", "2014-12-15T24:30:20Z", "2014-12-15T19:30:60Z", "2014-12-15T19:30Z", "2014-12-15")),
    ("odd", ("anything", ""), ()),
)  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), CASES, ids=[row[0] for row in CASES])
def test_what_fits_a_format(name: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    assert [value for value in good if not fits(name, value)] == []
    assert [value for value in bad if fits(name, value)] == []


def test_a_misfit_is_told_with_its_format() -> None:
    schema = {"type": "object", "properties": {"ip": {"type": "string", "format": "ipv4"}}}
    (cause,) = validate(schema, {"ip": "a"})
    assert (cause.field, cause.message) == ("ip", 'Invalid value: "a": ip in body must be of type ipv4: "a"')
    assert validate({"type": "object", "properties": {"n": {"type": "integer", "format": "ipv4"}}}, {"n": 1}) == []


def test_unknown_formats_are_named_once() -> None:
    odd = {"type": "string", "format": "odd"}
    schema = {"type": "object", "properties": {"a": odd, "b": {"type": "array", "items": odd},
                                               "c": {"type": "integer", "format": "int32"}}}  # fmt: skip
    crd = {"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}}
    assert unknown_formats(crd) == ['unrecognized format "odd"']
    assert is_known("float", "number")
    assert not is_known("int32", "number")
