//! How a trigger is doing, as its runner notes it: the entry `state.<name>` of the triggers bucket, as JSON.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::super::{Millis, Refusal};

/// Dead letters that are shown; the count goes on.
pub const MAX_DEAD_LETTERS: usize = 20;

/// What a trigger is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It waits for messages, or makes tasks of them.
    #[default]
    Running,
    /// It has messages, and may make no tasks of them now: see the refusal.
    Waiting,
    /// An operator has paused it.
    Paused,
    /// It can't begin: see the refusal. It is tried again.
    Broken,
}

impl Doing {
    /// The word on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Broken => "broken",
        }
    }
}

/// What became of a trigger's messages. After a crash of the coordinator the last second of it may be missing or counted
/// twice; dead letters are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Tasks made.
    pub made: u64,
    /// Messages in those; more than tasks if it batches.
    pub messages: u64,
    /// Messages whose task was there already.
    pub known: u64,
    /// Messages that are not what the filter asks for.
    pub filtered: u64,
    /// Dead letters: messages no task could be made of.
    pub dead: u64,
    /// Messages that left the stream before they were read, at most.
    pub missed: u64,
}

/// A message no task could be made of. It stays where it is in the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its place in the stream; of a batch, its last.
    pub seq: u64,
    /// Where it was published.
    pub subject: String,
    /// When that was found, Unix milliseconds.
    pub at: Millis,
    /// Why.
    pub refusal: Refusal,
}

/// Which messages the next batch is made of, decided before its task is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Its first message.
    pub first: u64,
    /// Its last message.
    pub last: u64,
    /// How many there are.
    pub count: u32,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerState {
    /// The stream it reads.
    pub stream: String,
    /// When that was made.
    pub created: String,
    /// Every message up to here is done.
    pub floor: u64,
    /// Messages that are still to come.
    pub pending: u64,
    /// What it does.
    pub doing: Doing,
    /// Why it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What became of its messages.
    pub counts: Counts,
    /// The latest dead letters, newest last.
    pub dead: VecDeque<DeadLetter>,
    /// The batch that is being made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// Every message up to here is in a batch that is made.
    pub batched: u64,
    /// When this was noted, Unix milliseconds.
    pub at: Millis,
}

impl TriggerState {
    /// Adds a dead letter; the oldest gives way.
    pub fn bury(&mut self, letter: DeadLetter) {
        if self.dead.len() >= MAX_DEAD_LETTERS {
            self.dead.pop_front();
        }
        self.dead.push_back(letter);
        self.counts.dead += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Code;

    #[test]
    fn dead_letters_are_bounded_and_all_counted() {
        let mut state = TriggerState::default();
        for seq in 0..100 {
            let refusal = Refusal::new(Code::TemplateFailed, "at `a`: the message has no `b`");
            state.bury(DeadLetter { seq, subject: "x".into(), at: 1, refusal });
        }
        assert_eq!((state.dead.len(), state.counts.dead, state.dead.back().unwrap().seq), (20, 100, 99));
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<TriggerState>(&text).unwrap(), state);
        // A newer version's or an older one's is read as far as it goes.
        assert!(serde_json::from_str::<TriggerState>(r#"{"floor": 3, "later": true}"#).is_ok());
    }
}
