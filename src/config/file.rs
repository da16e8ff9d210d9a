//! `selvedge.toml` as written: which options it sets, to what text, and at which place.
//!
//! Knows TOML and the table of options; knows nothing of what a value means beyond the TOML type it is written in.
//! Every mistake of the file is found in one go. Secrets are masked before anything can quote the text.

use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{Problem, Source};
use super::options::{self, OptionDef, SECTIONS};
use super::value::Kind;

/// One option as the file sets it.
#[derive(Debug)]
pub(super) struct Written {
    pub option: &'static OptionDef,
    /// The value in the textual form that [`Setting::parse`](super::value::Setting::parse) reads.
    pub text: String,
    /// Where the value stands.
    pub span: Range<usize>,
}

/// Reads the file; the options that can be read come back even if others cannot.
pub(super) fn read(name: &str, text: &str) -> (Arc<Source>, Vec<Written>, Vec<Problem>) {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let source = Arc::new(Source { name: name.to_owned(), text: mask_lines(text) });
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            let span = error.span().unwrap_or(0..0);
            let problem = Problem::in_file(
                "CONFIG_SYNTAX",
                format!("not valid TOML: {message}"),
                &source,
                span,
                "here",
            )
            .help("strings need quotes, tables a [header]; `selvedge config template` prints a valid file");
            return (source, Vec::new(), vec![problem]);
        }
    };
    let source = Arc::new(Source { name: name.to_owned(), text: mask(text, document.get_ref()) });
    let mut written = Vec::new();
    let mut problems = Vec::new();
    for (section, value) in document.get_ref().iter() {
        let name: &str = section.get_ref();
        if !SECTIONS.iter().any(|(known, _, _)| *known == name) {
            let known = SECTIONS.iter().map(|(known, _, _)| *known);
            problems.push(unknown(&source, section.span(), "section", name, known));
            continue;
        }
        match value.get_ref() {
            DeValue::Table(table) => read_section(name, table, &source, &mut written, &mut problems),
            other => problems.push(
                Problem::in_file(
                    "CONFIG_BAD_VALUE",
                    format!("`{name}` is a section"),
                    &source,
                    value.span(),
                    &format!("{}, not a table", other.type_str()),
                )
                .help(format!("write [{name}] on a line of its own and its options below")),
            ),
        }
    }
    problems.sort_by_key(problem_order);
    (source, written, problems)
}

/// The map is sorted by key; people read top to bottom.
fn problem_order(problem: &Problem) -> usize {
    use miette::Diagnostic;
    problem.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset())
}

fn read_section(
    section: &str,
    table: &DeTable<'_>,
    source: &Source,
    written: &mut Vec<Written>,
    problems: &mut Vec<Problem>,
) {
    for (key, value) in table {
        let Some(option) = options::find(section, key.get_ref()) else {
            let known = options::all().filter(|option| option.section == section).map(|option| option.name);
            problems.push(unknown(source, key.span(), &format!("key in [{section}]"), key.get_ref(), known));
            continue;
        };
        match to_text(option.kind, value.get_ref()) {
            Some(text) => written.push(Written { option, text, span: value.span() }),
            None => problems.push(wrong_type(option, source, value.span(), value.get_ref().type_str())),
        }
    }
}

fn wrong_type(option: &OptionDef, source: &Source, span: Range<usize>, found: &str) -> Problem {
    let expected = option.kind.describe();
    Problem::in_file(
        "CONFIG_BAD_VALUE",
        format!("`{}` must be {expected}", option.key()),
        source,
        span,
        &format!("this is of type {found}"),
    )
    .help(format!("for example: {} = {}", option.name, option.kind.to_toml(option.example)))
}

fn to_text(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::Count, DeValue::Integer(number)) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        (Kind::Flag, DeValue::Boolean(flag)) => Some(flag.to_string()),
        (Kind::Count | Kind::Flag, _) => None,
        (Kind::Urls, DeValue::Array(items)) => {
            let urls: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            urls.map(|urls| urls.join(","))
        }
        (_, DeValue::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

fn unknown<'a>(
    source: &Source,
    span: Range<usize>,
    what: &str,
    found: &str,
    known: impl Iterator<Item = &'a str>,
) -> Problem {
    let known: Vec<&str> = known.collect();
    let help = match nearest(found, &known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    Problem::in_file(
        "CONFIG_UNKNOWN_KEY",
        format!("unknown {what}: `{}`", found.escape_debug()),
        source,
        span,
        "not known",
    )
    .help(help)
}

/// The known word that `found` most likely was meant to be.
pub(super) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, word) = known.iter().map(|word| (distance(found, word), *word)).min()?;
    (distance <= 1 + found.chars().count() / 4).then_some(word)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// `text` with the values of secret options, and credentials in URLs, overwritten in place; offsets stay as they were.
