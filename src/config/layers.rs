//! Which writing of an option counts: flag > environment > file > NATS context > default, with its origin kept.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ConfigError, Problem, Source};
use super::file;
use super::options::{self, OptionDef, Settings};
use super::value::{Kind, Setting};
use super::{FILE_NAME, FILE_VARIABLE};

/// Where a value comes from; a later variant outranks an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A NATS context, by name.
    Context(String),
    /// The file, as `path:line`.
    File(String),
    /// An environment variable, by name.
    Env(String),
    /// A command-line flag, by name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Context(name) => write!(f, "NATS context {name}"),
            Origin::File(place) => f.write_str(place),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// An option given on the command line.
#[derive(Debug, Clone)]
pub struct FlagValue {
    /// `section.name` of the option.
    pub key: &'static str,
    /// The flag as the user knows it, `--redis-url`.
    pub flag: &'static str,
    /// Its value.
    pub text: String,
}

/// What a NATS context says, under our own keys.
#[derive(Debug, Clone)]
pub struct ContextLayer {
    /// The context's name.
    pub name: String,
    /// `section.name` and value, such as `("nats.urls", "nats://…")`.
    pub values: Vec<(&'static str, String)>,
}

/// Finds the NATS context of a name, or the selected one if there is no name.
pub type ContextLoader<'a> = dyn Fn(Option<&str>) -> Result<Option<ContextLayer>, String> + 'a;

/// Everything a configuration may come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file asked for with `--config`.
    pub file: Option<PathBuf>,
    /// Whether a file is looked for when none was asked for.
    pub search: bool,
    /// The environment.
    pub env: BTreeMap<String, OsString>,
    /// The flags.
    pub flags: Vec<FlagValue>,
}

impl Sources {
    /// The environment of this process, and the usual places for a file.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        Sources { file, search: true, env, flags: Vec::new() }
    }

    /// Adds a flag, if it was given.
    pub fn flag(&mut self, key: &'static str, flag: &'static str, text: Option<impl Into<String>>) {
        self.flags.extend(text.map(|text| FlagValue { key, flag, text: text.into() }));
    }

    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<&OsString> {
        self.env.get(name).filter(|value| !value.is_empty())
    }

    /// The file to read, and whether somebody asked for it by name.
    fn find_file(&self) -> Option<(PathBuf, bool)> {
        if let Some(path) = &self.file {
            return Some((path.clone(), true));
        }
        if !self.search {
            return None;
        }
        if let Some(path) = self.variable(FILE_VARIABLE) {
            return Some((path.into(), true));
        }
        let home = || self.variable("HOME").map(|home| Path::new(home).join(".config"));
        let user = self.variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        let places = [Some(PathBuf::from(FILE_NAME)), user.map(|dir| dir.join("selvedge").join(FILE_NAME))];
        places.into_iter().flatten().find(|path| path.is_file()).map(|path| (path, false))
    }
}

/// A configuration with its story.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What is allowed but probably a mistake.
    pub warnings: Vec<String>,
    /// What counts for each option that is not left at its default.
    pub(super) given: BTreeMap<String, (String, Origin)>,
}

impl Loaded {
    /// Whether anything but the default says what the option `section.name` is.
    pub fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// The text that counts for an option and where it comes from.
    pub fn given(&self, option: &OptionDef) -> (&str, Origin) {
        match self.given.get(&option.key()) {
            Some((text, origin)) => (text, origin.clone()),
            None => (option.default, Origin::Default),
        }
    }
}

/// Resolves all layers. `contexts` loads the NATS context of a name, or the selected one if there is no name.
pub fn load(sources: &Sources, contexts: &ContextLoader<'_>) -> Result<Loaded, ConfigError> {
    let mut given = Resolved::default();
    let file = given.read_file(sources)?;
    given.read_env(sources);
    for flag in &sources.flags {
        given.put(flag.key, flag.text.clone(), Place::Flag(flag.flag));
    }
    given.read_context(contexts);
    given.keep_one_login();
    let settings = Settings::build(&mut given);
    match settings {
        Some(settings) if given.problems.is_empty() => Ok(Loaded {
            settings,
            file,
            warnings: unknown_variables(sources),
            given: given
                .values
                .into_iter()
                .map(|(key, value)| (key, (value.text, value.place.origin())))
                .collect(),
        }),
        _ => Err(ConfigError { problems: given.problems }),
    }
}

