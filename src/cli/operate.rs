//! What the verbs of operators share: a lost race is told with what changed, and a change is acknowledged once the owner
//! has journaled it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::context::Ctx;
use super::failure::known::{entries_failure, refusal_failure};
use super::failure::{Exit, Failure};
use crate::bus::entries::EntriesError;
use crate::bus::limits::LimitsBucket;
use crate::bus::{AskError, Link};
use crate::coordinator::queries::{Ask, Told};
use crate::flow::operate::Change;
use crate::task::{Code, Refusal};
use crate::wire::api::{TenantsReply, TenantsRequest};
use crate::wire::codec;
use crate::wire::subjects::{self, Shard};

/// How long the owner may take to journal a change: a take-over is within it.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long one question to the owner may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Pauses between two questions, from and to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The bucket of limits, and a way to ask the owner.
pub struct Desk {
    /// The limits.
    pub bucket: LimitsBucket,
    link: Link,
}

impl Desk {
    /// Connects.
    pub async fn open(ctx: &Ctx) -> Result<Self> {
        let bucket = LimitsBucket::open(ctx.connection().await?.jetstream()).await?;
        let link = Link::connect(&ctx.nats()?, "selvedge-cli").await?;
        Ok(Self { bucket, link })
    }

    /// Over connections that exist already.
    pub fn on(bucket: LimitsBucket, link: Link) -> Self {
        Self { bucket, link }
    }

    /// Asks the owner what tenants have and may have; once.
    pub async fn tenants(&self, request: TenantsRequest) -> Result<TenantsReply> {
        let body = codec::pack(&Ask::Tenants(request));
        let answer = self.link.main.ask(subjects::ask(Shard(0)), body, ANSWER).await;
        let message = answer.map_err(|error| match error {
            AskError::NoResponders => Refusal::new(Code::Unknown, "no coordinator owns the shard now"),
            _ => Refusal::new(Code::Unknown, "the owner does not answer"),
        });
        let message = message.map_err(|refusal| refusal_failure(&refusal))?;
        match codec::unpack::<Told>(&message.payload) {
            Ok(Told::Tenants(reply)) => Ok(reply),
            Ok(Told::Refused(refusal)) => Err(refusal_failure(&refusal).into()),
            Ok(_) | Err(_) => {
                let refusal = Refusal::new(Code::Unavailable, "the owner is of another version");
                Err(refusal_failure(&refusal).into())
            }
        }
    }

    /// Waits until the owner has journaled the change: from then on no decision goes by what was before.
    pub async fn journaled(&self, change: Change) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        let mut why = "no coordinator owns the shard now";
        while Instant::now() < deadline {
            let body = codec::pack(&Ask::Applied(change.clone()));
            match self.link.main.ask(subjects::ask(Shard(0)), body, ANSWER).await {
                Ok(message) => match codec::unpack::<Told>(&message.payload) {
                    Ok(Told::Applied(true)) => return Ok(()),
                    Ok(Told::Applied(false)) => why = "the owner has not journaled it yet",
                    Ok(Told::Refused(refusal)) if refusal.code.is_retryable() => {
                        why = "the owner is changing"
                    }
                    Ok(Told::Refused(refusal)) => return Err(refusal_failure(&refusal).into()),
                    Ok(_) | Err(_) => why = "the owner is of another version",
                },
                Err(AskError::NoResponders) => why = "no coordinator owns the shard now",
                Err(_) => why = "the owner does not answer",
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        let what = format!("the change is stored, but not in force yet: {why}");
        Err(Failure::new(Exit::Temporary, "NOT_CONFIRMED", what)
            .help("a coordinator takes it up as soon as it owns the shard; run the command again to be sure")
            .into())
    }
}

/// A race that was lost, told with what somebody else changed meanwhile. Other errors stay what they are.
pub async fn told<T: Serialize>(
    error: EntriesError,
    before: Option<&T>,
    now: impl Future<Output = std::result::Result<Option<(T, u64)>, EntriesError>>,
) -> anyhow::Error {
    if !matches!(error, EntriesError::Conflict { .. }) {
        return error.into();
    }
    let failure = entries_failure(&error);
    match now.await {
        Ok(now) => {
            let now = now.map(|(now, _)| now);
            failure
                .help(format!("nothing was changed. Meanwhile: {}", difference(before, now.as_ref())))
                .into()
        }
        Err(_) => failure.into(),
    }
}

/// Refuses to change an entry that is not at the revision somebody expects.
pub fn expect(key: &str, expected: Option<u64>, found: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if found != Some(expected) => {
            let is = found.map_or("is not there".to_owned(), |found| format!("is at revision {found}"));
            Err(Failure::new(
                Exit::Temporary,
                "LIMITS_CONFLICT",
                format!("{key} {is}, not at revision {expected}"),
            )
            .help("nothing was changed; look at what it says now, then run the command again")
            .into())
        }
        _ => Ok(()),
    }
}

/// What differs, field by field, in words.
fn difference<T: Serialize>(before: Option<&T>, now: Option<&T>) -> String {
    let (before, now) = match (before.map(fields), now.map(fields)) {
        (_, None) => return "it was removed".to_owned(),
        (None, Some(_)) => return "it was set for the first time".to_owned(),
        (Some(before), Some(now)) => (before, now),
    };
    let none = "-".to_owned();
    let names = before.keys().chain(now.keys()).collect::<std::collections::BTreeSet<_>>();
    let changed = names.into_iter().filter_map(|name| {
        let (was, is) = (before.get(name).unwrap_or(&none), now.get(name).unwrap_or(&none));
        (was != is).then(|| format!("{name} {was} -> {is}"))
    });
    let changed: Vec<String> = changed.collect();
    if changed.is_empty() { "it was set again to what it was".to_owned() } else { changed.join(", ") }
}

fn fields<T: Serialize>(value: &T) -> BTreeMap<String, String> {
    fn put(name: &str, value: &Value, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| put(name, value, out)),
            Value::String(text) => drop(out.insert(name.to_owned(), text.clone())),
            other => drop(out.insert(name.to_owned(), other.to_string())),
        }
    }
    let mut out = BTreeMap::new();
    put("", &serde_json::to_value(value).unwrap_or_default(), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Overrides, PlanName, TenantSettings};

    #[test]
    fn a_lost_race_names_what_changed() {
        let before = TenantSettings::under(PlanName::new("pro").unwrap());
        let own = Overrides { in_flight: Some(3), ..Overrides::default() };
        let now = TenantSettings { paused: true, overrides: own, ..before.clone() };
        assert_eq!(difference(Some(&before), Some(&now)), "in_flight - -> 3, paused false -> true");
        assert_eq!(difference(Some(&before), Some(&before)), "it was set again to what it was");
        assert_eq!(difference(Some(&before), None), "it was removed");
        assert_eq!(difference(None, Some(&now)), "it was set for the first time");
    }
}
