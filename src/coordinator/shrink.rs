//! How the journal shrinks: the owner's side. Decides when; [`keeper`] does what takes time.
//!
//! ```text
//! resting ─ enough was appended ─▶ writing ─ parts, between turns ─▶ verifying ─▶ purging ─▶ resting
//!                                                                                   │  ▲
//!                                        much is left that could go ────────────────┴▶ carrying
//! ```
//!
//! Called by the owner's loop while nothing is in flight; every call returns at once and is short. Nothing here waits for
//! Redis. Everything ends with the term: what was begun is swept by a successor.

pub mod archiver;
mod fill;
pub mod keeper;
pub mod loads;
pub mod places;
pub mod start;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use self::{
    archiver::{Batch, EndedFeed},
    fill::Fill,
    keeper::{Order, Told},
    places::PlaceError,
};
use super::{admin::Heartbeat, intake::Handle};
use crate::{
    bus::journal::Room,
    flow::engine::{Effect, Engine},
    task::Millis,
    telemetry::names,
};

/// Bytes of a snapshot encoded between two turns.
pub const PART_BYTES: usize = 32 * 1024;
/// Time between two turns for encoding a snapshot.
const SLICE: Duration = Duration::from_micros(300);
/// What the stream stores with each message, roughly.
const OVERHEAD: u64 = 96;
/// A snapshot is taken at the latest when this part of the journal's room was appended since the last.
const SHARE: u64 = 4;
/// From here on, in percent, the journal is tight.
const TIGHT: u64 = 70;
/// From here on, in percent, a snapshot is taken now and then however little was appended.
const STUCK: u64 = 80;
/// Payloads are carried when the journal is fuller than this, in percent.
const CARRY_ABOVE: u64 = 50;
/// Messages carried at once.
const CARRY: usize = 16;
/// Messages looked at to see how much would be carried.
const SAMPLE: usize = 4_096;
/// Pause after a snapshot that failed, and between those of a journal that is stuck.
const AGAIN: Duration = Duration::from_secs(5);
/// From here on, in percent, a new owner makes room before it writes.
const NEARLY: u64 = 90;
/// How long a draining owner may take for a last snapshot.
const LAST: Duration = Duration::from_secs(8);

/// What an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShrinkOptions {
    /// Bytes appended before a snapshot is taken, at least.
    pub journal_bytes: u64,
    /// Bytes of inputs and results in memory, at most.
    pub cache_bytes: u64,
}

impl Default for ShrinkOptions {
    fn default() -> Self {
        Self { journal_bytes: 64 << 20, cache_bytes: 64 << 20 }
    }
}

enum Stage {
    Resting,
    Writing,
    Verifying,
    Purging {
        /// What the snapshot covers.
        rev: u64,
        seq: u64,
        /// What could be carried was.
        carried: bool,
    },
    Carrying {
        rev: u64,
        seq: u64,
    },
}

/// See the module.
pub struct Shrink {
    options: ShrinkOptions,
    orders: mpsc::Sender<Order>,
    told: mpsc::Receiver<Told>,
    heard: Option<Told>,
    ended: EndedFeed,
    archiver: mpsc::Sender<Batch>,
    loads: mpsc::Sender<u64>,
    lost: mpsc::Receiver<PlaceError>,
    carrying: Arc<AtomicUsize>,
    stage: Stage,
    /// The archive has to reach the snapshot that is being written.
    flush: bool,
    /// Bytes appended since the newest snapshot, and since the one being written began.
    tail: u64,
    since_begin: u64,
    last_bytes: u64,
    /// Wall time of the newest snapshot; 0: there is none.
    last_at: Millis,
    /// Revision and sequence of the newest snapshot; and what was needed at the last purge.
    verified: Option<(u64, u64)>,
    needed: Option<u64>,
    /// Bytes appended since payloads were carried last.
    since_carry: u64,
    not_before: Option<Instant>,
    stuck_until: Option<Instant>,
    room: Fill,
}

