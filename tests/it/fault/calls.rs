//! A coordinator that is killed while calls run, while others wait for a place, and while some are being admitted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::{Answer, Client},
    flow::record::Record,
    task::{AgentName, Code, Plan},
};
use tokio::task::JoinSet;

use super::{
    audit::Audit,
    process::{Coordinator, policy},
};
use crate::harness::{
    fabric::{Fabric, eventually, unbound},
    soon, until,
};

const CAP: u32 = 3;
/// Who want an answer at once, more than may have one.
const CALLERS: usize = 8;

/// Where handlers stream until their gate is opened; knows how many do, and how many did at most.
#[derive(Clone, Default)]
struct Floor {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    gates: [CancellationToken; 2],
}

struct Here(Arc<AtomicUsize>);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Floor {
    fn enter(&self) -> Here {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Here(self.now.clone())
    }

    fn agent(&self) -> Agent {
        let floor = self.clone();
        let streams = move |ctx: Ctx, gate: usize| {
            let floor = floor.clone();
            async move {
                let _here = floor.enter();
                for n in 0u32.. {
                    ctx.emit("number", &n).await?;
                    tokio::select! {
                        () = floor.gates[gate].cancelled() => return Ok::<_, AgentError>(n + 1),
                        () = tokio::time::sleep(Duration::from_millis(10)) => {}
                    }
                }
                Ok(0)
            }
        };
        let agent = Agent::new("streamer", streams).unwrap().slots(64);
        agent.cancel_grace(Duration::from_millis(20)).lease(Duration::from_secs(2))
    }
}

/// An answer, as far as it has been read.
struct Stream {
    answer: Answer,
    read: u32,
}

impl Stream {
    /// Calls once; `None` if it may be tried again.
    async fn try_begin(client: &Client, gate: usize) -> Result<Stream, Code> {
        let mut answer =
            client.call("streamer", &gate).patience(Duration::from_secs(3)).await.map_err(refused)?;
        let first = answer.next().await.expect("a part, or why there is none");
        assert_eq!(first.map_err(refused)?.data.decode::<u32>().unwrap(), 0);
        Ok(Stream { answer, read: 1 })
    }

    async fn begin(client: &Client, gate: usize) -> Stream {
        until("a call begins", || async { Stream::try_begin(client, gate).await.ok() }).await
    }

    /// The next part is the next number. A stream that has begun is not broken by anything that happens here.
    async fn goes_on(&mut self) -> bool {
        let Some(part) = soon("the next part", self.answer.next()).await else { return false };
        let number: u32 = part.expect("it goes on").data.decode().unwrap();
        assert_eq!(number, self.read);
        self.read += 1;
        true
    }

    async fn ends(mut self) {
        while self.goes_on().await {}
        assert_eq!(self.answer.result::<u32>().await.unwrap(), self.read);
    }
}

/// A refusal that a caller may expect while coordinators come and go.
fn refused(error: selvedge::client::Error) -> Code {
    match error.code() {
        Some(code @ (Code::InFlightFull | Code::NoInstance | Code::Unavailable | Code::CallLost)) => code,
        _ => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_killed_amid_calls_breaks_no_stream_and_lets_no_more_begin_than_may() {
    let mut fabric = Fabric::start_with(|options| options.policy = policy()).await;
    fabric.plan_in_force("acme", Plan { in_flight: CAP, ..unbound() }).await;
    fabric.coordinator.take().expect("just started").stop().await;
    let client = fabric.client("acme").await;
    let floor = Floor::default();
    fabric.agent(floor.agent()).await;
    let owner = Coordinator::new("one").spawn(&fabric.stack);
    let mut first = Stream::begin(&client, 0).await;
    let _standby = Coordinator::new("two").spawn(&fabric.stack);

    let mut callers = JoinSet::new();
    for _ in 1..CALLERS {
        let client = client.clone();
        callers.spawn(async move { Stream::begin(&client, 0).await.ends().await });
    }
    until("all places are taken", || async { (floor.now.load(Ordering::SeqCst) == 3).then_some(()) }).await;
    for _ in 0..10 {
        assert!(first.goes_on().await);
    }

    owner.kill().expect("it is gone");
    let next =
        || async { Stream::try_begin(&client, 0).await.err().filter(|code| *code == Code::InFlightFull) };
    eventually("the standby owns the shard", async { until("it refuses", next).await }).await;
    for _ in 0..10 {
        assert!(first.goes_on().await);
    }
    floor.gates[0].cancel();
    first.ends().await;
    while let Some(caller) = eventually("every caller is answered", callers.join_next()).await {
        caller.unwrap();
    }

    // The whole cap is there again, and no more of it.
    let mut later = Vec::new();
    for _ in 0..CAP {
        later.push(Stream::begin(&client, 1).await);
    }
    assert_eq!(Stream::try_begin(&client, 1).await.err(), Some(Code::InFlightFull));
    floor.gates[1].cancel();
    for stream in later {
        stream.ends().await;
    }
    assert_eq!(floor.most.load(Ordering::SeqCst), CAP as usize, "as many as may, at most");
    assert_places(&Audit::of(&fabric.stack).await);
}

/// At every record of the journal no more is held for calls than the cap; and two coordinators have written it.
fn assert_places(audit: &Audit) {
    let mut held: BTreeMap<&AgentName, u32> = BTreeMap::new();
    for record in audit.messages.iter().flat_map(|message| &message.records) {
        if let Record::Permits { agent, permit, .. } = record {
            held.insert(agent, permit.places);
            assert!(held.values().sum::<u32>() <= CAP, "{record:?}");
        }
    }
    let by = |name: &str| {
        audit.count(|record| matches!(record, Record::Opened { coordinator, .. } if coordinator == name))
    };
    assert_eq!((by("one"), by("two")), (1, 1));
}
