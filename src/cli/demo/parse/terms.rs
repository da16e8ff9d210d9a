//! Keywords: which terms a text uses how often.
//!
//! Terms are the parts of its words: identifiers are split at `_` and at the humps of CamelCase, all
//! in lower case, three to 32 characters, with a letter, not a stop word. Numbers say little and are
//! left out. How telling a term is within the corpus is the digest's business.

use std::collections::HashMap;

use super::super::card::{Counted, MAX_NAME_BYTES};

/// Longer ones are encoded data or text without spaces, not words.
const MAX_TERM_CHARS: usize = 32;

/// The number of all terms, and the distinct ones, most frequent first.
pub fn keywords(text: &str) -> (u64, Vec<Counted>) {
    let mut counts: HashMap<String, u32> = HashMap::new();
    let mut total = 0;
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        for_each_part(word, |part| {
            let chars = part.chars().count();
            if !(3..=MAX_TERM_CHARS).contains(&chars) || !part.chars().any(char::is_alphabetic) {
                return;
            }
            let term = part.to_lowercase();
            if term.len() > MAX_NAME_BYTES || is_stop_word(&term) {
                return;
            }
            total += 1;
            let count = counts.entry(term).or_default();
            *count = count.saturating_add(1);
        });
    }
    (total, ranked(counts))
}

/// Most frequent first, equals by the alphabet.
pub fn ranked(counts: HashMap<String, u32>) -> Vec<Counted> {
    let mut list: Vec<Counted> = counts.into_iter().map(|(word, count)| Counted { word, count }).collect();
    list.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word)));
    list
}

/// Splits `word` before a capital that follows a small letter or digit (`camelCase`), and before the
/// last capital of several if a small letter follows (`HTTPServer`).
fn for_each_part(word: &str, mut f: impl FnMut(&str)) {
    let mut start = 0;
    let mut before: Option<char> = None;
    let mut chars = word.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next_small = chars.peek().is_some_and(|(_, next)| next.is_lowercase());
        let hump = before.is_some_and(|b| c.is_uppercase() && (!b.is_uppercase() || next_small));
        if hump {
            f(&word[start..at]);
            start = at;
        }
        before = Some(c);
    }
    f(&word[start..]);
}

/// Words of English and of programming that tell nothing about a file. Sorted.
const STOP_WORDS: &[&str] = &[
    "about", "after", "all", "also", "and", "any", "are", "args", "async", "await", "back", "been", "before",
    "bool", "break", "but", "can", "char", "class", "const", "continue", "could", "def", "default", "derive",
    "does", "each", "elif", "else", "enum", "err", "expect", "export", "extends", "false", "final", "fmt",
    "for", "from", "func", "function", "get", "had", "has", "have", "here", "how", "http", "https", "i32",
    "i64", "impl", "import", "int", "into", "isn", "its", "just", "kwargs", "len", "let", "like", "loop",
    "match", "may", "mod", "more", "must", "mut", "new", "nil", "none", "not", "now", "null", "object",
    "off", "one", "only", "other", "our", "out", "over", "own", "package", "pass", "pub", "raise", "ref",
    "result", "return", "self", "set", "should", "some", "static", "std", "str", "string", "struct", "such",
    "super", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "throw",
    "too", "trait", "true", "try", "two", "type", "u16", "u32", "u64", "unwrap", "use", "usize", "value",
    "var", "vec", "very", "void", "was", "were", "what", "when", "where", "which", "while", "who", "why",
    "will", "with", "would", "yet", "yield", "you", "your",
];

/// Whether a term in lower case tells nothing.
pub fn is_stop_word(term: &str) -> bool {
    STOP_WORDS.binary_search(&term).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_words_are_sorted_for_the_binary_search() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn identifiers_are_split_into_their_words() {
        let (total, list) = keywords("lease_token LeaseToken HTTPServer leaseTTL the x1 12345 Été");
        let words: Vec<_> = list.iter().map(|k| (k.word.as_str(), k.count)).collect();
        assert_eq!(words, [("lease", 3), ("token", 2), ("server", 1), ("ttl", 1), ("été", 1)]);
        assert_eq!(total, 8);
    }
}
