//! `selvedge coordinator`: the process that admits, dispatches and settles.
//!
//! Turns the configuration into the coordinator's options, waits a bounded time for its servers, and drains within
//! a deadline. The work itself is `crate::coordinator`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::connect;
use super::context::Ctx;
use super::failure::known::{api_failure, nats_failure, redis_failure};
use super::failure::{Exit, Failure};
use super::signals::Hangups;
use super::target::duration;
use crate::bus::{ErrorKind, NatsOptions, provision};
use crate::config::{self, Provision, Setting, Settings, Sources, UnknownTenants};
use crate::coordinator::run::{Connections, CoordinatorError, Options, run as coordinate};
use crate::coordinator::shrink::ShrinkOptions;
use crate::flow::state::Policy;
use crate::store::connect::RedisOptions;
use crate::store::events::EventPolicy;
use crate::store::read::ScanLimits;
use crate::telemetry::prometheus;
use crate::wire::subjects::Shard;
use crate::wire::topology::Sizing;

/// Arguments of `coordinator`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge coordinator
  selvedge coordinator --config /etc/selvedge/selvedge.toml --log-format json
  selvedge coordinator --provision check        (streams are made by somebody else)

Start as many as you like: one owns the shard, the others follow and take over. SIGTERM drains within --drain-timeout;
a second one ends at once. SIGHUP reads selvedge.toml again: redis.tms_max_index_scan, redis.tms_list_scan_buffer,
redis.stream_maxlen and redis.stream_ttl_seconds apply at once, everything else at the next start.
Everything else is set in selvedge.toml, see `selvedge config template`.")]
pub struct CoordinatorArgs {
    /// Name in logs and connection lists [default: host name and process id]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,

    /// Streams and buckets: auto (create what is missing), check (refuse any difference) or never [default: auto]
    #[arg(long, value_name = "MODE", value_parser = provision)]
    pub provision: Option<Provision>,

    /// Where /livez, /readyz and /metrics are served [default: 127.0.0.1:7717]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_listen: Option<SocketAddr>,

    /// Servers that keep a copy of each stream and bucket, 1 to 5 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5))]
    pub replicas: Option<u64>,

    /// How long to wait for NATS and Redis at the start [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub start_timeout: Option<Duration>,

    /// How long stopping may take [default: 25s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
}

impl CoordinatorArgs {
    /// Adds what was given to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        sources.flag("coordinator.id", "--id", self.id.clone());
        sources.flag("coordinator.provision", "--provision", self.provision.map(Provision::as_str));
        sources.flag("coordinator.admin_listen", "--admin-listen", self.admin_listen.map(|a| a.to_string()));
        sources.flag("coordinator.replicas", "--replicas", self.replicas.map(|n| n.to_string()));
        let start = self.start_timeout.map(|d| format!("{}ms", d.as_millis()));
        sources.flag("coordinator.start_timeout", "--start-timeout", start);
        let drain = self.drain_timeout.map(|d| format!("{}ms", d.as_millis()));
        sources.flag("coordinator.drain_timeout", "--drain-timeout", drain);
    }
}

fn provision(text: &str) -> Result<Provision, String> {
    Provision::parse(text)
}

/// Runs it until the first signal, then drains.
pub async fn run(_args: CoordinatorArgs, ctx: Ctx) -> Result<ExitCode> {
    let settings = ctx.settings()?;
    let id = settings.coordinator.id.clone().unwrap_or_else(own_name);
    let metrics = prometheus::install()
        .map_err(|error| Failure::new(Exit::Failed, "METRICS", format!("cannot record metrics: {error}")))?;
    let done = CancellationToken::new();
    let upkeep = tokio::spawn(prometheus::upkeep(metrics.clone(), done.clone()));

    let (nats, redis) = (ctx.nats()?, ctx.redis_options()?);
    let patience = settings.coordinator.start_timeout;
    let connections = tokio::select! {
        connections = open(&nats, &redis, &id, patience) => connections?,
        () = ctx.stop.cancelled() => return Ok(Exit::Ok.into()),
    };
    fits(settings.coordinator.max_payload_bytes, connections.link.main.max_payload())?;
    let (live, options) = options(settings, id.clone());
    let options = Options { metrics: Arc::new(move || metrics.render()), ..options };
    let reloading = tokio::spawn(follow_the_file(ctx.clone(), live));
    let (up, is_up) = oneshot::channel();
    let running = coordinate(options, connections, Some(up), ctx.stop.clone());
    let announce = async {
        // An error comes out of `running`.
        let Ok(admin) = is_up.await else { return Ok(()) };
        let shown = admin.map(|admin| admin.to_string()).unwrap_or_default();
        tracing::info!(coordinator = %id, admin = %shown, "the coordinator is up");
        if ctx.output.json {
            ctx.output.json_line(&json!({"coordinator": id, "admin": admin, "pid": std::process::id()}))?;
        }
        Ok::<(), std::io::Error>(())
    };
    let drained = settings.coordinator.drain_timeout;
    let too_late = async {
        ctx.stop.cancelled().await;
        tokio::time::sleep(drained).await;
    };
    let ended = tokio::select! {
        (result, announced) = async { tokio::join!(running, announce) } => {
            announced?;
            result.map_err(|error| failure(error).into())
        }
        () = too_late => Err(Failure::new(
            Exit::Failed,
            "DRAIN_TIMEOUT",
            format!("not drained within {drained:?}; what was decided is in the journal, another coordinator goes on"),
        )
        .help("give it longer with --drain-timeout")
        .into()),
    };
    done.cancel();
    upkeep.abort();
    reloading.abort();
    ended.map(|()| Exit::Ok.into())
}

