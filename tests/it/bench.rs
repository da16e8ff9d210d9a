//! `selvedge bench` from end to end, tiny: what it prints, never how fast anything is.

use serde_json::Value;

use crate::harness::binary::selvedge;

/// The figures of a run, each a line of JSON.
fn figures(args: &[&str]) -> Vec<Value> {
    let temp = tempfile::tempdir().unwrap();
    let ran = selvedge(temp.path()).arg("bench").args(args).arg("--json").output().unwrap();
    let (out, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.status.code(), Some(0), "{said}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "it leaves nothing behind");
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn find<'a>(figures: &'a [Value], name: &str) -> &'a Value {
    figures.iter().find(|figure| figure["figure"] == name).unwrap_or_else(|| panic!("{name}: {figures:?}"))
}

#[test]
fn throughput_is_told_with_its_floor_its_operations_and_the_raw_steps() {
    let figures = figures(&["throughput", "--scale", "0.002", "--runs", "1"]);
    let tasks = find(&figures, "tasks, submit_many");
    assert_eq!((&tasks["case"], &tasks["unit"]), (&"throughput".into(), &"1/s".into()));
    assert_eq!(tasks["target"], "ratio >= 0.75");
    assert!(tasks["pass"].is_null(), "so small a run is not judged");
    let number = |name: &str| tasks[name].as_f64().unwrap();
    assert!(number("value") > 0.0 && number("reference") > 0.0);
    assert!((number("ratio") - number("value") / number("reference")).abs() < 0.01);
    assert!(number("min") <= number("value") && number("value") <= number("max"));
    for name in ["client", "coordinator", "noop", "nats-server", "redis", "all"] {
        assert!(find(&figures, &format!("CPU per task, submit_many, {name}"))["value"].is_number());
    }
    let into = find(&figures, "messages into NATS per task, submit_many");
    // A submit, its acknowledgement, an end, its acknowledgement, a hint: fewer can't be.
    assert!(into["reference"].as_f64().unwrap() >= 5.0, "{into}");
    assert!(find(&figures, "tasks, 64 callers")["value"].as_f64().unwrap() > 0.0);
    assert_eq!(figures.iter().filter(|f| f["figure"].as_str().unwrap().starts_with("raw: ")).count(), 5);
}

#[test]
fn latency_is_told_from_the_due_time_to_start_and_end_beside_the_floors() {
    let figures = figures(&["latency", "--scale", "0.01", "--runs", "1"]);
    for rate in [200, 1_000] {
        for word in ["p50", "p99"] {
            let value = |name: String| {
                let figure = find(&figures, &name);
                assert!(figure["reference"].as_f64().unwrap() > 0.0, "{figure}");
                figure["value"].as_f64().unwrap()
            };
            let seen = value(format!("{word} seen by the client, {rate}/s"));
            let start = value(format!("{word} to handler start, {rate}/s"));
            assert!(start <= seen, "{start} {seen}");
        }
    }
}

#[test]
fn growth_is_told_by_tenants_slots_instances_and_what_waits() {
    let figures = figures(&["growth", "--quick"]);
    for row in ["tenants", "slots", "instances", "waiting"] {
        let of = |figure: &&Value| figure["figure"].as_str().unwrap().contains(&format!(" {row}, all"));
        let costs: Vec<_> = figures.iter().filter(of).collect();
        assert!(costs.len() >= 3 && costs[0]["ratio"] == 1.0, "{row}: {costs:?}");
        assert!(costs.iter().all(|cost| cost["reference"].is_number()), "{row}: {costs:?}");
    }
}
fn value(figures: &[Value], name: &str) -> f64 {
    find(figures, name)["value"].as_f64().unwrap()
}

#[test]
fn what_a_noisy_tenant_does_to_another_is_told_beside_one_queue_and_fixed_shares() {
    let figures = figures(&["noisy", "--scale", "0.01", "--runs", "1"]);
    for name in ["one shared FIFO", "a fixed half each"] {
        for figure in [format!("slowest wait of 20, beside {name}"), format!("all of it, beside {name}")] {
            let figure = find(&figures, &figure);
            assert!(figure["value"].as_f64().unwrap() > 0.0 && figure["reference"].as_f64().unwrap() > 0.0);
        }
    }
    let all = find(&figures, "all of it, beside the least it could take");
    assert!(all["ratio"].as_f64().unwrap() >= 1.0, "nobody is faster than the slots: {all}");
    let newcomer = "wait of a newcomer among 50 tenants with 100 each";
    for name in ["slowest wait of 20 behind 2000".to_owned(), format!("{newcomer}, beside 10 each")] {
        assert!(value(&figures, &name) > 0.0, "{name}");
    }
    assert!(
        find(&figures, &format!("{newcomer}, worst of 3, beside a round of theirs"))["reference"] == 50.0
    );
    assert!((0.0..=100.0).contains(&value(&figures, "slots idle with work for them")));
}

