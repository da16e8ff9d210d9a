//! Pages and cursors, what a query may ask, and what reading and writing cost.

use selvedge::{
    store::{
        index::Written,
        read::{ReadError, ScanLimits},
    },
    task::{AgentName, Code, Phase, TenantName},
    wire::api::{ListRequest, TaskView},
};

use super::{Bench, commandstats, task, tenant};

#[tokio::test]
async fn a_page_reads_ten_ids_and_ten_records_whatever_is_stored() {
    let mut b = Bench::new().await;
    let views = |n: u64| {
        (0..n)
            .map(|i| {
                let state = if i % 50 == 0 { Phase::Failed } else { Phase::Completed };
                TaskView {
                    agent: AgentName::new(if i % 2 == 0 { "reader" } else { "writer" }).unwrap(),
                    ..task(&format!("t{i:05}"), state, i + 1, 1_000 + i / 10)
                }
            })
            .collect::<Vec<_>>()
    };
    for chunk in views(5_000).chunks(500) {
        b.write(chunk.to_vec()).await;
    }
    let limits = ScanLimits::default();
    let acme = tenant("acme");
    let failed = ListRequest { states: vec![Phase::Failed], ..Default::default() };
    let cases = [
        (ListRequest::default(), 10, 10),
        (failed.clone(), 10, 10),
        (ListRequest { agent: Some(AgentName::new("writer").unwrap()), ..Default::default() }, 10, 10),
        (ListRequest { offset: Some(30), ..Default::default() }, 40, 10),
        (ListRequest { offset: Some(10_000), ..Default::default() }, 200, 0),
        // Combined: 100 failed tasks, all of the agent `reader`.
        (ListRequest { agent: Some(AgentName::new("reader").unwrap()), ..failed.clone() }, 60, 10),
        (ListRequest { agent: Some(AgentName::new("writer").unwrap()), ..failed }, 60, 0),
    ];
    b.reader.list(&acme, &ListRequest::default(), limits).await.unwrap(); // loads the script
    for (request, scanned, found) in cases {
        let before = b.calls().await;
        let page = b.reader.list(&acme, &request, limits).await.unwrap();
        let after = b.calls().await;
        let delta = |name: &str| after.get(name).map_or(0, |c| c.0) - before.get(name).map_or(0, |c| c.0);
        assert_eq!((page.scanned, page.tasks.len()), (scanned, found), "{request:?}");
        assert_eq!(delta("evalsha"), 1, "{request:?}");
        assert!(delta("hmget") <= 1 && delta("zrange") == 1 && delta("hget") == 1, "{request:?}");
        assert_eq!(page.complete, found == 10, "{request:?}");
    }
}

#[tokio::test]
async fn a_cursor_walks_every_task_once_while_others_are_inserted() {
    let mut b = Bench::new().await;
    // All in the same millisecond, as a parent's children are.
    b.write((0..250).map(|i| task(&format!("t{i:03}"), Phase::Queued, i + 1, 100)).collect()).await;
    let (acme, limits) = (tenant("acme"), ScanLimits::default());
    let mut seen = Vec::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let request = ListRequest { limit: Some(20), cursor, ..Default::default() };
        let page = b.reader.list(&acme, &request, limits).await.unwrap();
        seen.extend(page.tasks.iter().map(|t| t.task.to_string()));
        pages += 1;
        b.write(vec![task(&format!("new{pages}"), Phase::Queued, 1_000 + pages, 200 + pages)]).await;
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let mut expected: Vec<String> = (0..250).map(|i| format!("t{i:03}")).collect();
    expected.reverse();
    assert_eq!(seen, expected);
    assert_eq!(pages, 13, "and no empty page at the end");

    // Sifted pages end where they stopped looking, and the walk still sees everything.
    let request =
        ListRequest { states: vec![Phase::Queued, Phase::Failed], limit: Some(100), ..Default::default() };
    let mut found = 0;
    let mut cursor = None;
    loop {
        let page = b.reader.list(&acme, &ListRequest { cursor, ..request.clone() }, limits).await.unwrap();
        found += page.tasks.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, 263);
}

#[tokio::test]
async fn senseless_queries_are_refused_not_guessed_at() {
    let mut b = Bench::new().await;
    b.write((0..30).map(|i| task(&format!("t{i}"), Phase::Queued, i + 1, i)).collect()).await;
    let (acme, limits) = (tenant("acme"), ScanLimits::default());
    let mine = b.reader.list(&acme, &ListRequest::default(), limits).await.unwrap().next.unwrap();
    let refused =
        async |tenant: &TenantName, request: ListRequest| match b.reader.list(tenant, &request, limits).await
        {
            Err(ReadError::Query(refusal)) => assert_eq!(refusal.code, Code::BadQuery),
            other => panic!("{request:?}: {other:?}"),
        };
    let cursor = |c: &str| ListRequest { cursor: Some(c.to_owned()), ..Default::default() };
    refused(&tenant("umbrella"), cursor(&mine)).await;
    refused(&acme, ListRequest { states: vec![Phase::Failed], ..cursor(&mine) }).await;
    refused(&acme, cursor("forged")).await;
    refused(&acme, cursor(&mine[..mine.len() / 2])).await;
    refused(&acme, ListRequest { offset: Some(1), ..cursor(&mine) }).await;
    for limit in [0, 101, 1_000_000_000] {
        refused(&acme, ListRequest { limit: Some(limit), ..Default::default() }).await;
    }
}

#[tokio::test]
async fn a_write_to_more_tenants_than_one_answer_has_time_for_is_written_once() {
    let mut b = Bench::new().await;
    let tenants = 40_000;
    let views = (0..tenants).map(|n| {
        let mut view = task("t", Phase::Queued, 1, 1_000);
        view.tenant = tenant(&format!("many{n}"));
        view
    });
    // All the calls together take longer than the second that the connection waits for an answer.
    let Written::Done(flushed) = b.write(views.collect()).await else { panic!("lost or fenced") };
    assert_eq!(flushed.applied, tenants);
    // One more: the first call finds that Redis does not know the script.
    let (calls, _) = commandstats(&b.connection).await["evalsha"];
    assert!(calls >= tenants && calls < tenants + 1_000, "{calls} calls of {tenants}");
}

#[tokio::test]
async fn one_task_from_queued_to_completed_costs_few_commands() {
    let mut b = Bench::new().await;
    b.write(vec![task("warm", Phase::Queued, 1, 1)]).await;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut b.connection.clone()).await.unwrap();
    let n = 2_000;
    for chunk in (0..n).collect::<Vec<u64>>().chunks(250) {
        b.write(chunk.iter().map(|i| task(&format!("t{i}"), Phase::Queued, i + 2, *i)).collect()).await;
    }
    let queued = b.calls().await;
    for chunk in (0..n).collect::<Vec<u64>>().chunks(250) {
        b.write(chunk.iter().map(|i| task(&format!("t{i}"), Phase::Completed, n + i + 2, *i)).collect())
            .await;
    }
    let completed = b.calls().await;
    for (what, stats) in [("queued", &queued), ("queued, then completed", &completed)] {
        let inner: u64 = stats.iter().filter(|(name, _)| *name != "evalsha").map(|(_, c)| c.0).sum();
        let usec = stats["evalsha"].1;
        println!(
            "{what}: {:.1} commands and {:.1} us of Redis per task, {} script calls for {n} tasks",
            inner as f64 / n as f64,
            usec as f64 / n as f64,
            stats["evalsha"].0
        );
    }
}
