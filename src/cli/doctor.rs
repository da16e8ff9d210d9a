//! `selvedge doctor`: is this deployment fit?
//!
//! Looks, never changes. Each check is one function that adds findings; a finding says what to do.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::context::Ctx;
use super::coordinator::{events, sizing};
use super::failure::known::{api_failure, nats_failure, redis_failure};
use super::failure::{Exit, Failure};
use super::output::{human_bytes, human_duration, safe};
use crate::bus::provision::{self, Severity};
use crate::bus::{self, Connection, survey};
use crate::client::DEFAULT_TENANT;
use crate::store;
use crate::task::MAX_PAYLOAD_BYTES;
use crate::wire::subjects::{self, Shard};
use crate::wire::topology::{Sizing, Topology};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge doctor
  selvedge doctor --context production --json

Checks the configuration, that NATS can be reached and is 2.15.1 or later, JetStream and its limits, the clock, rights,
the streams and buckets, how full the journal and how old the newest snapshot is, and Redis with its eviction policy and every key of ours in it:
each must be capped or expire. It changes nothing. Each finding says what to do.
Exits 0 if nothing is wrong, 69 if a server cannot be reached, 78 if something is set up wrongly, 1 otherwise.")]
pub struct DoctorArgs {
    /// Treat warnings as failures
    #[arg(long)]
    pub strict: bool,
}

/// Beyond this, deadlines and scheduled starts would be off by as much.
const CLOCK_TOLERANCE_MS: i64 = 1_000;
/// From here on, in percent, the journal is worth a warning.
const JOURNAL_TIGHT: u64 = 75;
/// More than this between us and the server is felt by everybody.
const SLOW_ROUND_TRIP: Duration = Duration::from_millis(250);

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    what: String,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// What the process would end with because of this one.
    #[serde(skip)]
    exit: Option<Exit>,
}

/// The JSON of `doctor`.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.add(check, Level::Ok, what, None::<String>, None);
    }

    fn warn(&mut self, check: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Warn, what, Some(advice), None);
    }

    fn fail(&mut self, check: &'static str, what: impl Into<String>, advice: impl Into<String>, exit: Exit) {
        self.add(check, Level::Fail, what, Some(advice), Some(exit));
    }

    fn failure(&mut self, check: &'static str, failure: Failure) {
        let advice = failure.help.clone();
        let what = format!("{}: {}", failure.code, failure.what);
        self.add(check, Level::Fail, what, advice, Some(failure.exit));
    }

    fn add(
        &mut self,
        check: &'static str,
        level: Level,
        what: impl Into<String>,
        advice: Option<impl Into<String>>,
        exit: Option<Exit>,
    ) {
        self.findings.push(Finding { check, level, what: what.into(), advice: advice.map(Into::into), exit });
    }

    fn exit(&self, strict: bool) -> Exit {
        let failed = |exit: Exit| self.findings.iter().any(|finding| finding.exit == Some(exit));
        let any = |level: Level| self.findings.iter().any(|finding| finding.level == level);
        match () {
            () if failed(Exit::Unavailable) => Exit::Unavailable,
            () if failed(Exit::Config) => Exit::Config,
            () if any(Level::Fail) || strict && any(Level::Warn) => Exit::Failed,
            () => Exit::Ok,
        }
    }

    fn text(&self) -> String {
        let line = |finding: &Finding| {
            let level = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            let mut text = format!("{level}  {:12} {}\n", finding.check, safe(&finding.what));
            if let Some(advice) = &finding.advice {
                text.push_str(&format!("      {:12} → {}\n", "", safe(advice)));
            }
            text
        };
        self.findings.iter().map(line).collect()
    }
}

/// Runs it.
pub async fn run(args: DoctorArgs, ctx: Ctx) -> Result<ExitCode> {
    let mut report = Report { ok: false, findings: Vec::new() };
    // A configuration with mistakes is told as everywhere, and nothing can be checked with it.
    let loaded = ctx.loaded()?;
    match &loaded.file {
        Some(file) => report.ok("config", format!("{} is fine", file.display())),
        None => report.ok("config", "no file; environment, flags and defaults"),
    }
    for warning in &loaded.warnings {
        report.warn("config", warning, "correct or unset it");
    }
    match bus::connect(&ctx.nats()?, "selvedge-doctor").await {
        Ok(connection) => nats(&mut report, &connection, &sizing(&loaded.settings.coordinator)).await,
        Err(error) => report.failure("nats", nats_failure(&error)),
    }
    redis(&mut report, &ctx).await?;

    let exit = report.exit(args.strict);
    report.ok = exit == Exit::Ok;
    ctx.output.either(&report, Report::text)?;
    Ok(exit.into())
}

