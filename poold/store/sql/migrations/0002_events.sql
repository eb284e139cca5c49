-- What happened, who asked for it, and the revision of what is wished of a pool.

CREATE TABLE events (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        REAL NOT NULL,
    kind      TEXT NOT NULL,
    text      TEXT NOT NULL,
    pool      TEXT NOT NULL DEFAULT '',
    replica   TEXT NOT NULL DEFAULT '',
    host      TEXT NOT NULL DEFAULT '',
    change_id INTEGER,
    data      TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX events_of_pool ON events (pool, id);

-- Accepted changing calls: the audit trail, and for a day what their keys were used for.
CREATE TABLE calls (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          REAL NOT NULL,
    actor       TEXT NOT NULL,
    origin      TEXT NOT NULL,
    operation   TEXT NOT NULL,
    path        TEXT NOT NULL,
    request     TEXT NOT NULL,
    pool        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    change_id   INTEGER,
    key         TEXT,               -- NULL: none was sent, or it is too old to count
    fingerprint TEXT,
    status      INTEGER,
    body        TEXT                -- of an answer that is not a change
) STRICT;
CREATE UNIQUE INDEX calls_by_key ON calls (actor, key) WHERE key IS NOT NULL;
CREATE INDEX calls_by_age_of_key ON calls (at) WHERE key IS NOT NULL;
CREATE INDEX calls_of_pool ON calls (pool, id);

-- Rises with everything that is wished of a pool, whoever writes it. It outlives the pool's row.
CREATE TABLE revisions (
    pool   TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER wish_added AFTER INSERT ON wishes BEGIN
    INSERT INTO revisions (pool, number) VALUES (new.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER wish_moved AFTER UPDATE ON wishes WHEN old.host IS NOT new.host BEGIN
    INSERT INTO revisions (pool, number) VALUES (new.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER wish_dropped AFTER DELETE ON wishes BEGIN
    INSERT INTO revisions (pool, number) VALUES (old.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER change_accepted AFTER INSERT ON changes WHEN new.state = 'pending' BEGIN
    INSERT INTO revisions (pool, number) VALUES (new.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
