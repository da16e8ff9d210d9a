//! What all attempts of one instance share with it: who it is, its connections, its slots, and ways to tell it
//! something.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, watch};

use super::{Handler, Settings, ahead::Ahead, objects::Room, voice::Said};
use crate::{
    bus::Link,
    task::{AgentName, InstanceId, Millis, Token},
    wire::{calls::CallOver, subjects},
};

pub(super) struct Instance {
    pub(super) name: AgentName,
    pub(super) id: InstanceId,
    pub(super) handler: Handler,
    pub(super) settings: Settings,
    pub(super) link: Link,
    pub(super) slots: Slots,
    pub(super) ahead: Ahead,
    /// For large results of steps.
    pub(super) objects: Room,
    /// Changes when events that are not known to be stored are to be published again.
    pub(super) resend: watch::Sender<u64>,
    draining: AtomicBool,
    handing_back: AtomicBool,
    /// Reports, on their way to the voice. Bounded by what attempts may have undecided.
    said: mpsc::UnboundedSender<Said>,
    /// Leases that were over before their handlers were gone.
    gone: mpsc::UnboundedSender<Token>,
    /// Calls whose handlers are gone.
    over: mpsc::UnboundedSender<CallOver>,
}

/// What an instance hears from its attempts.
pub(super) struct FromAttempts {
    pub(super) said: mpsc::UnboundedReceiver<Said>,
    pub(super) gone: mpsc::UnboundedReceiver<Token>,
    pub(super) over: mpsc::UnboundedReceiver<CallOver>,
}

/// How many attempts have a handler.
pub(super) struct Slots {
    all: usize,
    /// Those that take calls only.
    kept: usize,
    taken: AtomicUsize,
    /// Of those, by tasks.
    tasks: AtomicUsize,
    freed: Notify,
    /// Whether somebody waits for a slot: else freeing one costs nothing more.
    awaited: AtomicBool,
}

impl Slots {
    /// Slots that a call may take.
    pub(super) fn free_now(&self) -> usize {
        self.all.saturating_sub(self.taken.load(Ordering::Acquire))
    }

    /// Slots that a task may take.
    pub(super) fn free_for_tasks(&self) -> usize {
        let tasks = self.tasks.load(Ordering::Acquire);
        self.free_now().min(self.all.saturating_sub(self.kept + tasks))
    }

    pub(super) fn take(&self, by_task: bool) {
        self.tasks.fetch_add(usize::from(by_task), Ordering::AcqRel);
        self.taken.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn free(&self, by_task: bool) {
        self.tasks.fetch_sub(usize::from(by_task), Ordering::AcqRel);
        self.taken.fetch_sub(1, Ordering::AcqRel);
        if self.awaited.load(Ordering::Acquire) {
            self.freed.notify_one();
        }
    }

    /// From now on [`Slots::freed`] hears of slots for tasks, or does not any more.
    pub(super) fn await_free(&self, awaited: bool) {
        self.awaited.store(awaited, Ordering::Release);
        // One may have become free before that was said.
        if awaited && self.free_for_tasks() > 0 {
            self.freed.notify_one();
        }
    }

    /// Waits until a slot was freed. May come once too often.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Instance {
    pub(super) fn new(
        name: AgentName,
        handler: Handler,
        settings: Settings,
        link: Link,
    ) -> (Self, FromAttempts) {
        let (say, said) = mpsc::unbounded_channel();
        let (tell_gone, gone) = mpsc::unbounded_channel();
        let (tell_over, over) = mpsc::unbounded_channel();
        let instance = Self {
            name,
            id: settings.instance.clone().unwrap_or_else(InstanceId::fresh),
            handler,
            slots: Slots {
                all: settings.slots as usize,
                kept: settings.call_slots() as usize,
                taken: AtomicUsize::new(0),
                tasks: AtomicUsize::new(0),
                freed: Notify::new(),
                awaited: AtomicBool::new(false),
            },
            ahead: Ahead::new(settings.slots - settings.call_slots()),
            objects: Room::new(),
            settings,
            link,
            resend: watch::Sender::new(0),
            draining: AtomicBool::new(false),
            handing_back: AtomicBool::new(false),
            said: say,
            gone: tell_gone,
            over: tell_over,
        };
        (instance, FromAttempts { said, gone, over })
    }

    /// How long that many milliseconds of the instance's clock are; one at least.
    pub(super) fn real(&self, millis: Millis) -> Duration {
        self.settings.clock.real_duration(Duration::from_millis(millis.max(1)))
    }

    /// Where its attempts report.
    pub(super) fn reports_to(&self) -> String {
        subjects::reports(&self.name, &self.id)
    }

    pub(super) fn say(&self, said: Said) {
        // Nobody listens any more: the instance has ended.
        let _ended = self.said.send(said);
    }

    pub(super) fn handler_gone(&self, token: Token) {
        let _ended = self.gone.send(token);
    }

    pub(super) fn call_over(&self, over: CallOver) {
        let _ended = self.over.send(over);
    }

    /// It was asked to stop.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// It ends soon: what is not done is given back.
    pub(super) fn hand_back(&self) {
        self.handing_back.store(true, Ordering::Release);
    }

    pub(super) fn is_handing_back(&self) -> bool {
        self.handing_back.load(Ordering::Acquire)
    }
}
