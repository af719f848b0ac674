"""MQTT on a node with real brokers: EB1 to EB7 of the acceptance list."""

import asyncio
import sqlite3
import ssl
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from edgehive.api.config.broker_address import Address
from edgehive.api.config.edgecore import EventBusTls
from edgehive.edgecore.eventbus import broker, client
from edgehive.testing.mqtt import application, free_port, mosquitto


def external(port: int) -> dict[str, object]:
    return {"mqtt_mode": 2, "mqtt_server_external": f"tcp://127.0.0.1:{port}"}


def internal(port: int) -> dict[str, object]:
    return {"mqtt_mode": 0, "mqtt_server_internal": f"tcp://127.0.0.1:{port}"}


async def test_eb1_the_internal_broker_is_started_and_used(start, port):
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        app.publish("$hw/events/device/default/d/twin/get", '{"event_id":"g"}')
        message = await edge.next_of(edge.twin)
        assert (message.route.source, message.route.resource) == ("bus", "$hw/events/device/default/d/twin/get")
        assert message.content_bytes() == b'{"event_id":"g"}'
        await app.subscribe("answers/#")
        await edge.tell("publish", "answers/1", {"a": 1})
        assert (await app.hear())[:2] == ("answers/1", b'{"a":1}')


async def test_eb1_an_external_broker_is_used(start, tmp_path, port):
    with mosquitto(tmp_path / "b", port):
        async with start(**external(port)) as edge, application(port) as app:
            await edge.connected()
            for topic in ("SYS/dis/upload_records", "$hw/events/upload/abc", "golden/user/topic"):
                app.publish(topic, f"text of {topic}")
                message = await edge.next_of(edge.hub)
                route = message.route
                assert (route.source, route.group, route.operation, route.resource) == ("bus", "user", "upload", topic)
                assert message.read(str) == f"text of {topic}"


async def test_eb1_both_brokers_hear_and_are_heard(start, tmp_path, port):
    inner = free_port()
    with mosquitto(tmp_path / "b", port):
        settings = {**external(port), "mqtt_mode": 1, "mqtt_server_internal": f"tcp://127.0.0.1:{inner}"}
        async with start(**settings) as edge, application(port) as outside, application(inner) as inside:
            await edge.connected()
            for app in (outside, inside):
                app.publish("$hw/events/node/n/membership/get", "{}")
                await edge.next_of(edge.twin)
                await app.subscribe("t")
            await edge.tell("publish", "t", "both")
            assert (await outside.hear())[1] == (await inside.hear())[1] == b"both"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_eb2_quality_of_service_is_as_configured(start, port, qos):
    async with start(**internal(port), mqtt_qos=qos) as edge, application(port) as app:
        await edge.connected()
        await app.subscribe("t", qos=2)
        await edge.tell("publish", "t", "x")
        assert (await app.hear())[2] == qos


async def test_eb2_retained_values_are_there_for_who_comes_later(start, port):
    async with start(**internal(port), mqtt_retain=True) as edge:
        await edge.connected()
        async with application(port) as app:
            await app.subscribe("t")
            await edge.tell("publish", "t", "x")
            await app.hear()
        async with application(port) as app:
            await app.subscribe("t")
            assert (await app.hear())[1:] == (b"x", 0, True)


@pytest.mark.parametrize(
    ("operation", "resource", "content"),
    [
        ("publish", "a/+/b", "x"),
        ("publish", "", "x"),
        ("subscribe", "a/#/b", None),
        ("message", "", 5),
        ("message", "", {"message": {}}),
        ("message", "", {"message": {"topic": 5}}),
        ("nonsense", "x", None),
    ],
)
async def test_eb3_malformed_content_of_the_cloud_ends_nothing(start, port, operation, resource, content):
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        await edge.tell(operation, resource, content)
        await app.subscribe("t")
        await edge.tell("message", "", {"message": {"topic": "t", "a": 1}})
        assert (await app.hear())[:2] == ("t", b'{"topic":"t","a":1}')


