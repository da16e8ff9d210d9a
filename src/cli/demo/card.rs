//! The card a reader makes of one file: exact counts, bounded lists.
//!
//! Owns the shape of what travels from reader to librarian, and its bounds. Lists are cut, counts
//! are not: a card of a huge file says how much was left out. Made by [`super::parse`], consumed by
//! [`super::digest`]. Invariant: a card that passed [`FileCard::bounded`] takes less than
//! [`MAX_CARD_BYTES`] as JSON, and less still as MessagePack.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most keywords a card keeps.
pub const MAX_KEYWORDS: usize = 32;
/// Most symbols a card keeps.
pub const MAX_SYMBOLS: usize = 64;
/// Most headings a card keeps.
pub const MAX_HEADINGS: usize = 64;
/// Most mentioned paths a card keeps.
pub const MAX_PATHS: usize = 32;
/// Most mentioned names a card keeps.
pub const MAX_NAMES: usize = 96;
/// A card is smaller than this in JSON.
pub const MAX_CARD_BYTES: usize = 16 * 1024;
/// Longest symbol name or keyword, in bytes; longer symbol names are cut.
pub const MAX_NAME_BYTES: usize = 48;
/// Longest heading text or mentioned path, in bytes; longer headings are cut.
pub const MAX_TEXT_BYTES: usize = 80;

/// What sort of file it is, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// `.md`, `.markdown`
    Markdown,
    /// `.rs`
    Rust,
    /// `.py`, `.pyi`
    Python,
    /// `.js` and relatives
    JavaScript,
    /// `.ts` and relatives
    TypeScript,
    /// `.go`
    Go,
    /// `.sh`, `.bash`, `.zsh`
    Shell,
    /// `.toml`
    Toml,
    /// `.json`
    Json,
    /// `.yaml`, `.yml`
    Yaml,
    /// everything else that is text
    Text,
}

impl FileKind {
    /// The kind of the file at `path`; only the last component's extension matters.
    pub fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let Some((_, extension)) = name.rsplit_once('.') else {
            return Self::Text;
        };
        match extension.to_ascii_lowercase().as_str() {
            "md" | "markdown" => Self::Markdown,
            "rs" => Self::Rust,
            "py" | "pyi" => Self::Python,
            "js" | "jsx" | "mjs" | "cjs" => Self::JavaScript,
            "ts" | "tsx" | "mts" | "cts" => Self::TypeScript,
            "go" => Self::Go,
            "sh" | "bash" | "zsh" => Self::Shell,
            "toml" => Self::Toml,
            "json" => Self::Json,
            "yaml" | "yml" => Self::Yaml,
            _ => Self::Text,
        }
    }

    /// Whether names in it are code rather than prose or data.
    pub fn is_code(self) -> bool {
        use FileKind::{Go, JavaScript, Python, Rust, Shell, TypeScript};
        matches!(self, Rust | Python | JavaScript | TypeScript | Go | Shell)
    }

    /// The name a person reads.
    pub fn label(self) -> &'static str {
        match self {
            Self::Markdown => "Markdown",
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::JavaScript => "JavaScript",
            Self::TypeScript => "TypeScript",
            Self::Go => "Go",
            Self::Shell => "Shell",
            Self::Toml => "TOML",
            Self::Json => "JSON",
            Self::Yaml => "YAML",
            Self::Text => "other text",
        }
    }
}

/// What a symbol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the languages' own words")]
pub enum SymbolKind {
    Function,
    Struct,
    Enum,
    Trait,
    Impl,
    Module,
    Macro,
    Class,
    Interface,
    Type,
    Constant,
    Key,
}

impl SymbolKind {
    /// Whether a use of the name elsewhere refers to this definition. An impl only repeats names, a
    /// module or a key shares its name with everyday words.
    pub fn is_referable(self) -> bool {
        !matches!(self, Self::Impl | Self::Module | Self::Key)
    }

