use std::fs;

use super::super::card::{MAX_CARD_BYTES, MAX_HEADINGS, MAX_SYMBOLS};
use super::*;

#[test]
fn lines_and_words_are_counted_as_defined() {
    for (source, lines, words) in [
        ("", 0, 0),
        ("\n", 1, 0),
        ("a", 1, 1),
        ("a b\n", 1, 2),
        ("a\r\nb\x0bc\u{a0}d", 2, 3),
        ("\n\n x", 3, 1),
    ] {
        let counts = parse("a.txt", source.as_bytes()).counts;
        assert_eq!((counts.lines, counts.words), (lines, words), "{source:?}");
        assert_eq!(counts.bytes, source.len() as u64);
    }
}

#[test]
fn a_card_stays_small_and_its_counts_exact_whatever_the_file() {
    let code: String = (0..5_000)
        .map(|n| format!("fn {}\u{1}_{n:040}() {{ Some{n}Name::x(); }}\n", "é".repeat(20)))
        .collect();
    let card = parse("a.rs", code.as_bytes());
    assert_eq!(card.counts.symbols[&SymbolKind::Function], 5_000);
    assert_eq!(card.symbols.len() as u64 + card.dropped.symbols, 5_000);
    assert!(card.symbols.len() <= MAX_SYMBOLS && card.dropped.names > 0);

    let heading = format!("# {}\n", "\u{1}".repeat(200));
    let card = parse(&"\u{2}".repeat(1_000), b"");
    assert!(serde_json::to_vec(&card).expect("json").len() < MAX_CARD_BYTES);
    let card = parse(&format!("{}.md", "\u{2}".repeat(1_000)), heading.repeat(900).as_bytes());
    assert!(serde_json::to_vec(&card).expect("json").len() < MAX_CARD_BYTES);
    assert_eq!(card.counts.headings, 900);
    assert_eq!(card.headings.len() as u64 + card.dropped.headings, 900);
    assert!(card.headings.len() < MAX_HEADINGS);
}

#[test]
fn a_card_survives_the_way_over_the_wire() {
    let card = parse("src/a.rs", b"/// See README.md\npub struct FileCard;\nfn read_file() {}\n");
    let json = serde_json::to_vec(&card).expect("json");
    assert_eq!(serde_json::from_slice::<FileCard>(&json).expect("a card"), card);
    let packed = rmp_serde::to_vec_named(&card).expect("msgpack");
    assert_eq!(rmp_serde::from_slice::<FileCard>(&packed).expect("a card"), card);
}

#[test]
fn bytes_that_are_no_text_make_a_card_too() {
    for name in ["a.md", "a.rs", "a.py", "a.js", "a.ts", "a.go", "a.sh", "a.toml", "a.json", "a.yml"] {
        for source in [&b"\xff\xfe# \xc3("[..], b"'\xf0\"\\", b"\r\r\n---", b"---\n---", b"#\n=\n-"] {
            assert_eq!(parse(name, source).counts.bytes, source.len() as u64);
        }
    }
}

#[test]
fn a_path_that_leaves_the_root_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a directory");
    fs::write(dir.path().join("secret.md"), "# secret").expect("a file");
    for path in ["../secret.md", "", "/etc/passwd", "a/../../secret.md", "."] {
        assert!(matches!(read_file(&root, path), Err(ReadError::OutsideRoot | ReadError::Vanished)));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("..", root.join("up")).expect("a link");
        std::os::unix::fs::symlink("../secret.md", root.join("s.md")).expect("a link");
        for path in ["up/secret.md", "s.md"] {
            assert!(matches!(read_file(&root, path), Err(ReadError::Symlink)), "{path}");
        }
    }
}

#[test]
fn a_file_that_changed_since_the_walk_says_how() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(dir.path().join("dir")).expect("a directory");
    fs::write(dir.path().join("binary"), b"\0").expect("a file");
    fs::write(dir.path().join("large"), vec![b'a'; MAX_FILE_BYTES as usize + 1]).expect("a file");
    let reason = |path| read_file(dir.path(), path).map_err(|error| error.reason());
    assert_eq!(reason("gone.md").err(), Some(SkipReason::Vanished));
    assert_eq!(reason("binary/x").err(), Some(SkipReason::Vanished));
    assert_eq!(reason("dir").err(), Some(SkipReason::NotAFile));
    assert_eq!(reason("binary").err(), Some(SkipReason::Binary));
    assert_eq!(reason("large").err(), Some(SkipReason::TooLarge));
}

#[test]
fn a_line_of_open_brackets_takes_no_quadratic_time() {
    for unit in ["=/[", "r#", "/*", "fn ", "func(", "`${", "[[", "a.rs/", "# "] {
        let source = unit.repeat((1 << 20) / unit.len());
        for name in ["a.md", "a.rs", "a.py", "a.ts", "a.go", "a.toml", "a.json", "a.yml"] {
            let began = std::time::Instant::now();
            parse(name, source.as_bytes());
            assert!(began.elapsed().as_secs() < 20, "{unit} in {name}: {:?}", began.elapsed());
        }
    }
}
