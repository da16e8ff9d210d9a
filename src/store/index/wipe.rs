//! Everything away, for an index that begins anew.

use redis::Pipeline;

use super::super::{Connection, StoreError, keys};

/// Keys looked at per step.
const WIPE_STEP: usize = 1_000;

/// Unlinks every index key. One pass over the keyspace, in steps, whatever the keys' state.
pub(super) async fn wipe(connection: &mut Connection) -> Result<u64, StoreError> {
    let mut cursor: u64 = 0;
    let mut wiped = 0;
    loop {
        let (next, found): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(keys::INDEX_PATTERN)
            .arg("COUNT")
            .arg(WIPE_STEP)
            .query_async(connection)
            .await?;
        let mut pipeline = Pipeline::new();
        // One key per command: a page may span the nodes' slots.
        for key in found.iter().filter(|key| keys::tenant_of_index_key(key).is_some()) {
            pipeline.cmd("UNLINK").arg(key).ignore();
        }
        wiped += pipeline.len() as u64;
        if !pipeline.is_empty() {
            pipeline.exec_async(connection).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(wiped);
        }
    }
}
