use super::super::digest::DigestBuilder;
use super::super::parse::parse;
use super::super::walk::SkipReason;
use super::*;

fn page(files: &[(&str, &str)]) -> String {
    let mut builder = DigestBuilder::new();
    for (path, content) in files {
        builder.add(&parse(path, content.as_bytes()));
    }
    builder.skip("gone.md", SkipReason::Vanished);
    builder.note("stopped at 2 files");
    render(&builder.finish(), "some/dir")
}

#[test]
fn the_page_tells_totals_ranks_keywords_references_and_omissions() {
    let page = page(&[
        ("README.md", "# Loom\nRead `weave.rs` on weaving.\n"),
        ("weave.rs", "/// Weaving.\npub fn weave() {}\n"),
    ]);
    for part in [
        "# What is in `some/dir`\n",
        "2 files, ",
        "1 heading; 1 function.",
        "> stopped at 2 files",
        "| Rust | 1 | ",
        "| **all** | 2 | ",
        "`weave.rs`: mentioned by 1 file (`README.md`)",
        "`README.md` (Loom): about loom, ",
        "| weaving | ",
        "- `README.md` → `weave.rs`: 2 mentions (`weave.rs`, `weave`)",
        "- vanished while reading: 1\n",
        "- `gone.md`: vanished while reading\n",
    ] {
        assert!(page.contains(part), "{part} is missing in:\n{page}");
    }
}

#[test]
fn foreign_text_stays_text() {
    let page = page(&[
        ("a|b`c\n# fake\x1b[31m\u{202e}.md", "# <script>x</script> | *bold* [l](http://x) \x1b]0;t\x07\n"),
        ("``.md", "# ok\n"),
    ]);
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page:?}");
    assert!(!page.contains('\u{202e}') && !page.contains("\n# fake") && !page.contains(" <script>"));
    assert!(page.contains(r"\<script\>x\</script\> \| \*bold\* \[l\]\(http://x\)"), "{page}");
    assert!(page.contains(r"``a\|b`c<U+000A># fake<U+001B>[31m<U+202E>.md``"), "{page}");
    assert!(page.contains(r"``a|b`c<U+000A># fake<U+001B>[31m<U+202E>.md`` ("), "{page}");
    assert!(page.contains("``` ``.md ```"), "{page}");
}

#[test]
fn numbers_have_separators() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
}

#[test]
fn a_page_about_nothing_has_no_empty_sections() {
    let page = render(&DigestBuilder::new().finish(), "");
    assert!(page.starts_with("# What is in `  `\n") && page.contains("no symbols"));
    assert!(!page.contains("## Files") && !page.contains("## Left out"));
}
