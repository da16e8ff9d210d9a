//! Error texts of decoders, without the values they quote: what was sent may be a secret.
//!
//! Used wherever such a text goes to a log, a refusal or the index.

/// Kinds of values as serde names them before quoting one.
const KINDS: [&str; 6] = ["string", "integer", "floating point", "boolean", "character", "Option value"];

/// What serde says before quoting a word that the sender made up.
const WORDS: [&str; 2] = ["unknown variant ", "unknown field "];

/// The same text with quoted values left out: `invalid type: string, expected u32`.
pub fn without_content(text: &str) -> String {
    let mut out = text.to_owned();
    for what in ["invalid type: ", "invalid value: "] {
        for kind in KINDS {
            out = cut(&out, &format!("{what}{kind} "), &["\", expected ", "`, expected "]);
        }
    }
    for what in WORDS {
        out = cut(&out, what, &["`, expected ", "`, there are no "]);
    }
    out
}

/// Leaves out what is between `start` and the last of `ends`. What the sender wrote can hold any text,
/// what follows it is ours and holds none of it: hence the last, and everything if there is none.
fn cut(text: &str, start: &str, ends: &[&str]) -> String {
    let Some(from) = text.find(start).map(|at| at + start.trim_end().len()) else { return text.to_owned() };
    let after = ends.iter().filter_map(|end| text.rfind(end).map(|at| at + 1)).filter(|at| *at > from).max();
    let rest = after.map_or("", |at| &text[at..]);
    format!("{}{rest}", &text[..from])
}

/// Names and indices beyond this are not shown.
const MAX_SEGMENTS: usize = 32;

/// Where in a message: field names and indices; what can't be a field's name is shown as `?`.
pub fn field_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for segment in path.iter().take(MAX_SEGMENTS) {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("[{index}]")),
            Segment::Map { key: name } | Segment::Enum { variant: name } if is_field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            _ => out.push_str(if out.is_empty() { "?" } else { ".?" }),
        }
    }
    if out.is_empty() { ".".to_owned() } else { out }
}

fn is_field(name: &str) -> bool {
    name.len() <= 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_and_what_was_expected_stays() {
        for (said, kept) in [
            ("n: invalid type: string \"a\", expected u32", "n: invalid type: string, expected u32"),
            (
                "invalid type: string \"a\\\", expected b\", expected u32",
                "invalid type: string, expected u32",
            ),
            ("invalid value: integer `300`, expected u8", "invalid value: integer, expected u8"),
            ("unknown variant `a`, expected `b` or `c`", "unknown variant, expected `b` or `c`"),
            ("unknown field `a`, there are no fields", "unknown field, there are no fields"),
            ("invalid type: string \"a", "invalid type: string"),
            ("invalid type: map, expected u32", "invalid type: map, expected u32"),
            ("missing field `agent`", "missing field `agent`"),
        ] {
            assert_eq!(without_content(said), kept);
        }
    }
}
