"""Bluetooth LE devices. Needs bleak (`edgehive[bluetooth]`), and on Linux BlueZ.

    device   macAddress          BC:6A:29:AE:CC:96, or
             localName           the name it advertises
             timeout             milliseconds to look for it (4000)
             adapter             hci0; by default the first one
             pair                true: pair with it first
             deviceID            its name in the runtime topics; by default the Device's
             mqtt, action-manager, scheduler, watcher, configFile       what it does by itself: `rules.py`, `topics.py`
    visitor  characteristicUUID  f000aa01-0451-4000-b000-000000000000, or 2a1c; serviceUUID where several have it
             dataConverter       how a number is read: startIndex, endIndex (the last byte, counted from 0; below
                                 startIndex: the bytes are taken backwards), shiftLeft or shiftRight in bits, signed,
                                 orderOfOperations [{operationType: Add|Subtract|Multiply|Divide, operationValue}].
                                 What is written goes the same way back
             dataWrite           the bytes that stand for a value, both ways: {"ON": [1], "OFF": [0]}
             length, signed      of a number without a converter: bytes that are written (as few as it needs), and
                                 whether it may be below 0 (no). The lowest byte is first
             notify              true: the device tells changes, instead of being asked at each read
             defaultValue        what an action writes where nothing is desired

Objects may be written as JSON text, as stock edges let none pass.
"""

from edgehive.mappers.bluetooth.driver import Bluetooth

__all__ = ["Bluetooth"]
