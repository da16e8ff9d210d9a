//! When a pause is acknowledged: nothing of what is paused is on its way to an instance any more.

use super::*;
use crate::{
    flow::times::tests::{Owner, key},
    task::{TenantSettings, Times},
    wire::messages::Accept,
};

const PAUSED: Change = Change::All(2);

fn pause(owner: &mut Owner, stopped: bool) {
    owner.push(Input::All { settings: AllSettings { paused: true, stopped }, kv_rev: 2 });
}

fn accept(owner: &mut Owner, token: crate::task::Token) {
    let body = Accept { v: 1, taken: vec![token], busy: vec![], over: vec![] };
    let (agent, instance) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
    owner.push(Input::Accept { agent, instance, body });
}

fn is_acknowledged(owner: &mut Owner) -> bool {
    assert_eq!(is_applied(owner.engine.state(), &PAUSED), Ok(true), "it is journaled");
    owner.engine.is_applied(&PAUSED).unwrap()
}

#[test]
fn an_offer_that_a_stop_has_overtaken_is_waited_for() {
    let mut owner = Owner::new();
    owner.submit("t", Times::default());
    let token = owner.engine.state().task(&key("t")).unwrap().lease().unwrap().token;
    pause(&mut owner, true);
    assert!(!is_acknowledged(&mut owner), "its handler may be about to be called");
    accept(&mut owner, token);
    assert!(is_acknowledged(&mut owner));
}

#[test]
fn an_offer_that_is_lost_holds_the_acknowledgement_up_for_a_second_only() {
    let mut owner = Owner::new();
    owner.submit("t", Times::default());
    pause(&mut owner, true);
    owner.engine.live_mut().tick(999, true);
    assert!(!is_acknowledged(&mut owner));
    owner.engine.live_mut().tick(1, true);
    assert!(is_acknowledged(&mut owner));
}

#[test]
fn what_may_run_on_is_waited_for_until_it_does() {
    let mut owner = Owner::new();
    owner.submit("t", Times::default());
    let token = owner.engine.state().task(&key("t")).unwrap().lease().unwrap().token;
    pause(&mut owner, false);
    assert!(!is_acknowledged(&mut owner));
    accept(&mut owner, token);
    assert!(is_acknowledged(&mut owner));
}

#[test]
fn other_changes_and_other_tenants_offers_are_not_waited_for() {
    let mut owner = Owner::new();
    owner.submit("t", Times::default());
    let settings = |paused| TenantSettings { paused, ..TenantSettings::under("pro".parse().unwrap()) };
    let tenant = |name: &str, paused, kv_rev| Input::Tenant {
        name: name.parse().unwrap(),
        settings: Some(settings(paused)),
        kv_rev,
    };
    owner.push(tenant("other", true, 2));
    assert_eq!(owner.engine.is_applied(&Change::Tenant("other".parse().unwrap(), 2)), Ok(true));
    owner.push(tenant("acme", false, 3));
    assert_eq!(owner.engine.is_applied(&Change::Tenant(key("t").tenant, 3)), Ok(true));
    owner.push(tenant("acme", true, 4));
    assert_eq!(owner.engine.is_applied(&Change::Tenant(key("t").tenant, 4)), Ok(false));
}
