-- Generations that could not be restored on a host. The row stays when its time is over, so that the
-- next failure waits longer; it goes when a restore worked there, or the host changed.
CREATE TABLE quarantine (
    pool       TEXT NOT NULL,
    generation INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    host       TEXT NOT NULL,
    since      REAL NOT NULL,
    until      REAL NOT NULL,
    failures   INTEGER NOT NULL,
    problem    TEXT NOT NULL,
    found_with TEXT NOT NULL,
    PRIMARY KEY (pool, digest, host)
) STRICT, WITHOUT ROWID;
