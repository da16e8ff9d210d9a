//! A JSON value with placeholders: `{"path": "{{message.path}}", "note": "from {{topic}}"}`.
//!
//! Total and bounded: no loops, no functions, nothing is computed. A text that is one placeholder becomes the value that
//! is there, whatever its type; within other text it is written out. A field that is not there is an error that says
//! where, unless the placeholder ends in `?`. `{{{{` stands for two braces.

use serde_json::{Map, Value};

use super::scope::{Place, Scope};
use crate::task::{MAX_PAYLOAD_BYTES, Payload};

/// What is wrong with a template, or with a message for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", shown(.at))]
pub struct TemplateError {
    /// Where in the template: `a.b[0]`; empty: the whole of it.
    pub at: String,
    /// What.
    pub reason: String,
}

fn shown(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("at `{place}`: ") }
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Plain(Value),
    One(Place),
    Text(Vec<Piece>),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Put(Place),
}

impl Template {
    /// Reads it, for a batch or for single messages.
    pub fn read(value: &Value, batch: bool) -> Result<Self, TemplateError> {
        read(value, batch, &mut String::new()).map(Self)
    }

    /// The value for this message.
    pub fn render(&self, scope: &Scope) -> Result<Value, TemplateError> {
        let mut room = MAX_PAYLOAD_BYTES;
        render(&self.0, scope, &mut room, &mut String::new())
    }

    /// The same as a task's input.
    pub fn payload(&self, scope: &Scope) -> Result<Payload, TemplateError> {
        let value = self.render(scope)?;
        // A value of ours has text keys: it is JSON.
        let payload = Payload::json(&value)
            .map_err(|error| TemplateError { at: String::new(), reason: error.to_string() })?;
        match payload.len() {
            len if len > MAX_PAYLOAD_BYTES => Err(too_large(String::new())),
            _ => Ok(payload),
        }
    }
}

fn too_large(at: String) -> TemplateError {
    TemplateError { at, reason: format!("the input becomes larger than {MAX_PAYLOAD_BYTES} bytes") }
}

/// Goes on a level deeper, and back.
fn under<T>(path: &mut String, name: &str, go: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    if !path.is_empty() && !name.starts_with('[') {
        path.push('.');
    }
    path.push_str(name);
    let result = go(path);
    path.truncate(length);
    result
}

fn read(value: &Value, batch: bool, path: &mut String) -> Result<Node, TemplateError> {
    Ok(match value {
        Value::String(text) => {
            text_node(text, batch).map_err(|reason| TemplateError { at: path.clone(), reason })?
        }
        Value::Array(items) => {
            let each = items.iter().enumerate();
            Node::List(
                each.map(|(n, item)| under(path, &format!("[{n}]"), |path| read(item, batch, path)))
                    .collect::<Result<_, _>>()?,
            )
        }
        Value::Object(fields) => Node::Map(
            fields
                .iter()
                .map(|(name, item)| {
                    under(path, name, |path| read(item, batch, path)).map(|node| (name.clone(), node))
                })
                .collect::<Result<_, _>>()?,
        ),
        plain => Node::Plain(plain.clone()),
    })
}

fn text_node(text: &str, batch: bool) -> Result<Node, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        plain.push_str(&rest[..open]);
        let from = text.len() - rest.len() + open;
        rest = &rest[open + 2..];
        if let Some(after) = rest.strip_prefix("{{") {
            plain.push_str("{{");
            rest = after;
            continue;
        }
        let Some(close) = rest.find("}}") else {
            return Err(format!("`{{{{` at character {from} is not closed"));
        };
        let place = Place::read(rest[..close].trim(), batch)?;
        rest = &rest[close + 2..];
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Put(place));
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(match pieces.as_slice() {
        [] => Node::Plain(Value::String(String::new())),
        [Piece::Text(text)] => Node::Plain(Value::String(text.clone())),
        [Piece::Put(place)] => Node::One(place.clone()),
        _ => Node::Text(pieces),
    })
}

fn render(node: &Node, scope: &Scope, room: &mut usize, path: &mut String) -> Result<Value, TemplateError> {
    match node {
        Node::Plain(value) => {
            take(value, room, path)?;
            Ok(value.clone())
        }
        Node::One(place) => {
            let Some(found) = look(place, scope, path)? else { return Ok(Value::Null) };
            take(&found, room, path)?;
            Ok(found.into_owned())
        }
        Node::Text(pieces) => {
            let mut out = String::new();
            for piece in pieces {
                let before = out.len();
                match piece {
                    Piece::Text(text) => out.push_str(text),
                    Piece::Put(place) => match look(place, scope, path)?.as_deref() {
                        None | Some(Value::Null) => {}
                        Some(Value::String(text)) => out.push_str(text),
                        Some(value) => {
                            let mut allowed = *room;
                            take(value, &mut allowed, path)?;
                            out.push_str(&value.to_string());
                        }
                    },
                }
                *room = room.checked_sub(out.len() - before).ok_or_else(|| too_large(path.clone()))?;
            }
            Ok(Value::String(out))
        }
        Node::List(items) => {
            let each = items.iter().enumerate();
            let items =
                each.map(|(n, item)| under(path, &format!("[{n}]"), |path| render(item, scope, room, path)));
            Ok(Value::Array(items.collect::<Result<_, _>>()?))
        }
        Node::Map(fields) => {
            let mut out = Map::new();
            for (name, item) in fields {
                let value = under(path, name, |path| render(item, scope, room, path))?;
                out.insert(name.clone(), value);
            }
            Ok(Value::Object(out))
        }
    }
}

