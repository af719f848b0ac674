-- Reports wait in two lines: `answer` for those the cloud answers one by one, `proof` for the others.
ALTER TABLE outbox ADD COLUMN lane TEXT NOT NULL DEFAULT 'proof';
CREATE INDEX outbox_by_lane ON outbox (lane, sequence);
