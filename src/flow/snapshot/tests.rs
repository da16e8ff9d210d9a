//! Hostile and damaged snapshots.