fn look<'a>(
    place: &Place,
    scope: &'a Scope,
    path: &str,
) -> Result<Option<std::borrow::Cow<'a, Value>>, TemplateError> {
    let found = place.find(scope);
    if found.is_none() && !place.is_optional() {
        let reason = format!("the message has no `{}`", place.name());
        return Err(TemplateError { at: path.to_owned(), reason });
    }
    Ok(found)
}

/// Takes the room that a value needs, roughly; before it is copied.
fn take(value: &Value, room: &mut usize, path: &str) -> Result<(), TemplateError> {
    let bytes = match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => {
            items.iter().try_for_each(|item| take(item, room, path))?;
            items.len() + 1
        }
        Value::Object(fields) => {
            for (name, item) in fields {
                take(item, room, path)?;
                *room = room.checked_sub(name.len()).ok_or_else(|| too_large(path.to_owned()))?;
            }
            fields.len() + 1
        }
        _ => 4,
    };
    *room = room.checked_sub(bytes).ok_or_else(|| too_large(path.to_owned()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::subjects;

    fn scope() -> Scope {
        Scope {
            message: json!({"path": "a.md", "n": 7, "tags": ["x", {"deep": true}], "none": null}),
            subject: subjects::topic(&"acme".parse().unwrap(), &"docs.new".parse().unwrap()),
            topic: "docs.new".into(),
            seq: 42,
            time: 1_000,
            ..Scope::default()
        }
    }

    #[test]
    fn a_lone_placeholder_keeps_the_type_and_within_text_it_is_written_out() {
        let template = json!({
            "path": "{{message.path}}",
            "n": "{{ message.n }}",
            "deep": ["{{message.tags.1.deep}}", "{{message.tags}}"],
            "text": "{{topic}} #{{seq}}: {{message.tags.1}}{{message.none}}",
            "maybe": "{{message.author?}}",
            "braces": "{{{{message}}",
            "plain": [1, null, "x"],
        });
        let rendered = Template::read(&template, false).unwrap().render(&scope()).unwrap();
        assert_eq!(
            rendered,
            json!({
                "path": "a.md",
                "n": 7,
                "deep": [true, ["x", {"deep": true}]],
                "text": "docs.new #42: {\"deep\":true}",
                "maybe": null,
                "braces": "{{message}}",
                "plain": [1, null, "x"],
            })
        );
        let whole = Template::read(&json!("{{message}}"), false).unwrap();
        assert_eq!(whole.render(&scope()).unwrap(), scope().message);
    }

    #[test]
    fn what_is_not_there_and_what_can_t_be_read_is_named_with_its_place() {
        let error = Template::read(&json!({"a": [0, "x{{message.b"]}), false).unwrap_err();
        assert_eq!(error.to_string(), "at `a[1]`: `{{` at character 1 is not closed");
        for bad in ["{{}}", "{{x}}", "{{message.}}", "{{subject.a}}", "{{batch}}"] {
            assert!(Template::read(&json!(bad), false).is_err(), "{bad}");
        }
        let template = Template::read(&json!({"a": {"b": "{{message.author.name}}"}}), false).unwrap();
        let error = template.render(&scope()).unwrap_err();
        assert_eq!(error.to_string(), "at `a.b`: the message has no `message.author.name`");
    }

    #[test]
    fn what_becomes_too_large_is_refused_before_it_is_built() {
        let many = Value::Array(vec![json!("{{message}}"); 1_000]);
        let scope = Scope { message: json!("x".repeat(1_000)), ..Scope::default() };
        let error = Template::read(&many, false).unwrap().render(&scope).unwrap_err();
        assert!(error.reason.contains("262144"), "{error}");
        let text = json!("{{message}}".repeat(1_000));
        let error = Template::read(&text, false).unwrap().render(&scope).unwrap_err();
        assert!(error.reason.contains("262144"), "{error}");
    }

    #[test]
    fn a_batch_is_a_list_with_a_count() {
        let scope = Scope { batch: vec![json!({"n": 1}), json!({"n": 2})], ..Scope::default() };
        let template = json!({"all": "{{batch}}", "count": "{{count}}", "first": "{{batch.0.n}}"});
        let rendered = Template::read(&template, true).unwrap().render(&scope).unwrap();
        assert_eq!(rendered, json!({"all": [{"n": 1}, {"n": 2}], "count": 2, "first": 1}));
        assert!(Template::read(&json!("{{message}}"), true).is_err());
    }

    #[test]
    fn any_text_is_read_or_refused_and_never_panics() {
        proptest::proptest!(|(text in "[{}a-z.? é]{0,40}")| {
            if let Ok(template) = Template::read(&json!(text), false) {
                let _ = template.render(&scope());
            }
        });
    }
}
