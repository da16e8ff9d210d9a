//! What the servers counted: messages and bytes of NATS (`/varz`), commands and bytes of Redis (`INFO`).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Since the server started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Messages NATS was sent by clients, acknowledgements included.
    pub nats_in: f64,
    /// Messages NATS sent to clients.
    pub nats_out: f64,
    /// Bytes of both.
    pub nats_bytes: f64,
    /// Redis commands, those inside scripts included.
    pub redis_commands: f64,
    /// Bytes from and to Redis clients.
    pub redis_bytes: f64,
}

impl Counters {
    /// Asks both servers.
    pub async fn read(monitor: SocketAddr, redis: &mut MultiplexedConnection) -> Result<Counters> {
        let varz = get(monitor, "/varz").await.context("NATS does not answer on its monitoring port")?;
        let varz: serde_json::Value = serde_json::from_str(&varz).context("/varz is no JSON")?;
        let nats = |name: &str| varz[name].as_f64().unwrap_or(0.0);
        let info: String = redis::cmd("INFO").arg("everything").query_async(redis).await?;
        Ok(Counters {
            nats_in: nats("in_msgs"),
            nats_out: nats("out_msgs"),
            nats_bytes: nats("in_bytes") + nats("out_bytes"),
            redis_commands: calls(&info),
            redis_bytes: field(&info, "total_net_input_bytes") + field(&info, "total_net_output_bytes"),
        })
    }

    /// What happened between two looks.
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            nats_in: self.nats_in - before.nats_in,
            nats_out: self.nats_out - before.nats_out,
            nats_bytes: self.nats_bytes - before.nats_bytes,
            redis_commands: self.redis_commands - before.redis_commands,
            redis_bytes: self.redis_bytes - before.redis_bytes,
        }
    }
}

/// A number of `INFO`.
pub fn field(info: &str, name: &str) -> f64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
}

/// All commands of `INFO commandstats`. A script's own call is not one of the commands it makes.
fn calls(info: &str) -> f64 {
    let commands = info.lines().filter(|line| line.starts_with("cmdstat_"));
    commands.filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<f64>().ok()).sum()
}

/// A metric of a Prometheus page, summed over its labels.
pub fn metric(page: &str, name: &str) -> f64 {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let values = lines.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}

/// Where a server of ours that wrote its ports file into `dir` can be looked at.
pub fn monitor(dir: &Path) -> Result<SocketAddr> {
    let entries = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let file = entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "ports"));
    let file = file.with_context(|| format!("no ports file in {}", dir.display()))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let url = ports["monitoring"][0].as_str().context("no monitoring port")?;
    let address = url.rsplit_once("://").map_or(url, |(_, address)| address);
    address.parse().with_context(|| format!("{address} is no address"))
}

/// The body of what a local HTTP server has there.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask).await??;
    Ok(answer.split_once("\r\n\r\n").context("no body")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_all_kinds_are_summed_and_a_field_is_not_its_namesake() {
        let info = "used_memory:10\r\nused_memory_rss:20\r\ncmdstat_set:calls=3,usec=1\r\ncmdstat_zadd:calls=4,usec=1\r\n";
        let page =
            "# HELP a_total x\na_total{state=\"b c\"} 2\na_total{state=\"d\"} 3\na_total_more 9\nplain 1.5\n";
        assert_eq!((metric(page, "a_total"), metric(page, "plain")), (5.0, 1.5));
        assert_eq!((calls(info), field(info, "used_memory"), field(info, "absent")), (7.0, 10.0, 0.0));
    }
}