/// A message carries a payload in an envelope, or several payloads: the server must take four times the limit.
fn fits(limit: config::ByteSize, server: usize) -> Result<(), Failure> {
    let room = server as u64 / 4;
    if limit.0 <= room {
        return Ok(());
    }
    let text = format!(
        "max_payload_bytes is {limit}, but a quarter of the NATS server's max_payload is {}",
        config::ByteSize(room)
    );
    Err(Failure::new(Exit::Config, "MAX_PAYLOAD", text)
        .help("lower max_payload_bytes, or raise max_payload in the server's configuration"))
}

/// Opens the connections; servers that come up a little later than we do are waited for.
async fn open(
    nats: &NatsOptions,
    redis: &RedisOptions,
    id: &str,
    patience: Duration,
) -> Result<Connections, Failure> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        match Connections::open(nats, redis, id).await {
            Ok(connections) => return Ok(connections),
            Err(error) if comes_back(&error) && began.elapsed() + pause < patience => {
                tracing::warn!(%error, retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "waiting for a server");
            }
            Err(error) => return Err(failure(error)),
        }
        tokio::time::sleep(pause + connect::jitter(pause)).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Whether the server may simply not be up yet.
fn comes_back(error: &CoordinatorError) -> bool {
    match error {
        CoordinatorError::Nats(error) => matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout),
        CoordinatorError::Redis(error) => matches!(error, crate::store::connect::Error::Unreachable { .. }),
        _ => false,
    }
}

fn failure(error: CoordinatorError) -> Failure {
    let text = error.to_string();
    match error {
        CoordinatorError::Nats(error) => nats_failure(&error),
        CoordinatorError::Redis(error) => redis_failure(&error),
        CoordinatorError::Provision(provision::ProvisionError::Drifted(_)) => {
            Failure::new(Exit::Config, "NATS_DRIFT", text).multiline().help(
                "`selvedge nats check` shows it again; `selvedge nats export` writes the definitions to compare with",
            )
        }
        CoordinatorError::Provision(provision::ProvisionError::NoRoom { .. }) => {
            Failure::new(Exit::Config, "NATS_NO_ROOM", text)
                .help("free disk space, raise max_file_store or the account's limit, or lower coordinator.*_max_bytes")
        }
        CoordinatorError::Provision(provision::ProvisionError::Api(error)) | CoordinatorError::Api(error) => {
            api_failure(&error)
        }
        CoordinatorError::Admin(_) => {
            Failure::new(Exit::Config, "ADMIN_ADDRESS", text).help("set --admin-listen HOST:PORT; port 0 takes a free one")
        }
        CoordinatorError::Service(_) => Failure::new(Exit::Unavailable, "NATS_SERVICE", text)
            .help("the user needs the subjects of the coordinator's role, see nats/permissions.md"),
        CoordinatorError::Journal(_) => {
            // The error begins with its own code.
            let code = text.split(':').next().unwrap_or("JOURNAL").to_owned();
            Failure::new(Exit::Failed, code, text)
                .help("nothing was changed; restore the JOURNAL stream from a backup, or look for who wrote to it")
        }
    }
}

/// What may change while a coordinator runs.
struct Live {
    scan: watch::Sender<ScanLimits>,
    events: watch::Sender<EventPolicy>,
}

impl Live {
    /// Takes over what is different now; says whether anything is.
    fn take(&self, settings: &Settings) -> bool {
        let (scan, events) = (scan(settings), events(settings));
        let scans = self.scan.send_if_modified(|now| std::mem::replace(now, scan) != scan);
        let kept = self.events.send_if_modified(|now| std::mem::replace(now, events) != events);
        scans || kept
    }
}