/// Variables that look like ours and set nothing.
fn unknown_variables(sources: &Sources) -> Vec<String> {
    let options: Vec<String> = options::all().map(OptionDef::env).collect();
    let mut known: Vec<&str> = options.iter().map(String::as_str).collect();
    known.extend([FILE_VARIABLE, "SELVEDGE_NATS_SERVER", "SELVEDGE_REDIS_SERVER"]);
    let ours = |name: &&String| {
        options::SECTIONS
            .iter()
            .any(|(section, _, _)| name.starts_with(&format!("SELVEDGE_{}_", section.to_ascii_uppercase())))
    };
    let unknown = sources.env.keys().filter(ours).filter(|name| !known.contains(&name.as_str()));
    unknown
        .map(|name| match file::nearest(name, &known) {
            Some(near) => format!("{name} sets nothing; did you mean {near}?"),
            None => format!("{name} sets nothing"),
        })
        .collect()
}

/// A place a message can point to.
#[derive(Debug, Clone)]
enum Place {
    Context(String),
    File(Arc<Source>, Range<usize>),
    Env(String),
    Flag(&'static str),
}

impl Place {
    /// A higher one outranks a lower one.
    fn rank(&self) -> u8 {
        match self {
            Place::Context(_) => 1,
            Place::File(..) => 2,
            Place::Env(_) => 3,
            Place::Flag(_) => 4,
        }
    }

    fn origin(&self) -> Origin {
        match self {
            Place::Context(name) => Origin::Context(name.clone()),
            Place::File(source, span) => {
                Origin::File(format!("{}:{}", source.name, source.position(span.start).0))
            }
            Place::Env(name) => Origin::Env(name.clone()),
            Place::Flag(name) => Origin::Flag((*name).to_owned()),
        }
    }
}

#[derive(Debug)]
struct Value {
    text: String,
    place: Place,
}

/// The highest-ranking writing of each option, and what was wrong on the way.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    values: BTreeMap<String, Value>,
    problems: Vec<Problem>,
}

impl Resolved {
    /// Layers are put in rising rank: a later one replaces an earlier one.
    fn put(&mut self, key: impl Into<String>, text: String, place: Place) {
        self.values.insert(key.into(), Value { text, place });
    }

