//! One coordinator process: provisions, competes for the shard, answers queries, until it is told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admin::{Admin, AdminError, Bound, Heartbeat, Readiness},
    calls::OwnerHandle,
    indexer::{Aside, IndexHealth, IndexState},
    owner::{self, Probe},
    queries::{Counts, Queries, hot::Hot},
    shard::{self, ShardContext},
    shrink::ShrinkOptions,
};
use crate::{
    bus::{
        self, Clock, JetStream, Link, NatsOptions,
        api::ApiError,
        objects::Objects,
        ownership::{Lease, LeaseConfig},
        provision::{self, Provision, ProvisionError, Severity},
        results::Results,
        service::{self, ServiceConfig, ServiceError},
    },
    flow::{engine::JournalError, load::Load, state::Policy},
    store::{
        Connection,
        connect::RedisOptions,
        events::{EventPolicy, EventStore},
        read::{IndexReader, ScanLimits},
    },
    wire::{
        subjects::Shard,
        topology::{Sizing, Topology},
    },
};

/// How long the loop may stand still before `/livez` says so.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// What a coordinator is told by its configuration.
#[derive(Clone)]
pub struct Options {
    /// Who, for people and logs.
    pub id: String,
    /// Which shard it competes for.
    pub shard: Shard,
    /// What the core needs to know of the installation.
    pub policy: Policy,
    /// Whether missing streams are made.
    pub provision: Provision,
    /// How large they are.
    pub sizing: Sizing,
    /// How long ownership lasts without renewal.
    pub owner_ttl: Duration,
    /// How often the streams are compared with what they should be.
    pub drift_check: Duration,
    /// When the journal shrinks.
    pub shrink: ShrinkOptions,
    /// Where probes and metrics are served.
    pub admin: Option<SocketAddr>,
    /// How far lists look; may change while running.
    pub scan: watch::Receiver<ScanLimits>,
    /// Results of more bytes than this are kept beside the index.
    pub index_result_bytes: usize,
    /// How events are kept; may change while running.
    pub events: watch::Receiver<EventPolicy>,
    /// Renders the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Real, or accelerated in tests.
    pub clock: Clock,
    /// Called at the named points of the owner's loop; tests crash there.
    pub probe: Probe,
}

/// See [`Options::index_result_bytes`].
const INDEX_RESULT_BYTES: usize = 16 * 1024;

impl Options {
    /// With every default, no admin port, real time and no metrics.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            shard: Shard(0),
            policy: Policy::default(),
            provision: Provision::Auto,
            sizing: Sizing::default(),
            owner_ttl: Duration::from_secs(2),
            drift_check: Duration::from_secs(60),
            shrink: ShrinkOptions::default(),
            admin: None,
            // A receiver outlives its sender and keeps the last value.
            scan: watch::channel(ScanLimits::default()).1,
            index_result_bytes: INDEX_RESULT_BYTES,
            events: watch::channel(EventPolicy::default()).1,
            metrics: Arc::new(String::new),
            clock: Clock::real(),
            probe: owner::no_probe(),
        }
    }
}

/// The connections a coordinator works with; each pair of kinds apart from the others.
pub struct Connections {
    /// Effects, heartbeats, acceptances; and publishing to INTAKE for queries.
    pub link: Link,
    /// The journal and the lease, alone.
    pub journal: JetStream,
    /// Pulling INTAKE, REPORTS and EVENTS.
    pub streams: JetStream,
    /// Triggers: what they pull and write.
    pub triggers: JetStream,
    /// The query service.
    pub service: async_nats::Client,
    /// The index.
    pub store: Connection,
    /// Queries read through their own.
    pub reads: Connection,
}

