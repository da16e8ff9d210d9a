//! Handlers that record steps and wait for messages, as an SDK does it; and those who tell them something.

use std::collections::{BTreeMap, BTreeSet};

use selvedge::{
    flow::{
        engine::Effect,
        input::{Input, Tell},
    },
    task::{Code, InstanceId, Outcome, Payload, TaskId, TaskKey, Token, WaitFor, child_id},
    wire::{
        history::{Did, HistoryPage, Mail, Step},
        messages::{Cmd, CmdOp, CtlOp, Offer, ReportOp},
    },
};

use crate::{
    audit::{
        Place,
        talk::{gather, gather_object},
    },
    behaviour::Op,
    coordinators::{Handle, Role},
    scenario::{Fault, Sight},
    world::{Event, World},
};

/// What an attempt knows of its task's history.
#[derive(Default)]
pub struct Places {
    next: u32,
    /// What the offer said there is.
    recorded: u32,
    told: u32,
    /// Where the next page begins; `None`: all of it is here.
    cursor: Option<(u32, u32)>,
    mail: BTreeMap<u32, Mail>,
    steps: BTreeMap<u32, Step>,
    taken: BTreeSet<u32>,
    lingered: bool,
    pub gathered: Vec<u8>,
}

impl Places {
    pub fn of(offer: &Offer) -> Self {
        let cursor = (offer.recorded > 0 || offer.told > 0).then_some((0, 0));
        Self { recorded: offer.recorded, told: offer.told, cursor, ..Self::default() }
    }

    fn give_back(&mut self, step: Step) {
        if let Did::Took(seq) = step.did {
            self.taken.insert(seq);
        }
        self.steps.insert(step.place, step);
    }

    fn next_of(&self, signal: Option<&str>) -> Option<u32> {
        let known = (1..).zip(&self.mail).take_while(|(expected, (seq, _))| expected == *seq);
        let mut open = known.filter(|(seq, _)| !self.taken.contains(seq));
        open.find(|(_, (_, mail))| mail.signal.as_deref() == signal).map(|(seq, _)| seq)
    }

    /// A place is passed, with what is recorded there.
    fn pass(&mut self, did: &Did) {
        self.next += 1;
        self.lingered = false;
        match did {
            Did::Result(result) => gather(&mut self.gathered, b'r', result),
            Did::Took(seq) => {
                let message = self.mail.get(seq).map(|mail| mail.message.clone()).unwrap_or_default();
                gather(&mut self.gathered, b'm', &message);
            }
            Did::TimedOut {} => self.gathered.push(b't'),
            Did::Slept {} => self.gathered.push(b's'),
            Did::Kept(object) => gather_object(&mut self.gathered, object),
        }
    }
}

/// What is recorded there can't be what this operation would record.
fn differs(op: &Op, step: &Step) -> bool {
    match (op, &step.did) {
        (Op::Step(name), Did::Result(_) | Did::Kept(_)) => step.name != *name,
        (Op::Tell, Did::Result(_)) => step.name != "tell",
        (Op::Recv { signal, .. }, Did::Took(_) | Did::TimedOut {}) => signal.unwrap_or_default() != step.name,
        (Op::Sleep(_), Did::Slept {}) => false,
        _ => true,
    }
}

