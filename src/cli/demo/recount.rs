//! Compares the demo's counts with the independent recount in Python.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::digest::{Digest, DigestBuilder};
use super::markdown::render;
use super::parse::read_file;
use super::walk::walk;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

fn recount(root: &Path, per_file: bool) -> String {
    let output = Command::new("python3")
        .arg(Path::new(REPOSITORY).join("tests/demo_recount.py"))
        .args(per_file.then_some("--files"))
        .arg(root)
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("JSON")
}

/// Drops what an old Python could not count (`null`) from both sides.
fn comparable(mut ours: Value, mut theirs: Value) -> (Value, Value) {
    if let (Value::Object(ours), Value::Object(theirs)) = (&mut ours, &mut theirs) {
        let unknown: Vec<String> =
            theirs.iter().filter(|(_, v)| v.is_null()).map(|(k, _)| k.clone()).collect();
        for key in unknown {
            ours.remove(&key);
            theirs.remove(&key);
        }
        for (key, value) in ours.iter_mut() {
            if let Some(other) = theirs.get_mut(key) {
                (*value, *other) = comparable(value.take(), other.take());
            }
        }
    }
    (ours, theirs)
}

/// `symbols` is left out of our JSON when empty, never of theirs.
fn normal(mut counts: Value) -> Value {
    if let Value::Object(map) = &mut counts {
        map.retain(|key, value| key != "symbols" || value != &json!({}));
        for value in map.values_mut() {
            *value = normal(value.take());
        }
    }
    counts
}

fn assert_equal_counts(root: &Path) -> Digest {
    let theirs: BTreeMap<String, Value> = recount(root, true)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|file| (file["path"].as_str().expect("a path").to_owned(), file["counts"].clone()))
        .collect();
    let walk = walk(root).expect("a walk");
    let mut builder = DigestBuilder::new();
    for path in &walk.files {
        let card = read_file(root, path).expect("a card");
        let ours = serde_json::to_value(&card.counts).expect("JSON");
        let theirs = theirs.get(path).cloned().unwrap_or_else(|| panic!("only we count {path}"));
        let (ours, theirs) = comparable(normal(ours), normal(theirs));
        assert_eq!(ours, theirs, "{path}");
        builder.add(&card);
    }
    assert_eq!(walk.files.len(), theirs.len(), "only the recount has a file");
    let digest = builder.finish();
    let ours = json!({ "files": digest.files, "totals": digest.totals, "kinds": digest.kinds });
    let theirs: Value = serde_json::from_str(&recount(root, false)).expect("JSON");
    let (ours, theirs) = comparable(normal(ours), normal(theirs));
    assert_eq!(ours, theirs);
    digest
}

/// Pieces that are hard to tell apart; the files are random rows of them.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "\n", "\n", "\n", "\r\n", " ", "\t", "    ", "\\", "'", "\"", "`", "\"\"\"", "'''", "r#\"",
    "\"#", "br\"", "'a'", "'é'", "'\\''", "&'a ", "/*", "*/", "//", "/", "=/[/]x/", "#", "# ",
    "## h", "#h", "---\n", "===\n", "```\n", "````\n", "~~~\n", "``` x`\n", "> q", "- l", "1. l",
    "| t", "<b>", "***\n", "...\n", "fn ", "fn\n", "r#x", "name", "$", "n9", "9n", ".", "struct ",
    "enum ", "trait ", "mod ", "macro_rules! ", "impl", "\nimpl ", "\nunsafe impl ", "{", "}", "(",
    ")", "()", ";", ":", ": ", "=", "<", ",", "\ndef f(): pass\n", "\nclass C: pass\n",
    "async def ", "def ", "class ", "extends ", "function ", "function*", "export ",
    "export const ", "declare ", "interface ", "type ", "\nfunc ", "\nfunc (r R) ", "\ntype ",
    "[t]\n", "[[t]]\n", "k = 1\n", "a.b = 2\n", "\nkey: v", "\n'q': ", "{\"k\":1}", "\u{b}",
    "\u{c}", "\u{a0}", "é", "漢字 ",
];

#[test]
fn counts_equal_the_independent_recount_over_generated_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // A fixed linear congruential generator: the same files on every run and machine.
    let mut state: u64 = 7;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let extensions = [
        "md", "markdown", "rs", "py", "js", "ts", "tsx", "go", "sh", "toml", "json", "yaml", "txt", "RS",
        "Md",
    ];
    for n in 0..1_500 {
        let pieces = below(60);
        let text: String = (0..pieces).map(|_| PIECES[below(PIECES.len())]).collect();
        let path = dir.path().join(format!("d{}/f{n}.{}", n % 7, extensions[n % extensions.len()]));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    for (path, content) in [
        (".hidden/a.md", &b"# no"[..]),
        ("target/a.md", b"# no"),
        ("empty.md", b""),
        ("binary.md", b"# no\0"),
        ("late.md", &[&[b'x'; 8192][..], b"\0\n# yes"].concat()),
        ("latin.py", b"# caf\xe9\ndef a(): pass\n"),
        ("bom.json", b"\xef\xbb\xbf{\"a\":1}"),
        ("big.txt", &vec![b' '; (1 << 20) + 1]),
        ("just.txt", &vec![b'a'; 1 << 20]),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    assert_eq!(assert_equal_counts(dir.path()).files, 1_505);
}

#[test]
fn counts_equal_the_independent_recount_over_this_repository() {
    assert!(assert_equal_counts(Path::new(REPOSITORY)).files > 10);
}

/// Compares and prints the page: `SELVEDGE_RECOUNT_DIR=/usr/lib/python3 cargo test recount_of_any -- --ignored --nocapture`.
#[test]
#[ignore = "needs a directory to compare"]
fn counts_equal_the_independent_recount_of_any_directory() {
    let root = std::env::var_os("SELVEDGE_RECOUNT_DIR").expect("SELVEDGE_RECOUNT_DIR is set");
    println!("{}", render(&assert_equal_counts(Path::new(&root)), &root.to_string_lossy()));
}
