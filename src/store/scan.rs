//! Every key that fits a pattern, page by page, on every node.

use super::{Connection, Node, StoreError};

/// A walk over the keyspace. Costs in proportion to it: for wipes and checks, never for a query.
pub struct Scan {
    pattern: &'static str,
    step: usize,
    /// Nodes not done yet, the last one first.
    nodes: Vec<Node>,
    cursor: u64,
}

impl Scan {
    /// Looks at about `step` keys at a time.
    pub async fn begin(
        connection: &Connection,
        pattern: &'static str,
        step: usize,
    ) -> Result<Self, StoreError> {
        Ok(Self { pattern, step, nodes: connection.nodes().await?, cursor: 0 })
    }

    /// The next page, which may be empty; `None` at the end. Keys may come twice, as SCAN has it.
    pub async fn next(&mut self, connection: &Connection) -> Result<Option<Vec<String>>, StoreError> {
        let Some(node) = self.nodes.last() else { return Ok(None) };
        let mut cmd = redis::cmd("SCAN");
        cmd.arg(self.cursor).arg("MATCH").arg(self.pattern).arg("COUNT").arg(self.step);
        let found = connection.ask(node, &cmd).await?;
        let (next, keys): (u64, Vec<String>) =
            redis::from_redis_value(found).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        self.cursor = next;
        if next == 0 {
            self.nodes.pop();
        }
        Ok(Some(keys))
    }
}