impl World {
    /// An operation with a place.
    pub fn agent_talks(&mut self, id: &InstanceId, token: Token, op: Op) {
        let work = Event::AgentWorks(id.clone(), token);
        let Some(run) = self.run_mut(id, &token) else { return };
        if run.places.cursor.is_some() {
            run.ops.push_front(op);
            return self.agent_loads(id, token);
        }
        let place = run.places.next;
        if let Some(step) = run.places.steps.get(&place).cloned() {
            if differs(&op, &step) {
                return self.fail(format!("{op:?} is given back as {step:?}"));
            }
            run.places.pass(&step.did);
            let key = run.key.clone();
            if let Did::Kept(object) = &step.did {
                self.object_given_back(&key, object);
            }
            self.saw(Sight::GivenBack);
            return self.after(1, work);
        }
        match op {
            Op::Step(name) => {
                let key = run.key.clone();
                let did = match self.keeps_object(&key) {
                    Some(object) => Did::Kept(object),
                    None => Did::Result(self.some_payload()),
                };
                self.records(id, token, Step { place, name: name.to_owned(), did });
            }
            Op::Tell => {
                let (key, root) = (run.key.clone(), run.root.clone());
                let to = TaskKey { tenant: key.tenant.clone(), id: root };
                let nonce = child_id(&key.id, "tell", place);
                self.tell(&to, nonce, None);
                let did = Did::Result(Payload::default());
                self.records(id, token, Step { place, name: "tell".to_owned(), did });
            }
            Op::Recv { signal, within } => match run.places.next_of(signal) {
                Some(seq) => {
                    let name = signal.unwrap_or_default().to_owned();
                    let step = Step { place, name, did: Did::Took(seq) };
                    run.places.give_back(step.clone());
                    run.places.pass(&step.did);
                    self.report(id, token, ReportOp::Step(step));
                    self.after(1, work);
                }
                None if !run.places.lingered => {
                    run.places.lingered = true;
                    run.ops.push_front(op);
                    self.after(100, work);
                }
                None => {
                    let signal = signal.map(str::to_owned);
                    let wait = WaitFor::Message { place, signal, within_ms: within };
                    self.end(id, token, Outcome::Wait(wait));
                }
            },
            Op::Sleep(ms) => self.end(id, token, Outcome::Wait(WaitFor::Time { place, ms })),
            other => self.fail(format!("{other:?} has no place")),
        }
    }

    /// Reports what is recorded, and goes on when that is decided.
    fn records(&mut self, id: &InstanceId, token: Token, step: Step) {
        if let Some(run) = self.run_mut(id, &token) {
            run.places.pass(&step.did);
        }
        let kept = matches!(step.did, Did::Kept(_));
        let n = self.report(id, token, ReportOp::Step(step));
        if let Some(run) = self.run_mut(id, &token) {
            run.blocked_on = Some(n);
            run.keeps = kept.then_some(n);
        }
    }

    fn some_payload(&mut self) -> Payload {
        let rng = &mut self.talk;
        let size = *rng.pick(&[0, 1, 20, 300]);
        match rng.below(20) {
            0 => Payload::default(),
            _ => Payload::Bytes((0..size).map(|_| rng.below(256) as u8).collect::<Vec<u8>>().into()),
        }
    }

    /// The handler asks for its history, page by page.
    fn agent_loads(&mut self, id: &InstanceId, token: Token) {
        let pause = self.talk.between(1, 40);
        if self.ask_page(id, token) {
            self.asking.insert((id.clone(), token));
            // What it lacks is asked for in a coordinator's next turn.
            (0..self.coordinators.len()).for_each(|who| self.wake_coordinator(who, 1));
        }
        self.after(pause, Event::AgentWorks(id.clone(), token));
    }

    /// A coordinator may have read what somebody waits for: whoever asked is answered between two of its turns.
    pub fn answer_pages(&mut self) {
        for (id, token) in std::mem::take(&mut self.asking) {
            if self.ask_page(&id, token) {
                self.asking.insert((id, token));
            }
        }
    }

    /// Asks some coordinator that believes to be the owner for the next page. Returns whether more is to be asked for.
    fn ask_page(&mut self, id: &InstanceId, token: Token) -> bool {
        let owners: Vec<usize> = (0..self.coordinators.len())
            .filter(|who| {
                let at = &self.coordinators[*who];
                at.role == Role::Owner && at.paused_until <= self.now
            })
            .collect();
        let who = (!owners.is_empty()).then(|| *self.talk.pick(&owners));
        let Some(run) = self.run_mut(id, &token) else { return false };
        let (key, Some((place, after))) = (run.key.clone(), run.places.cursor) else { return false };
        let page = who.and_then(|who| {
            let engine = self.coordinators[who].engine.as_mut().filter(|e| e.is_open() && !e.is_busy())?;
            engine.history(&key, place, after)
        });
        let Some((page, true)) = page else { return true };
        if let Err(why) = self.check_page(&key, &page) {
            self.fail(why);
            return false;
        }
        let Some(run) = self.run_mut(id, &token) else { return false };
        let places = &mut run.places;
        for mail in page.messages {
            places.mail.entry(mail.seq).or_insert(mail);
        }
        page.steps.into_iter().for_each(|step| places.give_back(step));
        let whole = places.steps.len() >= places.recorded as usize
            && places.mail.range(..=places.told).count() == places.told as usize;
        places.cursor = match page.next {
            None if whole => None,
            // Whoever answered does not know all of it: superseded, perhaps.
            None => Some((0, 0)),
            next => next,
        };
        let more = places.cursor.is_some();
        self.saw(Sight::HistoryRead);
        more
    }

