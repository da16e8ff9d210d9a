//! Announcements of instances, their input schemas compiled: off the owner's loop, once for all who say the same.
//!
//! A schema comes from whoever may be an agent: nothing is fetched for it, patterns run in linear time, and what it says is
//! wrong never repeats the input.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    flow::announced::{Announced, Takes},
    task::{Payload, without_content},
    wire::{about::About, codec},
};

/// Announcements remembered before those that nobody uses any more are forgotten.
const SWEEP_AT: usize = 1_024;
/// Characters of what a validator says.
const MAX_SAID: usize = 300;

/// Compiles them.
#[derive(Default)]
pub struct Schemas {
    known: HashMap<[u8; 16], Weak<Announced>>,
}

impl Schemas {
    /// What an instance said, ready for use; or what is wrong with it.
    pub fn read(&mut self, about: About) -> Result<Arc<Announced>, String> {
        about.check()?;
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(codec::pack(&about))[..16]);
        if let Some(known) = self.known.get(&digest).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let (takes, error) = match about.input.as_ref().map(compile) {
            None => (None, None),
            Some(Ok(takes)) => (Some(takes), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let announced = Arc::new(Announced { about, digest, takes, error });
        if self.known.len() >= SWEEP_AT {
            self.known.retain(|_, known| known.strong_count() > 0);
        }
        self.known.insert(digest, Arc::downgrade(&announced));
        Ok(announced)
    }
}

fn compile(schema: &Payload) -> Result<Arc<dyn Takes>, String> {
    let schema: Value = schema.decode().map_err(|error| format!("the schema is no JSON: {error}"))?;
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    let validator = options.build(&schema).map_err(|error| said(&error.to_string()))?;
    Ok(Arc::new(Compiled(validator)))
}

fn said(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect()
}

struct Compiled(Validator);

impl Takes for Compiled {
    fn misfit(&self, input: &Payload) -> Option<String> {
        let value: Value = match input.decode() {
            Ok(value) => value,
            Err(why) => return Some(format!("it can't be read as JSON: {}", without_content(&why))),
        };
        let error = self.0.iter_errors(&value).next()?;
        let place = error.instance_path().to_string();
        let what = said(&error.masked().to_string());
        Some(if place.is_empty() { what } else { format!("at `{}`: {what}", said(&place)) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn about(schema: Value) -> About {
        About { input: Some(Payload::json(&schema).unwrap()), ..About::default() }
    }

    fn misfit(schema: Value, input: &Payload) -> Option<String> {
        let announced = Schemas::default().read(about(schema)).unwrap();
        assert_eq!(announced.error, None);
        announced.takes.as_ref().unwrap().misfit(input)
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place_and_without_the_value() {
        let schema = json!({
            "type": "object",
            "properties": {"pages": {"type": "array", "items": {"type": "integer"}}, "key": {"maxLength": 3}},
            "required": ["pages"],
        });
        let of = |value: Value| misfit(schema.clone(), &Payload::json(&value).unwrap());
        assert_eq!(of(json!({"pages": [1, 2]})), None);
        let error = of(json!({"pages": [1, "hunter2"]})).unwrap();
        assert!(
            error.contains("`/pages/1`") && error.contains("integer") && !error.contains("hunter2"),
            "{error}"
        );
        let error = of(json!({"pages": [], "key": "hunter2"})).unwrap();
        assert!(error.contains("`/key`") && !error.contains("hunter2"), "{error}");
        assert!(of(json!({})).unwrap().contains("pages"));
        let packed = Payload::Bytes(rmp_serde::to_vec_named(&json!({"pages": ["x"]})).unwrap().into());
        assert!(misfit(schema.clone(), &packed).unwrap().contains("`/pages/0`"), "MessagePack too");
        assert!(misfit(schema, &Payload::Bytes(vec![0xc1].into())).unwrap().contains("JSON"));
    }

    #[test]
    fn a_schema_that_is_none_or_wants_something_fetched_is_told_and_not_used() {
        let mut schemas = Schemas::default();
        for bad in [
            json!({"type": "objekt"}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"pattern": "("}),
        ] {
            let announced = schemas.read(about(bad.clone())).unwrap();
            assert!(announced.takes.is_none() && announced.error.is_some(), "{bad}");
        }
        let long = About { version: Some("x".repeat(65)), ..About::default() };
        assert!(schemas.read(long).is_err());
    }

    #[test]
    fn who_says_the_same_shares_it() {
        let mut schemas = Schemas::default();
        let one = schemas.read(about(json!({"type": "string"}))).unwrap();
        let same = schemas.read(about(json!({"type": "string"}))).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        let other = schemas.read(about(json!({"type": "number"}))).unwrap();
        assert_ne!(one, other);
    }
}
