//! Every refusal code has its help page, and every page its code.

use std::collections::BTreeMap;

use selvedge::task::Code;

const PAGES: &str = include_str!("../../../docs/codes.md");

/// The pages by their heading, which is their anchor.
fn pages() -> BTreeMap<&'static str, &'static str> {
    PAGES.split("\n## ").skip(1).filter_map(|page| page.split_once('\n')).collect()
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let pages = pages();
    for code in &codes {
        assert!(pages.contains_key(code), "{code} has no page");
    }
    for page in pages.keys() {
        assert!(codes.contains(page), "{page} is no code");
    }
}

#[test]
fn a_page_says_what_the_code_says() {
    let pages = pages();
    for code in Code::ALL {
        let page = pages[code.as_str()];
        let status = format!("Status {}", code.status());
        let retry = if code.is_retryable() { "retryable" } else { "not retryable" };
        let first = page.lines().find(|line| !line.is_empty()).unwrap();
        assert_eq!(first, format!("{status}, {retry}."), "{code}");
        for part in ["**What happened.**", "**Numbers.**", "**What to do.**"] {
            assert!(page.contains(part), "{code} has no {part}");
        }
    }
}

#[test]
fn the_protocol_lists_every_code() {
    let protocol = include_str!("../../../docs/protocol.md");
    for code in Code::ALL {
        assert!(protocol.contains(&format!("`{code}`")), "{code}");
    }
}