    fn read_file(&mut self, sources: &Sources) -> Result<Option<PathBuf>, ConfigError> {
        let Some((path, asked_for)) = sources.find_file() else {
            return Ok(None);
        };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let help = if asked_for {
                "name an existing file with --config or SELVEDGE_CONFIG"
            } else {
                "make it readable, or move it away"
            };
            Problem::new(
                "CONFIG_UNREADABLE",
                format!("cannot read the configuration file: {error}"),
                name.clone(),
            )
            .help(help)
        })?;
        let (source, written, problems) = file::read(&name, &text);
        self.problems.extend(problems);
        for one in written {
            self.put(one.option.key(), one.text, Place::File(source.clone(), one.span));
        }
        Ok(Some(path))
    }

    fn read_env(&mut self, sources: &Sources) {
        for option in options::all() {
            let name = option.env();
            let Some(value) = sources.variable(&name) else { continue };
            match value.clone().into_string() {
                Ok(text) => self.put(option.key(), text, Place::Env(name)),
                Err(_) => self.problems.push(Problem::new(
                    "CONFIG_BAD_VALUE",
                    format!("{name} is not valid UTF-8"),
                    format!("env {name}"),
                )),
            }
        }
    }

    fn read_context(&mut self, contexts: &ContextLoader<'_>) {
        let name = self.values.get("nats.context").map(|value| value.text.clone());
        match contexts(name.as_deref()) {
            Ok(None) => {}
            Ok(Some(context)) => {
                for (key, text) in context.values {
                    // Everything else outranks a context, and is already there.
                    if !self.values.contains_key(key) {
                        self.put(key, text, Place::Context(context.name.clone()));
                    }
                }
            }
            Err(message) => {
                let place = self
                    .values
                    .get("nats.context")
                    .map_or("selected NATS context".to_owned(), |value| value.place.origin().to_string());
                self.problems.push(
                    Problem::new("CONFIG_CONTEXT", format!("cannot use the NATS context: {message}"), place)
                        .help("`nats context ls` lists the contexts; --no-context ignores them"),
                );
            }
        }
    }

    /// A layer that says how to log in shuts out the other ways below it: a user name given as a flag must not meet
    /// the credentials file of a context. User and password are one way, so they may come from two layers.
    fn keep_one_login(&mut self) {
        const WAYS: [&[&str]; 5] = [
            &["nats.user", "nats.password", "nats.password_file"],
            &["nats.token"],
            &["nats.creds"],
            &["nats.nkey"],
            &["nats.user_jwt", "nats.seed"],
        ];
        let rank =
            |key: &str, values: &BTreeMap<String, Value>| values.get(key).map(|value| value.place.rank());
        let highest = |way: &[&str]| way.iter().filter_map(|key| rank(key, &self.values)).max();
        let in_url = self
            .values
            .get("nats.urls")
            .filter(|value| value.text.contains('@'))
            .map(|value| value.place.rank());
        let Some(top) = WAYS.iter().filter_map(|way| highest(way)).chain(in_url).max() else { return };
        let shut_out: Vec<&str> = WAYS
            .iter()
            .filter(|way| highest(way).is_some_and(|rank| rank < top))
            .flat_map(|way| way.iter().copied())
            .collect();
        for key in shut_out {
            self.values.remove(key);
        }
    }

    /// The value of an option, or `None` and a problem noted.
    pub fn take<T: Setting>(
        &mut self,
        section: &str,
        name: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        let option = options::find(section, name)?;
        let key = option.key();
        let Some(value) = self.values.get(&key) else {
            // The defaults are checked by a test; here they cannot fail.
            return if option.default.is_empty() { T::unset() } else { T::parse(option.default).ok() };
        };
        let parsed = T::parse(&value.text).and_then(|parsed| check(&parsed).map(|()| parsed));
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                let problem = bad_value(option, value, &expected);
                self.problems.push(problem);
                None
            }
        }
    }

    /// Notes that two options cannot stand together.
    pub fn conflict(&mut self, one: &str, other: &str, help: &str) {
        let place = |key: &str| self.values.get(key).map(|value| format!("{key} ({})", value.place.origin()));
        let places: Vec<String> = [place(one), place(other)].into_iter().flatten().collect();
        self.problems.push(
            Problem::new(
                "CONFIG_CONFLICT",
                format!("`{one}` and `{other}` don't fit together"),
                places.join(", "),
            )
            .help(help),
        );
    }
}

fn bad_value(option: &OptionDef, value: &Value, expected: &str) -> Problem {
    let shown = match option.kind {
        Kind::Secret => "its value".to_owned(),
        kind => format!("{:?}", kind.redact(&value.text)),
    };
    let example = option.kind.to_toml(option.example);
    match &value.place {
        Place::File(source, span) => Problem::in_file(
            "CONFIG_BAD_VALUE",
            format!("`{}`: {expected}", option.key()),
            source,
            span.clone(),
            "this value",
        )
        .help(format!("for example: {} = {example}", option.name)),
        Place::Env(name) => {
            Problem::new("CONFIG_BAD_VALUE", format!("{name}={shown}: {expected}"), format!("env {name}"))
                .help(format!("{name} sets `{}`; for example {name}={}", option.key(), option.example))
        }
        Place::Flag(flag) => {
            Problem::new("CONFIG_BAD_VALUE", format!("{flag} {shown}: {expected}"), format!("flag {flag}"))
                .help(format!("for example: {flag} {}", option.example))
        }
        Place::Context(name) => Problem::new(
            "CONFIG_BAD_VALUE",
            format!("`{}` is {shown}: {expected}", option.key()),
            format!("NATS context {name}"),
        )
        .help(format!("`nats context edit {name}`")),
    }
}
