//! Where an engine begins: the newest snapshot that is good, or the beginning of the journal.
//!
//! A snapshot that is broken is named and counted, and the one before it is tried. One that the journal has been purged
//! beyond is of no use. If nothing is left the shard halts: nothing is guessed.

use std::time::Instant;

use crate::{
    bus::{
        journal::{JournalError as ReadError, JournalReader},
        kept::KeptError,
        snapshots::{Manifest, SnapshotError, SnapshotStore},
    },
    coordinator::{admin::Heartbeat, intake::Handle},
    flow::{
        engine::{Engine, JournalError},
        record::JournalMessage,
        snapshot::{Restore, SnapshotError as Misfit, SnapshotHead},
    },
    task::Millis,
    telemetry::names,
    wire::{codec, subjects::Shard},
};

/// How often everything is looked at again because an owner took newer snapshots meanwhile.
const LOOKS: usize = 5;

/// What was begun with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// Revision of the snapshot.
    pub rev: u64,
    /// Its sequence; 0: there was none.
    pub seq: u64,
    /// Its size.
    pub bytes: u64,
    /// When it was taken, Unix milliseconds.
    pub at: Millis,
    /// Bytes of the journal replayed since.
    pub tail_bytes: u64,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something could not be read; it can succeed later.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The same.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The journal can't be continued.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Why one snapshot is no good.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Bytes(#[from] SnapshotError),
    #[error(transparent)]
    Content(#[from] Misfit),
    #[error("its head can't be read: {0}")]
    Head(String),
    #[error("its manifest says other things than its head")]
    Differs,
}

/// An engine as it stood at the newest good snapshot, or empty if the journal still has its beginning.
pub async fn engine(
    reader: &JournalReader,
    store: &SnapshotStore,
    shard: Shard,
    heartbeat: &Heartbeat,
) -> Result<(Engine<Handle>, Found), StartError> {
    let mut look = 0;
    loop {
        look += 1;
        let manifests = store.manifests().await?;
        let newest = manifests.iter().flatten().map(|manifest| manifest.about.rev).max();
        for manifest in manifests {
            let restored = match manifest {
                Ok(manifest) => {
                    restore(store, shard, &manifest, heartbeat).await.map(|engine| (engine, manifest))
                }
                Err(error) => Err(Refused::Bytes(error)),
            };
            match restored {
                Ok((engine, manifest)) => match beyond(reader, &engine).await? {
                    None => {
                        let found = Found {
                            rev: manifest.about.rev,
                            seq: manifest.about.seq,
                            bytes: manifest.bytes,
                            at: manifest.at,
                            tail_bytes: 0,
                        };
                        return Ok((engine, found));
                    }
                    // An older one reaches even less far.
                    Some(gap) => {
                        tracing::error!(shard = shard.0, rev = manifest.about.rev, %gap, "a snapshot is of no use");
                        break;
                    }
                },
                Err(Refused::Bytes(SnapshotError::Kept(error))) => return Err(error.into()),
                Err(refused) => {
                    metrics::counter!(names::SNAPSHOTS_REFUSED).increment(1);
                    tracing::error!(shard = shard.0, %refused, "a snapshot is broken; the one before it is tried");
                }
            }
        }
        let engine = Engine::new(shard);
        let Some(gap) = beyond(reader, &engine).await? else { return Ok((engine, Found::default())) };
        // An owner may have dropped what was being read, because newer ones were there.
        let now = store.manifests().await?.iter().flatten().map(|manifest| manifest.about.rev).max();
        if now == newest || look >= LOOKS {
            return Err(gap.into());
        }
    }
}

async fn restore(
    store: &SnapshotStore,
    shard: Shard,
    manifest: &Manifest,
    heartbeat: &Heartbeat,
) -> Result<Engine<Handle>, Refused> {
    let started = Instant::now();
    let head: SnapshotHead =
        codec::unpack(&manifest.preface).map_err(|error| Refused::Head(error.to_string()))?;
    let about = &manifest.about;
    if (head.rev, head.seq, head.head.0) != (about.rev, about.seq, about.head) {
        return Err(Refused::Differs);
    }
    let mut restore = Restore::new(shard, head)?;
    let mut parts = store.read(manifest);
    while let Some(part) = parts.next().await {
        heartbeat.beat();
        restore.part(&part?)?;
    }
    let engine = restore.finish::<Handle>()?;
    let took = started.elapsed();
    metrics::histogram!(names::SNAPSHOT_RESTORE).record(took);
    tracing::info!(
        shard = shard.0,
        rev = about.rev,
        seq = about.seq,
        bytes = manifest.bytes,
        tasks = engine.state().tasks().len(),
        took_ms = took.as_millis() as u64,
        "a snapshot was restored"
    );
    Ok(engine)
}

/// `JOURNAL_GAP` if the journal begins behind what the engine needs next.
async fn beyond(reader: &JournalReader, engine: &Engine<Handle>) -> Result<Option<JournalError>, ReadError> {
    let first_seq = reader.room().await?.first_seq;
    if first_seq <= engine.seq() + 1 {
        return Ok(None);
    }
    let Some(entry) = reader.read(first_seq).await?.next().await else { return Ok(None) };
    let entry = entry?;
    let state = engine.state();
    let found = JournalMessage::decode(&entry.bytes).map_or(0, |message| message.rev);
    if found == state.rev + 1 {
        // Only noise lies between.
        return Ok(None);
    }
    Ok(Some(JournalError::Gap {
        shard: state.shard.0,
        seq: entry.seq,
        expected: state.rev + 1,
        found,
        head: state.head.to_string(),
        what: "the journal begins behind what any snapshot covers",
    }))
}

/// Whether the journal was purged beyond what the engine needs next: it has to begin again, from a snapshot.
pub async fn is_purged_beyond(reader: &JournalReader, engine: &Engine<Handle>) -> bool {
    reader.room().await.is_ok_and(|room| room.first_seq > engine.seq() + 1)
}
