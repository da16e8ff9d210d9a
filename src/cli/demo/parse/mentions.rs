//! What a text refers to: paths of files and names of code.
//!
//! A reader sees one file, so it cannot know what exists; it collects what looks like a reference and
//! the digest keeps what resolves. Better one too many than one too few, within the card's bounds.

use std::collections::HashMap;

use super::super::card::{Counted, MAX_NAME_BYTES, MAX_TEXT_BYTES};
use super::terms::{is_stop_word, ranked};

/// Extensions that make a word with a dot a path; without the list every `a.b` of code would be one.
const EXTENSIONS: &[&str] = &[
    "bash", "c", "cc", "cfg", "cjs", "conf", "cpp", "css", "csv", "cts", "go", "h", "hpp", "html", "ini",
    "java", "js", "json", "jsx", "kt", "lock", "lua", "markdown", "md", "mjs", "mts", "proto", "py", "pyi",
    "rb", "rs", "rst", "sh", "sql", "svg", "swift", "toml", "ts", "tsx", "txt", "xml", "yaml", "yml", "zsh",
];

/// Methods that half the types of a language have: a call of one says nothing about who defines it.
/// Sorted.
const COMMONPLACE: &[&str] = &[
    "__init__",
    "__repr__",
    "__str__",
    "and_then",
    "as_bytes",
    "as_mut",
    "as_ref",
    "as_slice",
    "as_str",
    "from_str",
    "from_utf8",
    "into_inner",
    "into_iter",
    "is_empty",
    "is_none",
    "is_some",
    "iter_mut",
    "main",
    "map_err",
    "next",
    "setUp",
    "tearDown",
    "toString",
    "to_owned",
    "to_string",
    "to_vec",
    "try_from",
    "try_into",
    "unwrap_or",
    "with_capacity",
];

/// Words that end in the extension of a known kind of file, most frequent first.
pub fn paths(text: &str) -> Vec<Counted> {
    let part_of_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '+');
    let mut counts = HashMap::new();
    for word in text.split(|c| !part_of_path(c)) {
        // What starts with two slashes is the rest of a URL or a comment without a blank.
        let word = word.trim_end_matches(['.', '/', '-']);
        if word.len() < 4 || word.len() > MAX_TEXT_BYTES || word.starts_with("//") {
            continue;
        }
        let Some((stem, extension)) = word.rsplit_once('.') else {
            continue;
        };
        if stem.is_empty() || stem.ends_with('/') || EXTENSIONS.binary_search(&extension).is_err() {
            continue;
        }
        add(&mut counts, word);
    }
    ranked(counts)
}

/// Names that a person would call names: with an inner capital or `_`, or called as functions; in code
/// any with a capital too, in prose any in backticks.
pub fn names(text: &str, is_code: bool) -> Vec<Counted> {
    let mut counts = HashMap::new();
    let mut before = None;
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_alphanumeric() || c == '_') {
        if start > 0 {
            before = rest[..start].chars().next_back();
        }
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        // A method in plain words belongs to who knows which type.
        let called = after.starts_with('(') && before != Some('.');
        let quoted = !is_code && before == Some('`');
        if is_name(word) && (called || quoted || is_distinct(word, is_code)) {
            add(&mut counts, word);
        }
        before = None;
        rest = after;
    }
    ranked(counts)
}

fn is_name(word: &str) -> bool {
    (4..=MAX_NAME_BYTES).contains(&word.len())
        && word.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && !is_stop_word(word)
        && COMMONPLACE.binary_search(&word).is_err()
}

fn is_distinct(word: &str, is_code: bool) -> bool {
    let inner = &word[word.chars().next().map_or(0, char::len_utf8)..];
    let capital_first = word.starts_with(char::is_uppercase);
    inner.contains('_')
        || (inner.contains(char::is_uppercase) && inner.contains(char::is_lowercase))
        || (is_code && capital_first)
}

fn add(counts: &mut HashMap<String, u32>, word: &str) {
    match counts.get_mut(word) {
        Some(count) => *count = count.saturating_add(1),
        None => {
            counts.insert(word.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: Vec<Counted>) -> Vec<String> {
        list.into_iter().map(|counted| counted.word).collect()
    }

    #[test]
    fn the_lists_are_sorted_for_the_binary_search() {
        assert!(EXTENSIONS.is_sorted() && COMMONPLACE.is_sorted());
    }

    #[test]
    fn paths_are_found_and_addresses_of_pages_are_not() {
        let text = "See ../walk.rs, `docs/a-b.md`. self.name https://example.org/x.html .md a/.rs";
        assert_eq!(words(paths(text)), ["../walk.rs", "docs/a-b.md"]);
    }

    #[test]
    fn prose_gives_only_what_looks_like_code() {
        let text = "The Client calls `submit` and FileCard or read_file, then merge(cards).";
        assert_eq!(words(names(text, false)), ["FileCard", "merge", "read_file", "submit"]);
        assert!(words(names(text, true)).contains(&"Client".to_owned()));
    }
}
