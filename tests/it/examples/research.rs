//! `examples/research.rs`: what is in the report, and that nobody gets it without a person's yes.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Output, Stdio},
};

use tokio::io::AsyncWriteExt;

use super::{Fabric, executable};
use crate::harness::soon;

const LOOMS: &str = "\
# Looms

The loom weaves the warp. A warp on a loom
is held tight. Nothing else here.

## Care

| loom | warp |
|---|---|

```text
# loom warp
```

Oil the loom, and spare the warp.
";

/// What was printed, and what was shown meanwhile.
async fn research(fabric: &Fabric, dir: &Path, words: &str, said: &str) -> (String, String) {
    let mut command = fabric.command(executable("research"));
    command.arg(dir).args(words.split(' ')).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(said.as_bytes()).await.unwrap();
    let Output { status, stdout, stderr } = soon("the report", running.wait_with_output()).await.unwrap();
    let (printed, shown) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{status}: {printed}{shown}");
    (printed, shown)
}

#[tokio::test]
async fn the_research_example_publishes_its_report_only_if_a_person_says_yes() {
    let fabric = Fabric::start().await;
    fabric.pro("default").await;
    let dir = tempfile::tempdir().unwrap();
    let documents = [
        ("looms.md", LOOMS),
        ("notes.md", "A loom without a warp is furniture.\n"),
        ("dyes.md", "# Dyes\n\nMadder is red.\n"),
        ("loom.txt", "A loom and a warp. No loom without a warp.\n"),
    ];
    for (name, text) in documents {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let at = dir.path().display();
    let report = format!(
        "\
# loom, warp

1 of 3 documents.

## Looms

`{at}/looms.md`, 38 words, 2 headings: 3 sentences about it. Often: nothing (1), weaves (1).

> The loom weaves the warp.

> A warp on a loom is held tight.

> Oil the loom, and spare the warp.

## Left out

- `{at}/dyes.md`, 5 words, 1 headings: says nothing about it
- `{at}/notes.md`, 7 words, 0 headings: mentions it in passing
"
    );
    let (printed, shown) = research(&fabric, dir.path(), "warp Loom", "y\n").await;
    assert_eq!(printed, report, "{shown}");
    let verdicts: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("critic: ")).collect();
    assert_eq!(verdicts[1], format!("{at}/looms.md: 3 sentences about it"));
    assert_eq!(verdicts.len(), 3, "{shown}");

    for said in ["n\n", ""] {
        let (printed, shown) = research(&fabric, dir.path(), "warp Loom", said).await;
        assert_eq!(printed, "", "{shown}");
        assert!(shown.contains(&report) && shown.ends_with("not published\n"), "{shown}");
    }
    fabric.stop().await;
}

#[tokio::test]
async fn the_research_example_counts_every_document_of_a_directory() {
    let fabric = Fabric::start().await;
    fabric.pro("default").await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let (printed, shown) = research(&fabric, &docs, "lease lost", "y\n").await;

    let (mut expected, mut speaks) = (BTreeSet::new(), 0);
    for path in std::fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let outside_code = text.split("```").step_by(2);
        let headings = outside_code.flat_map(str::lines).filter(|line| line.starts_with('#')).count();
        let words = text.split_whitespace().count();
        expected.insert(format!("`{}`, {words} words, {headings} headings", path.display()));
        let text = text.to_lowercase();
        speaks += usize::from(text.contains("lease") && text.contains("lost"));
    }
    let lines =
        printed.lines().map(|line| line.trim_start_matches("- ")).filter(|line| line.starts_with('`'));
    let counted: BTreeSet<String> = lines.map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(counted, expected, "{shown}");
    let chapters = printed.lines().filter(|line| line.starts_with("## ")).count() - 1;
    assert!((1..=speaks).contains(&chapters), "{chapters} of {speaks}: {printed}");
    assert!(printed.contains(&format!("\n{chapters} of {} documents.\n", expected.len())), "{printed}");
    fabric.stop().await;
}
