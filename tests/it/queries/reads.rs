//! What a read finds and what it costs: commands counted by the server, ids by the reply.

use std::collections::HashMap;

use selvedge::{
    store::{
        Connection,
        index::{Generation, IndexWriter},
        read::{IndexReader, ReadError, ScanLimits},
    },
    task::{AgentName, Code, Labels, Phase, TaskId},
    wire::{
        api::{CountRequest, ListRequest, TaskView},
        subjects::Shard,
    },
};

use crate::{
    index::{batch, commandstats, id, task, tenant},
    store_servers::Redis,
};

const LIMITS: ScanLimits = ScanLimits { cap: 200, buffer: 50 };

struct Index {
    _redis: Redis,
    connection: Connection,
    reader: IndexReader,
}

impl Index {
    /// Root `r` with 300 children, `c000` with 40 of its own, and 1,000 tasks that are their own; one a millisecond.
    async fn planted() -> Index {
        let redis = Redis::start().await;
        let connection = redis.connect().await;
        let mut writer =
            IndexWriter::begin(connection.clone(), Shard(0), 1, Generation::fresh()).await.unwrap();
        let mut views = vec![task("r", Phase::Waiting, 1, 1_000)];
        let child = |name: String, parent: &str, depth, at| TaskView {
            root: id("r"),
            parent: Some(id(parent)),
            depth,
            agent: AgentName::new("writer").unwrap(),
            ..task(&name, if at % 10 == 0 { Phase::Failed } else { Phase::Completed }, 2, at)
        };
        views.extend((0..300).map(|n| child(format!("c{n:03}"), "r", 1, 1_001 + n)));
        views.extend((0..40).map(|n| child(format!("g{n:02}"), "c000", 2, 1_301 + n)));
        views.extend((0..1_000).map(|n| task(&format!("t{n:03}"), Phase::Queued, 3, 2_000 + n)));
        for views in views.chunks(400) {
            writer.write(&batch(writer.generation(), 3, views.to_vec())).await.unwrap();
        }
        let reader = IndexReader::new(connection.clone(), Shard(0));
        reader.list(&acme(), &ListRequest::default(), LIMITS).await.unwrap(); // loads the script
        Index { _redis: redis, connection, reader }
    }

    /// What `act` gives, and how often it made Redis run each command.
    async fn counted<T>(&self, act: impl Future<Output = T>) -> (T, HashMap<String, u64>) {
        let before = commandstats(&self.connection).await;
        let given = act.await;
        let after = commandstats(&self.connection).await;
        let old = |name: &str| before.get(name).map_or(0, |calls| calls.0);
        let calls = after.iter().map(|(name, calls)| (name.clone(), calls.0 - old(name)));
        (given, calls.filter(|(name, n)| *n > 0 && name != "info").collect())
    }

    async fn all(&self, request: ListRequest) -> (Vec<String>, u32) {
        let (mut found, mut pages, mut cursor) = (Vec::new(), 0, None);
        loop {
            let request = ListRequest { cursor, limit: Some(100), ..request.clone() };
            let page = self.reader.list(&acme(), &request, LIMITS).await.unwrap();
            found.extend(page.tasks.iter().map(|view| view.task.to_string()));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                return (found, pages);
            }
        }
    }
}

fn of_parent(parent: &str) -> ListRequest {
    ListRequest { parent: Some(id(parent)), ..ListRequest::default() }
}

