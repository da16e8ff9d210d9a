//! When handlers of the measured agents began, ended, or got so far: told by their processes on plain subjects, gathered here.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;

use super::clock;

/// A handler was called.
pub const BEGAN: &str = "bench.began";
/// A handler has slept as long as it was told to.
pub const ENDED: &str = "bench.ended";
/// A handler was told to stop.
pub const STOPPED: &str = "bench.stopped";
/// A handler has what it waited for.
pub const REACHED: &str = "bench.reached";
/// Subjects of all of them.
const ALL: &str = "bench.*";
/// How long the next one may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One attempt, in nanoseconds of [`clock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whose.
    pub tenant: String,
    /// Which of the subjects it was told on.
    pub what: &'static str,
    /// When its handler was called; or what it says of when what it waited for began.
    pub began: u64,
    /// When this was told.
    pub at: u64,
}

/// As a message.
pub fn encode(tenant: &str, began: u64) -> Vec<u8> {
    let times = [began.to_le_bytes(), clock::now().to_le_bytes()];
    times.iter().flatten().copied().chain(tenant.bytes()).collect()
}

fn decode(subject: &str, body: &[u8]) -> Option<Ran> {
    let what = [BEGAN, ENDED, STOPPED, REACHED].into_iter().find(|what| *what == subject)?;
    let (began, rest) = (clock::read(body)?, body.get(8..)?);
    let (at, tenant) = (clock::read(rest)?, String::from_utf8(rest.get(8..)?.to_vec()).ok()?);
    Some(Ran { tenant, what, began, at })
}

/// What is told from now on.
pub struct Trace {
    told: async_nats::Subscriber,
    _nats: async_nats::Client,
}

impl Trace {
    /// Begins to listen.
    pub async fn listen(nats: &str) -> Result<Trace> {
        let options = async_nats::ConnectOptions::new().subscription_capacity(1 << 20);
        let nats = options.connect(nats).await?;
        let told = nats.subscribe(ALL).await?;
        nats.flush().await?;
        Ok(Trace { told, _nats: nats })
    }

    /// The next one.
    pub async fn next(&mut self) -> Result<Ran> {
        let told = tokio::time::timeout(PATIENCE, self.told.next()).await;
        let message = told.context("no handler tells anything any more")?.context("NATS is gone")?;
        decode(&message.subject, &message.payload).context("a trace that is none of ours")
    }

    /// The next `count` that are meant.
    pub async fn take(&mut self, count: u64, is_meant: impl Fn(&Ran) -> bool) -> Result<Vec<Ran>> {
        let mut found = Vec::new();
        while (found.len() as u64) < count {
            let ran = self.next().await?;
            if is_meant(&ran) {
                found.push(ran);
            }
        }
        Ok(found)
    }

    /// What has been told until it was silent for so long.
    pub async fn rest(&mut self, silence: Duration) -> Vec<Ran> {
        let mut found = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(silence, self.told.next()).await {
            found.extend(decode(&message.subject, &message.payload));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let ran = decode(ENDED, &encode("acme", 7)).unwrap();
        assert_eq!((ran.tenant.as_str(), ran.what, ran.began), ("acme", ENDED, 7));
        assert!(ran.at > 7);
        assert_eq!(decode("bench.list", &encode("acme", 7)), None);
        assert_eq!(decode(ENDED, b"short"), None);
    }
}
