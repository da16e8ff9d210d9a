//! The table of options as text: the template of `selvedge.toml`, the reference page, and `config show`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::layers::Loaded;
use super::options::{self, OptionDef, SECTIONS};
use super::value::Kind;

/// A complete `selvedge.toml` in which every option stands, commented out, at its default.
pub fn template() -> String {
    let mut out = String::from(
        "# selvedge.toml. Every option is here with its default; remove the # to set one.\n\
         # A flag outranks a variable, a variable this file, this file the NATS context.\n",
    );
    for (section, doc, options) in SECTIONS {
        out.push('\n');
        for line in *doc {
            let _ = writeln!(out, "#{line}");
        }
        let _ = writeln!(out, "[{section}]");
        for option in *options {
            out.push('\n');
            for line in option.doc {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "# {}; env {}", describe(option), option.env());
            let value = if option.default.is_empty() { option.example } else { option.default };
            let _ = writeln!(out, "#{} = {}", option.name, option.kind.to_toml(value));
        }
    }
    out
}

fn describe(option: &OptionDef) -> String {
    let mut text = option.kind.describe();
    if !option.unit.is_empty() {
        let _ = write!(text, " of {}", option.unit);
    }
    if option.default.is_empty() {
        text.push_str("; unset by default, the value below is an example");
    }
    text
}

/// The reference page `docs/configuration.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Written from the table in src/config/options.rs; a test keeps them equal: `just docs-config` writes it anew. -->\n\n\
         An option can be given in several places; the first of these counts:\n\n\
         1. a flag,\n2. an environment variable,\n3. `selvedge.toml`,\n4. the NATS context (`--context`, `NATS_CONTEXT`, or the one chosen with `nats context select`),\n5. the default.\n\n\
         The file is the one named with `--config` or `SELVEDGE_CONFIG`, else `./selvedge.toml`, else `selvedge/selvedge.toml` in\n\
         `$XDG_CONFIG_HOME` (`~/.config`). Unknown keys and values of the wrong type are refused with their line. An empty variable\n\
         counts as not set.\n\n\
         | command | what it does |\n|---|---|\n\
         | `selvedge config check [FILE]` | reads the whole configuration and reports every mistake; exits 78 if there is one |\n\
         | `selvedge config show --origin` | prints what counts and where it comes from; secrets are masked |\n\
         | `selvedge config template` | prints a file with every option at its default |\n\n\
         Durations are written with their unit (`250ms`, `15s`, `1h30m`, `7d`), sizes too (`16KiB`, `1GiB`, `1GB`).\n",
    );
    for (section, doc, options) in SECTIONS {
        let doc: Vec<_> = doc.iter().map(|line| line.trim()).collect();
        let _ = write!(
            out,
            "\n## [{section}]\n\n{}\n\n| option | default | variable | meaning |\n|---|---|---|---|\n",
            doc.join(" ")
        );
        for option in *options {
            let default = match option.default {
                "" => "not set".to_owned(),
                text => format!("`{}`", option.kind.to_toml(text)),
            };
            let mut meaning = option.summary();
            if let Kind::Choice(words) = option.kind {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                let _ = write!(meaning, " One of {}.", words.join(", "));
            }
            if !option.unit.is_empty() {
                let _ = write!(meaning, " In {}.", option.unit);
            }
            let _ = write!(meaning, " Example: `{}`.", option.kind.to_toml(option.example));
            let _ = writeln!(out, "| `{}` | {default} | `{}` | {meaning} |", option.name, option.env());
        }
    }
    out
}

/// One line of `config show`, safe to print anywhere.
#[derive(Debug, Clone)]
pub struct Row {
    /// `section.name`.
    pub key: String,
    /// The value as it would stand in the file, secrets masked; `None` if it is not set.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: String,
}

/// What counts for every option.
pub fn rows(loaded: &Loaded) -> Vec<Row> {
    let row = |option: &OptionDef| {
        let (text, origin) = loaded.given(option);
        let value = (!text.is_empty()).then(|| option.kind.to_toml(&option.kind.redact(text)));
        Row { key: option.key(), value, origin: origin.to_string() }
    };
    options::all().map(row).collect()
}

/// The same as JSON: `{"nats": {"urls": {"value": […], "origin": "default"}, …}, …}`.
pub fn show_json(loaded: &Loaded) -> Value {
    let section = |options: &[OptionDef]| {
        let entry = |option: &OptionDef| {
            let (text, origin) = loaded.given(option);
            (
                option.name.to_owned(),
                json!({ "value": json_value(option.kind, text), "origin": origin.to_string() }),
            )
        };
        options.iter().map(entry).collect::<Map<_, _>>()
    };
    SECTIONS
        .iter()
        .map(|(name, _, options)| ((*name).to_owned(), Value::Object(section(options))))
        .collect::<Map<_, _>>()
        .into()
}

fn json_value(kind: Kind, text: &str) -> Value {
    let shown = kind.redact(text);
    match kind {
        _ if text.is_empty() => Value::Null,
        Kind::Count => shown.replace('_', "").parse::<u64>().map_or(Value::Null, Value::from),
        Kind::Flag => <bool as super::value::Setting>::parse(&shown).map_or(Value::Null, Value::from),
        Kind::Urls => shown.split(',').map(str::trim).collect(),
        _ => shown.into(),
    }
}
