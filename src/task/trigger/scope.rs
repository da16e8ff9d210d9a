//! What a placeholder may name, and how it is looked up: `message.author.name`, `subject`, `seq`.

use std::borrow::Cow;

use serde_json::Value;

use super::super::Millis;

/// A message, or a batch of them, as templates and conditions see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scope {
    /// The message's value; `null` for a batch.
    pub message: Value,
    /// The values of a batch.
    pub batch: Vec<Value>,
    /// Where it was published; of a batch, its last.
    pub subject: String,
    /// The topic in that; empty for a stream of the user's own.
    pub topic: String,
    /// Its place in the stream; of a batch, its last.
    pub seq: u64,
    /// When the stream stored it, Unix milliseconds; of a batch, its last.
    pub time: Millis,
    /// The id in its header; empty if it has none, and for a batch.
    pub id: String,
}

/// What stands between the braces.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    root: Root,
    path: Vec<String>,
    /// Nothing there is `null`, not an error.
    optional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Message,
    Batch,
    Count,
    Subject,
    Topic,
    Seq,
    Time,
    Id,
}

const ROOTS: [(&str, Root); 8] = [
    ("message", Root::Message),
    ("batch", Root::Batch),
    ("count", Root::Count),
    ("subject", Root::Subject),
    ("topic", Root::Topic),
    ("seq", Root::Seq),
    ("time", Root::Time),
    ("id", Root::Id),
];

impl Place {
    /// Reads `message.a.0.b`, with `?` behind it if it need not be there.
    pub fn read(text: &str, batch: bool) -> Result<Self, String> {
        let (name, optional) = match text.strip_suffix('?') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let mut names = name.split('.');
        let first = names.next().unwrap_or_default();
        let Some((_, root)) = ROOTS.into_iter().find(|(name, _)| *name == first) else {
            let known: Vec<&str> = ROOTS.iter().map(|(name, _)| *name).collect();
            return Err(format!("nothing is called {first:?} here; there is {}", known.join(", ")));
        };
        match (root, batch) {
            (Root::Message | Root::Id, true) => {
                return Err(format!("a batch has no `{first}`; use `batch`, the list of its messages"));
            }
            (Root::Batch | Root::Count, false) => {
                return Err(format!("there is a `{first}` only if the trigger batches"));
            }
            _ => {}
        }
        let path: Vec<String> = names.map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("{text:?} has a dot with nothing behind it"));
        }
        if !path.is_empty() && !matches!(root, Root::Message | Root::Batch) {
            return Err(format!("`{first}` has no fields"));
        }
        Ok(Self { root, path, optional })
    }

    /// What is there.
    pub fn find<'a>(&self, scope: &'a Scope) -> Option<Cow<'a, Value>> {
        let mut at = match self.root {
            Root::Message => Cow::Borrowed(&scope.message),
            Root::Batch => return self.find_in_batch(scope),
            Root::Count => Cow::Owned(scope.batch.len().into()),
            Root::Subject => Cow::Owned(scope.subject.as_str().into()),
            Root::Topic => Cow::Owned(scope.topic.as_str().into()),
            Root::Seq => Cow::Owned(scope.seq.into()),
            Root::Time => Cow::Owned(scope.time.into()),
            Root::Id => Cow::Owned(scope.id.as_str().into()),
        };
        if let Cow::Borrowed(value) = at {
            at = Cow::Borrowed(walk(value, &self.path)?);
        }
        Some(at)
    }

    fn find_in_batch<'a>(&self, scope: &'a Scope) -> Option<Cow<'a, Value>> {
        match self.path.split_first() {
            None => Some(Cow::Owned(Value::Array(scope.batch.clone()))),
            Some((index, rest)) => {
                let value = scope.batch.get(index.parse::<usize>().ok()?)?;
                Some(Cow::Borrowed(walk(value, rest)?))
            }
        }
    }

    /// Whether nothing may be there.
    pub fn is_optional(&self) -> bool {
        self.optional
    }

    /// As it was written.
    pub fn name(&self) -> String {
        let root = ROOTS.iter().find(|(_, root)| *root == self.root).map_or("", |(name, _)| *name);
        std::iter::once(root).chain(self.path.iter().map(String::as_str)).collect::<Vec<_>>().join(".")
    }
}

fn walk<'a>(mut value: &'a Value, path: &[String]) -> Option<&'a Value> {
    for name in path {
        value = match value {
            Value::Object(fields) => fields.get(name)?,
            Value::Array(items) => items.get(name.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}
