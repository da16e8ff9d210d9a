//! Messages and steps, a second time: each message is told once and taken once, in order, and what is recorded stays.

use std::collections::{BTreeMap, HashSet};

use selvedge::{
    flow::record::What,
    task::{Object, Payload, Phase, TaskId, TaskKey, Token},
    wire::history::{Did, Mail, Step},
};

use super::{Audit, Place};
use crate::scenario::Sight;

/// A message that was told.
#[derive(Debug, Clone)]
pub struct Letter {
    pub signal: Option<String>,
    pub from: Option<String>,
    pub message: Payload,
    pub taken: bool,
}

impl Letter {
    /// Whether this is what a handler is given.
    pub fn is(&self, mail: &Mail) -> bool {
        (&self.signal, &self.from, &self.message) == (&mail.signal, &mail.from, &mail.message)
    }
}

/// What a task was told and has recorded.
#[derive(Debug, Clone, Default)]
pub struct Talk {
    pub letters: Vec<Letter>,
    pub nonces: HashSet<TaskId>,
    pub steps: BTreeMap<u32, (String, Did)>,
}

impl Talk {
    fn first_open(&self, signal: Option<&str>) -> Option<u32> {
        let open = |letter: &Letter| !letter.taken && letter.signal.as_deref() == signal;
        self.letters.iter().position(open).map(|at| at as u32 + 1)
    }

    fn take(&mut self, place: u32, signal: Option<&str>, seq: u32) -> Result<(), String> {
        ensure!(self.first_open(signal) == Some(seq), "message {seq} is taken out of turn");
        self.letters[seq as usize - 1].taken = true;
        let known = self.steps.insert(place, (signal.unwrap_or_default().to_owned(), Did::Took(seq)));
        ensure!(known.is_none(), "place {place} was recorded before");
        Ok(())
    }

    /// What a handler gathers of it, from its first place to its last.
    pub fn gathered(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (_, did) in self.steps.values() {
            match did {
                Did::Result(result) => gather(&mut out, b'r', result),
                Did::Took(seq) => gather(&mut out, b'm', &self.letters[*seq as usize - 1].message),
                Did::TimedOut {} => out.push(b't'),
                Did::Slept {} => out.push(b's'),
                Did::Kept(object) => gather_object(&mut out, object),
            }
        }
        out
    }
}

/// Adds a kind and a short mark of a payload.
pub fn gather(out: &mut Vec<u8>, kind: u8, payload: &Payload) {
    out.push(kind);
    out.extend(&selvedge::flow::record::Hash::of(payload.as_bytes()).0[..4]);
}

/// The same of a result that is kept outside of the journal.
pub fn gather_object(out: &mut Vec<u8>, object: &Object) {
    out.push(b'o');
    out.extend(&object.hash.to_string().as_bytes()[..4]);
}

impl Audit {
    pub(super) fn told(
        &mut self,
        key: &TaskKey,
        nonce: &TaskId,
        seq: u32,
        letter: Letter,
    ) -> Result<(), String> {
        let known = self.known(key)?;
        ensure!(!known.is_over(), "a message to {key}, which is over");
        ensure!(known.talk.nonces.insert(nonce.clone()), "message {nonce} to {key} was told twice");
        known.talk.letters.push(letter.clone());
        ensure!(known.talk.letters.len() == seq as usize, "message {seq} is not the next");
        ensure!(known.talk.letters.len() <= 10_000, "more messages than are kept");
        known.news = true;
        let early = known.attempt == 0;
        if let Place::Told { place, signal, .. } = &known.place
            && *signal == letter.signal
        {
            let (place, signal) = (*place, signal.clone());
            known.talk.take(place, signal.as_deref(), seq)?;
            known.place = Place::Queued;
            known.resumes = true;
            self.touch(key);
            self.sights.push(Sight::WokenByMessage);
        } else if early {
            self.sights.push(Sight::ToldEarly);
        }
        Ok(())
    }

