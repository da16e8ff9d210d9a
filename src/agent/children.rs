//! Spawning children and waiting for them.
//!
//! A child's id follows from (parent, step, index), so a handler that runs again from its start
//! spawns the same children and finds the ones that exist. Waiting ends the attempt: the handler
//! runs again, from its start, when the children have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{AgentError, Ctx, error::refused};
use crate::{
    client::{Error, check_size},
    task::{
        AgentName, MAX_PAYLOAD_BYTES, Payload, Phase, Priority, Refusal, Spec, TaskId, WaitFor, child_id,
    },
    wire::{
        api::ChildView,
        codec,
        messages::{RefusedChild, Spawn},
    },
};

/// Children in one report, at most.
const MAX_CHILDREN: usize = 64;

/// Pause between two questions about children, while nobody answers.
const ASK_AGAIN: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(5),
];

/// A child that was spawned, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its id.
    pub id: TaskId,
    /// The step it belongs to.
    pub step: String,
    /// Its index within the step.
    pub index: u32,
}

/// A child that has ended.
#[derive(Debug, Clone)]
pub struct ChildResult {
    /// Its id.
    pub task: TaskId,
    /// Who ran it.
    pub agent: AgentName,
    /// The step it belongs to.
    pub step: String,
    /// Its index within the step.
    pub index: u32,
    /// How it ended.
    pub state: Phase,
    /// Why, if it went wrong.
    pub refusal: Option<Refusal>,
    /// Its result, if it completed.
    pub result: Option<Payload>,
}

impl ChildResult {
    /// Whether it completed.
    pub fn is_completed(&self) -> bool {
        self.state == Phase::Completed
    }

    /// Its result as a `T`. A fatal error if it did not complete: its own tries are used up.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, AgentError> {
        match (&self.result, &self.refusal) {
            (Some(result), _) if self.is_completed() => {
                result.decode().map_err(|e| AgentError::fatal(format!("child {}: {e}", self.task)))
            }
            (_, Some(refusal)) => {
                Err(AgentError::fatal(format!("child {} is {}: {refusal}", self.task, self.state)))
            }
            _ => Err(AgentError::fatal(format!("child {} is {}", self.task, self.state))),
        }
    }
}

impl From<ChildView> for ChildResult {
    fn from(view: ChildView) -> Self {
        Self {
            task: view.task,
            agent: view.agent,
            step: view.step,
            index: view.index,
            state: view.state,
            refusal: view.refusal,
            result: view.result,
        }
    }
}

/// What this attempt has spawned so far.
#[derive(Default)]
pub(super) struct Spawned {
    /// Next index of each step.
    next: BTreeMap<String, u32>,
    ids: BTreeSet<TaskId>,
    pub(super) refused: Vec<RefusedChild>,
    /// A whole report of this attempt was refused.
    pub(super) failed: Option<Refusal>,
}

impl Ctx {
    /// Spawns one child of `agent` per input. `step` names the place in the handler; spawning again
    /// under the same name in the same attempt adds to the step. Give the same inputs in the same order
    /// whenever the handler runs: children that exist are found by their place, not by their input.
    ///
    /// Does not wait for the coordinator; a refused child shows in [`Ctx::wait_all`] as `rejected`.
    pub async fn spawn<T, I>(&self, step: &str, agent: &str, inputs: I) -> Result<Vec<Child>, AgentError>
    where
        T: Serialize,
        I: IntoIterator<Item = T>,
    {
        let agent = AgentName::new(agent)?;
        let mut specs = Vec::new();
        for input in inputs {
            let input =
                Payload::json(&input).map_err(|e| AgentError::fatal(format!("the input is no JSON: {e}")))?;
            let (agent, priority) = (agent.clone(), Priority::Normal);
            specs.push(Spec {
                labels: None,
                agent,
                input,
                priority,
                max_tries: None,
                times: None,
                cost: None,
            });
        }
        self.spawn_specs(step, specs).await
    }

    /// The same, with agent, priority and tries chosen per child.
    pub async fn spawn_specs(&self, step: &str, specs: Vec<Spec>) -> Result<Vec<Child>, AgentError> {
        let max_payload = self.client().link().bulk.max_payload();
        for spec in &specs {
            check_size("the input of a child", spec.input.len(), max_payload).map_err(refused)?;
        }
        let first = {
            let mut state = self.0.state();
            let next = state.spawned.next.entry(step.to_owned()).or_insert(0);
            let first = *next;
            *next = u32::try_from(specs.len())
                .ok()
                .and_then(|count| first.checked_add(count))
                .ok_or_else(|| AgentError::fatal("more children in one step than there are numbers"))?;
            first
        };
        let mut children = Vec::with_capacity(specs.len());
        for (index, _) in (first..).zip(&specs) {
            children.push(Child { id: child_id(self.task(), step, index), step: step.to_owned(), index });
        }
        self.0.state().spawned.ids.extend(children.iter().map(|child| child.id.clone()));
        for spawn in split(step, first, specs) {
            self.0.spawn(spawn).await?;
        }
        Ok(children)
    }

