//! What is checked besides the journal itself: effects, derived state, and everything at the end.

use selvedge::{
    flow::{
        engine::{Effect, Engine},
        fair::AgentQueue,
        gate::Gate,
        input::{Input, Tell},
        state::State,
    },
    task::{AgentName, Code, TaskId, TaskKey, TenantName},
    wire::{
        messages::{Cmd, CmdOp, CtlOp},
        subjects::Shard,
    },
};

use crate::{
    audit::{Known, Place},
    bus::Queue,
    coordinators::{Handle, Role},
    scenario::Sight,
    world::World,
};

impl World {
    /// Nothing is told that the journal does not hold: the audit has seen all of it, and no more.
    pub fn check_effect(&mut self, effect: &Effect<Handle>) -> Result<(), String> {
        match effect {
            Effect::Ack(Handle::Stored(queue, id)) => self.check_ack(*queue, *id),
            Effect::Tell(Tell::Offer { instance, offer, .. }) => {
                let granted =
                    self.audit.granted.get(&offer.token).ok_or("an offer of no lease in the journal")?;
                if granted.instance != *instance
                    || granted.attempt != offer.attempt
                    || granted.key.id != offer.task
                {
                    return Err(format!(
                        "an offer to {instance} that the journal gave to {}",
                        granted.instance
                    ));
                }
                Ok(())
            }
            Effect::Tell(Tell::Ctl { op: CtlOp::Verdict(verdict), .. }) => {
                match verdict.refusal.as_ref().map(|r| r.code) {
                    Some(Code::StaleLease) => self.saw(Sight::StaleReport),
                    Some(Code::ResultConflict) => self.saw(Sight::ResultConflict),
                    _ => {
                        let granted =
                            self.audit.granted.get(&verdict.token).ok_or("a verdict on no lease")?;
                        if verdict.refusal.is_none() && granted.applied < verdict.n {
                            return Err(format!("report {} is said to be applied, and is not", verdict.n));
                        }
                    }
                }
                Ok(())
            }
            Effect::Tell(Tell::Done { key, done }) if done.rev > 0 => {
                let known = self.audit.tasks.get(key);
                let matches = known.is_some_and(|k| k.phase() == done.state || !done.state.is_terminal());
                if !matches && !self.audit.tombstones.contains(key) {
                    return Err(format!(
                        "{key} is said to be {}, and is {:?}",
                        done.state,
                        known.map(|k| k.phase())
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is acknowledged is decided: it will never come again. But for a report that came too early: its sender
    /// keeps it, and sends it again.
    fn check_ack(&self, queue: Queue, id: u64) -> Result<(), String> {
        let messages = if queue == Queue::Intake { &self.intake } else { &self.reports };
        let Some((input, _)) = messages.messages.get(&id) else { return Ok(()) };
        let decided = |key: &TaskKey| {
            self.audit.tasks.contains_key(key)
                || self.audit.tombstones.contains(key)
                || self.audit.refused.iter().any(|(k, _)| k == key)
        };
        match input {
            Input::Submit { key, .. } if !decided(key) => Err(format!("I1: {key} acknowledged, not decided")),
            Input::Cmd { key, body: Ok(cmd), .. } if matches!(cmd.op, CmdOp::Cancel { .. }) => {
                let alive = self.audit.lives(key);
                match alive || !decided(key) {
                    true => Err(format!("the cancel of {key} was acknowledged, and it lives")),
                    false => Ok(()),
                }
            }
            Input::Cmd { key, nonce, body: Ok(cmd) } if matches!(cmd.op, CmdOp::Tell { .. }) => {
                match self.is_told(key, nonce) {
                    true => Ok(()),
                    false => Err(format!("message {nonce} to {key} was acknowledged, and is nowhere")),
                }
            }
            Input::Report { body: Ok(report), .. } => match self.audit.granted.get(&report.token) {
                // Its predecessor may have come since: it is the next, and still waits in the owner's queue.
                Some(_) if self.early.contains(&id) && self.is_kept(report) => Ok(()),
                Some(granted) if granted.live && granted.applied + 1 == report.n => {
                    Err(format!("report {} of a live lease was acknowledged, and not applied", report.n))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// After an append: the slow checks, now and then, and what only the engine can show.
    pub fn look_closer(&mut self, who: usize) {
        let Some(engine) = self.coordinators[who].engine.as_ref() else { return };
        let held = engine.backlog().held > 0;
        let derived = if engine.state().rev % 64 == 0 { engine.state().check_derived() } else { Ok(()) };
        if held {
            self.saw(Sight::HeldReport);
        }
        if let Err(why) = derived {
            self.fail(format!("derived data: {why}"));
        }
    }

    /// While nothing happens: nothing waits for a time that has come.
    pub fn look_at_times(&mut self, who: usize, now: u64, wall: u64) {
        let Some(engine) = self.coordinators[who].engine.as_ref() else { return };
        let current = engine.seq() == self.journal.head() && engine.is_open() && !engine.is_busy();
        if current && let Some(late) = self.audit.late(now.max(self.audit.now), wall) {
            self.fail(format!("the owner is idle, and late: {late}"));
        }
    }

    /// While nothing happens: who waits for which limit.
    pub fn look_at_limits(&mut self, who: usize) {
        let Some(engine) = self.coordinators[who].engine.as_ref() else { return };
        let state = engine.state();
        let queued = state.queues().any(|(_, q)| q.queued() > 0);
        let mut capped = false;
        let mut limited = false;
        let mut sights = Vec::new();
        let now = state.clock_now();
        // Looking who waits for what takes long, compared with the rest.
        let closely = self.steps.is_multiple_of(16);
        for (name, tenant) in state.tenants().iter().filter(|_| queued) {
            let full = tenant.in_flight >= tenant.plan.in_flight;
            capped |= full && tenant.waits() && tenant.plan.in_flight > 0;
            let waits = !full && tenant.waits() && !tenant.is_paused();
            limited |= waits && tenant.rate.free_at(1) > now && tenant.plan.rate > 0;
            if waits && closely && tenant.rate.free_at(1) <= now && tenant.cells.quota().is_some() {
                let dear = self.audit.queued_of(name).map(|known| known.cost).max().unwrap_or(0);
                sights.extend((tenant.cells.free_at(dear) > now).then_some(Sight::CellsLimited));
            }
            let cap = tenant.plan.agent_in_flight.filter(|_| waits && !limited);
            let lanes = state.tenants().number(name).filter(|_| cap.is_some());
            if let (Some(cap), Some(number)) = (cap, lanes) {
                let at_cap = |queue: &AgentQueue| {
                    cap > 0 && queue.queued_of(number) > 0 && queue.running_of(number) >= cap
                };
                sights.extend(state.queues().any(|(_, q)| at_cap(q)).then_some(Sight::LaneCapped));
            }
        }
        if queued && !state.all.0.paused && state.is_shut() {
            sights.push(Sight::AllCapped);
        }
        for (_, agent) in state.agents().iter() {
            let (Some(own), Some(queue)) = (agent.settings.as_deref(), agent.queue.as_deref()) else {
                continue;
            };
            if !queue.has_ready() || own.settings.paused {
                continue;
            }
            sights.extend(match state.gate(agent) {
                Gate::Shut => Some(Sight::AgentCapped),
                Gate::Resumes(_) if own.rate.free_at(1) > now => Some(Sight::AgentRateLimited),
                Gate::Resumes(_) => Some(Sight::AgentCellsLimited),
                Gate::Open => None,
            });
        }
        if self.steps.is_multiple_of(8)
            && let Some(idle) = self.idle_slot(who)
        {
            return self.fail(format!("a slot is idle while a task may run: {idle}"));
        }
        if capped {
            self.saw(Sight::InFlightCapped);
        }
        if limited {
            self.saw(Sight::RateLimited);
        }
        sights.into_iter().for_each(|sight| self.saw(sight));
    }

    /// Work conserving: a task that may run by every limit, an instance that would take it, and an owner at rest.
    fn idle_slot(&self, who: usize) -> Option<String> {
        let engine = self.coordinators[who].engine.as_ref()?;
        // Only of the one whose state is the journal's.
        if engine.seq() != self.journal.head() || !engine.is_open() || engine.is_busy() {
            return None;
        }
        let state = engine.state();
        if state.is_shut() {
            return None;
        }
        let now = state.clock_now();
        for (name, tenant) in state.tenants().iter() {
            if tenant.is_paused() || !tenant.has_place() {
                continue;
            }
            let rate = tenant.rate.free_at(1) <= now;
            let metered = tenant.cells.quota().is_some();
            let queued = self.audit.queued_of(name).filter(|_| metered);
            let dear = queued.map(|known| known.cost).max().unwrap_or(0);
            // A task that costs cells waits until they are there for the dearest that is next.
            let cells = tenant.cells.free_at(dear) <= now;
            let own = self.audit.tasks.range(TaskKey { tenant: name.clone(), id: TaskId::new("0").ok()? }..);
            for (key, known) in own.take_while(|(key, _)| key.tenant == *name) {
                let passes = known.resumes || (rate && cells);
                if known.place != Place::Queued || !passes || self.audit.is_paused(key, known) {
                    continue;
                }
                let agent = state.agent_of(state.task(key)?);
                if !self.passes_agent(state, agent, name, known) {
                    continue;
                }
                if engine.live().has_room(agent) {
                    return Some(format!("{key} for {agent}"));
                }
            }
        }
        None
    }

    /// Whether the agent's own limits let a task pass, and the cap of its tenant there.
    fn passes_agent(&self, state: &State, name: &AgentName, tenant: &TenantName, known: &Known) -> bool {
        let Some(agent) = state.agents().get(name) else { return false };
        let cap = state.tenant(tenant).and_then(|tenant| tenant.plan.agent_in_flight);
        let number = state.tenants().number(tenant);
        let here = agent.queue.as_ref().zip(number).map_or(0, |(queue, number)| queue.running_of(number));
        let here = here + state.permit(tenant, name).at_agent();
        if cap.is_some_and(|cap| here >= cap) {
            return false;
        }
        match state.gate(agent) {
            Gate::Open => true,
            Gate::Resumes(_) => known.resumes,
            Gate::Shut => false,
        }
    }

    /// Whether everything is quiet.
    pub fn is_over(&self) -> bool {
        let Some(owner) = self.owner.map(|who| &self.coordinators[who]) else { return false };
        let Some(engine) = owner.engine.as_ref().filter(|_| owner.role == Role::Owner) else { return false };
        if !self.owner.is_some_and(|who| self.no_calls(who)) {
            return false;
        }
        self.clients.is_done()
            && self.triggers.is_over()
            && self.intake.messages.is_empty()
            && self.reports.messages.is_empty()
            && self.clients.publications.iter().all(|p| p.acked)
            && self.agents.running() == 0
            && engine.is_open()
            && !engine.is_busy()
            && engine.backlog().is_empty()
            && owner.generation == self.index.generation
            && self.index.restart >= engine.seq()
            && self.audit.tasks.values().all(|k| k.is_over())
    }

    pub fn leftovers(&self) -> String {
        let live: Vec<String> = self
            .audit
            .tasks
            .iter()
            .filter(|(_, k)| !k.is_over())
            .take(5)
            .map(|(key, k)| format!("{key} {:?} attempt {} lease {:?}", k.place, k.attempt, k.lease))
            .collect();
        let engine = self.owner.and_then(|who| self.coordinators[who].engine.as_ref());
        format!(
            "calls {:?} on {:?}, {} in INTAKE, {} in REPORTS, {} runs, restart {} of {}, engine (backlog, open, listening) {:?}, live: {}",
            engine.map(|e| e.calls().sizes()),
            self.audit.permits,
            self.intake.messages.len(),
            self.reports.messages.len(),
            self.agents.running(),
            self.index.restart,
            self.journal.head(),
            engine.map(|e| (e.backlog(), e.is_open(), e.live().is_listening())),
            live.join("; ")
        )
    }

    /// The checks at rest.
    pub fn finally(&mut self) -> Result<(), String> {
        self.seen.tasks = self.audit.tasks.len() as u64;
        self.seen.records = self.audit.records;
        let who = self.owner.ok_or("no owner")?;
        let engine = self.coordinators[who].engine.as_ref().ok_or("no engine")?;
        let state = engine.state();
        state.check_derived().map_err(|why| format!("derived data at the end: {why}"))?;

        // The same journal, from scratch, gives the same bytes.
        let mut again: Engine<Handle> = Engine::new(Shard(0));
        for (seq, bytes) in &self.journal.messages {
            again.replay(*seq, bytes).map_err(|e| format!("replay from scratch: {e}"))?;
        }
        if again.state().canonical() != state.canonical() {
            return Err("a replay from scratch gives another state".to_owned());
        }

        // Nothing leaks.
        let leases = state.live_leases().count();
        let queued: u64 = state.queues().map(|(_, q)| q.queued()).sum();
        let trees = self.audit.tasks.keys().filter(|key| state.tree(key).is_some()).count();
        let held = engine.live().sizes().1;
        if (leases, queued, state.backlog(), trees, held) != (0, 0, 0, 0, 0) {
            return Err(format!(
                "I15: {leases} leases, {queued} queued, backlog {}, {trees} trees, {held} held at rest",
                state.backlog()
            ));
        }
        if let Some((name, _)) = state.tenants().iter().find(|(_, t)| t.in_flight > 0 || t.backlog > 0) {
            return Err(format!("I15: {name} holds slots or backlog at rest"));
        }

        // The engine and the audit agree on every task, and so does the index.
        for (key, known) in &self.audit.tasks {
            let Some(task) = state.task(key) else {
                if self.audit.forgetful {
                    continue;
                }
                return Err(format!("{key} was lost"));
            };
            if task.tombstone && self.audit.forgetful {
                continue; // forgotten, and cancelled afterwards
            }
            let theirs = (task.phase, task.attempt(), task.tries(), task.refusal().map(|r| r.code));
            let ours = (known.phase(), known.attempt, known.tries, known.refusal);
            if theirs != ours {
                return Err(format!("{key}: the state says {theirs:?}, the journal {ours:?}"));
            }
            let Some((view, result)) = self.index.views.get(key) else {
                return Err(format!("I12: {key} is not in the index: {task:?}"));
            };
            let indexed = (view.state, view.attempt, view.tries, view.rev, view.failures.len());
            let folded = (known.phase(), known.attempt, known.tries, known.rev, known.failures);
            if view.deadline_at != known.clocked.deadline {
                return Err(format!("{key}: the index shows deadline {:?}: {known:?}", view.deadline_at));
            }
            if view.labels != known.labels {
                return Err(format!("{key}: the index shows labels {}: {known:?}", view.labels));
            }
            let times = (view.started_at, view.ended_at, view.parent.as_ref(), &view.root, view.depth);
            let folded_times = (known.started, known.ended, known.parent.as_ref(), &known.root, known.depth);
            if indexed != folded || times != folded_times {
                return Err(format!(
                    "I12: {key}: the index says {indexed:?} {times:?}, the journal {folded:?} {folded_times:?}"
                ));
            }
            let Some(archived) = self.snapshots.archive.get(key) else {
                return Err(format!("{key} is not in the archive"));
            };
            if (archived.state, archived.rev) != (known.phase(), known.rev) {
                return Err(format!("{key} is archived as {archived:?}"));
            }
            if result.is_some() && *result != known.result {
                return Err(format!("I12: the index shows another result of {key}"));
            }
        }
        self.audit.check_talk()?;
        self.check_triggers()?;
        self.check_history()
    }

    /// I1 and I2: what was acknowledged is decided, and what is decided was asked for.
    fn check_history(&self) -> Result<(), String> {
        for publication in &self.clients.publications {
            let key = match &publication.input {
                Input::Submit { key, .. } | Input::Cmd { key, .. } | Input::Report { key, .. } => key,
                _ => continue,
            };
            let decided = self.audit.tasks.contains_key(key)
                || self.audit.tombstones.contains(key)
                || self.audit.refused.iter().any(|(k, _)| k == key);
            if let Input::Cmd { nonce, body: Ok(Cmd { op: CmdOp::Tell { .. }, .. }), .. } = &publication.input
                && !self.is_told(key, nonce)
            {
                return Err(format!("I1: message {nonce} to {key} was acknowledged and is nowhere"));
            }
            if !decided {
                return Err(format!("I1: {key} was acknowledged and is nowhere"));
            }
        }
        for (key, known) in &self.audit.tasks {
            let asked = self
                .clients
                .attempted
                .get(key)
                .is_some_and(|tried| tried.is_empty() || tried.contains(&known.hash));
            if known.parent.is_none() && !asked && !self.audit.schedules.tasks.contains(key) {
                return Err(format!("I2: nobody submitted {key}"));
            }
        }
        Ok(())
    }
}
