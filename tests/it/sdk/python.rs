//! `examples/worker.py`, run as it is, with the packages of `examples/requirements.txt`.

use std::{
    path::Path,
    process::{Child, Command},
};

use selvedge::{
    task::{Outcome, Token},
    wire::{
        codec::{self, Format},
        messages::{Beat, Ctl, CtlOp, End, Offers, OwnerHello, Report, ReportOp, Verdict},
        subjects,
    },
};

use super::owner::{Owner, offer};
use crate::harness::python::packages;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_worker_is_at_most_25_lines_long() {
    let text = std::fs::read_to_string(Path::new(EXAMPLES).join("worker.py")).unwrap();
    assert!(text.lines().filter(|line| !line.trim().is_empty()).count() <= 25);
}

#[tokio::test]
async fn a_worker_in_python_beats_accepts_reports_and_repeats_until_the_verdict() {
    let packages = packages().await;
    let mut owner = Owner::start().await;
    let _worker = Killed(
        Command::new("python3")
            .arg(Path::new(EXAMPLES).join("worker.py"))
            .env("PYTHONPATH", packages)
            .env("NATS_URL", owner.server.url())
            .spawn()
            .expect("python3"),
    );
    let message = owner.beat_message().await;
    let (agent, instance) = subjects::parse_instance(&message.subject).unwrap();
    assert_eq!(agent.as_str(), "shout");
    let (format, beat) = codec::decode_any::<Beat>(None, &message.payload, 1_000);
    let beat = beat.unwrap();
    assert_eq!((format, beat.slots, beat.tokens.len()), (Format::Json, 4, 0));

    // In kind: it speaks JSON, so it is spoken to in JSON.
    let nats = owner.nats.clone();
    let say = async |subject: String, body: bytes::Bytes| nats.publish(subject, body).await.unwrap();
    let mut bad = offer("t2", 2, "x");
    bad.input = selvedge::task::Payload::json(&5).unwrap();
    let offers = Offers { v: 1, epoch: 1, offers: vec![offer("t1", 1, "hello"), bad] };
    say(subjects::offer(&agent, &instance), Format::Json.encode(&offers)).await;
    let (mut taken, mut ends) = (Vec::new(), Vec::new());
    while taken.len() < 2 {
        taken.extend(owner.accept().await.taken);
    }
    assert_eq!(taken, [Token(1), Token(2)]);
    while ends.len() < 2 {
        ends.push(owner.report().await);
    }
    let outcome = |report: &Report| match &report.op {
        ReportOp::End(End { outcome, .. }) => outcome.clone(),
        other => panic!("{other:?}"),
    };
    match outcome(&ends[0]) {
        Outcome::Completed { result } => assert_eq!(result.decode::<String>().unwrap(), "HELLO"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(outcome(&ends[1]), Outcome::Failed { retryable: true, .. }), "{:?}", ends[1]);

    // A new owner: it beats with both leases and reports both again.
    owner.epoch = 2;
    let hello = OwnerHello { v: 1, epoch: 2, coordinator: "test".into() };
    say(subjects::owner(subjects::Shard(0)), Format::Json.encode(&hello)).await;
    assert_eq!(owner.beat_where(|b| b.tokens.len() == 2).await.tokens, [Token(1), Token(2)]);
    let again = [owner.report().await, owner.report().await];
    assert_eq!(again.as_slice(), ends.as_slice());

    let verdict = |token| CtlOp::Verdict(Verdict { token, n: 1, refusal: None, refused: vec![] });
    let ctl = Ctl { v: 1, epoch: 2, ops: vec![verdict(Token(1)), verdict(Token(2))] };
    say(subjects::ctl(&agent, &instance), Format::Json.encode(&ctl)).await;
    say(subjects::owner(subjects::Shard(0)), Format::Json.encode(&hello)).await;
    owner.beat_where(|b| b.tokens.is_empty()).await;
}
