//! A trigger as an operator sets it: which messages become tasks, and what the tasks are.
//!
//! Settings are plain data; [`TriggerSettings::compile`] reads the templates and conditions in them, once, and says where
//! one is wrong. Nothing here publishes, pulls or decides.

pub mod condition;
pub mod scope;
pub mod state;
pub mod template;
pub mod topic;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::{
    condition::Condition,
    template::{Template, TemplateError},
    topic::TopicFilter,
};
use super::{AgentName, Labels, MAX_CELLS, Millis, Payload, Priority, Spec, TenantName, Times};

/// Triggers in one fabric, at most: each has a consumer.
pub const MAX_TRIGGERS: usize = 100;

/// Bytes of a trigger's template, conditions and dedupe key, at most.
pub const MAX_TRIGGER_BYTES: usize = 16 * 1024;

/// Messages in a batch, at most.
pub const MAX_BATCH: u32 = 1_000;

/// How long a batch may wait for its messages, at most.
pub const MAX_WITHIN_MS: Millis = 24 * 60 * 60 * 1_000;

/// How many triggers may lie behind a task, if a trigger does not say.
pub const DEFAULT_MAX_HOPS: u32 = 8;

/// The most that any trigger may say.
pub const MAX_HOPS: u32 = 64;

/// Tasks a second of one trigger, at most.
const MAX_RATE: u32 = 1_000_000;

/// Where a trigger's messages come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Topics of the trigger's tenant.
    Topic(TopicFilter),
    /// A JetStream stream of the user's own.
    Stream {
        /// Which.
        name: String,
        /// Only this subject of it, wildcards allowed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
}

/// How many tasks a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerRate {
    /// On average.
    pub rate: u32,
    /// At once after a quiet time.
    pub burst: u32,
}

/// Several messages for one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSettings {
    /// So many, at most.
    pub count: u32,
    /// So long after the first of them, at most, in milliseconds.
    pub within_ms: Millis,
}

/// Where in its stream a trigger begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The first message that counts.
    pub seq: u64,
    /// When the stream was made: another one of the same name is read from its beginning.
    pub created: String,
}

/// What a trigger does. The entry `trigger.<name>` of the triggers bucket, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggerSettings {
    /// Which messages.
    pub source: Source,
    /// Whose tasks it makes.
    pub tenant: TenantName,
    /// Who is to run them.
    pub agent: AgentName,
    /// The task's input, with placeholders; absent: the message, or the list of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Value>,
    /// What a message must be like, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<String>,
    /// What makes two messages the same, a template; absent: the id in the message's header, or its place in the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<String>,
    /// Tasks per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<TriggerRate>,
    /// Several messages for one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSettings>,
    /// How many triggers may lie behind one of its tasks, itself included.
    #[serde(default = "default_hops")]
    pub max_hops: u32,
    /// The tasks' class.
    #[serde(default)]
    pub priority: Priority,
    /// Tries before one is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// Their times, counted from when the task is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Box<Times>>,
    /// Cells that an attempt of one is expected to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// Where it begins.
    #[serde(default)]
    pub start: Start,
    /// It makes no tasks, and keeps its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Labels written on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Box<Labels>>,
}

fn default_hops() -> u32 {
    DEFAULT_MAX_HOPS
}

/// A trigger whose templates and conditions are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// As it was set.
    pub settings: TriggerSettings,
    /// The input.
    pub template: Template,
    /// Of its messages.
    pub filter: Vec<Condition>,
    /// See [`TriggerSettings::dedupe`].
    pub dedupe: Option<Template>,
}

