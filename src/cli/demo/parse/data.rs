//! Top-level keys of TOML, JSON and YAML.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::super::card::{FileKind, Symbol, SymbolKind};
use super::scan::lines;
use super::symbol;

/// The distinct top-level keys. Their line is known for YAML only, else 0.
pub fn keys(source: &[u8], kind: FileKind) -> Vec<Symbol> {
    let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
    match (kind, std::str::from_utf8(source)) {
        (FileKind::Yaml, _) => yaml(source),
        (FileKind::Toml, Ok(text)) => match text.parse::<toml::Table>() {
            Ok(table) => table.keys().map(|key| of_document(key)).collect(),
            Err(_) => Vec::new(),
        },
        (FileKind::Json, Ok(text)) => match serde_json::from_str::<TopLevel>(text) {
            Ok(TopLevel(keys)) => keys.iter().map(|key| of_document(key)).collect(),
            Err(_) => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn of_document(key: &str) -> Symbol {
    symbol(SymbolKind::Key, key.as_bytes(), 0)
}

/// The keys of a JSON object; everything below is checked but not kept.
struct TopLevel(BTreeSet<String>);

impl<'de> Deserialize<'de> for TopLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = TopLevel;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TopLevel, A::Error> {
                let mut keys = BTreeSet::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.insert(key);
                }
                Ok(TopLevel(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn yaml(source: &[u8]) -> Vec<Symbol> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (index, (_, line)) in lines(source).enumerate() {
        if let Some(key) = yaml_key(line)
            && seen.insert(key)
        {
            found.push(symbol(SymbolKind::Key, key, index as u32 + 1));
        }
    }
    found
}

fn yaml_key(line: &[u8]) -> Option<&[u8]> {
    let first = *line.first()?;
    let (key, rest) = if first == b'"' || first == b'\'' {
        let length = line[1..].iter().position(|byte| *byte == first)?;
        (&line[1..=length], &line[length + 2..])
    } else if first.is_ascii_alphanumeric() || first == b'_' {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./-".contains(byte);
        let length = line.iter().position(|byte| !plain(byte))?;
        line.split_at(length)
    } else {
        return None;
    };
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let rest = rest[blanks..].strip_prefix(b":")?;
    let ends = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    (ends && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str, kind: FileKind) -> Vec<String> {
        keys(source.as_bytes(), kind).into_iter().map(|symbol| symbol.name).collect()
    }

    #[test]
    fn only_top_level_keys_count_and_each_once() {
        let toml = "a = 1\n[b]\nc = 2\n[b.d]\n[[e]]\n[[e]]\n";
        assert_eq!(names(toml, FileKind::Toml), ["a", "b", "e"]);
        assert_eq!(names("{\"x\":{\"y\":1},\"z\":[],\"x\":2}", FileKind::Json), ["x", "z"]);
        let yaml = "on: push\n'q k': 1\n  in: 2\n# c: 3\n- d: 4\njobs:\nurl:x\non: again\n";
        assert_eq!(names(yaml, FileKind::Yaml), ["on", "q k", "jobs"]);
    }

    #[test]
    fn a_document_that_does_not_parse_has_no_keys() {
        assert!(names("a = ", FileKind::Toml).is_empty());
        assert!(names("{\"a\":1", FileKind::Json).is_empty());
        assert!(names("[1]", FileKind::Json).is_empty());
    }
}
