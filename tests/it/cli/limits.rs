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
        "--label",
        "run=nightly",
    ];
    let added = cli.json(&add).await;
    assert_eq!(added["labels"]["run"], "nightly");
    assert_eq!((&added["missed"], &added["tz"]), (&"skip".into(), &"Europe/Amsterdam".into()));
    assert!(added["next"].as_u64().unwrap() % 60_000 == 0);
    assert!(cli.ok(&["schedule", "get", "report"]).await.contains("run=nightly"));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_get_limits_of_their_own() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    assert_eq!(cli.json(&["agent", "list"]).await["agents"].as_array().unwrap().len(), 0);
    let limits =
        ["agent", "set", "writer", "--rate", "500", "--per", "minute", "--burst", "20", "--in-flight", "9"];
    let set = cli.json(&limits).await;
    assert_eq!((&set["rate"], &set["per"], &set["in_flight"]), (&500.into(), &"minute".into(), &9.into()));
    let more = cli.json(&["agent", "set", "writer", "--cells", "100000"]).await;
    assert_eq!((&more["rate"], &more["cells"]), (&500.into(), &100_000.into()));
    let shown = cli.ok(&["agent", "get", "writer"]).await;
    assert!(shown.contains("500/minute") && shown.contains("100000") && shown.contains("active"), "{shown}");
    assert!(cli.ok(&["agent", "pause", "writer", "--stop"]).await.contains("stopped"));
    assert!(cli.ok(&["agent", "ls"]).await.contains("stopped"));
    assert!(cli.ok(&["agent", "resume", "writer"]).await.contains("active"));
    let stale = cli.fails(75, &["agent", "set", "writer", "--rate", "1", "--if-revision", "1"]).await;
    assert!(
        stale["code"] == "LIMITS_CONFLICT" && stale["what"].as_str().unwrap().contains("revision 1"),
        "{stale}"
    );
    let revision = cli.json(&["agent", "get", "writer"]).await["revision"].to_string();
    let reset = cli.json(&["agent", "set", "writer", "--reset", "--if-revision", &revision]).await;
    assert!(reset["rate"].is_null() && reset["cells"].is_null(), "{reset}");
    cli.ok(&["agent", "rm", "writer"]).await;
    assert_eq!(cli.fails(1, &["agent", "get", "writer"]).await["code"], "UNKNOWN_AGENT");
    for bad in [
        vec!["agent", "set", "writer", "--rate", "-1"],
        vec!["agent", "set", "writer", "--rate", "NaN"],
        vec!["agent", "set", "writer", "--rate", "99999999999"],
        vec!["agent", "set", "writer", "--rate", "5", "--per", "year"],
        vec!["plan", "set", "free", "--in-flight=-2"],
        vec!["plan", "set", "free", "--cells", "1.5"],
        vec!["pause"],
        vec!["pause", "--all", "--agent", "writer"],
    ] {
        assert_eq!(cli.run(&bad).await.code, 2, "{bad:?}");
    }
    for bad in [
        vec!["agent", "set", "writer", "--rate", "5", "--burst", "0"],
        vec!["agent", "set", "writer", "--rate", "2000000"],
        vec!["agent", "set", "writer", "--cells", "1", "--cells-burst", "4000000000"],
        vec!["plan", "set", "free", "--cells-burst", "7"],
    ] {
        assert_eq!(cli.fails(2, &bad).await["code"], "BAD_LIMITS", "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_in_use_stays_and_one_that_is_not_goes() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    cli.ok(&["plan", "set", "team", "--from", "pro"]).await;
    cli.ok(&["tenant", "set", "acme", "--plan", "team"]).await;
    let used = cli.fails(1, &["plan", "rm", "team"]).await;
    assert!(used["code"] == "PLAN_IN_USE" && used["what"].as_str().unwrap().contains("acme"), "{used}");
    assert!(cli.ok(&["plan", "pause", "team"]).await.contains("paused"));
    assert!(!cli.ok(&["plan", "resume", "team"]).await.contains("paused"));
    cli.ok(&["tenant", "set", "acme", "--plan", "pro"]).await;
    cli.ok(&["plan", "rm", "team"]).await;
    assert_eq!(cli.fails(1, &["plan", "get", "team"]).await["code"], "UNKNOWN_PLAN");
    // A shipped one is never away.
    cli.ok(&["plan", "set", "pro", "--rate", "7"]).await;
    cli.ok(&["plan", "rm", "pro"]).await;
    assert_eq!(cli.json(&["plan", "get", "pro"]).await["limits"]["rate"], 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_switch_is_acknowledged_once_it_is_journaled_and_undone_by_resume() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    let id = cli.ok(&["submit", "nobody", "-t", "acme", "--confirm"]).await;
    let id = id.trim();
    for what in [
        vec!["--tenant", "acme"],
        vec!["--agent", "writer"],
        vec!["--tree", id, "--tenant", "acme"],
        vec!["--all"],
    ] {
        let paused = cli.json(&[vec!["pause"], what.clone()].concat()).await;
        assert_eq!((&paused["journaled"], &paused["stopped"]), (&true.into(), &true.into()), "{what:?}");
        let resumed = cli.json(&[vec!["resume"], what.clone()].concat()).await;
        assert_eq!((&resumed["journaled"], &resumed["paused"]), (&true.into(), &false.into()), "{what:?}");
    }
    let unknown = cli.fails(1, &["pause", "--tree", "nope", "-t", "acme"]).await;
    assert_eq!(unknown["code"], "NOT_FOUND");
    let left = cli.json(&["pause", "--agent", "writer", "--let-run"]).await;
    assert_eq!(left["stopped"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_tasks_back_is_told_of_one_and_of_all_tenants() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    cli.ok(&["tenant", "set", "acme", "--plan", "pro", "--weight", "3", "--cells", "500"]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(cli.ok(&["submit", "nobody", "-t", "acme", "--confirm"]).await.trim().to_owned());
    }
    cli.ok(&["submit", "nobody", "-t", "other", "--confirm"]).await;
    let why = cli.json(&["why", &ids[2], "-t", "acme"]).await;
    assert_eq!((&why["state"], &why["reasons"][0]["reason"]), (&"queued".into(), &"no_instance".into()));
    assert_eq!(
        (&why["reasons"][1]["reason"], &why["reasons"][1]["actual"]),
        (&"own_tasks_first".into(), &2.into())
    );
    let shown = cli.ok(&["why", &ids[2], "-t", "acme"]).await;
    assert!(shown.contains("nobody serves agent nobody") && shown.contains("2 ahead of it"), "{shown}");
    assert_eq!(cli.fails(1, &["why", "nothing", "-t", "acme"]).await["code"], "NOT_FOUND");
    let got = cli.ok(&["get", &ids[2], "-t", "acme"]).await;
    assert!(got.contains("why") && got.contains("nobody serves agent nobody"), "{got}");

    cli.ok(&["tenant", "pause", "acme"]).await;
    let all = cli.json(&["tenants"]).await;
    let acme = &all["tenants"][0];
    assert_eq!((&acme["tenant"], &acme["queued"], &acme["weight"]), (&"acme".into(), &3.into(), &3.into()));
    assert_eq!((&acme["queued_by"]["tenant_paused"], &acme["cells_left"]), (&3.into(), &500.into()));
    assert_eq!((&all["busy"], &all["backlog"], &acme["fair_share"]), (&2.into(), &4.into(), &750.into()));
    let shown = cli.ok(&["tenants", "acme"]).await;
    assert!(shown.contains("acme (paused)") && shown.contains("tenant_paused 3"), "{shown}");
    assert_eq!(cli.fails(1, &["tenants", "nothing"]).await["code"], "UNKNOWN_TENANT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_no_owner_journals_is_stored_and_said_not_to_be_in_force() {
    let mut fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    cli.ok(&["tenant", "set", "acme", "--plan", "pro"]).await;
    fabric.coordinator.take().unwrap().stop().await;
    let told = cli.fails(75, &["tenant", "set", "acme", "--rate", "3"]).await;
    assert_eq!(told["code"], "NOT_CONFIRMED");
    assert_eq!(cli.json(&["tenant", "get", "acme"]).await["limits"]["rate"], 3);
}