impl TriggerSettings {
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.clone().compile().map(drop)
    }

    /// Reads what is to be read in it, or says what is wrong and where.
    pub fn compile(self) -> Result<Trigger, String> {
        self.check_numbers()?;
        let batch = self.batch.is_some();
        let bytes = self.template.as_ref().map_or(0, |template| template.to_string().len())
            + self.filter.iter().map(String::len).sum::<usize>()
            + self.dedupe.as_ref().map_or(0, String::len);
        if bytes > MAX_TRIGGER_BYTES {
            return Err(format!(
                "template, filter and dedupe key have {bytes} bytes, at most {MAX_TRIGGER_BYTES}"
            ));
        }
        let whole = if batch { "{{batch}}" } else { "{{message}}" };
        let template = self.template.clone().unwrap_or_else(|| whole.into());
        let said = |what: &str, error: TemplateError| format!("{what}: {error}");
        let template = Template::read(&template, batch).map_err(|e| said("template", e))?;
        let dedupe = self.dedupe.clone().map(|key| Template::read(&key.into(), false));
        let dedupe = dedupe.transpose().map_err(|e| said("dedupe", e))?;
        let filter = self.filter.iter().map(|text| Condition::read(text)).collect::<Result<_, _>>()?;
        Ok(Trigger { settings: self, template, filter, dedupe })
    }

    fn check_numbers(&self) -> Result<(), String> {
        let within = |what: &str, n: u64, most: u64| match n {
            n if n == 0 || n > most => Err(format!("{what} is {n}, expected 1 to {most}")),
            _ => Ok(()),
        };
        if let Some(rate) = self.rate {
            within("the rate", rate.rate.into(), MAX_RATE.into())?;
            within("the burst", rate.burst.into(), MAX_RATE.into())?;
        }
        if let Some(batch) = self.batch {
            within("the batch's count", batch.count.into(), MAX_BATCH.into())?;
            within("the batch's time in milliseconds", batch.within_ms, MAX_WITHIN_MS)?;
        }
        within("max_hops", self.max_hops.into(), MAX_HOPS.into())?;
        if let Some(cost) = self.cost.filter(|cost| *cost > MAX_CELLS) {
            return Err(format!("the cost is {cost} cells, at most {MAX_CELLS}"));
        }
        if let Source::Stream { name, subject } = &self.source {
            check_stream(name)?;
            subject.as_deref().map_or(Ok(()), check_subject)?;
        }
        self.labels.as_deref().map_or(Ok(()), Labels::check).map_err(|refusal| refusal.message)?;
        let Some(times) = &self.times else { return Ok(()) };
        if times.run_at.is_some() || times.deadline_at.is_some() {
            return Err("a trigger's tasks have no fixed times: use delay_ms and deadline_ms".to_owned());
        }
        times.check().map_err(|refusal| refusal.message)
    }

    /// The task of this input.
    pub fn spec(&self, input: Payload) -> Spec {
        Spec {
            agent: self.agent.clone(),
            input,
            priority: self.priority,
            max_tries: self.max_tries,
            times: self.times.clone(),
            cost: self.cost,
            labels: self.labels.clone(),
        }
    }
}

/// A stream's name as NATS takes it.
fn check_stream(name: &str) -> Result<(), String> {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && !".*>/\\".contains(c);
    if name.is_empty() || name.len() > 255 || !name.chars().all(fits) {
        return Err(format!("{name:?} is no name of a stream"));
    }
    Ok(())
}

fn check_subject(subject: &str) -> Result<(), String> {
    let mut tokens = subject.split('.').peekable();
    let fits = |c: char| !c.is_whitespace() && !c.is_control();
    while let Some(token) = tokens.next() {
        let last = tokens.peek().is_none();
        let wild = token == "*" || (token == ">" && last);
        if token.is_empty() || !token.chars().all(fits) || (!wild && token.contains(['*', '>'])) {
            return Err(format!("{subject:?} is no filter of subjects"));
        }
    }
    match subject.len() {
        len if len > 255 => Err(format!("the subject has {len} bytes, at most 255")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TriggerSettings {
        let json = r#"{"source": {"topic": "docs.>"}, "tenant": "acme", "agent": "reader"}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let good = settings();
        assert_eq!(good.check(), Ok(()));
        let wrong = |change: &dyn Fn(&mut TriggerSettings)| {
            let mut bad = settings();
            change(&mut bad);
            bad.check().unwrap_err()
        };
        let error = wrong(&|t| t.template = Some(serde_json::json!({"a": ["x", "{{mesage.b}}"]})));
        assert!(
            error.contains("template") && error.contains("`a[1]`") && error.contains("mesage"),
            "{error}"
        );
        let error = wrong(&|t| t.filter = vec!["message.kind=".into()]);
        assert!(error.contains("message.kind="), "{error}");
        let error = wrong(&|t| t.batch = Some(BatchSettings { count: 1_001, within_ms: 1 }));
        assert!(error.contains("1001") && error.contains("1000"), "{error}");
        let error = wrong(&|t| t.dedupe = Some("{{batch}}".into()));
        assert!(error.contains("dedupe"), "{error}");
        let error = wrong(&|t| t.source = Source::Stream { name: "A.B".into(), subject: None });
        assert!(error.contains("A.B"), "{error}");
        let error = wrong(&|t| t.source = Source::Stream { name: "A".into(), subject: Some("a.>.b".into()) });
        assert!(error.contains("a.>.b"), "{error}");
        let error = wrong(&|t| t.max_hops = 0);
        assert!(error.contains("max_hops"), "{error}");
        let error = wrong(&|t| t.labels = Some(Box::new(Labels::from_iter([("a=b", "c")]))));
        assert!(error.contains("label") && error.contains("a=b"), "{error}");
        let error = wrong(&|t| t.template = Some("x".repeat(MAX_TRIGGER_BYTES).into()));
        assert!(error.contains("16384"), "{error}");
    }

    #[test]
    fn a_template_of_a_batch_knows_the_list_and_no_single_message() {
        let mut batch = settings();
        batch.batch = Some(BatchSettings { count: 10, within_ms: 1_000 });
        batch.template = Some(serde_json::json!({"all": "{{batch}}", "n": "{{count}}"}));
        assert_eq!(batch.check(), Ok(()));
        batch.template = Some("{{message}}".into());
        assert!(batch.check().unwrap_err().contains("message"));
        let mut single = settings();
        single.template = Some("{{batch}}".into());
        assert!(single.check().unwrap_err().contains("batch"));
    }
}
