//! Tenants and plans.

use super::Cli;
use crate::harness::fabric::Fabric;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_gets_a_plan_and_limits_of_its_own() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    let set = cli.json(&["tenant", "set", "acme", "--plan", "pro", "--in-flight", "3"]).await;
    assert_eq!((&set["plan"], &set["limits"]["in_flight"]), (&"pro".into(), &3.into()));
    let more = cli.json(&["tenant", "set", "acme", "--rate", "7"]).await;
    assert_eq!((&more["limits"]["in_flight"], &more["limits"]["rate"]), (&3.into(), &7.into()));
    assert!(more["revision"].as_u64() > set["revision"].as_u64());
    let shown = cli.ok(&["tenant", "get", "acme"]).await;
    assert!(shown.contains("plan pro, active") && shown.contains("tenant"), "{shown}");
    let reset = cli.json(&["tenant", "set", "acme", "--reset"]).await;
    assert_eq!(reset["limits"]["in_flight"], 20);
    assert!(cli.ok(&["tenant", "list"]).await.contains("acme"));

    let unknown = cli.fails(1, &["tenant", "set", "acme", "--plan", "nope"]).await;
    assert!(
        unknown["code"] == "UNKNOWN_PLAN" && unknown["do"].as_str().unwrap().contains("free, pro"),
        "{unknown}"
    );
    assert_eq!(cli.fails(2, &["tenant", "set", "acme", "--weight", "0"]).await["code"], "BAD_LIMITS");
    cli.ok(&["tenant", "rm", "acme"]).await;
    assert_eq!(cli.fails(1, &["tenant", "get", "acme"]).await["code"], "UNKNOWN_TENANT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_is_refused_until_it_is_resumed() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    let paused = cli.json(&["tenant", "pause", "acme", "--refuse-submits"]).await;
    assert_eq!((&paused["paused"], &paused["suspended"]), (&true.into(), &true.into()));
    until("the refusal", async || {
        let ran = cli.run(&["submit", "nobody", "-t", "acme", "--confirm", "--json"]).await;
        (ran.code == 75 && ran.err.contains("TENANT_SUSPENDED")).then_some(())
    })
    .await;
    cli.ok(&["tenant", "resume", "acme"]).await;
    until("the admission", async || {
        (cli.run(&["submit", "nobody", "-t", "acme", "--confirm"]).await.code == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shipped_plans_are_shown_and_changed_and_new_ones_made() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    let plans = cli.json(&["plan", "list"]).await;
    assert_eq!(plans["plans"].as_array().unwrap().len(), 2);
    assert!(plans["plans"][0]["revision"].is_null());
    cli.ok(&["plan", "set", "free", "--backlog", "5000"]).await;
    let free = cli.json(&["plan", "get", "free"]).await;
    assert_eq!((&free["limits"]["backlog"], &free["limits"]["in_flight"]), (&5000.into(), &2.into()));
    let team = cli.json(&["plan", "set", "team", "--from", "pro", "--rate", "50"]).await;
    assert_eq!((&team["limits"]["rate"], &team["limits"]["tree"]), (&50.into(), &5000.into()));
    assert!(cli.ok(&["plan", "ls"]).await.contains("team"));
    assert_eq!(cli.fails(1, &["plan", "get", "nope"]).await["code"], "UNKNOWN_PLAN");
    assert_eq!(cli.fails(2, &["plan", "set", "team", "--weight", "0"]).await["code"], "BAD_LIMITS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_added_listed_paused_resumed_and_removed() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    let add = [
        "schedule",
        "add",
        "report",
        "--cron",
        "0 9 * * 1-5",
        "--tz",
        "Europe/Amsterdam",
        "--agent",
        "writer",
    ];
    let added = cli.json(&add).await;
    assert_eq!((&added["missed"], &added["tz"]), (&"skip".into(), &"Europe/Amsterdam".into()));
    assert!(added["next"].as_u64().unwrap() % 60_000 == 0);
    let listed = cli.ok(&["schedule", "ls"]).await;
    assert!(listed.contains("report") && listed.contains("0 9 * * 1-5"), "{listed}");
    let paused = cli.json(&["schedule", "pause", "report"]).await;
    assert_eq!((&paused["paused"], paused["next"].is_null()), (&true.into(), true));
    assert!(cli.ok(&["schedule", "get", "report"]).await.contains("paused"));
    assert!(cli.json(&["schedule", "resume", "report"]).await["next"].is_u64());
    cli.ok(&["schedule", "rm", "report"]).await;
    assert_eq!(cli.fails(1, &["schedule", "get", "report"]).await["code"], "UNKNOWN_SCHEDULE");

    let wrong = cli.run(&["schedule", "add", "x", "--cron", "0 25 * * *", "--agent", "writer"]).await;
    assert!(wrong.code == 2 && wrong.err.contains("^^ hour: 25 is above 23"), "{}", wrong.err);
    let zone =
        cli.run(&["schedule", "add", "x", "--cron", "@daily", "--tz", "Mars/Base", "--agent", "a"]).await;
    assert!(zone.code == 2 && zone.err.contains("no time zone"), "{}", zone.err);
}
