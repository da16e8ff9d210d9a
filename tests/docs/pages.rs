//! Reading the documents: which there are, their links, and the code they quote.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files below `dir` whose names end with `end`, as paths from the root.
pub fn files(dir: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(root().join(&dir)).unwrap_or_else(|error| panic!("{dir:?}: {error}")) {
            let entry = entry.expect("a directory entry");
            let path = dir.join(entry.file_name());
            if entry.file_type().expect("a file type").is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every page people read.
pub fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "nats/permissions.md"]
            .map(str::to_owned)
            .into();
    pages.extend(files("docs", ".md"));
    pages
}

/// The text without what stands in fences.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let mut out = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<String> {
    let text = prose(page);
    let mut rest = text.as_str();
    let mut found = Vec::new();
    while let Some(at) = rest.find("](") {
        rest = &rest[at + 2..];
        if let Some(end) = rest.find(')') {
            found.push(rest[..end].to_owned());
        }
    }
    found
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    prose(page)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(&page);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => root().join(&page),
                file => root().join(&page).parent().expect("a page is in a directory").join(file),
            };
            let leads = target.exists()
                && (fragment.is_empty()
                    || std::fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(fragment)));
            if !leads {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let page = read("README.md");
    let mut shown = 0;
    for (at, _) in page.match_indices("<!-- file: ") {
        let rest = &page[at + "<!-- file: ".len()..];
        let path = &rest[..rest.find(" -->").expect("the comment ends")];
        let from = rest.find("```").expect("a fence follows");
        let body = rest[from..].split_once('\n').expect("a line after the fence").1;
        let body = &body[..body.find("```").expect("the fence ends")];
        assert!(body == read(path), "README.md shows {path} differently:\n{body}");
        shown += 1;
    }
    assert_eq!(shown, 3, "agent, client and the Python worker");
}

#[test]
fn the_hello_examples_and_the_worker_stay_short() {
    let code = |path: &str| {
        let text = read(path);
        text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("//")).count()
    };
    assert!(code("examples/hello_agent.rs") < 20);
    assert!(code("examples/hello_client.rs") < 20);
    assert!(code("examples/worker.py") <= 25, "{}", code("examples/worker.py"));
}

#[test]
fn the_promises_name_tests_that_exist() {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for file in files("tests", ".rs").into_iter().chain(files("src", ".rs")) {
        let text = read(&file);
        let functions = text.split("fn ").skip(1);
        names.extend(functions.map(|rest| rest.chars().take_while(|c| is_name(*c)).collect::<String>()));
    }
    let page = read("README.md");
    let from = page.find("## What is promised").expect("the chapter");
    let chapter = &page[from..from + page[from + 3..].find("\n## ").expect("another chapter") + 3];
    let named: Vec<&str> =
        ticked(chapter).into_iter().filter(|word| word.matches('_').count() >= 3).collect();
    assert!(named.len() >= 20, "{named:?}");
    // The list of faults, once there is one, is held to the same.
    let faults = std::fs::read_to_string(root().join("docs/faults.md")).unwrap_or_default();
    let is_test =
        |word: &&str| word.matches('_').count() >= 4 && !word.contains(|c: char| c.is_ascii_uppercase());
    let covered = ticked(&faults).into_iter().filter_map(|word| word.rsplit("::").next()).filter(is_test);
    let strange: Vec<&str> = named.into_iter().chain(covered).filter(|name| !names.contains(*name)).collect();
    assert!(strange.is_empty(), "there are no tests of these names: {strange:#?}");
}

/// What stands between back-ticks on one line.
pub fn ticked(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}
