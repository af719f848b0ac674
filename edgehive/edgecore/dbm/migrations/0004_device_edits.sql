-- Ours: Devices and DeviceModels written at the edge that the cloud has not taken yet (decision 0023).
CREATE TABLE edits (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
