//! The table of rights in `nats/permissions.md` is the one in `nats/server.prod.conf`.

use std::collections::BTreeSet;

use crate::pages::{read, ticked};

/// The subjects a user of the configuration may publish or subscribe to, inboxes aside.
fn allowed(conf: &str, user: &str, direction: &str) -> BTreeSet<String> {
    let from = conf.find(&format!("user: {user}\n")).unwrap_or_else(|| panic!("no user {user}"));
    let block = &conf[from..];
    let block = &block[block.find(&format!("{direction} {{")).expect("rights")..];
    let list = &block[block.find('[').expect("a list")..block.find(']').expect("its end")];
    let subjects = list.split('"').skip(1).step_by(2);
    subjects.filter(|s| !s.starts_with("_INBOX")).map(str::to_owned).collect()
}

/// `a.{b,c}` as `a.b` and `a.c`.
fn spread(subject: &str) -> Vec<String> {
    match (subject.find('{'), subject.find('}')) {
        (Some(from), Some(to)) => {
            let words = subject[from + 1..to].split(',');
            words.map(|word| format!("{}{word}{}", &subject[..from], &subject[to + 1..])).collect()
        }
        _ => vec![subject.to_owned()],
    }
}

#[test]
fn the_table_of_rights_is_the_production_configuration() {
    let (page, conf) = (read("nats/permissions.md"), read("nats/server.prod.conf"));
    let mut checked = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, role, publishes, subscribes, _] = cells.as_slice() else { continue };
        let user = ticked(role).first().copied().unwrap_or(role);
        if !conf.contains(&format!("user: {user}\n")) {
            continue;
        }
        for (direction, cell) in [("publish", publishes), ("subscribe", subscribes)] {
            let told: BTreeSet<String> =
                ticked(cell).into_iter().filter(|s| !s.starts_with("_INBOX")).flat_map(spread).collect();
            let allowed = allowed(&conf, user, direction);
            // "and below", and the calls that only read.
            let covered = |subject: &String| {
                told.contains(subject)
                    || subject.strip_suffix(".>").is_some_and(|s| told.contains(s))
                    || (subject.starts_with("$JS.API.") && told.contains("$JS.API"))
            };
            let untold: Vec<_> = allowed.iter().filter(|s| !covered(s)).collect();
            assert!(untold.is_empty(), "{user} may {direction} {untold:?}, and the table does not say so");
            let false_ones: Vec<_> =
                told.iter().filter(|s| *s != "$JS.API" && !allowed.contains(*s)).collect();
            assert!(false_ones.is_empty(), "the table says that {user} may {direction} {false_ones:?}");
        }
        checked += 1;
    }
    assert_eq!(checked, 5, "coordinator, client, agent, observer, operator");
}