    /// The results of all children, in the order they were spawned. Until every child has ended it
    /// returns an error that the handler must pass on with `?`: the attempt ends there, the slot is
    /// free, and the handler runs again from its start when they have.
    pub async fn wait_all(&self) -> Result<Vec<ChildResult>, AgentError> {
        self.wait_where(WaitFor::AllChildren, |_| true).await
    }

    /// The same for some of the children.
    pub async fn wait(&self, children: &[Child]) -> Result<Vec<ChildResult>, AgentError> {
        let wanted: BTreeSet<TaskId> = children.iter().map(|child| child.id.clone()).collect();
        let wait_for = WaitFor::Children(children.iter().map(|child| child.id.clone()).collect());
        self.wait_where(wait_for, |id| wanted.contains(id)).await
    }

    async fn wait_where(
        &self,
        wait_for: WaitFor,
        wanted: impl Fn(&TaskId) -> bool,
    ) -> Result<Vec<ChildResult>, AgentError> {
        let mut missing: BTreeSet<TaskId> =
            self.0.state().spawned.ids.iter().filter(|id| wanted(id)).cloned().collect();
        if !missing.is_empty() {
            self.decided().await?;
        }
        if self.0.offer.children == 0 {
            // All there can be was spawned just now.
            return if missing.is_empty() { Ok(Vec::new()) } else { Err(AgentError::wait(wait_for)) };
        }
        let mut results = Vec::new();
        let mut after = 0;
        loop {
            let page = self.children_page(after).await?;
            for child in page.children {
                missing.remove(&child.task);
                if !wanted(&child.task) {
                    continue;
                }
                if !child.state.is_terminal() {
                    return Err(AgentError::wait(wait_for));
                }
                results.push(ChildResult::from(child));
            }
            match page.next {
                Some(next) if next > after => after = next,
                _ => break,
            }
        }
        // Spawned just now and not yet in what was read.
        if missing.is_empty() { Ok(results) } else { Err(AgentError::wait(wait_for)) }
    }

    /// Waits until the spawns so far are decided. A spawn that was refused as a whole made no children:
    /// waiting for them would end and begin for ever.
    async fn decided(&self) -> Result<(), AgentError> {
        self.0
            .until(|state| {
                if state.is_over() {
                    return Some(Err(AgentError::retryable("the lease is over")));
                }
                let failed = state.spawned.failed.clone();
                state.reports.is_settled().then(|| failed.map_or(Ok(()), |refusal| Err(refused(refusal))))
            })
            .await
    }

    async fn children_page(&self, after: u32) -> Result<crate::wire::api::ChildrenPage, AgentError> {
        self.asked("its children", || self.client().children(self.task(), after, true)).await
    }

    /// Asks a question. A coordinator that is away for a moment must not cost the task a try.
    pub(super) async fn asked<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T, AgentError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        for pause in std::iter::once(Duration::ZERO).chain(ASK_AGAIN) {
            tokio::select! {
                () = self.0.instance.settings.clock.sleep(pause) => {}
                () = self.cancelled() => return Err(AgentError::retryable("cancelled")),
            }
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error @ (Error::TimedOut { .. } | Error::Unavailable(_))) => last = Some(error),
                Err(Error::Refused(refusal)) if refusal.code.is_retryable() => last = Some(refusal.into()),
                Err(error) => return Err(error.into()),
            }
        }
        let why = last.map(|error| error.to_string()).unwrap_or_default();
        tracing::warn!(task = %self.task(), %why, "nobody tells a handler about {what}; trying again later");
        Err(AgentError::snooze(Duration::from_secs(5)))
    }
}

/// Cuts one spawn into reports the coordinator takes.
fn split(step: &str, first: u32, specs: Vec<Spec>) -> Vec<Spawn> {
    let mut spawns: Vec<Spawn> = Vec::new();
    let mut bytes = 0;
    for (index, spec) in (first..).zip(specs) {
        let size = codec::pack(&spec).len();
        match spawns.last_mut() {
            Some(last) if last.children.len() < MAX_CHILDREN && bytes + size <= MAX_PAYLOAD_BYTES => {
                bytes += size;
                last.children.push(spec);
            }
            _ => {
                bytes = size;
                spawns.push(Spawn { step: step.to_owned(), first: index, children: vec![spec] });
            }
        }
    }
    spawns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bytes: usize) -> Spec {
        Spec {
            labels: None,
            agent: AgentName::new("reader").unwrap(),
            input: Payload::Bytes(vec![0; bytes].into()),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
        }
    }

    #[test]
    fn a_large_spawn_is_cut_by_number_and_by_size() {
        let cuts: Vec<(u32, usize)> =
            split("s", 5, vec![spec(1); 130]).iter().map(|s| (s.first, s.children.len())).collect();
        assert_eq!(cuts, [(5, 64), (69, 64), (133, 2)]);
        let cuts: Vec<(u32, usize)> =
            split("s", 0, vec![spec(100_000); 5]).iter().map(|s| (s.first, s.children.len())).collect();
        assert_eq!(cuts, [(0, 2), (2, 2), (4, 1)]);
        assert!(split("s", 0, vec![]).is_empty());
    }
}
