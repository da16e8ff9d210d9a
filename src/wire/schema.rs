//! What each verb of the query service takes and gives, as JSON Schema: shown in the endpoints' metadata.
//!
//! Written in a short notation, one line a message: `name: type`, `!` behind a name that is always there, `[type]` for a
//! list. A test holds every line to the golden files. The types themselves are in [`super::api`].

use serde_json::{Map, Value, json};

use super::api::verb;

/// Fields of the answer to whatever is decided.
const TASK_REPLY: &str = "task!: name, state!: state or null, refusal: object";

/// Fields of a task as a reader sees it.
const VIEW: &str = "tenant!: name, task!: name, agent!: name, state!: state, rev!: count, priority: text, parent: name, \
    root!: name, depth: count, attempt: count, tries: count, instance: name, created_at: count, not_before: count, \
    deadline_at: count, started_at: count, ended_at: count, refusal: object, failures: [object], retry_of: name, \
    last_event: count, body_hash: text, labels: object, result: any";

/// Verb, request, answer.
const MESSAGES: &[(&str, &str, &str)] = &[
    (
        verb::SUBMIT,
        "agent!: name, task: name, key: text, input: any, priority: text, max_tries: count, times: object, cost: count, \
         labels: object",
        TASK_REPLY,
    ),
    (verb::GET, "task!: name, min_rev: count", VIEW),
    (
        verb::LIST,
        "states: [state], agent: name, root: name, parent: name, since: count, until: count, labels: object, \
         limit: count, offset: count, cursor: text",
        "tasks!: [object], next: text, complete!: flag, scanned!: count, as_of: count",
    ),
    (
        verb::CHILDREN,
        "task!: name, after: count, limit: count, results: flag",
        "children!: [object], next: count",
    ),
    (verb::EVENTS, "task!: name, after: [count], limit: count", "events!: [object], more!: flag"),
    (
        verb::WHY,
        "task!: name",
        "tenant!: name, task!: name, agent!: name, state!: state, reasons!: [object], children: [name], \
         instance: text, since: count, expires_at: count, at!: count",
    ),
    (verb::AGENTS, "agent: name, schemas: flag", "agents!: [object], more: flag, at!: count"),
    (verb::TELL, "task!: name, message!: any, from: text, nonce: name", TASK_REPLY),
    (verb::SIGNAL, "task!: name, name!: text, message!: any, from: text, nonce: name", TASK_REPLY),
    (
        verb::HISTORY,
        "task!: name, place!: count, after!: count",
        "messages!: [object], steps!: [object], next: [count]",
    ),
    (verb::KEPT, "task!: name, hash!: text, chunk!: count", "chunk!: any"),
    (verb::CANCEL, "task!: name, reason: text", TASK_REPLY),
    (verb::RETRY, "task!: name, nonce: name", TASK_REPLY),
    (verb::PAUSE, "task!: name", TASK_REPLY),
    (verb::RESUME, "task!: name", TASK_REPLY),
    (verb::STATS, "", "states!: object, total!: count, as_of: count"),
    (verb::MANY, "tasks!: [name]", "tasks!: [object], missing: [name], unknown: [name]"),
    (
        verb::COUNT,
        "states: [state], agent: name, root: name, parent: name, since: count, until: count, labels: object",
        "count!: count, as_of: count",
    ),
    (
        verb::TREE,
        "task!: name, limit: count, cursor: text",
        "root!: name, tasks!: [object], next: text, as_of: count",
    ),
];

/// Request and answer of a verb; `None` for one that is not described.
pub fn of(verb: &str) -> Option<(Value, Value)> {
    let (_, request, answer) = MESSAGES.iter().find(|(name, ..)| *name == verb)?;
    Some((schema(request), schema(answer)))
}

fn schema(fields: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in fields.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let Some((name, kind)) = field.split_once(':') else { continue };
        let always = name.ends_with('!');
        let name = name.trim_end_matches('!');
        if always {
            required.push(name);
        }
        properties.insert(name.to_owned(), type_of(kind.trim()));
    }
    json!({"type": "object", "properties": properties, "required": required})
}

fn type_of(kind: &str) -> Value {
    if let Some(item) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) {
        return json!({"type": "array", "items": type_of(item)});
    }
    match kind {
        "name" => json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"}),
        "count" => json!({"type": "integer", "minimum": 0}),
        "flag" => json!({"type": "boolean"}),
        "object" => json!({"type": "object"}),
        "state or null" => json!({"enum": states().chain([Value::Null]).collect::<Vec<_>>()}),
        "state" => json!({"enum": states().collect::<Vec<_>>()}),
        "text" => json!({"type": "string"}),
        _ => json!({}),
    }
}

fn states() -> impl Iterator<Item = Value> {
    crate::task::Phase::ALL.into_iter().map(|state| Value::from(state.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Option<Value> {
        let file = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        Some(serde_json::from_slice(&std::fs::read(file).ok()?).unwrap())
    }

    fn fits(value: &Value, schema: &Value) -> bool {
        let kind = |kind: &str| match kind {
            "string" => value.is_string(),
            "integer" => value.is_u64(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            "array" => {
                value.as_array().is_some_and(|items| items.iter().all(|item| fits(item, &schema["items"])))
            }
            _ => false,
        };
        schema["type"].as_str().is_none_or(kind)
            && schema["enum"].as_array().is_none_or(|allowed| allowed.contains(value))
    }

    #[test]
    fn every_verb_is_described_and_the_golden_files_fit() {
        let mut held = 0;
        for verb in verb::ALL {
            let (request, answer) = of(verb).unwrap_or_else(|| panic!("{verb} is not described"));
            for (name, schema) in [(format!("api-{verb}"), request), (format!("api-{verb}-reply"), answer)] {
                let Some(message) = golden(&name) else { continue };
                held += 1;
                let message = message.as_object().unwrap();
                for (field, value) in message {
                    let described = &schema["properties"][field];
                    assert!(!described.is_null(), "{name}: {field} is not described");
                    assert!(fits(value, described), "{name}: {field} is not {described}");
                }
                for field in schema["required"].as_array().unwrap() {
                    assert!(message.contains_key(field.as_str().unwrap()), "{name}: {field}");
                }
            }
        }
        assert!(held > 15, "{held} golden files were looked at");
    }
}
