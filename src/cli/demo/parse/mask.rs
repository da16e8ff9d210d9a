//! Blanks out comments, strings and character literals, so that symbols are found in code only.
//!
//! The result is as long as the source, with every masked byte a space except `\n`; so offsets and
//! line numbers stay true. Where things end:
//!
//! - Every `"…"` and `'…'`: `\` takes the next byte with it; except in Rust's `"…"` they end at a
//!   line's end at the latest (the `\n` of a `\`-continued line does not end them).
//! - Rust: `//…`; nested `/*…*/`; `r"…"`, `r#"…"#` with any number of `#`, with `b` or `c` before the
//!   `r`, if no name ends directly before; `'` starts a character only if a `\` follows, or one
//!   character and another `'`; else it is a lifetime.
//! - Python: `#…`; three quotes to the same three quotes, `\` taking the next byte with it.
//! - Go: `//…`, `/*…*/`, `` `…` `` without escapes.
//! - JavaScript, TypeScript: `//…`, `/*…*/`, `` `…` `` with escapes (what is in `${}` is masked too),
//!   and regular expressions: a `/` not followed by `/` or `*`, if the last code byte before it is
//!   one of `( , = : [ ! & | ? { ;` or there is none, up to the next `/` on the same line that
//!   neither follows a `\` nor stands in `[…]`; without one within 1,000 bytes it is a division.
//!
//! What is not closed lasts to the end of the file.

use super::super::card::FileKind;

/// The longest regular expression, delimiters included.
const MAX_REGEX: usize = 1000;

/// Masks `source` by the rules of `kind`; a kind without rules here is returned unchanged.
pub fn mask(source: &[u8], kind: FileKind) -> Vec<u8> {
    let mut out = source.to_vec();
    let mut at = 0;
    // The last byte of code that is not whitespace; a string counts as a quote.
    let mut last = None;
    while at < source.len() {
        let end = match kind {
            FileKind::Rust => rust(source, at),
            FileKind::Python => python(source, at),
            FileKind::Go => go(source, at),
            FileKind::JavaScript | FileKind::TypeScript => script(source, at, last),
            _ => return out,
        };
        let comment = source[at..].starts_with(b"//")
            || source[at..].starts_with(b"/*")
            || (kind == FileKind::Python && source[at] == b'#');
        match end {
            Some(end) => {
                for byte in &mut out[at..end] {
                    if *byte != b'\n' {
                        *byte = b' ';
                    }
                }
                if !comment {
                    last = Some(b'"');
                }
                at = end;
            }
            None => {
                if !super::scan::is_space(source[at]) {
                    last = Some(source[at]);
                }
                at += 1;
            }
        }
    }
    out
}

fn rust(s: &[u8], at: usize) -> Option<usize> {
    let rest = &s[at..];
    match rest[0] {
        b'/' if rest.starts_with(b"//") => Some(line_end(s, at)),
        b'/' if rest.starts_with(b"/*") => Some(nested_comment(s, at)),
        b'"' => Some(quoted(s, at, b'"', true)),
        b'r' => raw_string(s, at),
        b'\'' => rust_char(s, at),
        _ => None,
    }
}

