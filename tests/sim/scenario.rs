//! What a run is made of: a seed, a size, and which faults and operations are in it.
//!
//! Everything else follows from the seed. Each kind draws from its own random stream, so that
//! switching one off while shrinking leaves the others alone.

/// Whatever a run must be able to show that it really happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Injected(Fault),
    Observed(Sight),
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $chance:literal,)* }) => {
        kinds! { $(#[$doc])* $name { $($variant,)* } }

        impl $name {
            /// Per mille of the chances it gets.
            pub fn chance(self) -> u64 {
                match self { $(Self::$variant => $chance,)* }
            }

            pub fn bit(self) -> u64 {
                1 << self as u64
            }
        }
    };
    ($(#[$doc:meta])* $name:ident { $($variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
        }
    };
}

kinds! {
    /// Faults and unusual operations, with the chance of each per opportunity, in per mille.
    Fault {
        // the bus, as work queues
        PublishLost = 40,
        PublishAckLost = 60,
        PublishLate = 40,
        PublishTwice = 40,
        DeliveredLate = 30,
        DeliveredTwice = 40,
        QueueAckLost = 40,
        DeliveredToZombie = 300,
        // the journal
        AppendLost = 15,
        AppendAckLost = 15,
        AppendLate = 8,
        // the owner
        CrashBeforeAppend = 3,
        CrashAfterAppend = 3,
        CrashAmidEffects = 3,
        OwnerPaused = 3,
        Duel = 2,
        ClockStepped = 400,
        // core NATS
        OfferLost = 50,
        CtlLost = 50,
        BeatLost = 50,
        AcceptLost = 50,
        CoreLate = 40,
        CoreTwice = 40,
        // agents
        AgentCrash = 40,
        AgentPaused = 60,
        AgentDrains = 20,
        IgnoresStop = 300,
        TwoEnds = 30,
        // the index
        IndexFlushed = 15,
        IndexCrash = 10,
        // clients and operators
        SubmitTwice = 60,
        SubmitConflict = 40,
        CancelTree = 50,
        CancelFirst = 20,
        RetryDead = 300,
        LimitsChanged = 60,
        TenantPaused = 30,
        Timed = 500,
        ClockJumps = 10,
        Scheduled = 60,
        // what is asked of the core itself
        Forgetful = 150,
        LoadLost = 100,
        JournalFull = 4,
        // limits beyond a tenant's own, and what an operator stops
        Metered = 500,
        AgentLimitsChanged = 60,
        TenantStopped = 20,
        AgentStopped = 30,
        TreeStopped = 40,
        AllStopped = 15,
        // messages and steps
        Talking = 500,
        ToldAnyway = 300,
        // calls
        Calling = 500,
        CallerGone = 200,
        // messages that become tasks, and schemas that are announced
        Triggered = 500,
        Announcing = 500,
    }
}

kinds! {
    /// What must be seen at least once over all seeds, or the simulation proves nothing.
    Sight {
        Takeover,
        CasLost,
        OwnHashAtHead,
        Redelivered,
        HeldReport,
        StaleReport,
        ResultConflict,
        LeaseLost,
        OfferWithdrawn,
        OfferBusy,
        OfferInherited,
        Retried,
        Dead,
        Snoozed,
        Resumed,
        ChildAdopted,
        CancelledRunning,
        Tombstone,
        Conflict,
        TooOld,
        DepthExceeded,
        ChildrenExceeded,
        TreeExceeded,
        BacklogFull,
        RateLimited,
        InFlightCapped,
        CellsLimited,
        AgentRateLimited,
        AgentCellsLimited,
        AgentCapped,
        LaneCapped,
        AllCapped,
        CostExceeded,
        UsedMore,
        UsedLess,
        Stopped,
        TreePaused,
        Aged,
        DeadResubmitted,
        HotStandby,
        ColdReplay,
        Snapshot,
        SnapshotStart,
        Loaded,
        Carried,
        Purged,
        ResultsRead,
        Delayed,
        RanAt,
        CancelledDelayed,
        TtlExpired,
        TryTimedOut,
        ExpiredQueued,
        ExpiredDelayed,
        ExpiredRunning,
        ExpiredWaiting,
        ExpiredBelow,
        SubmittedLate,
        ScheduleFired,
        ScheduleSkipped,
        ScheduleMadeUp,
        SchedulePlanned,
        BadTime,
        ToldEarly,
        WokenByMessage,
        MessageWasThere,
        TakenLive,
        NoMessageInTime,
        SleptInPlace,
        StepRecorded,
        GivenBack,
        HistoryRead,
        ObjectRecorded,
        ObjectGivenBack,
        ObjectTooLarge,
        ObjectsExceeded,
        ObjectsDropped,
        ObjectsSwept,
        SweeperBehind,
        MessageRefused,
        CallBegun,
        CallEnded,
        CallRefused,
        CallCapped,
        CallAdopted,
        CallLost,
        CallAsked,
        PermitsGrown,
        PermitsGivenBack,
        PermitsInherited,
        TriggerMade,
        TriggerKnown,
        TriggerDead,
        TriggerFull,
        TriggerNoRoom,
        TriggerTakenOver,
        SchemaRefused,
        SchemaHeardAgain,
        CallOnKeptSlot,
        CallsCharged,
    }
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    /// Tasks planned by the clients, children included.
    pub tasks: u32,
    /// Which faults may happen: bits of [`Fault`].
    pub faults: u64,
    /// In-flight cap of every tenant, if all shall have the same; parents are then killed while they wait.
    pub cap: Option<u32>,
    /// No coordinator runs from here to there.
    pub outage: Option<(u64, u64)>,
}

impl Scenario {
    /// A random half of all faults, at full size.
    pub fn of(seed: u64) -> Self {
        let mut rng = crate::rng::Rng::new(seed, 1);
        let faults = rng.next() | rng.next() & 0x5555_5555_5555_5555;
        let all = Fault::ALL.iter().fold(0, |bits, f| bits | f.bit());
        let forgetful = rng.per_mille(Fault::Forgetful.chance());
        let mut faults = faults & all & !Fault::Forgetful.bit();
        if forgetful {
            faults |= Fault::Forgetful.bit();
        }
        Self { seed, tasks: 620, faults, cap: None, outage: None }
    }

    /// For named cases: the same seed with exactly these faults and this size.
    pub fn shrunk(seed: u64, tasks: u32, faults: &[Fault]) -> Self {
        let faults = faults.iter().fold(0, |bits, f| bits | f.bit());
        Self { seed, tasks, faults, cap: None, outage: None }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults & fault.bit() != 0
    }

    /// Ready to be pasted into `cases.rs`.
    pub fn as_case(&self) -> String {
        let names: Vec<String> =
            Fault::ALL.iter().filter(|f| self.has(**f)).map(|f| format!("Fault::{f:?}")).collect();
        let cap = self.cap.map_or(String::new(), |cap| format!(".with_cap({cap})"));
        format!("Scenario::shrunk({}, {}, &[{}]){cap}", self.seed, self.tasks, names.join(", "))
    }

    /// As it was before there was more that could happen.
    pub fn without(self, faults: &[Fault]) -> Self {
        Self { faults: faults.iter().fold(self.faults, |bits, f| bits & !f.bit()), ..self }
    }

    pub fn with_cap(self, cap: u32) -> Self {
        Self { cap: Some(cap), ..self }
    }
}

/// How often each thing happened.
#[derive(Debug, Clone)]
pub struct Counters {
    pub injected: Vec<u64>,
    pub observed: Vec<u64>,
    pub tasks: u64,
    pub messages: u64,
    pub records: u64,
    /// Of any one run.
    pub least: (u64, u64),
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            injected: vec![0; Fault::ALL.len()],
            observed: vec![0; Sight::ALL.len()],
            tasks: 0,
            messages: 0,
            records: 0,
            least: (u64::MAX, u64::MAX),
        }
    }
}

