//! The `telemetry` module.
