-- Ours, in columns the Go project leaves alone: which life of a device the rows belong to, what the cloud has not
-- confirmed, and what decides between desired values of both sides (decision 0021).
ALTER TABLE device ADD COLUMN uid TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN unconfirmed BOOLEAN NOT NULL DEFAULT 0;
-- A digest of what its mapper was last told.
ALTER TABLE device ADD COLUMN told TEXT NOT NULL DEFAULT '';
ALTER TABLE device_twin ADD COLUMN merge TEXT NOT NULL DEFAULT '';
ALTER TABLE device_twin ADD COLUMN unconfirmed BOOLEAN NOT NULL DEFAULT 0;
CREATE INDEX device_twin_by_name ON device_twin (deviceid, name);
CREATE INDEX device_attr_by_name ON device_attr (deviceid, name);
