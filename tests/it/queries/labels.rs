//! Labels: written at the submit, found by lists, refused where they are no short plain text.

use selvedge::{
    client::{Client, Error, NewTask},
    task::{Code, Labels, Phase, TaskId},
    wire::{
        api::{CountRequest, SubmitRequest, verb},
        subjects,
    },
};

use crate::cli::Cli;
use crate::harness::{fabric::Fabric, until};

async fn ids(client: &Client, labels: &[(&str, &str)]) -> Vec<TaskId> {
    let list = labels.iter().fold(client.list(), |list, (key, value)| list.label(*key, *value));
    list.page().await.unwrap().tasks.into_iter().map(|view| view.task).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_is_told_by_get_and_found_by_lists_and_a_count_says_why_it_is_not_counted() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let labelled =
        client.submit("nobody", &1).label("team", "search").label("run", "7").confirmed().await.unwrap();
    let other = client.submit("nobody", &2).label("team", "ads").confirmed().await.unwrap();
    client.submit("nobody", &3).confirmed().await.unwrap();
    let labels = Labels::from_iter([("run", "7"), ("team", "search")]);
    assert_eq!(labelled.get().await.unwrap().labels, labels, "the owner's word");
    let found = until("both are indexed", || async {
        (ids(&client, &[]).await.len() == 3).then_some(ids(&client, &[("team", "search")]).await)
    })
    .await;
    assert_eq!(found, [labelled.id().clone()]);
    assert_eq!(ids(&client, &[("team", "ads")]).await, [other.id().clone()]);
    assert_eq!(ids(&client, &[("team", "search"), ("run", "8")]).await, []);
    let refused = client.count(&CountRequest { labels, ..CountRequest::default() }).await.unwrap_err();
    assert!(refused.to_string().contains("count does not take labels"), "{refused}");
    labelled.cancel("done with").await.unwrap();
    let ended = until("it is over", || async {
        labelled.get().await.ok().filter(|view| view.state == Phase::Cancelled)
    });
    assert_eq!(ended.await.labels.to_string(), "run=7, team=search", "an ended one keeps them");

    let cli = Cli::on(&fabric.stack);
    let submit = ["submit", "nobody", "1", "--tenant", "acme", "--label", "team=cli", "--confirm"];
    let id = cli.ok(&submit).await.trim().to_owned();
    assert!(cli.ok(&["get", &id, "--tenant", "acme"]).await.contains("team=cli"));
    until("the command's list finds it", || async {
        let page = cli.json(&["list", "--tenant", "acme", "--label", "team=cli"]).await;
        (page["tasks"][0]["task"] == id.as_str()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_with_a_newline_is_a_typed_error_whichever_way_it_comes() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let task = || NewTask::new("nobody", &1).unwrap().label("team", "a\nb");
    let by_sdk = client.submit_task(task()).await.unwrap_err();
    assert!(matches!(&by_sdk, Error::Refused(refusal) if refusal.code == Code::BadMessage), "{by_sdk}");

    // What knows nothing of our checks: the query, and the stream behind it.
    let nats = async_nats::connect(fabric.stack.nats.url()).await.unwrap();
    let labels = Some(Box::new(Labels::from_iter([("team", "a\nb")])));
    let request: SubmitRequest = serde_json::from_value(serde_json::json!({"agent": "nobody"})).unwrap();
    let request = serde_json::to_vec(&SubmitRequest { labels, ..request }).unwrap();
    let subject = subjects::api(client.tenant_name(), verb::SUBMIT);
    let answer = nats.request(subject, request.into()).await.unwrap();
    let refusal: selvedge::task::Refusal = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(refusal.code, Code::BadMessage);
    assert!(refusal.message.contains("label"), "{}", refusal.message);

    let id = TaskId::fresh();
    let subject = subjects::submit(client.tenant_name(), &"nobody".parse().unwrap(), &id);
    nats.publish(subject, r#"{"v":1,"labels":{"team":"a\nb"}}"#.into()).await.unwrap();
    let view = until("it is decided", || async { client.get(&id).await.ok() }).await;
    assert_eq!((view.state, view.refusal.unwrap().code), (Phase::Rejected, Code::BadMessage));
    assert!(view.labels.is_empty());
}