    fn check_page(&self, key: &TaskKey, page: &HistoryPage) -> Result<(), String> {
        let talk = &self.audit.tasks.get(key).ok_or("a history of no task")?.talk;
        for mail in &page.messages {
            let known = talk.letters.get(mail.seq as usize - 1);
            if !known.is_some_and(|letter| letter.is(mail)) {
                return Err(format!("{key}: message {} is given as {mail:?}", mail.seq));
            }
        }
        for step in &page.steps {
            if !talk.steps.get(&step.place).is_some_and(|(name, did)| *name == step.name && *did == step.did)
            {
                return Err(format!("{key}: place {} is given back as {step:?}", step.place));
            }
        }
        Ok(())
    }

    /// A message came while the handler runs.
    pub fn agent_told(&mut self, id: &InstanceId, token: Token, mail: Mail) {
        if let Some(run) = self.run_mut(id, &token) {
            run.places.mail.entry(mail.seq).or_insert(mail);
        }
    }

    /// A message that is told live is one of the journal's.
    pub fn check_told(&self, effect: &Effect<Handle>) -> Result<(), String> {
        let Effect::Tell(Tell::Ctl { op: CtlOp::Message { token, mail }, .. }) = effect else {
            return Ok(());
        };
        let granted = self.audit.granted.get(token).ok_or("a message under no lease")?;
        let talk = &self.audit.tasks[&granted.key].talk;
        let known = talk.letters.get(mail.seq as usize - 1);
        match known.is_some_and(|letter| letter.is(mail)) {
            true => Ok(()),
            false => Err(format!("{mail:?} is told to {}, and was not", granted.key)),
        }
    }

    fn tell(&mut self, to: &TaskKey, nonce: TaskId, signal: Option<&str>) {
        let op = CmdOp::Tell {
            signal: signal.map(str::to_owned),
            message: self.some_payload(),
            from: Some("friend".to_owned()),
        };
        let body = Ok(Cmd { v: 1, op });
        self.send_to_intake(Input::Cmd { key: to.clone(), nonce, body });
    }

    /// Whoever waits for a message gets one sooner or later; others get some, too, or get them when they are over.
    pub fn friends_tell(&mut self) {
        if !self.scenario.has(Fault::Talking) {
            return;
        }
        let waits = |place: &Place| match place {
            Place::Told { signal, .. } => Some(signal.clone()),
            _ => None,
        };
        let waiting: Vec<_> = self
            .audit
            .tasks
            .iter()
            .filter_map(|(key, known)| Some((key.clone(), waits(&known.place)?)))
            .collect();
        for (key, signal) in waiting {
            if self.talk.per_mille(if self.healing { 600 } else { 150 }) {
                self.tell_fresh(&key, signal.as_deref());
            }
        }
        if self.strikes(Fault::ToldAnyway) {
            let at = self.talk.below(self.audit.tasks.len() as u64 + 1) as usize;
            let stranger = TaskKey { tenant: "t0".parse().unwrap(), id: "nobody".parse().unwrap() };
            let key = self.audit.tasks.keys().nth(at).cloned().unwrap_or(stranger);
            let signal = *self.talk.pick(&[None, Some("go")]);
            self.tell_fresh(&key, signal);
        }
    }

    fn tell_fresh(&mut self, key: &TaskKey, signal: Option<&str>) {
        let nonce = TaskId::new(format!("m{}", self.clients.publications.len())).unwrap();
        self.tell(key, nonce, signal);
    }

    /// What was told and acknowledged is in the journal, or was refused.
    pub fn is_told(&self, key: &TaskKey, nonce: &TaskId) -> bool {
        let codes = [Code::NotFound, Code::TaskEnded, Code::MailboxFull, Code::Backpressure];
        let refused = codes.iter().any(|code| self.audit.refused.contains(&(key.clone(), *code)));
        refused || self.audit.tasks.get(key).is_some_and(|known| known.talk.nonces.contains(nonce))
    }
}
