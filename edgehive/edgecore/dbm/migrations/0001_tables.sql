-- Tables of the Go project, so that either implementation can open the other's file.
CREATE TABLE IF NOT EXISTS meta (
    key TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    value TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS meta_by_type ON meta (type);
CREATE TABLE IF NOT EXISTS meta_v2 (
    key TEXT PRIMARY KEY,
    group_version_resource TEXT NOT NULL DEFAULT '',
    namespace TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL DEFAULT '',
    resource_version INTEGER NOT NULL DEFAULT 0,
    value TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS meta_v2_by_resource ON meta_v2 (group_version_resource, namespace, name);
CREATE TABLE IF NOT EXISTS device (
    id TEXT PRIMARY KEY,
    name TEXT,
    description TEXT,
    state TEXT,
    last_online TEXT
);
CREATE TABLE IF NOT EXISTS device_attr (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    deviceid TEXT,
    name TEXT,
    description TEXT,
    value TEXT,
    optional BOOLEAN,
    attr_type TEXT,
    metadata TEXT
);
CREATE TABLE IF NOT EXISTS device_twin (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    deviceid TEXT,
    name TEXT,
    description TEXT,
    expected TEXT,
    actual TEXT,
    expected_meta TEXT,
    actual_meta TEXT,
    expected_version TEXT,
    actual_version TEXT,
    optional BOOLEAN,
    attr_type TEXT,
    metadata TEXT
);
CREATE TABLE IF NOT EXISTS sub_topics (topic TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS target_urls (url TEXT PRIMARY KEY);

-- Ours: what the cloud has yet to hear. `unanswered` holds status patches until the cloud answers them, the
-- newest per object; `outbox` holds other messages that were on their way when the link was down.
CREATE TABLE unanswered (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    message TEXT NOT NULL
);
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    message TEXT NOT NULL
);