impl Counters {
    pub fn count(&mut self, seen: Seen) {
        match seen {
            Seen::Injected(fault) => self.injected[fault as usize] += 1,
            Seen::Observed(sight) => self.observed[sight as usize] += 1,
        }
    }

    pub fn add(&mut self, other: &Counters) {
        self.injected.iter_mut().zip(&other.injected).for_each(|(a, b)| *a += b);
        self.observed.iter_mut().zip(&other.observed).for_each(|(a, b)| *a += b);
        self.tasks += other.tasks;
        self.messages += other.messages;
        self.records += other.records;
        self.least = (self.least.0.min(other.least.0), self.least.1.min(other.least.1));
    }

    /// Adds one run.
    pub fn add_run(&mut self, run: &Counters) {
        self.add(&Counters { least: (run.tasks, run.faults()), ..run.clone() });
    }

    pub fn faults(&self) -> u64 {
        self.injected.iter().sum()
    }

    /// Names everything that never happened.
    pub fn missing(&self) -> Vec<String> {
        let faults = Fault::ALL.iter().filter(|f| self.injected[**f as usize] == 0).map(|f| format!("{f:?}"));
        let sights = Sight::ALL.iter().filter(|s| self.observed[**s as usize] == 0).map(|s| format!("{s:?}"));
        faults.chain(sights).collect()
    }

    pub fn table(&self) -> String {
        let faults = Fault::ALL.iter().map(|f| format!("{f:?} {}", self.injected[*f as usize]));
        let sights = Sight::ALL.iter().map(|s| format!("{s:?} {}", self.observed[*s as usize]));
        let join = |items: Vec<String>| {
            items.chunks(6).map(|line| format!("  {}", line.join("  "))).collect::<Vec<_>>().join("\n")
        };
        format!(
            "{} tasks, {} journal messages, {} records; at least {:?} tasks and faults in each\nfaults injected:\n{}\nseen to happen:\n{}",
            self.tasks,
            self.messages,
            self.records,
            self.least,
            join(faults.collect()),
            join(sights.collect())
        )
    }
}
