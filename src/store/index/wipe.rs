//! Everything away, for an index that begins anew.

use redis::Pipeline;

use super::super::{Connection, StoreError, keys, scan::Scan};

/// Keys looked at per step.
const WIPE_STEP: usize = 1_000;

/// Unlinks every index key. One pass over the keyspace, in steps, whatever the keys' state.
pub(super) async fn wipe(connection: &mut Connection) -> Result<u64, StoreError> {
    let mut scan = Scan::begin(connection, keys::INDEX_PATTERN, WIPE_STEP).await?;
    let mut wiped = 0;
    while let Some(found) = scan.next(connection).await? {
        let mut pipeline = Pipeline::new();
        // One key per command: a page may span the nodes' slots.
        for key in found.iter().filter(|key| keys::tenant_of_index_key(key).is_some()) {
            pipeline.cmd("UNLINK").arg(key).ignore();
        }
        wiped += pipeline.len() as u64;
        if !pipeline.is_empty() {
            pipeline.exec_async(connection).await?;
        }
    }
    Ok(wiped)
}
