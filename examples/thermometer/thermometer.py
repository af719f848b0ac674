"""A room with a thermometer and a radiator: twenty lines that make it a Kubernetes device."""

from edgehive.mapper import Value, Visitor, run


class Thermometer:
    protocol = "thermometer"

    async def open(self, config):
        self.temperature, self.target = 18.0, config.get("target", 18.0)

    async def read(self, visitor: Visitor) -> Value:
        if visitor.property == "target":
            return self.target
        self.temperature += (self.target - self.temperature) / 5
        return round(self.temperature, 1)

    async def write(self, visitor: Visitor, value: Value) -> None:
        self.target = value

    async def close(self):
        pass


if __name__ == "__main__":
    run(Thermometer)
