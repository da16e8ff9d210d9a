//! What is asked for: by a message of a topic, at most once and whole; and only with an input that its agent takes.

use selvedge::{
    flow::record::{Admission, Origin},
    task::{Code, TaskKey},
};

use super::{Audit, of};
use crate::{scenario::Sight, schemas::Judged};

impl Audit {
    /// What a message was made is known for as long as any id is.
    pub(super) fn may_trigger_again(&self, key: &TaskKey) -> bool {
        self.forgetful && self.triggered.contains_key(key)
    }

    /// A task of a message is as the message says; one that finds no room, or is refused, leaves nothing behind.
    pub(super) fn by_a_trigger(&mut self, key: &TaskKey, a: &Admission) -> Result<(), String> {
        let Origin::Root { first_try, retry_of: None, hops } = &a.origin else { return Ok(()) };
        let Some((hash, behind)) = self.triggered.get(key) else {
            ensure!(*hops == 0, "{key} is {hops} triggers deep, and none made it");
            return Ok(());
        };
        ensure!(a.refusal.is_none(), "a message has left {key} behind, refused: {:?}", a.refusal);
        ensure!(a.body_hash == *hash && hops == behind, "{key} is not what its message says");
        ensure!(*first_try == 0, "{key} has a submitter's clock");
        Ok(())
    }

    /// Whether it had to be taken or refused, by what was announced. Returns the seed of its input.
    pub(super) fn judged(&mut self, key: &TaskKey, a: &Admission) -> Result<u64, String> {
        let retried = match &a.origin {
            Origin::Root { retry_of: Some(dead), .. } => {
                self.tasks.get(&of(key, dead)).map(|known| known.seed)
            }
            _ => None,
        };
        let seed = retried.or_else(|| self.seeds.get(&a.body_hash).copied()).unwrap_or_default();
        let judged = self.said.judge(&a.spec.agent, seed);
        match a.refusal.as_ref().map(|refusal| refusal.code) {
            Some(Code::SchemaViolation) => {
                ensure!(judged != Judged::Taken, "{key} fits what {} takes, and is refused", a.spec.agent);
                self.sights.push(Sight::SchemaRefused);
                self.sights.extend((self.epoch > 1).then_some(Sight::SchemaHeardAgain));
            }
            // The schema is looked at before these.
            None
            | Some(Code::BacklogFull | Code::DepthExceeded | Code::ChildrenExceeded | Code::TreeExceeded) => {
                ensure!(
                    judged != Judged::Refused,
                    "{key} fits nothing {} takes, and is admitted",
                    a.spec.agent
                );
            }
            Some(_) => {}
        }
        Ok(seed)
    }
}