/// Where a shrink's messages go and come from.
pub struct Channels {
    /// To the keeper.
    pub orders: mpsc::Sender<Order>,
    /// From it.
    pub told: mpsc::Receiver<Told>,
    /// To the archiver.
    pub archiver: mpsc::Sender<Batch>,
    /// To the loader.
    pub loads: mpsc::Sender<u64>,
    /// From it, if something is gone.
    pub lost: mpsc::Receiver<PlaceError>,
    /// Carried inputs that are not decided yet.
    pub carrying: Arc<AtomicUsize>,
}

impl Shrink {
    /// For one term. `tail` is what the journal holds behind the newest snapshot.
    pub fn new(options: ShrinkOptions, channels: Channels, ended: EndedFeed, found: start::Found) -> Self {
        let Channels { orders, told, archiver, loads, lost, carrying } = channels;
        Self {
            options,
            orders,
            told,
            heard: None,
            ended,
            archiver,
            loads,
            lost,
            carrying,
            stage: Stage::Resting,
            flush: false,
            tail: found.tail_bytes,
            since_begin: 0,
            last_bytes: found.bytes,
            last_at: found.at,
            verified: (found.seq > 0).then_some((found.rev, found.seq)),
            needed: None,
            since_carry: u64::MAX / 2,
            not_before: None,
            stuck_until: None,
            room: Fill::default(),
        }
    }

    /// A journal message was acknowledged.
    pub fn appended(&mut self, seq: u64, bytes: u64) {
        let bytes = bytes + OVERHEAD;
        self.tail += bytes;
        self.since_begin += bytes;
        self.since_carry = self.since_carry.saturating_add(bytes);
        self.room.appended(seq, bytes);
    }

    /// Takes out the effects that are done here: payloads to be read back, and carried ones that are decided. True if there
    /// were of the latter.
    pub fn take(&mut self, effects: &mut Vec<Effect<Handle>>) -> bool {
        let mut carried = false;
        effects.retain(|effect| match effect {
            Effect::Load { rev } => {
                // The engine asks again.
                let _ = self.loads.try_send(*rev);
                false
            }
            Effect::Ack(Handle::Counted(_)) => {
                carried = true;
                false
            }
            _ => true,
        });
        carried
    }

    /// Does what can be done now. Call while nothing is in flight.
    pub fn work(&mut self, engine: &mut Engine<Handle>, wall: Millis) -> Result<(), PlaceError> {
        while let Ok(lost) = self.lost.try_recv() {
            // Purged after it was carried on: whoever waits for it asks where it is now.
            if !matches!(&lost, PlaceError::NotThere { rev, .. } if !engine.needs(*rev)) {
                return Err(lost);
            }
        }
        while let Some(told) = self.heard.take().or_else(|| self.told.try_recv().ok()) {
            self.hear(engine, told, wall)?;
        }
        if let Some(room) = self.room.news() {
            engine.push(room, None);
        }
        self.ended.absorb(engine.take_ended());
        if self.ended.hand_over(engine.seq(), self.flush, &self.archiver) {
            self.flush = false;
        }
        match self.stage {
            Stage::Resting if self.is_due() => self.begin(engine),
            Stage::Writing => self.slice(engine),
            Stage::Carrying { rev, seq } => self.carry(engine, rev, seq),
            _ => {}
        }
        Ok(())
    }

    /// Ends when there is something to do that the loop can't know of. Safe to drop.
    pub async fn ready(&mut self) {
        if self.heard.is_some() {
            return;
        }
        let writing = matches!(self.stage, Stage::Writing);
        tokio::select! {
            room = self.orders.reserve(), if writing => drop(room),
            told = self.told.recv() => match told {
                Some(told) => self.heard = Some(told),
                // The keeper ends with the term.
                None => std::future::pending().await,
            },
        }
    }

    /// Appended bytes after which a snapshot is due. A journal that is tight must not be full before the next.
    fn threshold(&self) -> u64 {
        let wanted = self.options.journal_bytes.max(self.last_bytes);
        match self.room.max {
            0 => wanted,
            max if self.is_fuller_than(TIGHT) => wanted.min(max / SHARE / 8),
            max => wanted.min(max / SHARE),
        }
    }