impl Connections {
    /// Opens all of them. Servers that are too old or misconfigured are refused here.
    pub async fn open(nats: &NatsOptions, redis: &RedisOptions, id: &str) -> Result<Self, CoordinatorError> {
        let name = |role: &str| format!("selvedge-coordinator/{id}/{role}");
        let journal = bus::connect(nats, &name("journal")).await?;
        journal.check_jetstream().await?;
        let streams = bus::connect(nats, &name("streams")).await?;
        let triggers = bus::connect(nats, &name("triggers")).await?;
        let service = bus::connect(nats, &name("queries")).await?;
        let link = Link::connect(nats, &name("link")).await?;
        let (store, reads) = open_redis(redis).await?;
        Ok(Self {
            link,
            journal: journal.jetstream().clone(),
            streams: streams.jetstream().clone(),
            triggers: triggers.jetstream().clone(),
            service: service.client().clone(),
            store,
            reads,
        })
    }
}

/// Work does not need Redis: one that is away must not keep a coordinator from taking over. One that answers and
/// is not fit is refused.
async fn open_redis(redis: &RedisOptions) -> Result<(Connection, Connection), CoordinatorError> {
    use crate::store::connect::{Error, connect, connect_lazily};
    match connect(redis).await {
        Ok((store, _)) => Ok((store, connect(redis).await?.0)),
        Err(error @ Error::Unreachable { .. }) => {
            tracing::warn!(%error, "starting without Redis; the index is written when it is there, its settings are not checked");
            Ok((connect_lazily(redis)?, connect_lazily(redis)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Why a coordinator could not go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The streams are not what they must be.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The admin port could not be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The query service could not be registered.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// JetStream does not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The journal can't be continued.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// NATS can't be reached, or is not fit.
    #[error(transparent)]
    Nats(#[from] bus::Error),
    /// Redis can't be reached, or is not fit.
    #[error(transparent)]
    Redis(#[from] crate::store::connect::Error),
}

/// Says when it is up: where the admin port listens.
pub type Up = tokio::sync::oneshot::Sender<Option<SocketAddr>>;

/// Runs until `stop`, then drains: no new work, what is decided is told, the shard is released.
pub async fn run(
    options: Options,
    connections: Connections,
    up: Option<Up>,
    stop: CancellationToken,
) -> Result<(), CoordinatorError> {
    let readiness = Readiness::new(&["nats", "redis", "shard", "journal", "streams"]);
    let heartbeat = Heartbeat::default();
    heartbeat.beat();
    let tasks = TaskTracker::new();
    let down = CancellationToken::new();

    let admin = match options.admin {
        Some(addr) => Some(Bound::bind(addr).await?),
        None => None,
    };
    let listening = admin.as_ref().map(Bound::addr);
    let topology = Topology::new(&options.sizing);
    let provisioned = provision::provision(&connections.streams, options.provision, &topology).await?;
    for asset in &provisioned.created {
        tracing::info!(%asset, "created");
    }
    readiness.met("streams");
    readiness.met("journal");
    let (streams, every) = (connections.streams.clone(), options.drift_check);
    tasks.spawn(watch_drift(streams, topology, every, readiness.clone(), down.clone()));
    tasks.spawn(watch_connection(connections.link.clone(), readiness.clone(), down.clone()));

    let lease_config = LeaseConfig { ttl: options.owner_ttl, coordinator: options.id.clone() };
    let (lease, ownership) = Lease::new(&connections.journal, options.shard, lease_config).await?;
    let released = down.clone();
    let leasing = tasks.spawn(lease.run(released));

    let (tell_owner, owner) = OwnerHandle::new();
    let (health, index_health) = watch::channel(IndexHealth::default());
    tasks.spawn(watch_index(index_health, readiness.clone(), down.clone()));
    let (loads, loads_seen) = watch::channel(Load::default());
    let results = Results::new(&connections.streams).await?;
    let objects = Objects::new(&connections.streams).await?;
    let queries = Queries {
        index: IndexReader::new(connections.reads.clone(), options.shard),
        events: EventStore::new(connections.reads.clone()),
        scan: options.scan.clone(),
        owner: owner.clone(),
        link: connections.link.clone(),
        shard: options.shard,
        results: results.clone(),
        objects,
        hot: Hot::default(),
        loads: loads_seen,
        counts: Counts::default(),
    };
    if let Some(bound) = admin {
        let admin = Admin {
            heartbeat: heartbeat.clone(),
            stuck_after: STUCK_AFTER,
            readiness: readiness.clone(),
            metrics: options.metrics.clone(),
            scale: Arc::new(queries.clone()),
        };
        let down = down.clone();
        tasks.spawn(async move {
            if let Err(error) = bound.serve(admin, async move { down.cancelled().await }).await {
                tracing::error!(%error, "the admin port failed");
            }
        });
    }

    let serving = tasks.spawn({
        let (queries, client, down) = (queries.clone(), connections.service.clone(), down.clone());
        service::serve(client, ServiceConfig::default(), queries, down)
    });

    let context = ShardContext {
        shard: options.shard,
        coordinator: options.id.clone(),
        policy: options.policy.clone(),
        shrink: options.shrink.clone(),
        clock: options.clock,
        probe: options.probe.clone(),
        link: connections.link.clone(),
        journal: connections.journal.clone(),
        streams: connections.streams.clone(),
        triggers: connections.triggers.clone(),
        store: connections.store.clone(),
        event_policy: options.events.clone(),
        aside: Aside { results, above: options.index_result_bytes },
        index_health: health,
        owner: tell_owner,
        owner_handle: owner,
        queries,
        loads,
        heartbeat,
        readiness: readiness.clone(),
    };
    if let Some(up) = up {
        // Whoever asked may have gone.
        let _ = up.send(listening);
    }
    let halted = shard::run(context, ownership, stop.clone()).await;
    if halted.is_err() && !stop.is_cancelled() {
        // Queries are answered from the index, and probes tell why, until somebody looks.
        stop.cancelled().await;
    }
    readiness.unmet("shard", "draining");
    down.cancel();
    tasks.close();
    let served = serving.await;
    if leasing.await.is_err() {
        tracing::warn!("the lease's task failed; the lease runs out by itself");
    }
    tasks.wait().await;
    if let Ok(Err(error)) = served {
        return Err(error.into());
    }
    Ok(halted?)
}

async fn watch_drift(
    js: JetStream,
    topology: Topology,
    every: Duration,
    readiness: Readiness,
    down: CancellationToken,
) {
    loop {
        tokio::select! {
            () = down.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match provision::drift(&js, &topology).await {
            Ok(drift) => {
                let bad: Vec<String> = drift
                    .iter()
                    .filter(|d| d.severity != Severity::Differs)
                    .map(ToString::to_string)
                    .collect();
                if bad.is_empty() {
                    readiness.met("streams");
                } else {
                    tracing::error!(drift = %bad.join("; "), "the streams were changed");
                    readiness.unmet("streams", bad.join("; "));
                }
            }
            Err(error) => tracing::warn!(%error, "the streams can't be checked"),
        }
    }
}

async fn watch_connection(link: Link, readiness: Readiness, down: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            () = down.cancelled() => return,
            _ = tick.tick() => {}
        }
        match link.main.is_connected() && link.bulk.is_connected() {
            true => readiness.met("nats"),
            false => readiness.unmet("nats", "disconnected; reconnecting"),
        }
    }
}

async fn watch_index(
    mut health: watch::Receiver<IndexHealth>,
    readiness: Readiness,
    down: CancellationToken,
) {
    loop {
        let state = health.borrow_and_update().state;
        match state {
            IndexState::Following => readiness.met("redis"),
            // A standby has nothing to index; work goes on without an index.
            IndexState::Starting => readiness.degraded("redis", "the index is not followed here yet"),
            IndexState::Rebuilding => readiness.degraded("redis", "the index is being rebuilt"),
            IndexState::Degraded { reason } => {
                readiness.degraded("redis", format!("the index is not written to: {reason}"));
            }
        }
        tokio::select! {
            () = down.cancelled() => return,
            changed = health.changed() => if changed.is_err() { return },
        }
    }
}
