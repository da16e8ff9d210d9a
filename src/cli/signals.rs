//! SIGINT and SIGTERM: the first asks to stop, the second insists. SIGHUP asks to read the configuration again.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::failure::Exit;

/// Cancels `stop` at the first signal and ends the process at the second.
pub fn cancel_on_signal(stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            // Then the default handlers stay, which end the process: harsh, but not stuck.
            Err(error) => return tracing::warn!(%error, "cannot watch for signals"),
        };
        signals.next().await;
        tracing::info!("stopping; a second signal ends at once");
        stop.cancel();
        signals.next().await;
        std::process::exit(Exit::Interrupted as i32);
    })
}

/// SIGHUP, by convention: read your configuration again.
pub struct Hangups {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangups {
    /// From now on a SIGHUP does not end the process. `None`: there is no such signal here, or it can't be watched.
    pub fn new() -> Option<Self> {
        #[cfg(unix)]
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) {
            Ok(signal) => Some(Hangups { signal }),
            Err(error) => {
                tracing::warn!(%error, "cannot watch for SIGHUP; the configuration is read at starts only");
                None
            }
        }
        #[cfg(not(unix))]
        None
    }

    /// Waits for the next; false: there is none any more.
    pub async fn next(&mut self) -> bool {
        #[cfg(unix)]
        return self.signal.recv().await.is_some();
        #[cfg(not(unix))]
        false
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
