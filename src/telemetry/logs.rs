//! Log lines: readable on a terminal, JSON elsewhere, always on standard error.
//!
//! Called once, at the start of the process. A second call, as in tests, changes nothing.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// The libraries below us say at `info` what we say ourselves.
const QUIET: &str = "async_nats=warn,hyper=warn,rustls=warn";

/// Starts logging as configured; without a configuration, as by default.
pub fn init(log: Option<&Log>) -> Result<(), ParseError> {
    let text = log.map_or("info", |log| log.filter.0.as_str());
    let filter = EnvFilter::builder().parse(with_quiet_libraries(text))?;
    let pretty = match log.map_or(LogFormat::Auto, |log| log.format) {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    // The error means that somebody has set up logging already; theirs stays.
    let _ = if pretty {
        base.compact().finish().try_init()
    } else {
        base.json().flatten_event(true).finish().try_init()
    };
    Ok(())
}

/// A bare level is meant for us; whoever names a module, or asks for more than `info`, gets exactly that.
fn with_quiet_libraries(filter: &str) -> String {
    match filter.trim() {
        level @ ("info" | "INFO") => format!("{level},{QUIET}"),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        let builder = || EnvFilter::builder();
        assert!(builder().parse(with_quiet_libraries("info")).is_ok());
        assert!(builder().parse(with_quiet_libraries("info,selvedge::bus=debug")).is_ok());
        assert!(builder().parse(with_quiet_libraries("selvedge=loudest")).is_err());
    }
}
