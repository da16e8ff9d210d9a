//! The recorded parts of `docs/architecture.md`: stories that the engine tells anew in every test run.

use selvedge::task::child_id;

use crate::pages::{read, root};
use crate::story::Story;

const PAGE: &str = "docs/architecture.md";

fn end(n: u32, token: u128, attempt: u32, agent: &str, instance: &str, outcome: &str) -> String {
    format!(
        r#"{{"token":"{}","attempt":{attempt},"agent":"{agent}","instance":"{instance}","n":{n},"op":{{"end":{{"outcome":{outcome}}}}}}}"#,
        Story::token(token)
    )
}

fn opening() -> String {
    Story::begin().text()
}

fn succeeds() -> String {
    let mut story = Story::with(&[("reader", "r-1")]);
    story.submit("acme", "reader", "t-1", r#"{"input":{"path":"README.md"}}"#);
    story.accept("reader", "r-1", Story::token(1));
    story.pass(40);
    story.report("acme", "t-1", &end(1, 1, 1, "reader", "r-1", r#"{"completed":{"result":{"words":812}}}"#));
    story.text()
}

fn retried() -> String {
    let mut story = Story::with(&[("reader", "r-1")]);
    story.submit("acme", "reader", "t-1", r#"{"input":{"path":"README.md"}}"#);
    story.accept("reader", "r-1", Story::token(1));
    story.say("r-1 is killed; r-2 starts; 15 seconds pass without a heartbeat from r-1");
    for _ in 0..15 {
        story.beat("reader", "r-2", &[]);
        story.pass(1_000);
    }
    story.say("the backoff passes");
    story.beat("reader", "r-2", &[]);
    story.pass(500);
    story.accept("reader", "r-2", Story::token(2));
    story.say("r-1 was not dead after all, only slow: a zombie reports");
    story.report("acme", "t-1", &end(1, 1, 1, "reader", "r-1", r#"{"completed":{"result":"late"}}"#));
    story.report("acme", "t-1", &end(1, 2, 2, "reader", "r-2", r#"{"completed":{"result":{"words":812}}}"#));
    story.text()
}

fn refused() -> String {
    let mut story = Story::with(&[]);
    story.say("an operator allows acme one waiting task; no reader runs");
    story.tenant("acme", r#"{"plan":"free","overrides":{"backlog":1}}"#);
    story.submit("acme", "reader", "t-1", r#"{"input":"a.md"}"#);
    story.submit("acme", "reader", "t-2", r#"{"input":"b.md"}"#);
    story.text()
}

fn waits() -> String {
    let parent = "plan-1".parse().expect("a name");
    let children = [child_id(&parent, "read", 0), child_id(&parent, "read", 1)];
    let mut story = Story::with(&[("planner", "p-1"), ("reader", "r-1")]);
    story.submit("acme", "planner", "plan-1", r#"{"input":["a.md","b.md"]}"#);
    story.accept("planner", "p-1", Story::token(1));
    let spawn = format!(
        r#"{{"token":"{}","attempt":1,"agent":"planner","instance":"p-1","n":1,"op":{{"spawn":{{"step":"read","children":[{{"agent":"reader","input":"a.md"}},{{"agent":"reader","input":"b.md"}}]}}}}}}"#,
        Story::token(1)
    );
    story.report("acme", "plan-1", &spawn);
    story.report("acme", "plan-1", &end(2, 1, 1, "planner", "p-1", r#"{"wait":"all_children"}"#));
    story.accept("reader", "r-1", Story::token(2));
    story.accept("reader", "r-1", Story::token(3));
    story.say("by now both places of the free plan are taken: the first child got one while the planner ran, the second the planner's own");
    let done =
        |token, words| end(1, token, 1, "reader", "r-1", &format!(r#"{{"completed":{{"result":{words}}}}}"#));
    story.report("acme", children[0].as_str(), &done(2, 3));
    story.report("acme", children[1].as_str(), &done(3, 4));
    story.say("the handler runs again from its start, spawns the same step and finds both children");
    story.accept("planner", "p-1", Story::token(4));
    let again = spawn.replace(&Story::token(1).to_string(), &Story::token(4).to_string());
    let again = again.replace("\"attempt\":1", "\"attempt\":2");
    story.report("acme", "plan-1", &again);
    story.report("acme", "plan-1", &end(2, 4, 2, "planner", "p-1", r#"{"completed":{"result":7}}"#));
    story.text()
}

fn cancelled() -> String {
    let mut story = Story::with(&[("planner", "p-1")]);
    story.submit("acme", "planner", "plan-1", r#"{"input":["a.md"]}"#);
    story.accept("planner", "p-1", Story::token(1));
    let spawn = format!(
        r#"{{"token":"{}","attempt":1,"agent":"planner","instance":"p-1","n":1,"op":{{"spawn":{{"step":"read","children":[{{"agent":"reader","input":"a.md"}}]}}}}}}"#,
        Story::token(1)
    );
    story.report("acme", "plan-1", &spawn);
    story.say("the child waits for an instance of reader when the tree is cancelled");
    story.command("acme", "plan-1", "c-1", r#"{"op":{"cancel":{"reason":"not needed any more"}}}"#);
    story.say("the planner did not hear of it in time");
    story.report("acme", "plan-1", &end(2, 1, 1, "planner", "p-1", r#"{"completed":{"result":0}}"#));
    story.text()
}

/// The page with what stands between `<!-- recorded: name -->` and the end of the fence after it replaced.
fn with(page: &str, name: &str, story: &str) -> String {
    let marker = format!("<!-- recorded: {name} -->\n```text\n");
    let from = page.find(&marker).unwrap_or_else(|| panic!("{PAGE} has no place for {name}")) + marker.len();
    let to = from + page[from..].find("```").expect("a fence ends");
    format!("{}{}{}", &page[..from], story, &page[to..])
}

#[test]
fn the_recorded_walkthroughs_are_what_the_engine_does() {
    let page = read(PAGE);
    let stories = [
        ("opening", opening()),
        ("succeeds", succeeds()),
        ("retried", retried()),
        ("refused", refused()),
        ("waits", waits()),
        ("cancelled", cancelled()),
    ];
    let told = stories.iter().fold(page.clone(), |page, (name, story)| with(&page, name, story));
    if std::env::var_os("SELVEDGE_UPDATE_DOCS").is_some() {
        std::fs::write(root().join(PAGE), told).expect("the page can be written");
        return;
    }
    assert!(page == told, "{PAGE} is behind the code: run `just docs-walkthroughs`\n{told}");
}
