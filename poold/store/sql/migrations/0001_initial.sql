-- What must survive the daemon: wishes, who runs where, what was sent, what was built.

CREATE TABLE pools (
    name          TEXT PRIMARY KEY,
    seen_at       REAL NOT NULL,
    first_wish_at REAL               -- NULL until the configuration's `replicas` was applied
) STRICT, WITHOUT ROWID;

-- Hosts whose containers of a pool were looked through once in this store's life, for adoption.
CREATE TABLE introductions (
    pool TEXT NOT NULL,
    host TEXT NOT NULL,
    at   REAL NOT NULL,
    PRIMARY KEY (pool, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE wishes (
    name TEXT PRIMARY KEY,
    pool TEXT NOT NULL,
    host TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX wishes_of_pool ON wishes (pool);

-- The primary key is promise 1: a name has one host.
CREATE TABLE assignments (
    name         TEXT PRIMARY KEY,
    pool         TEXT NOT NULL,
    host         TEXT NOT NULL,
    since        REAL NOT NULL,
    rung         TEXT NOT NULL DEFAULT '',
    failed_rungs TEXT NOT NULL DEFAULT '[]',
    reason       TEXT NOT NULL DEFAULT '',
    generation   INTEGER,
    started      TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX assignments_of_pool ON assignments (pool);

CREATE TABLE intents (
    action     TEXT PRIMARY KEY,
    pool       TEXT NOT NULL,
    host       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    verb       TEXT NOT NULL,
    request    TEXT NOT NULL,
    boot_id    TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX intents_of_pool ON intents (pool);

CREATE TABLE changes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    pool       TEXT NOT NULL,
    kind       TEXT NOT NULL,
    wish       TEXT NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    state      TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'settled', 'failed')),
    progress   TEXT NOT NULL DEFAULT '',
    seq        INTEGER NOT NULL DEFAULT 1,
    problem    TEXT,
    phases     TEXT NOT NULL DEFAULT '{}',
    settled_at REAL
) STRICT;
CREATE INDEX changes_of_pool ON changes (pool, id);
CREATE INDEX changes_pending ON changes (pool, id) WHERE state = 'pending';

-- A retired generation keeps its row, so that its number is never given again.
CREATE TABLE generations (
    pool       TEXT NOT NULL,
    number     INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    builder    TEXT NOT NULL,
    proven_at  REAL NOT NULL,
    retired_at REAL,
    PRIMARY KEY (pool, number),
    UNIQUE (pool, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE moves (
    name         TEXT PRIMARY KEY,
    pool         TEXT NOT NULL,
    change_id    INTEGER NOT NULL REFERENCES changes (id),
    source       TEXT NOT NULL,
    target       TEXT NOT NULL,
    step         TEXT NOT NULL,
    action       TEXT NOT NULL,
    attempt      INTEGER NOT NULL DEFAULT 1,
    container_id TEXT NOT NULL DEFAULT '',
    sealed       TEXT,
    frozen_at    REAL,
    problem      TEXT,
    phases       TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;

-- Generations and captures that a host may still hold and shall not.
CREATE TABLE garbage (
    digest TEXT NOT NULL,
    host   TEXT NOT NULL,
    pool   TEXT NOT NULL,
    PRIMARY KEY (digest, host)
) STRICT, WITHOUT ROWID;