async fn nats(report: &mut Report, connection: &Connection, sizing: &Sizing) {
    report.ok("nats", format!("nats-server {} at {}", connection.server_version(), connection.servers()));
    match connection.max_payload() {
        bytes if bytes / 4 < MAX_PAYLOAD_BYTES => report.warn(
            "nats",
            format!(
                "max_payload is {}: inputs and results are limited to {}",
                human_bytes(bytes as u64),
                human_bytes(bytes as u64 / 4)
            ),
            "raise max_payload to 1MB, its default, in the server's configuration",
        ),
        bytes => report.ok("nats", format!("max_payload is {}", human_bytes(bytes as u64))),
    }
    rights(report, connection).await;
    coordinator(report, connection).await;
    if jetstream(report, connection, sizing).await {
        streams(report, connection, sizing).await;
        journal(report, connection).await;
        clock(report, connection).await;
    }
}

/// Whether JetStream can be used at all.
async fn jetstream(report: &mut Report, connection: &Connection, sizing: &Sizing) -> bool {
    if let Err(error) = connection.check_jetstream().await {
        report.failure("jetstream", nats_failure(&error));
        return false;
    }
    let account = match survey::account(connection).await {
        Ok(account) => account,
        Err(error) => {
            report.failure("jetstream", api_failure(&error));
            return false;
        }
    };
    let used = human_bytes(u64::try_from(account.storage).unwrap_or(0));
    let topology = Topology::new(sizing);
    let needed: i64 = topology.all_streams().map(|stream| stream.max_bytes.max(0)).sum();
    let limit = account.limits.max_storage;
    if limit > 0 && limit < needed {
        report.fail(
            "jetstream",
            format!(
                "the account may store {}, the streams are configured for {}",
                human_bytes(u64::try_from(limit).unwrap_or(0)),
                human_bytes(u64::try_from(needed).unwrap_or(0))
            ),
            "raise the account's max_file, or lower coordinator.*_max_bytes",
            Exit::Config,
        );
    } else {
        let limit = match u64::try_from(limit) {
            Ok(limit) if limit > 0 => human_bytes(limit),
            _ => "no limit".to_owned(),
        };
        report.ok(
            "jetstream",
            format!("API level {}, {used} stored, account limit: {limit}", account.api.level),
        );
    }
    true
}

async fn streams(report: &mut Report, connection: &Connection, sizing: &Sizing) {
    let drift = match provision::drift(connection.jetstream(), &Topology::new(sizing)).await {
        Ok(drift) => drift,
        Err(error) => return report.failure("streams", api_failure(&error)),
    };
    if drift.is_empty() {
        report.ok("streams", "streams, consumers and buckets are as defined");
    }
    for one in drift {
        let what = one.to_string();
        match one.severity {
            Severity::BreaksPromise => report.fail(
                "streams",
                what,
                "put it back as `selvedge nats export` writes it; nothing here changes a stream by itself",
                Exit::Config,
            ),
            Severity::Missing => report.warn(
                "streams",
                what,
                "a coordinator with provision = auto makes it; or create it from `selvedge nats export`",
            ),
            Severity::Differs => report.warn(
                "streams",
                what,
                "fine if you mean it: write the same into [coordinator], else put the stream back",
            ),
        }
    }
}

/// Whether the journal has room, and how much a start would replay.
async fn journal(report: &mut Report, connection: &Connection) {
    let found = match survey::shrinking(connection, Shard(0)).await {
        Ok(found) => found,
        // Missing streams were named above.
        Err(error) => return report.ok("journal", format!("not looked at: {error}")),
    };
    let room = found.journal;
    let percent = room.bytes.saturating_mul(100) / room.max_bytes.max(1);
    let fill = format!("{} of {} ({percent} %)", human_bytes(room.bytes), human_bytes(room.max_bytes));
    match percent {
        0..JOURNAL_TIGHT => report.ok("journal", format!("holds {fill}")),
        _ => report.warn(
            "journal",
            format!("holds {fill}; from 80 % on no submits are decided"),
            "raise max_bytes of JOURNAL and coordinator.journal_max_bytes, or look in the coordinator's log for why it does not shrink",
        ),
    }
    match found.newest {
        Some((age, bytes)) => report.ok(
            "snapshots",
            format!("the newest has {} and is {} old", human_bytes(bytes), human_duration(age)),
        ),
        None if room.first_seq > 1 => report.fail(
            "snapshots",
            "the journal was purged and there is no snapshot that can be read",
            "don't stop the coordinator that owns the shard, it can take one; else restore SNAPSHOTS or JOURNAL from a backup",
            Exit::Failed,
        ),
        None => report.ok("snapshots", "none yet; the journal is whole"),
    }
    for broken in found.broken {
        report.warn(
            "snapshots",
            broken,
            "a start passes it over; it goes by itself when two newer ones are verified",
        );
    }
}

