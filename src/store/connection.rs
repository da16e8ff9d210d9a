//! One connection to whatever answers at the URL: a single server, or a cluster of them.
//!
//! A pipeline may touch several tenants, and in a cluster each lives on a node of its own: then it is split by hash tag,
//! its parts go out at once, and the answers come back in the order of the commands. Everything that a script or a
//! transaction touches has one hash tag ([`super::keys`]), so that nothing else has to know of clusters.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::try_join_all};
use redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager},
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};
use tokio::sync::OnceCell;

use super::connect::{Error, RedisOptions, open};

/// Multiplexed, reconnecting, cheap to clone.
#[derive(Clone)]
pub struct Connection(Kind);

#[derive(Clone)]
enum Kind {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
    /// Not looked for yet: found at the first command.
    Late(Arc<Late>),
}

struct Late {
    options: RedisOptions,
    found: OnceCell<Connection>,
    /// When it was looked for in vain: those who come right after are told at once.
    missed: Mutex<Option<Instant>>,
}

/// Between two looks for a server that is not there.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Late {
    async fn look(&self) -> Result<Connection, Error> {
        // What it guards is good after any panic.
        let missed = || self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed().is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            let reason = "it was not there a moment ago".to_owned();
            return Err(Error::Unreachable { address: self.options.address(), reason });
        }
        let found = open(&self.options).await;
        if found.is_err() {
            *missed() = Some(Instant::now());
        }
        found
    }
}

impl From<ConnectionManager> for Connection {
    fn from(single: ConnectionManager) -> Self {
        Self(Kind::Single(single))
    }
}

impl From<ClusterConnection> for Connection {
    fn from(cluster: ClusterConnection) -> Self {
        Self(Kind::Cluster(cluster))
    }
}

/// A server that holds a part of the keys, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(Option<(String, u16)>);

impl Connection {
    /// Looks for the server when it is first needed, and again as long as it is not there or not fit.
    pub(super) fn late(options: RedisOptions) -> Self {
        Self(Kind::Late(Arc::new(Late { options, found: OnceCell::new(), missed: Mutex::default() })))
    }

    async fn kind(&self) -> RedisResult<Kind> {
        let Kind::Late(late) = &self.0 else { return Ok(self.0.clone()) };
        let found = late.found.get_or_try_init(|| late.look()).await;
        match found {
            Ok(Connection(kind)) => Ok(kind.clone()),
            Err(error) => {
                Err(RedisError::from((ErrorKind::Io, "there is no usable Redis", error.to_string())))
            }
        }
    }

    /// The servers that hold the keys: each is asked for its own with [`Connection::ask`].
    pub async fn nodes(&self) -> RedisResult<Vec<Node>> {
        let Kind::Cluster(mut cluster) = self.kind().await? else { return Ok(vec![Node(None)]) };
        // From and to, the primary, its replicas.
        let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut cluster).await?;
        let mut nodes = Vec::new();
        for range in ranges {
            let Some(primary) = range.into_iter().nth(2) else { continue };
            let (host, port): (String, u16) = match primary {
                Value::Array(fields) => {
                    let mut fields = fields.into_iter();
                    let mut next = || fields.next().unwrap_or(Value::Nil);
                    (redis::from_redis_value(next())?, redis::from_redis_value(next())?)
                }
                _ => continue,
            };
            let node = Node(Some((host, port)));
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    /// Sends a command to one of [`Connection::nodes`].
    pub async fn ask(&self, node: &Node, cmd: &Cmd) -> RedisResult<Value> {
        match (self.kind().await?, &node.0) {
            (Kind::Cluster(mut cluster), Some((host, port))) => {
                let address = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                cluster.route_command(cmd.clone(), RoutingInfo::SingleNode(address)).await
            }
            (mut kind, _) => kind.one(cmd).await,
        }
    }
}

impl Kind {
    async fn one(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(single) => single.req_packed_command(cmd).await,
            Self::Cluster(cluster) => cluster.req_packed_command(cmd).await,
            Self::Late(_) => Err(RedisError::from((ErrorKind::Io, "there is no usable Redis"))),
        }
    }

    async fn several(&mut self, pipeline: &Pipeline, offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        match self {
            Self::Single(single) => single.req_packed_commands(pipeline, offset, count).await,
            Self::Cluster(cluster) if offset > 0 => {
                cluster.req_packed_commands(pipeline, offset, count).await
            }
            Self::Cluster(cluster) => split(cluster, pipeline).await,
            Self::Late(_) => Err(RedisError::from((ErrorKind::Io, "there is no usable Redis"))),
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Kind::Single(single) => single.req_packed_command(cmd),
            Kind::Cluster(cluster) => cluster.req_packed_command(cmd),
            Kind::Late(late) => {
                let found = Connection(Kind::Late(late.clone()));
                async move { found.kind().await?.one(cmd).await }.boxed()
            }
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Kind::Single(single) => single.req_packed_commands(pipeline, offset, count),
            kind => {
                let found = Connection(kind.clone());
                async move { found.kind().await?.several(pipeline, offset, count).await }.boxed()
            }
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Kind::Single(single) => single.get_db(),
            Kind::Cluster(_) | Kind::Late(_) => 0,
        }
    }
}

/// The commands of one hash tag, in their order, go to its node; the nodes work at the same time.
async fn split(cluster: &ClusterConnection, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
    let mut parts: HashMap<&[u8], (Pipeline, Vec<usize>)> = HashMap::new();
    let mut commands = 0;
    for (i, cmd) in pipeline.cmd_iter().enumerate() {
        let (part, places) = parts.entry(hash_tag(cmd)).or_default();
        part.add_command(cmd.clone());
        places.push(i);
        commands = i + 1;
    }
    let asked =
        parts.into_values().map(|(part, places)| {
            let mut cluster = cluster.clone();
            async move {
                Ok::<_, RedisError>((cluster.req_packed_commands(&part, 0, places.len()).await?, places))
            }
        });
    let mut answers = vec![Value::Nil; commands];
    for (values, places) in try_join_all(asked).await? {
        for (value, place) in values.into_iter().zip(places) {
            answers[place] = value;
        }
    }
    Ok(answers)
}

/// Of the first key of a command; of scripts it stands behind their number of keys.
fn hash_tag(cmd: &Cmd) -> &[u8] {
    let mut args = cmd.args_iter().filter_map(|arg| match arg {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    let name = args.next().unwrap_or_default();
    let skipped =
        if name.eq_ignore_ascii_case(b"EVALSHA") || name.eq_ignore_ascii_case(b"EVAL") { 2 } else { 0 };
    let key = args.nth(skipped).unwrap_or_default();
    let Some(from) = key.iter().position(|byte| *byte == b'{') else { return key };
    match key[from..].iter().position(|byte| *byte == b'}') {
        Some(length) if length > 1 => &key[from..from + length],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_where_its_first_key_is() {
        let tag = |parts: &[&str]| {
            let mut cmd = redis::cmd(parts[0]);
            cmd.arg(&parts[1..]);
            String::from_utf8(hash_tag(&cmd).to_vec()).unwrap()
        };
        assert_eq!(tag(&["HGET", "sv:{acme}:i:t", "x"]), tag(&["EVALSHA", "abc", "1", "sv:{acme}:i:meta"]));
        assert_ne!(tag(&["HGET", "sv:{acme}:i:t"]), tag(&["HGET", "sv:{shard-0}:i"]));
        assert_eq!(tag(&["GET", "plain"]), "plain");
        assert_eq!(tag(&["GET", "{}x"]), "{}x");
    }
}
