use std::fs;

use super::*;

fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        fs::write(path, content).expect("a file");
    }
    dir
}

fn reason(walk: &Walk, path: &str) -> Option<SkipReason> {
    walk.omissions.listed.iter().find(|skipped| skipped.path == path).map(|skipped| skipped.reason)
}

#[test]
fn files_come_in_the_order_of_their_names_depth_first() {
    let dir = tree(&[("b.md", b""), ("a/z.rs", b""), ("a/b/c.py", b""), ("a-b.txt", b"x")]);
    let walk = walk(dir.path()).expect("a walk");
    assert_eq!(walk.files, ["a/b/c.py", "a/z.rs", "a-b.txt", "b.md"]);
    assert_eq!((walk.omissions.total(), walk.stopped), (0, None));
}

#[test]
fn what_is_left_out_is_named_with_its_reason() {
    let big = vec![b'x'; (1 << 20) + 1];
    let dir = tree(&[
        (".git/config", b""),
        (".env", b"SECRET=1"),
        ("target/x.rs", b""),
        ("sub/node_modules/x.js", b""),
        ("bin.dat", b"a\0b"),
        ("big.txt", &big),
        ("kept.txt", &big[1..]),
    ]);
    let walk = walk(dir.path()).expect("a walk");
    assert_eq!(walk.files, ["kept.txt"]);
    for (path, expected) in [
        (".git", SkipReason::Hidden),
        (".env", SkipReason::Hidden),
        ("target", SkipReason::Excluded),
        ("sub/node_modules", SkipReason::Excluded),
        ("bin.dat", SkipReason::Binary),
        ("big.txt", SkipReason::TooLarge),
    ] {
        assert_eq!(reason(&walk, path), Some(expected), "{path}");
    }
}

#[test]
fn a_file_called_like_an_excluded_directory_is_a_file() {
    let dir = tree(&[("target", b"a goal")]);
    assert_eq!(walk(dir.path()).expect("a walk").files, ["target"]);
}

#[test]
fn limits_stop_the_walk_and_say_so() {
    let dir = tree(&[("a", b""), ("b", b""), ("c", b"")]);
    let limits = Limits { max_files: 2, ..Limits::default() };
    let walk = walk_with(dir.path(), limits).expect("a walk");
    assert_eq!(walk.files, ["a", "b"]);
    assert!(walk.stopped.is_some_and(|note| note.contains("2 files")));
    let exact = walk_with(dir.path(), Limits { max_files: 3, ..limits }).expect("a walk");
    assert_eq!((exact.files.len(), exact.stopped), (3, None));
    let few = walk_with(dir.path(), Limits { max_entries: 1, ..limits }).expect("a walk");
    assert!(few.stopped.is_some_and(|note| note.contains("1 directory entries")));
}

#[test]
fn the_list_of_left_out_entries_is_bounded_and_its_count_exact() {
    let dir = tree(&[(".a", b""), (".b", b""), (".c", b"")]);
    let limits = Limits { max_listed: 1, ..Limits::default() };
    let walk = walk_with(dir.path(), limits).expect("a walk");
    assert_eq!((walk.omissions.listed.len(), walk.omissions.total()), (1, 3));
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let dir = tree(&[("file", b"")]);
    let file = walk(&dir.path().join("file"));
    assert!(matches!(file, Err(WalkError::NotADirectory(_))));
    let nothing = walk(&dir.path().join("nothing"));
    assert!(matches!(nothing, Err(WalkError::Unreadable { .. })));
}

#[cfg(unix)]
#[test]
fn links_pipes_and_foreign_names_are_reported_and_not_opened() {
    use std::ffi::{CString, OsStr};
    use std::os::unix::ffi::OsStrExt;
    let dir = tree(&[("a/real.md", b"# x")]);
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("loop")).expect("a link");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a/out.md")).expect("a link");
    let pipe = CString::new(dir.path().join("pipe").as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: `pipe` is a NUL-terminated path that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    // Some file systems refuse such names; then there is nothing to report either.
    let foreign = fs::write(dir.path().join(OsStr::from_bytes(b"caf\xe9.md")), b"x").is_ok();
    let walk = walk(dir.path()).expect("a walk");
    assert_eq!(walk.files, ["a/real.md"]);
    assert_eq!(reason(&walk, "loop"), Some(SkipReason::Symlink));
    assert_eq!(reason(&walk, "a/out.md"), Some(SkipReason::Symlink));
    assert_eq!(reason(&walk, "pipe"), Some(SkipReason::NotAFile));
    assert_eq!(reason(&walk, "caf\u{fffd}.md").is_some(), foreign);
}

#[test]
fn an_entry_that_vanishes_is_reported() {
    let dir = tree(&[("a.md", b"")]);
    let entry = Entry { parent: String::new(), name: "gone.md".into() };
    let verdict = judge(dir.path(), &entry, Limits::default());
    assert!(matches!(verdict, Err(SkipReason::Vanished)));
}
