//! Proves by looking at every key that nothing grows for ever: each is capped, or has a time to live.
//!
//! | kind | capped if |
//! |---|---|
//! | event stream | it has a TTL (unless expiry is off) and no more entries than the limit, roughly |
//! | meta hash | its generation is the index's: then the indexer looks after its tenant; or it has a TTL |
//! | records, results, sets | their tenant has a meta hash, and no more entries than the tenant has records |
//! | set of ended tasks | no more than retention keeps |
//!
//! Anything else under our prefix is nobody's. Tenants may be written to meanwhile, hence some slack.

use std::collections::{HashMap, HashSet};

use redis::{Pipeline, Value};

use super::{
    Connection, StoreError,
    events::EventPolicy,
    keys::{self, Kind},
    scan::Scan,
};
use crate::{task::TenantName, wire::subjects::Shard};

/// Keys looked at per step.
const STEP: usize = 500;
/// Unbounded keys that are named; beyond it they are counted.
const NAMED: usize = 20;
/// How many more entries than meant a key may have while it is written to.
const SLACK: u64 = 1_000;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// Keys of ours.
    pub keys: u64,
    /// Event streams among them.
    pub streams: u64,
    /// Tenants with an index.
    pub tenants: u64,
    /// Keys that nothing bounds, and why; a few of them.
    pub unbounded: Vec<(String, String)>,
    /// How many more there are.
    pub unnamed: u64,
}

impl Audit {
    fn found(&mut self, key: &str, why: impl Into<String>) {
        if self.unbounded.len() < NAMED {
            self.unbounded.push((key.to_owned(), why.into()));
        } else {
            self.unnamed += 1;
        }
    }
}

/// What is known of a tenant.
struct Tenant {
    generation: Option<String>,
    retain: u64,
    ended: u64,
    records: u64,
}

/// Looks at every key.
pub async fn audit(connection: &Connection, shard: Shard, policy: EventPolicy) -> Result<Audit, StoreError> {
    let mut connection = connection.clone();
    let generation: Option<String> = redis::cmd("HGET")
        .arg(keys::restart_point(shard))
        .arg("generation")
        .query_async(&mut connection)
        .await?;
    let mut audit = Audit::default();
    let mut tenants: HashMap<TenantName, Tenant> = HashMap::new();
    let mut seen = HashSet::new();
    let mut scan = Scan::begin(&connection, keys::OUR_PATTERN, STEP).await?;
    while let Some(found) = scan.next(&connection).await? {
        let found: Vec<(String, Kind)> = found
            .into_iter()
            .filter(|key| seen.insert(key.clone()))
            .map(|key| (key.clone(), keys::kind(&key)))
            .collect();
        audit.keys += found.len() as u64;
        let unknown = found.iter().filter_map(|(_, kind)| match kind {
            Kind::Meta(tenant) | Kind::Hash(tenant) | Kind::Set(tenant) => Some(tenant.clone()),
            Kind::OfShard | Kind::Events | Kind::Unknown => None,
        });
        let unknown: HashSet<TenantName> = unknown.filter(|tenant| !tenants.contains_key(tenant)).collect();
        for (name, tenant) in look_at(&mut connection, unknown).await? {
            if tenant.ended > tenant.retain + SLACK {
                let why = format!("{} ended tasks, {} are kept", tenant.ended, tenant.retain);
                audit.found(&keys::done(&name), why);
            }
            tenants.insert(name, tenant);
        }
        for ((key, kind), [length, ttl]) in sizes(&mut connection, &found).await? {
            let expires = ttl > 0;
            match kind {
                Kind::OfShard => {}
                Kind::Unknown => audit.found(&key, "nothing of this version writes it"),
                Kind::Events => {
                    audit.streams += 1;
                    if policy.ttl_seconds > 0 && !expires {
                        audit.found(&key, "an event stream without a time to live");
                    }
                    if length > policy.maxlen + policy.maxlen / 10 + SLACK {
                        audit.found(&key, format!("{length} events, {} are kept", policy.maxlen));
                    }
                }
                Kind::Meta(tenant) => {
                    audit.tenants += 1;
                    let of = tenants.get(&tenant).and_then(|tenant| tenant.generation.as_ref());
                    if !expires && of != generation.as_ref() {
                        audit.found(&key, "of another index than the one that is looked after");
                    }
                }
                Kind::Hash(tenant) | Kind::Set(tenant) => match tenants.get(&tenant) {
                    Some(of) if of.generation.is_some() => {
                        if length > of.records + SLACK {
                            audit.found(
                                &key,
                                format!("{length} entries, the tenant has {} tasks", of.records),
                            );
                        }
                    }
                    _ => audit.found(&key, "its tenant has no meta hash: nobody looks after it"),
                },
            }
        }
    }
    Ok(audit)
}

async fn look_at(
    connection: &mut Connection,
    tenants: HashSet<TenantName>,
) -> Result<Vec<(TenantName, Tenant)>, StoreError> {
    let mut pipeline = Pipeline::new();
    for tenant in &tenants {
        pipeline.cmd("HMGET").arg(keys::meta(tenant)).arg(&["generation", "retain_tasks"]);
        pipeline.cmd("ZCARD").arg(keys::done(tenant));
        pipeline.cmd("HLEN").arg(keys::records(tenant));
    }
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Value> = pipeline.query_async(connection).await?;
    let corrupt = |error: redis::ParsingError| StoreError::Corrupt(error.to_string());
    let mut found = Vec::with_capacity(tenants.len());
    let mut values = values.into_iter();
    for name in tenants {
        let mut next = || values.next().unwrap_or(Value::Nil);
        let (generation, retain): (Option<String>, Option<u64>) =
            redis::from_redis_value(next()).map_err(corrupt)?;
        let ended = redis::from_redis_value(next()).map_err(corrupt)?;
        let records = redis::from_redis_value(next()).map_err(corrupt)?;
        found.push((name, Tenant { generation, retain: retain.unwrap_or(0), ended, records }));
    }
    Ok(found)
}

type Sized = ((String, Kind), [u64; 2]);

/// How long each is and how many seconds it lives, 0 for ever.
async fn sizes(connection: &mut Connection, found: &[(String, Kind)]) -> Result<Vec<Sized>, StoreError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = Pipeline::new();
    for (key, kind) in found {
        let length = match kind {
            Kind::Events => "XLEN",
            Kind::Hash(_) | Kind::Meta(_) => "HLEN",
            Kind::Set(_) => "ZCARD",
            Kind::OfShard | Kind::Unknown => "EXISTS",
        };
        pipeline.cmd(length).arg(key).cmd("TTL").arg(key);
    }
    let numbers: Vec<i64> = pipeline.query_async(connection).await?;
    let numbers =
        numbers.chunks_exact(2).map(|pair| [pair[0], pair[1]].map(|n| u64::try_from(n).unwrap_or(0)));
    // What went between the two looks has a length of 0, and is nobody's concern.
    let expired = |((_, kind), [length, _]): &Sized| *length == 0 && matches!(kind, Kind::Events);
    Ok(found.iter().cloned().zip(numbers).filter(|one| !expired(one)).collect())
}
