-- Alerts that were acted on, by a digest of what tells one from others: they are told again for hours.
CREATE TABLE alerts (
    key     TEXT NOT NULL PRIMARY KEY,
    told_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