    /// The name a person reads.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Class => "class",
            _ => self.plural().trim_end_matches('s'),
        }
    }

    /// The plural a person reads.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Function => "functions",
            Self::Struct => "structs",
            Self::Enum => "enums",
            Self::Trait => "traits",
            Self::Impl => "impls",
            Self::Module => "modules",
            Self::Macro => "macros",
            Self::Class => "classes",
            Self::Interface => "interfaces",
            Self::Type => "types",
            Self::Constant => "constants",
            Self::Key => "keys",
        }
    }
}

/// Exact counts, whatever was cut from the lists. Also used summed over files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "defined word by word in the module `demo`")]
pub struct Counts {
    pub bytes: u64,
    pub lines: u64,
    pub words: u64,
    pub headings: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub symbols: BTreeMap<SymbolKind, u64>,
}

impl Counts {
    /// Adds another file's counts; saturating, because a card comes over the wire.
    pub fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.lines = self.lines.saturating_add(other.lines);
        self.words = self.words.saturating_add(other.words);
        self.headings = self.headings.saturating_add(other.headings);
        for (kind, count) in &other.symbols {
            let sum = self.symbols.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// All symbols of all kinds.
    pub fn symbol_total(&self) -> u64 {
        self.symbols.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// A heading of a Markdown file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-evident")]
pub struct Heading {
    pub level: u8,
    pub line: u32,
    pub text: String,
}

/// A name that a file defines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-evident")]
pub struct Symbol {
    pub kind: SymbolKind,
    pub name: String,
    pub line: u32,
}

/// A word and how often it occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-evident")]
pub struct Counted {
    pub word: String,
    pub count: u32,
}

/// How many entries each list lost to its bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named like the lists")]
pub struct Dropped {
    pub keywords: u64,
    pub headings: u64,
    pub symbols: u64,
    pub paths: u64,
    pub names: u64,
}

/// What a reader found in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCard {
    /// Relative to the walked directory, with `/`.
    pub path: String,
    /// By extension.
    pub kind: FileKind,
    /// Exact.
    pub counts: Counts,
    /// All terms of the file, stop words excluded: what keyword counts are relative to.
    pub terms: u64,
    /// The most frequent terms, most frequent first.
    pub keywords: Vec<Counted>,
    /// In order of appearance.
    pub headings: Vec<Heading>,
    /// In order of appearance.
    pub symbols: Vec<Symbol>,
    /// Things that look like paths of files, most frequent first.
    pub paths: Vec<Counted>,
    /// Names of code used here, most frequent first; includes the file's own.
    pub names: Vec<Counted>,
    /// What the lists above lost.
    pub dropped: Dropped,
}

impl FileCard {
    /// Cuts the lists to their bounds, then further until the card fits [`MAX_CARD_BYTES`].
    pub fn bounded(mut self) -> Self {
        let mut limits = [MAX_KEYWORDS, MAX_HEADINGS, MAX_SYMBOLS, MAX_PATHS, MAX_NAMES];
        loop {
            cut(&mut self.keywords, limits[0], &mut self.dropped.keywords);
            cut(&mut self.headings, limits[1], &mut self.dropped.headings);
            cut(&mut self.symbols, limits[2], &mut self.dropped.symbols);
            cut(&mut self.paths, limits[3], &mut self.dropped.paths);
            cut(&mut self.names, limits[4], &mut self.dropped.names);
            // A card holds strings and numbers only; serialising it cannot fail.
            let size = serde_json::to_vec(&self).map_or(0, |json| json.len());
            if size < MAX_CARD_BYTES || limits.iter().all(|limit| *limit == 0) {
                return self;
            }
            limits = limits.map(|limit| limit * 3 / 4);
        }
    }
}

fn cut<T>(list: &mut Vec<T>, limit: usize, dropped: &mut u64) {
    *dropped += list.len().saturating_sub(limit) as u64;
    list.truncate(limit);
}

/// The longest prefix of `text` within `max` bytes that ends between characters.
pub(super) fn clip(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
