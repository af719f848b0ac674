-- Current objects, what happened to them lately, and the numbers that must never go back.
CREATE TABLE objects (
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    value     BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;

-- One row an event. Rows of type GAP mark a stretch of revisions (previous_revision, revision) nobody may go on from.
CREATE TABLE history (
    revision          INTEGER PRIMARY KEY,
    at                INTEGER NOT NULL,
    type              TEXT NOT NULL,
    resource          TEXT NOT NULL,
    namespace         TEXT NOT NULL,
    name              TEXT NOT NULL,
    value             BLOB,
    previous_revision INTEGER,
    previous          BLOB
);
CREATE INDEX history_by_resource ON history (resource, revision);

CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO numbers VALUES ('revision', 1), ('compacted', 0);
