//! The demo's real work: read a directory and say what is in it.
//!
//! This module owns the pure logic of the three demo agents; each is a function over plain values,
//! so that the agents around them only move cards:
//!
//! ```text
//! planner    walk::walk(root)            -> Walk       which files, which were left out and why
//! reader     parse::read_file(root, rel) -> FileCard   one file, really parsed, bounded in size
//! librarian  digest::DigestBuilder       -> Digest     merged, ranked, cross-referenced
//!            markdown::render(&Digest)   -> String     the page a person reads
//! ```
//!
//! None of these talks to NATS or Redis, follows a symlink or writes a file. Around them:
//!
//! ```text
//! run      the command: a stack, the agents as its child processes, one task, the last screen
//! agents   what each agent process does with its tasks
//! progress what is known of the run, from queries, events and hints; view draws it
//! ```
//!
//! # What is counted, exactly
//!
//! `tests/demo_recount.py` implements this section a second time, without looking at the Rust; a
//! test compares the two. All counts work on bytes.
//!
//! **File.** A regular file below the root (symlinks are neither counted nor followed) of at most
//! 1 MiB, whose first 8,192 bytes hold no NUL byte, whose relative path is UTF-8 and at most 1,024
//! bytes, and on whose path no component below the root starts with `.` and no directory is called
//! `target`, `node_modules`, `__pycache__` or `venv`. Files are taken in the order of a depth-first
//! walk, the entries of a directory sorted by the bytes of their names, until 20,000 are found.
//!
//! **Bytes** are the file's length. **Lines** are its `\n` bytes, plus one if it is not empty and
//! does not end with `\n`. **Words** are maximal runs of bytes other than space, `\t`, `\n`, `\v`,
//! `\f`, `\r`.
//!
//! **Kind** goes by the part after the last dot of the file name, in lower case: `md markdown` →
//! markdown; `rs` → rust; `py pyi` → python; `js jsx mjs cjs` → javascript; `ts tsx mts cts` →
//! typescript; `go` → go; `sh bash zsh` → shell; `toml`; `json`; `yaml yml` → yaml; all else → text.
//!
//! **Headings** are counted in markdown files, line by line, a `\r` before the `\n` dropped:
//! - If the first line is `---` and a later line is `---` or `...`, everything up to the first such
//!   line is front matter and not looked at (trailing blanks ignored in both).
//! - A *fence* opens on a line of up to three spaces and then three or more of `` ` `` (with no other
//!   `` ` `` in the rest of the line) or of `~`. It closes on a line of up to three spaces, at least
//!   as many of the same character, and blanks. Nothing in between counts; an open fence lasts to
//!   the end of the file.
//! - *ATX*: up to three spaces, one to six `#`, then a blank (space, tab) or the line's end.
//! - *Setext*: up to three spaces, one or more `=` or one or more `-`, then blanks only, directly
//!   below a *plain* line. Plain is a line with something on it, at most three spaces before it,
//!   that opens no fence, is no heading, does not start with `>`, `|` or `<`, is not a list item
//!   (`-`, `*`, `+` or digits and `.` or `)`, followed by a blank or the line's end), and does not
//!   consist of `*`, `_`, `-`, `=` and blanks only.
//!
//! **Symbols** of code are found after comments, strings and character literals are blanked out
//! (see [`parse::mask`] for where they end). *Name* is a run of ASCII letters, digits, `_` and bytes
//! above 127, not starting with a digit; in JavaScript and TypeScript `$` too. A keyword counts as a
//! whole name only. *Space* is one or more of the six whitespace bytes; *blank* is space and tab.
//! - Rust: `fn`, `struct`, `enum`, `trait`, `mod`, space, name (`r#` allowed) → function, struct,
//!   enum, trait, module; `macro_rules!`, optional space, name → macro; a line that begins with
//!   `impl` or `unsafe impl` (blanks before and between) → impl.
//! - Python: a line that begins with `def`, `async def`, `class` and a name → function, class.
//! - JavaScript, TypeScript: `function`, space or a `*` with optional spaces, name → function;
//!   `class`, space, name other than `extends`, `implements` → class, neither directly after a `.`;
//!   a line that begins with `export` and `const`, `let` or `var` and a name other than `enum` →
//!   constant. TypeScript too: a line that begins with any of `export`, `declare`, `const` and then
//!   `interface` or `enum` and a name → interface, enum, or `type`, a name, optional blanks and `=`
//!   or `<` → type.
//! - Go: at the very beginning of a line `func`, blanks, name, or `func`, a receiver in
//!   parentheses on the same line, name → function; `type`, blanks, name → type.
//! - Shell (nothing is blanked out): a line that begins with `function`, blanks, a name, or with a
//!   name and `()` → function; `.`, `:` and `-` may be inside such names.
//! - TOML, JSON: the distinct keys of the top-level table or object → key; none if the document does
//!   not parse. YAML: the distinct `key:` at the very beginning of a line, plain (letters, digits,
//!   `_ . / -`, the first a letter, digit or `_`) or in quotes, followed by a blank or the line's
//!   end → key.

pub mod agents;
pub mod args;
pub mod card;
pub mod digest;
pub mod markdown;
pub mod parse;
mod progress;
mod run;
mod view;
pub mod walk;

pub use run::run;

#[cfg(test)]
mod recount;
