-- How a generation's application is started, so that a pool can be held at an old one. NULL: not
-- known, the generation is older than this column. It may hold secrets, like the configuration.
ALTER TABLE generations ADD COLUMN application TEXT;

-- Fingerprint of the application whose generation became current last; '': none yet.
ALTER TABLE pools ADD COLUMN served TEXT NOT NULL DEFAULT '';

-- A pool's replicas on their way to its current generation. The row goes when they are there.
CREATE TABLE rolls (
    pool        TEXT PRIMARY KEY,
    change_id   INTEGER NOT NULL,
    surge       INTEGER NOT NULL,
    unavailable INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('running', 'paused')),
    reason      TEXT NOT NULL DEFAULT '',
    generation  INTEGER,                     -- NULL: there is none of the application yet
    digest      TEXT,
    replacing   TEXT NOT NULL DEFAULT '{}',  -- name -> id of the container that has to go
    extras      TEXT NOT NULL DEFAULT '[]',
    leaving     TEXT NOT NULL DEFAULT '[]'
) STRICT, WITHOUT ROWID;

-- Pools that stay with one generation until their configuration changes or somebody rolls on.
CREATE TABLE holds (
    pool       TEXT PRIMARY KEY,
    number     INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    configured TEXT NOT NULL,                -- the configuration's fingerprint at that time
    at         REAL NOT NULL,
    actor      TEXT NOT NULL
) STRICT, WITHOUT ROWID;
