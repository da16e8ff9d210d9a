//! SIGINT and SIGTERM: the first asks to stop, the second insists.

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