    pub(super) fn stepped(
        &mut self,
        key: &TaskKey,
        token: Token,
        n: u32,
        step: Option<&Step>,
    ) -> Result<(), String> {
        self.report(key, token, n)?;
        let talk = &mut self.known(key)?.talk;
        let Some(Step { place, name, did }) = step else { return Ok(()) };
        let sight = match did {
            Did::Result(_) => {
                let known = talk.steps.insert(*place, (name.clone(), did.clone()));
                ensure!(known.is_none(), "place {place} was recorded before");
                Sight::StepRecorded
            }
            Did::Kept(object) => {
                let others = talk.steps.values().map(|(_, did)| match did {
                    Did::Kept(object) => object.bytes,
                    _ => 0,
                });
                ensure!(others.sum::<u64>() + object.bytes <= 256 << 20, "{key} keeps more than a task may");
                ensure!(object.bytes <= 64 << 20, "{key} keeps a larger object than there may be");
                let known = talk.steps.insert(*place, (name.clone(), did.clone()));
                ensure!(known.is_none(), "place {place} was recorded before");
                Sight::ObjectRecorded
            }
            Did::Took(seq) => {
                talk.take(*place, (!name.is_empty()).then_some(name), *seq)?;
                Sight::TakenLive
            }
            Did::TimedOut {} | Did::Slept {} => return Err("a handler reported a time".to_owned()),
        };
        self.sights.push(sight);
        Ok(())
    }

    /// An attempt ended with a wait for a message.
    pub(super) fn waits_for_message(
        &mut self,
        key: &TaskKey,
        place: u32,
        signal: Option<&str>,
        due: Option<u64>,
    ) -> Result<(), String> {
        let known = self.known(key)?;
        let seq = known.talk.first_open(signal);
        if known.talk.steps.contains_key(&place) {
            (known.place, known.resumes) = (Place::Queued, known.news);
        } else if let Some(seq) = seq {
            known.talk.take(place, signal, seq)?;
            (known.place, known.resumes) = (Place::Queued, known.news);
            self.sights.push(Sight::MessageWasThere);
        } else {
            known.place = Place::Told { place, signal: signal.map(str::to_owned), due };
        }
        Ok(())
    }

    /// An attempt ended with a wait for a time.
    pub(super) fn waits_for_time(&mut self, key: &TaskKey, place: u32, due: u64) -> Result<(), String> {
        let known = self.known(key)?;
        ensure!(!known.talk.steps.contains_key(&place), "a sleep at a place that is recorded");
        known.place = Place::Asleep { place, due };
        Ok(())
    }

    /// A time has come for whoever waits for a message or for that time.
    pub(super) fn time_came(&mut self, key: &TaskKey, place: u32, due: u64, did: Did) -> Result<(), String> {
        let now = self.now;
        ensure!(due <= now, "{key} was woken at {now}, due at {due}");
        let known = self.known(key)?;
        let name = match &known.place {
            Place::Told { signal, .. } => signal.clone().unwrap_or_default(),
            _ => String::new(),
        };
        let sight =
            if matches!(did, Did::TimedOut {}) { Sight::NoMessageInTime } else { Sight::SleptInPlace };
        ensure!(known.talk.steps.insert(place, (name, did)).is_none(), "place {place} was recorded before");
        (known.place, known.resumes) = (Place::Queued, false);
        self.touch(key);
        self.sights.push(sight);
        Ok(())
    }

    /// A payload of a task, as it was journaled first.
    pub(super) fn carried_talk(&self, key: &TaskKey, what: What, payload: &Payload) -> Result<(), String> {
        let talk = &self.tasks.get(key).ok_or("unknown")?.talk;
        let was = match what {
            What::Message(seq) => talk.letters.get(seq as usize - 1).map(|letter| &letter.message),
            What::Step(place) => match talk.steps.get(&place) {
                Some((_, Did::Result(result))) => Some(result),
                _ => None,
            },
            What::Input | What::Result => return Ok(()),
        };
        ensure!(was == Some(payload), "{key}: another {what:?} is carried");
        Ok(())
    }

    /// What a handler that ran through says it has gathered.
    pub(super) fn gathered(&self, key: &TaskKey, result: &Payload) -> Result<(), String> {
        let known = &self.tasks[key];
        let said = result.as_bytes().get(8..).unwrap_or_default();
        ensure!(
            said == known.talk.gathered(),
            "{key} completed with something else than what is recorded of it"
        );
        Ok(())
    }

    /// At rest: each message was taken at most once, each by a place that names it.
    pub fn check_talk(&self) -> Result<(), String> {
        for (key, known) in &self.tasks {
            let mut taken: Vec<u32> = known
                .talk
                .steps
                .values()
                .filter_map(|(_, did)| match did {
                    Did::Took(seq) => Some(*seq),
                    _ => None,
                })
                .collect();
            taken.sort_unstable();
            let marked =
                (1..).zip(&known.talk.letters).filter(|(_, letter)| letter.taken).map(|(seq, _)| seq);
            ensure!(
                taken == marked.collect::<Vec<u32>>(),
                "{key}: messages were taken more than once, or by nobody"
            );
            ensure!(
                known.place != Place::Over(Phase::Completed) || known.result.is_some(),
                "{key} is completed without a result"
            );
        }
        Ok(())
    }
}