#[test]
fn the_parts_of_three_weights_are_told_and_make_up_the_whole() {
    let figures = figures(&["weights", "--scale", "0.01", "--runs", "1"]);
    for kind in ["20 ms tasks", "1, 20 and 500 ms by tenant", "1, 20 and 500 ms mixed"] {
        let part = |weight: u32| value(&figures, &format!("part of the slots, weight {weight}, {kind}"));
        assert!((part(1) + part(2) + part(4) - 100.0).abs() < 0.1, "{kind}");
        assert!(value(&figures, &format!("looked at, {kind}")) > 0.0);
    }
}

/// Every figure that is not from a full run is shown, not judged.
fn shown(case: &str, wanted: &[(&str, &str)]) {
    let figures = figures(&[case, "--scale", "0.001", "--runs", "1"]);
    for (name, target) in wanted {
        let figure = figures.iter().find(|figure| figure["figure"].as_str().unwrap().starts_with(name));
        let figure = figure.unwrap_or_else(|| panic!("{name}: {figures:?}"));
        assert_eq!((&figure["case"], &figure["target"]), (&case.into(), &(*target).into()), "{figure}");
        assert!(figure["pass"].is_null() && figure["value"].is_number(), "{figure}");
    }
}

#[test]
fn the_cost_of_limits_many_tenants_and_the_kill_switch_are_told() {
    let of_limits = figures(&["limits", "--scale", "0.002", "--runs", "1"]);
    assert!(find(&of_limits, "tasks, all limits on, beside off")["ratio"].as_f64().unwrap() > 0.0);
    assert!(find(&of_limits, "tasks, all limits on, beside the floor")["reference"].as_f64().unwrap() > 0.0);
    let of_tenants = figures(&["tenants", "--scale", "0.005", "--runs", "1"]);
    assert!(value(&of_tenants, "dispatches, 50 tenants beside one") > 0.0);
    assert!(value(&of_tenants, "streams and consumers that came") <= 0.0);
    let of_pause = figures(&["pause", "--scale", "0.05", "--runs", "1"]);
    assert_eq!(value(&of_pause, "acknowledgement to last start, worst"), 0.0);
    assert!(value(&of_pause, "p99 from the command to a handler being told, 10 instances") > 0.0);
}

#[test]
fn queries_are_told_beside_bare_requests_and_what_others_do() {
    shown(
        "query",
        &[
            ("p50, newest 10 of", "ratio <= 2"),
            ("p50, newest 10, kept", "ratio <= 1.2"),
            ("CPU per page", "ratio <= 0.2"),
        ],
    );
}

#[test]
fn pollers_are_told_beside_burning_as_much() {
    shown("pollers", &[("tasks beside pollers", "ratio >= 0.95"), ("p99 to handler start", "ratio <= 1.2")]);
}

#[test]
fn events_are_told_beside_a_bare_loop_and_to_a_watcher() {
    shown(
        "events",
        &[("events into Redis", "ratio >= 0.7"), ("p50, emitted", "<= 2"), ("p99, emitted", "<= 10")],
    );
}

#[test]
fn retention_and_rebuild_are_told() {
    shown("retention", &[("Redis, used_memory, beside", "ratio <= 1.1")]);
    shown("rebuild", &[("tasks, of", ">= 50000")]);
}

#[test]
fn messages_and_resumes_are_told_beside_submits() {
    shown("tell", &[("p50, told to taken", "ratio <= 2")]);
    shown(
        "resume",
        &[("p50, last child's end to its parent running", "ratio <= 2"), ("slowest of 10", "<= 50")],
    );
}

#[test]
fn calls_and_triggers_are_told_beside_a_bare_request_and_submits() {
    shown("call", &[("p50 to the first part", "ratio <= 3"), ("p99 to the first part", "ratio <= 4")]);
    shown("trigger", &[("tasks through a trigger", "ratio >= 0.6"), ("messages lost or doubled", "<= 0")]);
}
