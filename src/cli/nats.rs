//! `selvedge nats export | check`: the topology as files, and the server compared with it.
//!
//! Plain functions; parsing arguments and printing are the command's business.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use async_nats::jetstream::Context;
use serde::Serialize;

use crate::{
    bus::{api::ApiError, provision},
    wire::topology::{Sizing, Topology},
};

/// The files `nats stream add --config` and `nats consumer add --config` accept: path below the
/// directory, content.
pub fn render(sizing: &Sizing) -> Vec<(PathBuf, String)> {
    let topology = Topology::new(sizing);
    let streams =
        topology.streams.iter().map(|s| (Path::new("streams").join(format!("{}.json", s.name)), pretty(s)));
    let buckets = topology.buckets.iter().map(|s| {
        let bucket = s.name.trim_start_matches("KV_");
        (Path::new("buckets").join(format!("{bucket}.json")), pretty(s))
    });
    let consumers = topology.consumers.iter().map(|c| {
        let name = format!("{}.{}.json", c.stream, c.name);
        (Path::new("consumers").join(name), pretty(c))
    });
    streams.chain(buckets).chain(consumers).collect()
}

/// Writes them below `dir` and returns their paths.
pub fn export(dir: &Path, sizing: &Sizing) -> io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (path, content) in render(sizing) {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        written.push(path);
    }
    Ok(written)
}

/// Every difference between the definition and the server; none means exit code 0, any 78.
pub async fn check(js: &Context, sizing: &Sizing) -> Result<Vec<provision::Drift>, ApiError> {
    provision::drift(js, &Topology::new(sizing)).await
}

fn pretty(value: &impl Serialize) -> String {
    // Our own types have string keys and no failing serializers.
    let json = serde_json::to_string_pretty(value)
        .unwrap_or_else(|error| unreachable!("own definition not encodable: {error}"));
    format!("{json}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_nats_are_the_definition_in_code() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats");
        if std::env::var_os("UPDATE_NATS").is_some() {
            export(&dir, &Sizing::default()).unwrap();
        }
        for (path, content) in render(&Sizing::default()) {
            let found = fs::read_to_string(dir.join(&path)).unwrap_or_default();
            assert_eq!(found, content, "{} differs; run the tests once with UPDATE_NATS=1", path.display());
        }
    }
}