fn mask(text: &str, document: &DeTable<'_>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (section, value) in document.iter() {
        let DeValue::Table(table) = value.get_ref() else {
            continue;
        };
        for (key, value) in table {
            let kind = options::find(section.get_ref(), key.get_ref()).map(|option| option.kind);
            let secret = match kind {
                Some(Kind::Secret) => true,
                Some(Kind::Url | Kind::Urls) => text.get(value.span()).is_some_and(|url| url.contains('@')),
                // A misspelt key may well hold a secret.
                None => sounds_secret(key.get_ref()),
                _ => false,
            };
            for byte in
                bytes.get_mut(value.span()).into_iter().flatten().filter(|byte| secret && **byte != b'\n')
            {
                *byte = b'*';
            }
        }
    }
    // Whole values were overwritten, so no character was cut in two.
    String::from_utf8(bytes).unwrap_or_default()
}

/// The same for text that is not TOML, line by line: what follows a key that sounds secret, or holds credentials.
fn mask_lines(text: &str) -> String {
    let star = |c: char| if c == '\n' { "\n".to_owned() } else { "*".repeat(c.len_utf8()) };
    let masked = |line: &str| match line.split_once('=') {
        Some((key, value)) if sounds_secret(key) || value.contains('@') => {
            format!("{key}={}", value.chars().map(star).collect::<String>())
        }
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(masked).collect()
}

fn sounds_secret(key: &str) -> bool {
    ["pass", "tok", "sec", "seed", "jwt", "key"].iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_file_is_found_in_one_go_and_in_order() {
        let text = "[redis]\nurll = \"x\"\nstream_maxlen = \"many\"\n[coordinator]\nreplicas = 3\n[quux]\n";
        let (_, written, problems) = read("t.toml", text);
        let places: Vec<_> = problems.iter().map(|p| (p.code(), p.place())).collect();
        assert_eq!(
            places,
            [
                ("CONFIG_UNKNOWN_KEY", "t.toml:2:1"),
                ("CONFIG_BAD_VALUE", "t.toml:3:17"),
                ("CONFIG_UNKNOWN_KEY", "t.toml:6:2")
            ]
        );
        assert_eq!(problems[0].advice(), Some("did you mean `url`?"));
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].text, "3");
    }

    #[test]
    fn a_quoted_line_never_holds_a_secret() {
        let text = "[nats]\npassword = \"hunter2\"\ntokn = \"hunter3\"\nurls = \"nats://a:hunter4@h\"\n";
        let (source, _, _) = read("t.toml", text);
        assert!(!source.text.contains("hunter"), "{}", source.text);
        assert_eq!(source.text.len(), text.len());
    }

    #[test]
    fn nor_does_a_line_of_a_file_that_is_not_toml() {
        let text = "[nats]\npassword = hünter2\nurls = \"nats://a:hunter4@h\"\n";
        let (source, _, problems) = read("t.toml", text);
        assert_eq!(problems[0].code(), "CONFIG_SYNTAX");
        assert!(!source.text.contains("nter"), "{}", source.text);
        assert_eq!(source.text.len(), text.len());
    }

    #[test]
    fn numbers_may_be_written_as_toml_allows() {
        let (_, written, problems) =
            read("t.toml", "[redis]\nstream_maxlen = 1_000\ntms_max_index_scan = 0x10\n");
        assert!(problems.is_empty());
        let texts: Vec<_> = written.iter().map(|w| w.text.as_str()).collect();
        assert_eq!(texts, ["1000", "16"]);
    }

    #[test]
    fn suggestions_are_made_only_for_likely_typing_errors() {
        assert_eq!(nearest("urll", &["url", "stream_maxlen"]), Some("url"));
        assert_eq!(nearest("stream_max_len", &["url", "stream_maxlen"]), Some("stream_maxlen"));
        assert_eq!(nearest("banana", &["url", "stream_maxlen"]), None);
    }
}