async fn clock(report: &mut Report, connection: &Connection) {
    match survey::clock_ahead(connection).await {
        None => report.ok("clock", "not compared: there is no stream to ask yet"),
        Some((ahead, round_trip)) => {
            let side = if ahead >= 0 { "ahead of" } else { "behind" };
            let what = format!(
                "this machine is {} {side} the server (round trip {})",
                human_duration(Duration::from_millis(ahead.unsigned_abs())),
                human_duration(round_trip)
            );
            if ahead.abs() > CLOCK_TOLERANCE_MS {
                report.warn(
                    "clock",
                    what,
                    "synchronise both clocks; leases don't depend on them, deadlines and ages do",
                );
            } else if round_trip > SLOW_ROUND_TRIP {
                report.warn("clock", what, "run agents and coordinators near the NATS server");
            } else {
                report.ok("clock", what);
            }
        }
    }
}

async fn coordinator(report: &mut Report, connection: &Connection) {
    let ours = env!("CARGO_PKG_VERSION");
    match survey::coordinators(connection).await {
        Ok(found) if found.is_empty() => report.warn(
            "coordinator",
            "no coordinator answers",
            "start one with `selvedge coordinator`; or this user may not ask $SRV.INFO",
        ),
        Ok(found) => {
            let versions: Vec<String> = found.iter().map(|one| one.version.clone()).collect();
            let what = match found.len() {
                1 => format!("one answers, version {}", versions.join(", ")),
                many => format!("{many} answer, versions {}", versions.join(", ")),
            };
            match found.iter().all(|one| one.version == ours) {
                true => report.ok("coordinator", what),
                false => {
                    report.warn("coordinator", what, format!("this is version {ours}; upgrade to the same"))
                }
            }
        }
        Err(error) => report.failure("coordinator", nats_failure(&error)),
    }
}

/// What each role listens to; publishing is not tried, because that would change something.
async fn rights(report: &mut Report, connection: &Connection) {
    let (Ok(tenant), Ok(agent)) = (DEFAULT_TENANT.parse(), "doctor".parse()) else { return };
    let roles = [
        ("client", vec![subjects::done_of_tenant(&tenant), subjects::events_of_tenant(&tenant)]),
        ("agent", vec![subjects::offers_of_agent(&agent), subjects::ctl_of_agent(&agent)]),
        (
            "coordinator",
            vec![
                subjects::BEAT_ALL.to_owned(),
                subjects::ACCEPT_ALL.to_owned(),
                subjects::api(&tenant, "doctor"),
            ],
        ),
    ];
    let all: Vec<String> = roles.iter().flat_map(|(_, subjects)| subjects.clone()).collect();
    let forbidden = match survey::forbidden(connection, &all).await {
        Ok(forbidden) => forbidden,
        Err(error) => return report.failure("rights", nats_failure(&error)),
    };
    let may: Vec<&str> = roles
        .iter()
        .filter(|(_, subjects)| !subjects.iter().any(|subject| forbidden.contains(subject)))
        .map(|(role, _)| *role)
        .collect();
    match may.is_empty() {
        false => report.ok("rights", format!("this user may listen as {}", may.join(", "))),
        true => report.warn(
            "rights",
            format!("this user may listen as no role of tenant {DEFAULT_TENANT}: {}", forbidden.join(", ")),
            "nats/permissions.md lists the subjects each role needs",
        ),
    }
}

async fn redis(report: &mut Report, ctx: &Ctx) -> Result<()> {
    let options = ctx.redis_options()?;
    match store::connect::connect(&options).await {
        Ok((connection, server)) => {
            let memory = match server.maxmemory {
                0 => "no memory limit".to_owned(),
                bytes => format!("{} of memory", human_bytes(bytes)),
            };
            let what = format!(
                "{} {} at {}, {memory}, {}",
                server.product,
                server.version,
                options.address(),
                server.policy
            );
            report.ok("redis", what);
            keys(report, ctx, &connection).await?;
        }
        Err(error) => report.failure("redis", redis_failure(&error)),
    }
    Ok(())
}

/// Whether everything in Redis is bounded: looks at every key of ours.
async fn keys(report: &mut Report, ctx: &Ctx, connection: &store::Connection) -> Result<()> {
    let policy = events(ctx.settings()?);
    let found = match store::audit::audit(connection, Shard(0), policy).await {
        Ok(found) => found,
        Err(error) => {
            report.warn("redis keys", format!("not looked at: {error}"), "run it again when Redis answers");
            return Ok(());
        }
    };
    let store::audit::Audit { keys, streams, tenants, unbounded, unnamed } = found;
    if unbounded.is_empty() {
        let what = format!(
            "{keys} keys: {streams} event streams, the index of {tenants} tenants; each is capped or expires"
        );
        report.ok("redis keys", what);
    }
    for (key, why) in &unbounded {
        report.fail(
            "redis keys",
            format!("{key}: {why}"),
            "delete it; if it comes again, tell us. An index comes back with `selvedge index rebuild`",
            Exit::Failed,
        );
    }
    if unnamed > 0 {
        let what = format!("{unnamed} more keys that nothing bounds");
        report.fail("redis keys", what, "delete those above and look again", Exit::Failed);
    }
    Ok(())
}