/// Reads the configuration's file again at every SIGHUP. With a mistake in it everything stays as it was.
async fn follow_the_file(ctx: Ctx, live: Live) {
    let Some(mut hangups) = Hangups::new() else { return };
    while hangups.next().await {
        match ctx.read_again() {
            Ok(loaded) => {
                let changed = live.take(&loaded.settings);
                let scan = *live.scan.borrow();
                let events = *live.events.borrow();
                tracing::info!(
                    changed,
                    index_scan_ids = scan.cap,
                    scan_buffer_ids = scan.buffer,
                    stream_maxlen = events.maxlen,
                    stream_ttl_seconds = events.ttl_seconds,
                    "the configuration was read again; whatever else is different in it counts from the next start"
                );
            }
            Err(error) => {
                let what: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
                tracing::error!(mistakes = %what.join("; "), "the configuration was read again and is wrong; nothing was changed");
            }
        }
    }
}

/// The configuration as the coordinator takes it, and how to change a part of it later.
fn options(settings: &Settings, id: String) -> (Live, Options) {
    let own = &settings.coordinator;
    let (scan_now, scan) = watch::channel(scan(settings));
    let (events_now, events) = watch::channel(events(settings));
    let live = Live { scan: scan_now, events: events_now };
    let options = Options {
        shard: Shard(u16::try_from(own.shard).unwrap_or(0)),
        policy: policy(own),
        provision: match own.provision {
            Provision::Auto => provision::Provision::Auto,
            Provision::Check => provision::Provision::Check,
            Provision::Never => provision::Provision::Never,
        },
        sizing: sizing(own),
        shrink: ShrinkOptions {
            journal_bytes: own.snapshot_journal_bytes.0,
            cache_bytes: own.payload_cache_bytes.0,
        },
        owner_ttl: own.owner_ttl,
        index_result_bytes: usize::try_from(own.index_result_bytes.0).unwrap_or(usize::MAX),
        admin: Some(own.admin_listen),
        scan,
        events,
        ..Options::new(id)
    };
    (live, options)
}

fn policy(own: &config::Coordinator) -> Policy {
    Policy {
        default_plan: match own.unknown_tenants {
            UnknownTenants::DefaultPlan => Some(own.default_plan.clone()),
            UnknownTenants::Refuse => None,
        },
        dedupe_horizon_ms: millis(own.dedupe_horizon),
        dedupe_max: own.dedupe_max_per_tenant,
        dedupe_total: own.dedupe_max_total,
        offer_timeout_ms: millis(own.offer_timeout),
        max_payload: own.max_payload_bytes.0,
        in_flight: own.in_flight,
        ageing_ms: millis(own.ageing),
        ..Policy::default()
    }
}

/// Sizes of streams and buckets.
pub fn sizing(own: &config::Coordinator) -> Sizing {
    let bytes = |size: config::ByteSize| i64::try_from(size.0).unwrap_or(i64::MAX);
    Sizing {
        replicas: u8::try_from(own.replicas).unwrap_or(1),
        intake_bytes: bytes(own.intake_max_bytes),
        reports_bytes: bytes(own.reports_max_bytes),
        journal_bytes: bytes(own.journal_max_bytes),
        snapshots_bytes: bytes(own.snapshots_max_bytes),
        archive_bytes: bytes(own.archive_max_bytes),
        archive_age: own.archive_max_age,
        results_bytes: bytes(own.results_max_bytes),
        steps_bytes: bytes(own.steps_max_bytes),
        events_bytes: bytes(own.events_max_bytes),
        events_age: own.events_max_age,
        topics_bytes: bytes(own.topics_max_bytes),
        topics_age: own.topics_max_age,
    }
}

fn scan(settings: &Settings) -> ScanLimits {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    ScanLimits {
        cap: small(settings.redis.tms_max_index_scan),
        buffer: small(settings.redis.tms_list_scan_buffer),
    }
}

/// How events are kept.
pub fn events(settings: &Settings) -> EventPolicy {
    EventPolicy { maxlen: settings.redis.stream_maxlen, ttl_seconds: settings.redis.stream_ttl_seconds }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Host name and process id.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "coordinator".to_owned());
    format!("{}-{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_configuration_the_streams_are_those_in_the_repository() {
        let loaded = config::load(&Sources::default(), &|_| Ok(None)).unwrap();
        assert_eq!(sizing(&loaded.settings.coordinator), Sizing::default());
        let (_, options) = options(&loaded.settings, "c".to_owned());
        assert_eq!(*options.scan.borrow(), ScanLimits::default());
        assert_eq!(*options.events.borrow(), EventPolicy::default());
        assert_eq!(options.policy.offer_timeout_ms, Policy::default().offer_timeout_ms);
        assert_eq!(options.shrink, ShrinkOptions::default());
        assert_eq!(options.policy.default_plan, Policy::default().default_plan);
    }
}
