"""`mapper new`: a project that runs at once, with a driver to change, its device, tests that pass and a deployment."""

import re
from pathlib import Path
from string import Template

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def make(name: str, into: Path) -> Path:
    """The new folder; raises ValueError or OSError."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a project's name: use 1 to 40 small letters, digits and hyphens, a letter first"
        )
    folder = into / name
    if folder.exists():
        raise ValueError(f"{folder} is there already; choose another name, or remove it")
    folder.mkdir(parents=True)
    words = {"name": name, "cls": "".join(word.capitalize() for word in re.split("-+", name))}
    for file, template in _FILES.items():
        (folder / file).write_text(Template(template).substitute(words))
    return folder


_DRIVER = '''\
"""A driver for $name. Change the four methods; nothing else is needed."""

import random

from edgehive.mapper import Value, Visitor, run


class $cls:
    protocol = "$name"

    async def open(self, config):
        """Reach the device; `config` is spec.protocol.configData of device.yaml."""
        self.address = config.get("address", "")
        self.values = {"interval": 60}

    async def read(self, visitor: Visitor) -> Value:
        """Return a property's value now; `visitor.config` says where in the device it is."""
        if visitor.property == "temperature":
            return round(random.gauss(21, 0.2), 1)
        return self.values[visitor.property]

    async def write(self, visitor: Visitor, value: Value) -> None:
        """Set a property; the value has the property's type and is within its limits."""
        self.values[visitor.property] = value

    async def close(self):
        """Let go of the device."""


if __name__ == "__main__":
    run($cls)
'''

_DEVICE = """\
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata:
  name: $name
  namespace: default
spec:
  protocol: $name
  properties:
    - {name: temperature, type: FLOAT, accessMode: ReadOnly, unit: "°C"}
    - {name: interval, type: INT, accessMode: ReadWrite, minimum: "1", maximum: "3600", unit: s}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata:
  name: $name-1
  namespace: default
spec:
  deviceModelRef: {name: $name}
  nodeName: edge-1 # the node the device is attached to
  protocol:
    protocolName: $name
    configData: {address: "192.0.2.10"}
  properties:
    - name: temperature
      collectCycle: 1000 # milliseconds between two readings
      reportCycle: 5000 # milliseconds between two reports at least
      reportToCloud: true
    - name: interval
      collectCycle: 10000
      reportToCloud: true
      desired: {value: "30"}
"""

_TEST = '''\
"""The driver alone, with no cluster and no edge: replace the simulated device by yours."""

import asyncio

from driver import $cls

from edgehive.api.devices import PropertyType
from edgehive.mapper import Visitor

TEMPERATURE = Visitor("temperature", PropertyType.FLOAT, {})
INTERVAL = Visitor("interval", PropertyType.INT, {}, writable=True)


def test_a_temperature_is_read():
    async def story():
        device = $cls()
        await device.open({"address": "192.0.2.10"})
        assert 15 < await device.read(TEMPERATURE) < 27
        await device.close()

    asyncio.run(story())


def test_what_is_written_is_read():
    async def story():
        device = $cls()
        await device.open({})
        await device.write(INTERVAL, 15)
        assert await device.read(INTERVAL) == 15
        await device.close()

    asyncio.run(story())
'''

_README = """\
# $name

    mapper dev driver.py --device device.yaml    # no cluster, no edgecore: values live, NAME=VALUE sets one
    pytest                                       # the driver alone
    mapper run driver.py                         # on an edge node, beside edgecore
    kubectl apply -f device.yaml                 # in the cloud; then: kubectl get devicestatus $name-1 -o yaml

`deployment.yaml` runs the mapper as a pod on the edge node.
"""

_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $name-mapper
  namespace: default
spec:
  selector: {matchLabels: {app: $name-mapper}}
  template:
    metadata: {labels: {app: $name-mapper}}
    spec:
      nodeName: edge-1
      hostNetwork: true
      containers:
        - name: mapper
          image: $name-mapper:latest # python:3.13-slim with: pip install "edgehive[mapper]"; driver.py in /app
          command: [mapper, run, /app/driver.py]
          volumeMounts: [{name: dmi, mountPath: /etc/kubeedge}]
      volumes: [{name: dmi, hostPath: {path: /etc/kubeedge}}]
"""

_FILES = {
    "driver.py": _DRIVER,
    "device.yaml": _DEVICE,
    "test_driver.py": _TEST,
    "README.md": _README,
    "deployment.yaml": _DEPLOYMENT,
}
