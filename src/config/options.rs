//! Every option, once: its type, default, unit, variable and documentation stand on the same lines.
//!
//! The `section!` macro makes three things of each line: a field of the section's struct (the configuration *as
//! meant*), an entry of the table (from which the template, `docs/configuration.md` and `config show` come), and the
//! code that fills the field. So an option cannot be documented without existing, or exist without being documented.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::layers::Resolved;
use super::quantity::ByteSize;
use super::url::{NatsUrls, RedisUrl, Secret};
use super::value::{Kind, LogFilter, LogFormat, Provision, Setting, UnknownTenants};
use crate::task::PlanName;

/// What is known about one option.
#[derive(Debug, Clone, Copy)]
pub struct OptionDef {
    /// The section it stands in.
    pub section: &'static str,
    /// Its name inside the section.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// Its default, in textual form; empty if it is unset by default.
    pub default: &'static str,
    /// What the value counts.
    pub unit: &'static str,
    /// The environment variable that sets it; empty for the ordinary `SELVEDGE_<SECTION>_<NAME>`.
    env: &'static str,
    /// A value a user might choose.
    pub example: &'static str,
    /// The documentation, one string a line.
    pub doc: &'static [&'static str],
}

impl OptionDef {
    /// `section.name`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn env(&self) -> String {
        match self.env {
            "" => format!("SELVEDGE_{}_{}", self.section, self.name).to_ascii_uppercase(),
            name => name.to_owned(),
        }
    }

    /// The documentation as one paragraph.
    pub fn summary(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

macro_rules! section {
    ($(#[doc = $sdoc:literal])* $section:ident = $table:literal {
        $($(#[doc = $doc:literal])*
          $name:ident: $ty:ty = $default:literal, unit $unit:literal, env $env:literal, example $example:literal
          $(, check $check:expr)?;)*
    }) => {
        $(#[doc = $sdoc])*
        #[derive(Debug, Clone)]
        pub struct $section { $($(#[doc = $doc])* pub $name: $ty,)* }

        impl $section {
            /// The section's name in the file.
            pub const NAME: &'static str = $table;
            /// What the section is about.
            pub const DOC: &'static [&'static str] = &[$($sdoc),*];
            /// The section's part of the table.
            pub const OPTIONS: &'static [OptionDef] = &[$(OptionDef {
                section: $table,
                name: stringify!($name),
                kind: <$ty as Setting>::KIND,
                default: $default,
                unit: $unit,
                env: $env,
                example: $example,
                doc: &[$($doc),*],
            }),*];

            /// `None` if any option is wrong; what is wrong is noted in `given`.
            pub(super) fn build(given: &mut Resolved) -> Option<Self> {
                // Every field is read before any failure ends it, so that a user sees all mistakes at once.
                $(let $name: Option<$ty> = given.take($table, stringify!($name), |_value: &$ty| {
                    $(let check: fn(&$ty) -> Result<(), String> = $check; check(_value)?;)?
                    Ok(())
                });)*
                Some(Self { $($name: $name?,)* })
            }
        }
    };
}

section! {
    /// How to reach NATS. Whatever is not set here comes from the selected NATS context, as with the `nats` command.
    Nats = "nats" {
        /// The servers of the cluster; the first that answers is used.
        urls: NatsUrls = "nats://127.0.0.1:4222", unit "", env "NATS_URL", example "nats://n1:4222,nats://n2:4222";
        /// The NATS context to start from; without it, the one selected with `nats context select`.
        context: Option<String> = "", unit "", env "NATS_CONTEXT", example "production";
        /// The user name.
        user: Option<String> = "", unit "", env "NATS_USER", example "selvedge";
        /// The password. Prefer `password_file` or the variable to a secret in this file.
        password: Option<Secret> = "", unit "", env "NATS_PASSWORD", example "s3cret";
        /// A file that holds the password; a trailing line break is ignored.
        password_file: Option<PathBuf> = "", unit "", env "", example "/run/secrets/nats-password";
        /// The authentication token.
        token: Option<Secret> = "", unit "", env "NATS_TOKEN", example "t0ken";
        /// A credentials file (JWT and seed).
        creds: Option<PathBuf> = "", unit "", env "NATS_CREDS", example "/etc/selvedge/coordinator.creds";
        /// An NKey seed, or a file that holds it.
        nkey: Option<Secret> = "", unit "", env "NATS_NKEY", example "/etc/selvedge/coordinator.nk";
        /// A user JWT, or a file that holds it; goes with `seed`.
        user_jwt: Option<Secret> = "", unit "", env "NATS_JWT", example "eyJ0";
        /// The seed that signs for `user_jwt`, or a file that holds it.
        seed: Option<Secret> = "", unit "", env "NATS_SEED", example "SUA";
        /// The client certificate, PEM.
        tls_cert: Option<PathBuf> = "", unit "", env "NATS_CERT", example "/etc/selvedge/client.pem";
        /// The key of the client certificate, PEM.
        tls_key: Option<PathBuf> = "", unit "", env "NATS_KEY", example "/etc/selvedge/client-key.pem";
        /// Certificate authorities to trust beside the system's, PEM.
        tls_ca: Option<PathBuf> = "", unit "", env "NATS_CA", example "/etc/selvedge/ca.pem";
        /// Begin with the TLS handshake instead of waiting for the server's greeting.
        tls_first: bool = "false", unit "", env "", example "true";
        /// The JetStream domain.
        js_domain: Option<String> = "", unit "", env "", example "hub";
        /// The JetStream API prefix, for streams imported from another account.
        js_api_prefix: Option<String> = "", unit "", env "", example "$JS.acme.API";
        /// The prefix of reply subjects; accounts with few rights often deny `_INBOX`.
        inbox_prefix: Option<String> = "", unit "", env "", example "_INBOX_selvedge";
        /// How long a request may take before it is given up.
        timeout: Duration = "5s", unit "", env "NATS_TIMEOUT", example "10s", check |d| positive(*d);
    }
}

section! {
    /// The Redis or Valkey server that holds the index and the event streams. Both are disposable; the journal is not here.
    Redis = "redis" {
        /// The server; `rediss://` for TLS. A user and a password may be part of it.
        url: RedisUrl = "redis://127.0.0.1:6379", unit "", env "REDIS_URL", example "rediss://cache.internal:6380/0";
        /// Certificate authorities to trust for `rediss://` beside the system's, PEM.
        tls_ca: Option<PathBuf> = "", unit "", env "", example "/etc/selvedge/redis-ca.pem";
        /// The client certificate for `rediss://`, PEM.
        tls_cert: Option<PathBuf> = "", unit "", env "", example "/etc/selvedge/redis.pem";
        /// The key of the client certificate, PEM.
        tls_key: Option<PathBuf> = "", unit "", env "", example "/etc/selvedge/redis-key.pem";
        /// How many entries a task's event stream keeps. Older ones are trimmed, approximately.
        stream_maxlen: u64 = "10000", unit "entries", env "REDIS_STREAM_MAXLEN", example "50000", check |n| between(*n, 1, u64::MAX);
        /// How long an event stream lives after its last entry; every entry starts it anew. 0: no expiry is set at all.
        stream_ttl_seconds: u64 = "3600", unit "seconds", env "REDIS_STREAM_TTL_SECONDS", example "86400";
        /// The most ids one list query may look at, whatever page was asked for.
        tms_max_index_scan: u64 = "200", unit "ids", env "REDIS_TMS_MAX_INDEX_SCAN", example "500", check |n| between(*n, 1, 100_000);
        /// How many ids more than the page a list query looks at if several filters are combined.
        tms_list_scan_buffer: u64 = "50", unit "ids", env "REDIS_TMS_LIST_SCAN_BUFFER", example "100", check |n| between(*n, 0, 100_000);
        /// How long Redis may take to accept a connection.
        connect_timeout: Duration = "1s", unit "", env "", example "3s", check |d| positive(*d);
        /// How long Redis may take to answer a command.
        response_timeout: Duration = "500ms", unit "", env "", example "1s", check |d| positive(*d);
    }
}

section! {
    /// What a coordinator does. Agents, clients and the other commands don't read this section.
    Coordinator = "coordinator" {
        /// The coordinator's name in logs and connection lists; without it, the host name and the process id.
        id: Option<String> = "", unit "", env "", example "coordinator-1";
        /// The shard it may own. There is one shard, 0.
        shard: u64 = "0", unit "", env "", example "0", check |n| between(*n, 0, 0);
        /// What it does about streams and buckets at the start: `auto` creates what is missing, `check` refuses any difference, `never` refuses only what is missing or could lose accepted work.
        provision: Provision = "auto", unit "", env "", example "check";
        /// Where `/livez`, `/readyz` and `/metrics` are served. There is no authentication: keep it private.
        admin_listen: SocketAddr = "127.0.0.1:7717", unit "", env "", example "0.0.0.0:7717";
        /// How many servers keep a copy of each stream and bucket.
        replicas: u64 = "1", unit "servers", env "", example "3", check |n| between(*n, 1, 5);
        /// What becomes of a submit by a tenant nobody has set up.
        unknown_tenants: UnknownTenants = "default-plan", unit "", env "", example "refuse";
        /// The plan of tenants nobody has set up.
        default_plan: PlanName = "free", unit "", env "", example "pro";
        /// How many tasks run at once in all, whatever tenants and agents may; 0 pauses everything.
        in_flight: u64 = "1000000", unit "tasks", env "", example "5000";
        /// How long after its admission a task's class is one higher, and again, up to `critical`, so that nothing waits for ever behind higher classes. Counted in whole seconds; 0 is never.
        ageing: Duration = "60s", unit "", env "", example "5m";
        /// How long an instance may take to accept an offer before it is withdrawn.
        offer_timeout: Duration = "5s", unit "", env "", example "2s", check |d| at_least(*d, Duration::from_millis(100));
        /// How long a submit's id is remembered, so that a repeated submit is the same task.
        dedupe_horizon: Duration = "24h", unit "", env "", example "7d", check |d| at_least(*d, Duration::from_secs(60));
        /// How many ended tasks' ids are remembered per tenant; beyond that the oldest go before `dedupe_horizon`.
        dedupe_max_per_tenant: u64 = "100000", unit "ids", env "", example "1000000", check |n| between(*n, 1, u64::MAX);
        /// How many ended tasks' ids are remembered in all; beyond that the oldest go before `dedupe_horizon`. Each costs about 250 bytes of memory.
        dedupe_max_total: u64 = "500000", unit "ids", env "", example "2000000", check |n| between(*n, 1, u64::MAX);
        /// The size at which INTAKE refuses further submits.
        intake_max_bytes: ByteSize = "512MiB", unit "", env "", example "4GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// The size at which REPORTS refuses further reports.
        reports_max_bytes: ByteSize = "512MiB", unit "", env "", example "4GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// The size at which the JOURNAL takes nothing more: then nothing is decided until there is room again.
        journal_max_bytes: ByteSize = "2GiB", unit "", env "", example "64GiB", check |b| at_least_bytes(*b, 16 << 20);
        /// How much the JOURNAL grows before a snapshot of the state is taken and what lies before it is dropped; more if the last snapshot was larger than this, less if the JOURNAL is small.
        snapshot_journal_bytes: ByteSize = "64MiB", unit "", env "", example "512MiB", check |b| at_least_bytes(*b, 64 << 10);
        /// The size of SNAPSHOTS. Three snapshots must fit: the two that are kept and the one being written. About 500 bytes for each task that waits or is remembered.
        snapshots_max_bytes: ByteSize = "2GiB", unit "", env "", example "8GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// The size at which ARCHIVE drops its oldest ended tasks. From it an index that Redis lost is filled again.
        archive_max_bytes: ByteSize = "1GiB", unit "", env "", example "16GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// How long ARCHIVE keeps an ended task, and RESULTS a large result, at most. Not shorter than the longest retention of a plan.
        archive_max_age: Duration = "30d", unit "", env "", example "90d", check |d| at_least(*d, Duration::from_secs(60));
        /// Results of more bytes than this are kept in RESULTS, and not in Redis.
        index_result_bytes: ByteSize = "16KiB", unit "", env "", example "4KiB", check |b| at_least_bytes(*b, 512);
        /// The size at which RESULTS drops its oldest. Each of them lives as long as its task is kept.
        results_max_bytes: ByteSize = "1GiB", unit "", env "", example "16GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// The size at which STEPS takes no further large results of steps: such a step fails then, to be tried again. Each of them lives as long as its task.
        steps_max_bytes: ByteSize = "2GiB", unit "", env "", example "16GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// How many bytes of inputs and results are kept in memory; the others are read back from the JOURNAL when they are needed.
        payload_cache_bytes: ByteSize = "64MiB", unit "", env "", example "512MiB", check |b| at_least_bytes(*b, 1 << 20);
        /// How long an event waits in EVENTS at most, if it can't be written to Redis; what is written leaves it at once.
        events_max_age: Duration = "15m", unit "", env "", example "10m", check |d| at_least(*d, Duration::from_secs(1));
        /// The size at which EVENTS drops its oldest events.
        events_max_bytes: ByteSize = "256MiB", unit "", env "", example "2GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// The size at which TOPICS refuses further messages. What every trigger has read makes room before that.
        topics_max_bytes: ByteSize = "512MiB", unit "", env "", example "4GiB", check |b| at_least_bytes(*b, 1 << 20);
        /// How long TOPICS keeps a message for a trigger that is paused or behind.
        topics_max_age: Duration = "7d", unit "", env "", example "30d", check |d| at_least(*d, Duration::from_secs(60));
        /// The largest input or result of a task; pass larger ones by reference. Not above 256 KiB, which clients and agents check themselves, nor above a quarter of the server's `max_payload`, which is checked at the start.
        max_payload_bytes: ByteSize = "256KiB", unit "", env "", example "128KiB", check |b| between_bytes(*b, 1 << 10, 256 << 10);
        /// How long a dead owner's shard stays without one: a standby takes over after about this time.
        owner_ttl: Duration = "2s", unit "", env "", example "5s", check |d| at_least(*d, Duration::from_secs(1));
        /// How long a starting coordinator waits for NATS and Redis before it gives up.
        start_timeout: Duration = "30s", unit "", env "", example "2m";
        /// How long a stopping coordinator may take to finish what it has begun.
        drain_timeout: Duration = "25s", unit "", env "", example "55s";
    }
}

section! {
    /// What the process says about itself, on standard error.
    Log = "log" {
        /// `auto` is `pretty` on a terminal and `json` elsewhere.
        format: LogFormat = "auto", unit "", env "", example "json";
        /// What is logged: a level, or levels per module. Commands that end by themselves log from `warn` on unless this is set.
        filter: LogFilter = "info", unit "", env "RUST_LOG", example "info,selvedge::bus=debug";
    }
}

/// The configuration as meant: typed, complete, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[nats]`
    pub nats: Nats,
    /// `[redis]`
    pub redis: Redis,
    /// `[coordinator]`
    pub coordinator: Coordinator,
    /// `[log]`
    pub log: Log,
}

/// One section as the documentation shows it: name, doc lines, options.
pub type SectionDef = (&'static str, &'static [&'static str], &'static [OptionDef]);

/// The whole table, in the order of the file.
pub const SECTIONS: &[SectionDef] = &[
    (Nats::NAME, Nats::DOC, Nats::OPTIONS),
    (Redis::NAME, Redis::DOC, Redis::OPTIONS),
    (Coordinator::NAME, Coordinator::DOC, Coordinator::OPTIONS),
    (Log::NAME, Log::DOC, Log::OPTIONS),
];

/// Every option, in the order of the file.
pub fn all() -> impl Iterator<Item = &'static OptionDef> {
    SECTIONS.iter().flat_map(|(_, _, options)| options.iter())
}

/// The option called `section.name`, if there is one.
pub fn find(section: &str, name: &str) -> Option<&'static OptionDef> {
    all().find(|option| option.section == section && option.name == name)
}