async def test_eb4_after_a_loss_of_the_broker_everything_is_subscribed_again(start, tmp_path, port):
    async with start(**external(port)) as edge:
        for number in range(2):
            with mosquitto(tmp_path / "b", port):
                async with application(port) as app:
                    await edge.connected()
                    if number == 0:
                        await edge.tell("subscribe", "default/my/topic")
                    await until_heard(app, edge, "default/my/topic")
                    app.publish("$hw/events/node/n/membership/get", "{}")
                    await edge.next_of(edge.twin)
            async with asyncio.timeout(10):
                while edge.module._clients[0].connected.is_set():
                    await asyncio.sleep(0.01)


async def test_eb4_the_internal_broker_is_started_again_when_it_dies(start, port, monkeypatch):
    processes = []
    create = asyncio.create_subprocess_exec

    async def watched(*args, **options):
        processes.append(await create(*args, **options))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    async with start(**internal(port)) as edge:
        await edge.connected()
        processes[0].kill()
        async with asyncio.timeout(10):
            while len(processes) < 2 or edge.module._clients[0].connected.is_set() is False:
                await asyncio.sleep(0.01)
        async with application(port) as app:
            app.publish("$hw/events/node/n/membership/get", "{}")
            await edge.next_of(edge.twin)


async def test_eb4_what_is_published_while_the_broker_is_away_is_published_when_it_is_back(start, tmp_path, port):
    async with start(**external(port)) as edge:
        for number in range(3):
            await edge.tell("publish", "t", str(number))
        with mosquitto(tmp_path / "b", port):
            async with application(port) as app:
                await app.subscribe("t")
                await edge.connected()
                heard = {(await app.hear())[1]}
                while len(heard) < 3:
                    heard.add((await app.hear())[1])
                assert heard == {b"0", b"1", b"2"}


