"""One property as a mapper reports it over DMI, on its way from the socket to the devices. Data only."""

import msgspec

#: Sources of what mappers report, on devicetwin's own mailbox; the resource is the device.
SOURCE_VALUES, SOURCE_STATE = "dmi values", "dmi state"
#: The key a mapper writes into the metadata of `observedDesired` to set a desired value (decision 0021).
SET_BY = "setBy"
SET_BY_EDGE = "edge"


class Observation(msgspec.Struct, frozen=True, array_like=True):
    """None: not spoken of. `sets`: the desired value is a wish of the mapper's own."""

    name: str
    desired: str | None = None
    reported: str | None = None
    type: str = ""
    sets: bool = False