    fn is_due(&self) -> bool {
        let is_past = |at: Option<Instant>| at.is_none_or(|at| Instant::now() >= at);
        let much = self.tail >= self.threshold();
        // What fills the journal may be none of what this owner appended; and while it takes no submits, it appends little.
        let stuck = self.is_fuller_than(STUCK) && self.tail > 0 && is_past(self.stuck_until);
        (much || stuck) && is_past(self.not_before)
    }

    fn is_fuller_than(&self, percent: u64) -> bool {
        self.room.max > 0 && self.room.used > self.room.max / 100 * percent
    }

    fn begin(&mut self, engine: &mut Engine<Handle>) {
        let Ok(room) = self.orders.try_reserve() else { return };
        let head = engine.begin_snapshot();
        room.send(Order::Begin(Box::new(head)));
        self.since_begin = 0;
        self.stuck_until = Some(Instant::now() + AGAIN);
        self.flush = true;
        self.stage = Stage::Writing;
    }

    /// Encodes a little of the snapshot, as much as the keeper takes.
    fn slice(&mut self, engine: &mut Engine<Handle>) {
        let until = Instant::now() + SLICE;
        while let Ok(room) = self.orders.try_reserve() {
            match engine.snapshot_part(PART_BYTES) {
                Some(part) => room.send(Order::Part(part)),
                None => {
                    room.send(Order::Done);
                    self.stage = Stage::Verifying;
                    return;
                }
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    fn hear(&mut self, engine: &mut Engine<Handle>, told: Told, wall: Millis) -> Result<(), PlaceError> {
        match told {
            Told::Room(room) => {
                self.room.seen(room);
                let age = if self.last_at == 0 { 0 } else { wall.saturating_sub(self.last_at) };
                metrics::gauge!(names::SNAPSHOT_AGE).set(age as f64 / 1_000.0);
                // What was needed at the last purge may have ended since, and nothing else may come to free it.
                if let (Stage::Resting, Some((rev, seq))) = (&self.stage, self.verified)
                    && self.is_fuller_than(CARRY_ABOVE)
                    && room.first_seq <= seq
                    && engine.needed_from() != self.needed
                {
                    self.purge(engine, rev, seq, false);
                }
            }
            Told::Verified { rev, seq, bytes } => {
                self.tail = self.since_begin;
                self.last_bytes = bytes;
                self.last_at = wall;
                self.verified = Some((rev, seq));
                self.purge(engine, rev, seq, false);
            }
            Told::Failed => {
                engine.abort_snapshot();
                self.not_before = Some(Instant::now() + AGAIN);
                self.stage = Stage::Resting;
            }
            Told::Purged(room) => {
                self.room.seen(room);
                if let Stage::Purging { rev, seq, carried } = self.stage {
                    self.stage = Stage::Resting;
                    if !carried && self.is_carrying_worth_it(engine, room, rev, seq) {
                        self.since_carry = 0;
                        self.stage = Stage::Carrying { rev, seq };
                    }
                }
            }
            Told::Lost(lost) => return Err(lost),
        }
        Ok(())
    }

    fn purge(&mut self, engine: &Engine<Handle>, rev: u64, seq: u64, carried: bool) {
        // At most one order is under way in these stages.
        if let Ok(room) = self.orders.try_reserve() {
            self.needed = engine.needed_from();
            room.send(Order::Purge { upto: seq, needed: self.needed });
            self.stage = Stage::Purging { rev, seq, carried };
        }
    }

    /// What lies below the snapshot and could not go, could go if what is needed of it were carried. That pays when at most
    /// half of those messages hold something needed: each byte is then written again at most once for one that goes. In a
    /// journal that is tight it is tried all the same, once for each quarter of it that was appended.
    fn is_carrying_worth_it(&self, engine: &Engine<Handle>, room: Room, rev: u64, seq: u64) -> bool {
        let old = (seq + 1).saturating_sub(room.first_seq);
        let all = (room.last_seq + 1).saturating_sub(room.first_seq).max(1);
        let old_bytes = room.bytes / all * old;
        if old == 0 || !(self.is_fuller_than(CARRY_ABOVE) || old_bytes > self.threshold()) {
            return false;
        }
        let needed = engine.needed_below(rev + 1, SAMPLE).len() as u64;
        let pays = needed < SAMPLE as u64 && needed * 2 <= old;
        pays || (self.is_fuller_than(TIGHT) && self.since_carry >= room.max_bytes / SHARE)
    }

    fn carry(&mut self, engine: &Engine<Handle>, rev: u64, seq: u64) {
        if self.carrying.load(Ordering::Relaxed) > 0 {
            return;
        }
        let revs = engine.needed_below(rev + 1, CARRY);
        if revs.is_empty() {
            self.purge(engine, rev, seq, true);
        } else if let Ok(room) = self.orders.try_reserve() {
            room.send(Order::Carry(revs));
        }
    }

    /// A last snapshot before the process ends, if a start would have much to replay. Nothing is in flight, and nothing will be.
    pub async fn last(&mut self, engine: &mut Engine<Handle>) {
        // A keeper that carries waits for the loop, which takes no inputs any more.
        let carries = matches!(self.stage, Stage::Carrying { .. });
        if carries || self.tail < self.threshold() / 4 || self.last_bytes > self.tail.saturating_mul(4) {
            return;
        }
        let done = async {
            if matches!(self.stage, Stage::Writing) {
                // What was begun is older than what a start should find.
                engine.abort_snapshot();
                self.order(Order::Abort).await?;
            }
            self.whole(engine).await.map(drop)
        };
        if tokio::time::timeout(LAST, done).await.ok().flatten().is_none() {
            tracing::warn!("no last snapshot was taken; the next start replays more");
        }
    }

    /// Before the owner appends anything: a journal that is nearly full gets room first. Even an owner's first record would not
    /// fit into a full one.
    pub async fn make_room(&mut self, engine: &mut Engine<Handle>, heartbeat: &Heartbeat) {
        let room = loop {
            match self.told.recv().await {
                Some(Told::Room(room)) => break room,
                Some(_) => {}
                None => return,
            }
        };
        self.room.seen(room);
        if room.bytes < room.max_bytes / 100 * NEARLY || self.tail == 0 {
            return;
        }
        tracing::warn!(
            bytes = room.bytes,
            max_bytes = room.max_bytes,
            "the journal is nearly full; a snapshot makes room"
        );
        heartbeat.beat();
        let Some((seq, bytes)) = self.whole(engine).await else { return };
        self.tail = 0;
        self.last_bytes = bytes;
        if self.order(Order::Purge { upto: seq, needed: engine.needed_from() }).await.is_some() {
            while let Some(told) = self.told.recv().await {
                match told {
                    Told::Purged(room) => return self.room.seen(room),
                    Told::Failed | Told::Lost(_) => return,
                    Told::Verified { .. } | Told::Room(_) => {}
                }
            }
        }
    }

    /// Takes a snapshot from its beginning to its end. Nothing is in flight, and nothing else happens meanwhile. `None`: it failed.
    async fn whole(&mut self, engine: &mut Engine<Handle>) -> Option<(u64, u64)> {
        let head = engine.begin_snapshot();
        let (rev, seq) = (head.rev, head.seq);
        self.order(Order::Begin(Box::new(head))).await?;
        self.ended.absorb(engine.take_ended());
        while !self.ended.hand_over(engine.seq(), true, &self.archiver) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Some(part) = engine.snapshot_part(PART_BYTES) {
            self.order(Order::Part(part)).await?;
        }
        self.order(Order::Done).await?;
        loop {
            match self.told.recv().await? {
                Told::Verified { rev: found, bytes, .. } if found == rev => return Some((seq, bytes)),
                Told::Failed | Told::Lost(_) => return None,
                Told::Verified { .. } | Told::Purged(_) => {}
                Told::Room(room) => self.room.seen(room),
            }
        }
    }

    /// Hands an order over, hearing what is told meanwhile: a keeper that can't tell takes no orders. `None`: what was ordered
    /// failed.
    async fn order(&mut self, order: Order) -> Option<()> {
        loop {
            tokio::select! {
                place = self.orders.reserve() => {
                    place.ok()?.send(order);
                    return Some(());
                }
                told = self.told.recv() => match told? {
                    Told::Failed | Told::Lost(_) => return None,
                    Told::Room(room) => self.room.seen(room),
                    Told::Verified { .. } | Told::Purged(_) => {}
                },
            }
        }
    }
}