class Forgetful:
    """A broker that takes publications and acknowledges them only when it is told to."""

    def __init__(self) -> None:
        self.acknowledging = False
        self.taken: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self.serve, "127.0.0.1", port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                kind, body = await packet(reader)
                self._answer(kind, body, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    def _answer(self, kind: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        if kind >> 4 == 1:  # CONNECT
            writer.write(bytes([0x20, 2, 0, 0]))
        elif kind >> 4 == 8:  # SUBSCRIBE
            writer.write(bytes([0x90, 3]) + body[:2] + b"\x01")
        elif kind >> 4 == 3:  # PUBLISH
            end = 2 + int.from_bytes(body[:2], "big")
            self.taken.append(body[end + 2 :])
            if self.acknowledging:
                writer.write(bytes([0x40 if kind & 6 == 2 else 0x50, 2]) + body[end : end + 2])
        elif kind >> 4 == 6:  # PUBREL
            writer.write(bytes([0x70, 2]) + body[:2])

    def cut(self) -> None:
        for writer in self.writers:
            writer.close()


async def packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind, length, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        (digit,) = await reader.readexactly(1)
        length, shift = length | (digit & 127) << shift, shift + 7
        if digit < 128:
            return kind, await reader.readexactly(length)


async def until(met) -> None:
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("qos", [1, 2])
async def test_eb4_what_was_not_acknowledged_before_a_loss_is_published_again(start, port, qos):
    forgetful = Forgetful()
    async with await forgetful.listen(port), start(**external(port), mqtt_qos=qos) as edge:
        await edge.connected()
        for number in range(3):
            await edge.tell("publish", "t", str(number))
        await until(lambda: len(forgetful.taken) == 3)
        forgetful.acknowledging = True
        forgetful.cut()
        await edge.tell("publish", "t", "3")
        await until(lambda: len(forgetful.taken) == 7)
        assert forgetful.taken == [b"0", b"1", b"2", b"0", b"1", b"2", b"3"]
        await until(lambda: not len(edge.module._clients[0]._unacknowledged))
        forgetful.cut()
        await edge.connected()
        await edge.tell("publish", "t", "4")
        await until(lambda: forgetful.taken[7:])
        assert forgetful.taken[7:] == [b"4"], "acknowledged ones are not"


async def test_eb4_of_what_is_not_acknowledged_only_so_much_is_kept(start, port, monkeypatch):
    monkeypatch.setattr(client, "HELD_LIMIT", 4)
    forgetful = Forgetful()
    async with await asyncio.start_server(forgetful.serve, "127.0.0.1", port), start(**external(port)) as edge:
        await edge.connected()
        for number in range(10):
            await edge.tell("publish", "t", str(number))
        await until(lambda: len(forgetful.taken) == 4)
        forgetful.acknowledging = True
        forgetful.cut()
        await until(lambda: len(forgetful.taken) == 8)
        assert forgetful.taken[4:] == [b"6", b"7", b"8", b"9"], "the newest"


async def test_eb5_password_for_the_internal_broker(start, port):
    settings = {**internal(port), "mqtt_username": "edge", "mqtt_password": "s3cret: ü"}
    async with start(**settings) as edge:
        await edge.connected()
        with pytest.raises(Exception, match=r"(?i)authori"):
            async with application(port):
                pass
        async with application(port, credentials=("edge", "s3cret: ü")) as app:
            app.publish("a/user/b", "x")
            await edge.next_of(edge.hub)


async def test_eb5_tls_to_an_external_broker_is_verified(start, tmp_path, port, caplog):
    authority = trustme.CA()
    for name, issuer in (("good", authority), ("bad", trustme.CA())):
        folder = tmp_path / name
        folder.mkdir()
        issued = issuer.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(folder / "server.crt")
        issued.private_key_pem.write_to_path(folder / "server.key")
        (folder / "server.key").chmod(0o644)
        issuer.cert_pem.write_to_path(folder / "ca.crt")
    ca, none = str(tmp_path / "good" / "ca.crt"), str(tmp_path / "none")
    tls = EventBusTls(enable=True, tls_mqtt_ca_file=ca, tls_mqtt_cert_file=none, tls_mqtt_private_key_file=none)
    settings = {"mqtt_server_external": f"ssl://127.0.0.1:{port}", "event_bus_tls": tls}
    for name, trusted in (("bad", False), ("good", True)):
        lines = [f"certfile {tmp_path / name / 'server.crt'}", f"keyfile {tmp_path / name / 'server.key'}"]
        with mosquitto(tmp_path / name, port, *lines):
            async with start(**settings) as edge:
                if not trusted:
                    async with asyncio.timeout(10):
                        while "certificate verify failed" not in caplog.text:
                            await asyncio.sleep(0.01)
                    assert not edge.module._clients[0].connected.is_set()
                    continue
                await edge.connected()
                context = ssl.create_default_context(cafile=ca)
                async with application(port, tls=context) as app:
                    app.publish("a/user/b", "x")
                    assert (await edge.next_of(edge.hub)).route.resource == "a/user/b"


def certificate(folder: Path, name: str = "127.0.0.1") -> EventBusTls:
    """A broker's certificate and the authority it is of."""
    authority = trustme.CA()
    issued = authority.issue_cert(name)
    issued.cert_chain_pems[0].write_to_path(folder / "server.crt")
    issued.private_key_pem.write_to_path(folder / "server.key")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    return EventBusTls(
        enable=True,
        tls_mqtt_ca_file=str(folder / "ca.crt"),
        tls_mqtt_cert_file=str(folder / "server.crt"),
        tls_mqtt_private_key_file=str(folder / "server.key"),
    )


async def test_eb5_the_internal_broker_speaks_tls_where_its_address_says_so(start, tmp_path, port):
    tls = certificate(tmp_path)
    async with start(mqtt_mode=0, mqtt_server_internal=f"ssl://127.0.0.1:{port}", event_bus_tls=tls) as edge:
        await edge.connected()
        context = ssl.create_default_context(cafile=tls.tls_mqtt_ca_file)
        async with application(port, tls=context) as app:
            app.publish("a/user/b", "x")
            assert (await edge.next_of(edge.hub)).route.resource == "a/user/b"
        with pytest.raises((OSError, TimeoutError)):  # without TLS nobody is heard
            async with asyncio.timeout(1), application(port):
                pass


async def test_eb5_a_certificate_that_is_not_there_is_named(tmp_path, port):
    missing = broker.Certificate(tmp_path / "none.crt", tmp_path / "none.key")
    served = broker.Broker(Address("127.0.0.1", port, True), queue_size=1, certificate=missing)
    with pytest.raises(broker.BadCertificate, match=r"cannot serve TLS with .*none\.crt and .*none\.key: .*readable"):
        await served.run()


async def test_eb6_what_is_unsubscribed_is_not_heard_and_does_not_come_back(start, tmp_path, port):
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        await edge.tell("subscribe", "ns/a")
        await edge.tell("subscribe", "ns/b")
        await until_heard(app, edge, "ns/b")
        await edge.tell("unsubscribe", "ns/a")
        await edge.tell("publish", "ns/b", "mark")
        while (await edge.next_of(edge.hub)).read(str) != "mark":
            pass
        app.publish("ns/a", "x")
        app.publish("ns/b", "y")
        assert (await edge.next_of(edge.hub)).route.resource == "ns/b"
    with closing(sqlite3.connect(tmp_path / "edgecore.db")) as connection:
        assert connection.execute("SELECT topic FROM sub_topics").fetchall() == [("ns/b",)]


async def test_eb6_subscriptions_of_rules_outlive_a_restart(start, port):
    async with start(**internal(port)) as edge:
        await edge.tell("subscribe", "ns/a")
        await edge.connected()
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        await until_heard(app, edge, "ns/a")


async def test_a_topic_that_is_heard_anyhow_is_not_heard_twice(start, port):
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        await edge.tell("subscribe", "ns/user/a")
        await edge.tell("subscribe", "ns/b")
        await until_heard(app, edge, "ns/b")
        app.publish("ns/user/a", "x")
        app.publish("ns/b", "end")
        assert [(await edge.next_of(edge.hub)).read(str) for _ in range(2)] == ["x", "end"]


async def test_eb7_the_embedded_broker_is_the_whole_mosquitto(start, port):
    """Retained messages, wildcards and QoS 2 between applications that have nothing to do with us."""
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        app.publish("mine/kept", "x", qos=2, retain=True)
        await app.subscribe("mine/+", qos=2)
        assert (await app.hear())[:2] == ("mine/kept", b"x")


async def test_a_publication_of_many_megabytes_costs_the_connection_and_no_more(start, tmp_path, port, caplog):
    with mosquitto(tmp_path / "b", port):
        async with start(**external(port)) as edge, application(port) as app:
            await edge.connected()
            app.publish("a/user/b", b"x" * 4 * broker.MESSAGE_LIMIT, qos=0)
            async with asyncio.timeout(10):
                while "was refused" not in caplog.text:
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                while edge.module._clients[0].connected.is_set():
                    await asyncio.sleep(0.01)
            await edge.connected()
            await until_heard(app, edge, "a/user/c")


async def test_bytes_that_are_no_text_are_told_as_far_as_they_are(start, tmp_path, port):
    async with start(**internal(port)) as edge, application(port) as app:
        await edge.connected()
        app.publish("a/user/b", b"\xff\x00abc")
        assert (await edge.next_of(edge.hub)).read(str) == "\ufffd\x00abc"


async def test_without_mosquitto_the_mend_is_named(tmp_path, port, monkeypatch):
    monkeypatch.setattr(broker.shutil, "which", lambda _: None)
    monkeypatch.setattr(broker, "PLACES", ())
    with pytest.raises(broker.BrokerMissing, match="apt-get install mosquitto"):
        broker.find()


async def until_heard(app, edge, topic: str) -> None:
    """Publish until it is heard: a subscription takes a moment."""
    async with asyncio.timeout(10):
        while not len(edge.hub):
            app.publish(topic, "probe")
            await asyncio.sleep(0.05)
    while len(edge.hub):
        assert edge.hub.get_nowait().route.resource == topic
    # Probes on their way arrive before what is published after them.
    app.publish(topic, "last probe")
    while (await edge.next_of(edge.hub)).read(str) != "last probe":
        pass