/// At an `r`: the end of the raw string it starts, if it starts one.
fn raw_string(s: &[u8], at: usize) -> Option<usize> {
    let mut before = at;
    if before > 0 && matches!(s[before - 1], b'b' | b'c') {
        before -= 1;
    }
    if before > 0 && super::scan::is_name_byte(s[before - 1]) {
        return None;
    }
    let hashes = s[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = at + 1 + hashes;
    if s.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    Some(find(s, open + 1, &close))
}

fn rust_char(s: &[u8], at: usize) -> Option<usize> {
    let first = *s.get(at + 1)?;
    if first == b'\\' {
        return Some(quoted(s, at, b'\'', false));
    }
    let width = match first {
        b'\'' | b'\n' => return None,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    };
    (s.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
}

fn python(s: &[u8], at: usize) -> Option<usize> {
    match s[at] {
        b'#' => Some(line_end(s, at)),
        quote @ (b'"' | b'\'') => Some(if s[at..].starts_with(&[quote; 3]) {
            let mut i = at + 3;
            while i < s.len() && !s[i..].starts_with(&[quote; 3]) {
                i += if s[i] == b'\\' { 2 } else { 1 };
            }
            (i + 3).min(s.len())
        } else {
            quoted(s, at, quote, false)
        }),
        _ => None,
    }
}

fn go(s: &[u8], at: usize) -> Option<usize> {
    let rest = &s[at..];
    match rest[0] {
        b'/' if rest.starts_with(b"//") => Some(line_end(s, at)),
        b'/' if rest.starts_with(b"/*") => Some(find(s, at + 2, b"*/")),
        b'`' => Some(find(s, at + 1, b"`")),
        quote @ (b'"' | b'\'') => Some(quoted(s, at, quote, false)),
        _ => None,
    }
}

fn script(s: &[u8], at: usize, last: Option<u8>) -> Option<usize> {
    let rest = &s[at..];
    match rest[0] {
        b'/' if rest.starts_with(b"//") => Some(line_end(s, at)),
        b'/' if rest.starts_with(b"/*") => Some(find(s, at + 2, b"*/")),
        b'/' if last.is_none_or(|byte| b"(,=:[!&|?{;".contains(&byte)) => regex(s, at),
        b'`' => Some(quoted(s, at, b'`', true)),
        quote @ (b'"' | b'\'') => Some(quoted(s, at, quote, false)),
        _ => None,
    }
}

fn regex(s: &[u8], at: usize) -> Option<usize> {
    let mut in_class = false;
    let mut i = at + 1;
    // Bounded, so that a long line of unclosed ones costs its length once and not squared.
    let limit = s.len().min(at + MAX_REGEX);
    while i < limit && s[i] != b'\n' {
        match s[i] {
            b'\\' if s.get(i + 1) != Some(&b'\n') => i += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'/' if !in_class => return Some(i + 1),
            _ => {}
        }
        i += 1;
    }
    None
}

/// The end of the string that opens at `at`; a string of one line leaves its `\n` to the code.
fn quoted(s: &[u8], at: usize, quote: u8, multiline: bool) -> usize {
    let mut i = at + 1;
    while i < s.len() {
        match s[i] {
            b'\\' => i += 1,
            b'\n' if !multiline => return i,
            byte if byte == quote => return i + 1,
            _ => {}
        }
        i += 1;
    }
    s.len()
}

fn nested_comment(s: &[u8], at: usize) -> usize {
    let mut depth = 1;
    let mut i = at + 2;
    while i < s.len() {
        if s[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if s[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    s.len()
}

fn line_end(s: &[u8], at: usize) -> usize {
    s[at..].iter().position(|byte| *byte == b'\n').map_or(s.len(), |found| at + found)
}

/// Just behind the next `close` at or after `from`.
fn find(s: &[u8], from: usize, close: &[u8]) -> usize {
    let from = from.min(s.len());
    s[from..]
        .windows(close.len())
        .position(|window| window == close)
        .map_or(s.len(), |found| from + found + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(source: &str, kind: FileKind) -> String {
        String::from_utf8_lossy(&mask(source.as_bytes(), kind)).into_owned()
    }

    #[test]
    fn rust_lifetimes_stay_and_characters_go() {
        let source = "fn a<'a>(x: &'a str) -> char { '\"' } fn b() { '\\'' }";
        let out = masked(source, FileKind::Rust);
        assert!(out.contains("fn a<'a>(x: &'a str)") && out.contains("fn b()"), "{out}");
        assert!(!out.contains('"'));
    }

    #[test]
    fn rust_raw_strings_and_nested_comments_hide_what_looks_like_code() {
        let source = "/* /* fn a */ fn b */ fn c() { br##\"\"# fn d \"## } fn r#type() {}";
        assert_eq!(masked(source, FileKind::Rust).matches("fn ").count(), 2);
    }

    #[test]
    fn a_regular_expression_with_a_quote_does_not_open_a_string() {
        let out = masked("x = /[/'`]/; function f() {} y = a / b;", FileKind::JavaScript);
        assert!(out.contains("function f()") && out.contains("a / b"), "{out}");
    }

    #[test]
    fn masking_keeps_length_and_line_breaks_whatever_the_input() {
        for source in ["\"", "'", "r#\"", "/*", "`\\", "'\\", "\"\"\"\\", "é'é'\n\\", "r", "/"] {
            for kind in [FileKind::Rust, FileKind::Python, FileKind::Go, FileKind::TypeScript] {
                let out = mask(source.as_bytes(), kind);
                assert_eq!(out.len(), source.len());
                let breaks = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'\n').count();
                assert_eq!(breaks(&out), breaks(source.as_bytes()));
            }
        }
    }
}