#[tokio::test]
async fn children_are_listed_from_their_parents_own_set_and_a_range_of_time_is_exact() {
    let index = Index::planted().await;
    let (found, pages) = index.all(of_parent("r")).await;
    assert_eq!((found.len(), pages, found[0].as_str()), (300, 3, "c299"));
    let (found, _) = index.all(of_parent("c000")).await;
    assert_eq!((found.len(), found[39].as_str()), (40, "g00"));
    assert!(index.all(of_parent("t000")).await.0.is_empty());

    let ranged = ListRequest { since: Some(1_010), until: Some(1_020), ..ListRequest::default() };
    for request in [ranged.clone(), ListRequest { parent: Some(id("r")), ..ranged.clone() }] {
        let request = ListRequest { limit: Some(100), ..request };
        let (page, calls) = index.counted(index.reader.list(&acme(), &request, LIMITS)).await;
        let page = page.unwrap();
        assert_eq!((page.tasks.len(), page.scanned, page.complete), (10, 10, true), "{request:?}");
        assert!(page.tasks.iter().all(|view| (1_010..1_020).contains(&view.created_at)));
        assert!(page.next.is_none(), "what follows is outside of the range");
        assert_eq!((calls["evalsha"], calls["zrange"], calls["hmget"]), (1, 1, 1), "{calls:?}");
    }
    // A cursor is of its own range.
    let page = ListRequest { limit: Some(5), ..ranged.clone() };
    let next = index.reader.list(&acme(), &page, LIMITS).await.unwrap().next;
    let rest =
        index.reader.list(&acme(), &ListRequest { cursor: next.clone(), ..page }, LIMITS).await.unwrap();
    assert_eq!((rest.tasks.len(), rest.next), (5, None));
    let other = ListRequest { since: Some(1), cursor: next, ..ListRequest::default() };
    assert!(matches!(
        index.reader.list(&acme(), &other, LIMITS).await,
        Err(ReadError::Query(refusal)) if refusal.code == Code::BadQuery
    ));
    // So are labels, from whatever set is read.
    let labels = Labels::from_iter([("team", "search")]);
    let (page, calls) =
        index.counted(index.reader.list(&acme(), &ListRequest { labels, ..of_parent("r") }, LIMITS)).await;
    let page = page.unwrap();
    assert_eq!((page.scanned, page.tasks.len(), page.complete), (60, 0, false), "none has it");
    assert_eq!((page.next.is_some(), calls["evalsha"], calls["hmget"]), (true, 1, 1));
    // Filters combined are sifted: as many ids as the page and the buffer, and no more.
    let both = ListRequest { states: vec![Phase::Failed], ..of_parent("r") };
    let page = index.reader.list(&acme(), &both, LIMITS).await.unwrap();
    assert_eq!((page.scanned, page.tasks.len()), (34, 10), "the 34 that failed are the smaller set");
    let (found, _) = index.all(both).await;
    assert_eq!(found.len(), 30);
}

#[tokio::test]
async fn a_count_reads_sizes_and_nothing_else() {
    let index = Index::planted().await;
    let writer = Some(AgentName::new("writer").unwrap());
    let cases = [
        (CountRequest::default(), 1_341, "zcard"),
        (CountRequest { states: vec![Phase::Failed, Phase::Queued], ..Default::default() }, 1_034, "zcard"),
        (CountRequest { agent: writer.clone(), ..Default::default() }, 340, "zcard"),
        (CountRequest { root: Some(id("r")), ..Default::default() }, 341, "zcard"),
        (CountRequest { root: Some(id("t001")), ..Default::default() }, 1, "zcard"),
        (CountRequest { parent: Some(id("c000")), ..Default::default() }, 40, "zcard"),
        (CountRequest { since: Some(2_000), until: Some(2_010), ..Default::default() }, 10, "zlexcount"),
        (CountRequest { agent: writer, until: Some(1_011), ..Default::default() }, 10, "zlexcount"),
        (CountRequest { root: Some(id("t001")), until: Some(2_001), ..Default::default() }, 0, "zlexcount"),
    ];
    for (request, expected, command) in cases {
        let (reply, calls) = index.counted(index.reader.count(&acme(), &request)).await;
        assert_eq!(reply.unwrap().count, expected, "{request:?}");
        assert!(calls.contains_key(command), "{request:?}: {calls:?}");
        for read in ["zrange", "hmget", "hgetall", "scan", "evalsha"] {
            assert!(!calls.contains_key(read), "{request:?}: {calls:?}");
        }
    }
    assert_eq!(index.reader.count(&tenant("beta"), &CountRequest::default()).await.unwrap().count, 0);
}

#[tokio::test]
async fn a_tree_is_walked_oldest_first_in_pages_that_read_what_they_return() {
    let index = Index::planted().await;
    let (mut seen, mut cursor): (Vec<TaskId>, _) = (Vec::new(), None);
    loop {
        let (below, after) = (id("g07"), cursor.as_deref());
        let (page, calls) = index.counted(index.reader.tree(&acme(), &below, Some(80), after, LIMITS)).await;
        let page = page.unwrap().unwrap();
        assert_eq!(page.root, id("r"));
        assert_eq!((calls["zrange"], calls["hmget"]), (1, 1), "{calls:?}");
        assert!(page.tasks.len() <= 80);
        seen.extend(page.tasks.into_iter().map(|view| view.task));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((seen.len(), &seen[0], &seen[1], &seen[340]), (341, &id("r"), &id("c000"), &id("g39")));
    let alone = index.reader.tree(&acme(), &id("t001"), None, None, LIMITS).await.unwrap().unwrap();
    assert_eq!((alone.tasks.len(), alone.next), (1, None));
    assert!(index.reader.tree(&acme(), &id("nobody"), None, None, LIMITS).await.unwrap().is_none());
    let narrow = ScanLimits { cap: 7, buffer: 0 };
    let page = index.reader.tree(&acme(), &id("r"), Some(100), None, narrow).await.unwrap().unwrap();
    assert_eq!(page.tasks.len(), 7, "the cap holds here too");
}

fn acme() -> selvedge::task::TenantName {
    tenant("acme")
}