impl Settings {
    pub(super) fn build(given: &mut Resolved) -> Option<Self> {
        let nats = Nats::build(given);
        let redis = Redis::build(given);
        let coordinator = Coordinator::build(given);
        let log = Log::build(given);
        let settings = Settings { nats: nats?, redis: redis?, coordinator: coordinator?, log: log? };
        settings.check_together(given);
        Some(settings)
    }

    /// What only shows when two options are seen together.
    fn check_together(&self, given: &mut Resolved) {
        let nats = &self.nats;
        if nats.tls_cert.is_some() != nats.tls_key.is_some() {
            given.conflict(
                "nats.tls_cert",
                "nats.tls_key",
                "a client certificate and its key go together: set both or neither",
            );
        }
        let redis = &self.redis;
        if (redis.tls_ca.is_some() || redis.tls_cert.is_some())
            && !redis.url.0.expose().starts_with("rediss://")
        {
            given.conflict(
                "redis.url",
                "redis.tls_ca",
                "TLS begins with a rediss:// URL: change it, or unset redis.tls_*",
            );
        }
        if redis.tls_cert.is_some() != redis.tls_key.is_some() {
            given.conflict(
                "redis.tls_cert",
                "redis.tls_key",
                "a client certificate and its key go together: set both or neither",
            );
        }
        if nats.user_jwt.is_some() && nats.seed.is_none() {
            given.conflict(
                "nats.user_jwt",
                "nats.seed",
                "a JWT needs the seed that signs for it: set both, or use nats.creds",
            );
        }
        if nats.password.is_some() && nats.password_file.is_some() {
            given.conflict("nats.password", "nats.password_file", "keep one of the two");
        }
    }
}

fn positive(d: Duration) -> Result<(), String> {
    at_least(d, Duration::from_millis(1))
}

fn at_least(d: Duration, least: Duration) -> Result<(), String> {
    if d >= least { Ok(()) } else { Err(format!("must be at least {least:?}")) }
}

fn at_least_bytes(size: ByteSize, least: u64) -> Result<(), String> {
    if size.0 >= least { Ok(()) } else { Err(format!("must be at least {}", ByteSize(least))) }
}

fn between_bytes(size: ByteSize, least: u64, most: u64) -> Result<(), String> {
    match size.0 <= most {
        true => at_least_bytes(size, least),
        false => Err(format!("must be at most {}", ByteSize(most))),
    }
}

fn between(n: u64, least: u64, most: u64) -> Result<(), String> {
    match (n < least, n > most) {
        (false, false) => Ok(()),
        _ if least == most => Err(format!("must be {least}")),
        (true, _) => Err(format!("must be at least {least}")),
        _ => Err(format!("must be at most {most}")),
    }
}
