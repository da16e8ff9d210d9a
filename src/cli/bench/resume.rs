//! `resume`: from the last child's end to its parent running again, in turn with tasks from their submit to their start; and
//! how soon a handler is back behind 1,000 recorded steps.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::args::Work;
use super::figure::{Figure, Report, Target};
use super::rig::{AGENT, Rig, Sizes};
use super::stats::Samples;
use super::trace::{REACHED, Trace};
use super::{Bench, clock, load};
use crate::client::{Client, TaskHandle};
use crate::task::Phase;

const CASE: &str = "resume";
const PARENT: &str = "parent";
const CHILD: &str = "child";
const STEPPER: &str = "stepper";
/// How long each child of a parent takes: they end one after the other, when the parent has long been waiting.
pub const CHILDREN_MS: [u64; 3] = [20, 25, 30];
/// What the handler with the steps waits for.
pub const SIGNAL: &str = "go";
/// Its recorded steps.
const STEPS: u64 = 1_000;
/// Between two looks at whether it waits.
const LOOK: Duration = Duration::from_millis(10);
/// How long it may take until it does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_agent().await?;
    for (agent, work) in [(CHILD, Work::Child), (PARENT, Work::Parent), (STEPPER, Work::Steps)] {
        rig.start_working(agent, work)?;
    }
    let client = rig.client.tenant("resumed")?;
    parents(bench, &client, report).await?;
    steps(bench, &client, Trace::listen(&rig.stack.nats.url).await?, report).await?;
    rig.stop().await;
    Ok(())
}

/// Trees, each in turn with a task.
async fn parents(bench: &Bench, client: &Client, report: &mut Report) -> Result<()> {
    // Unmeasured: all agents are there when it returns.
    family(client).await?;
    let trees = bench.args.scaled(300, 30);
    let (mut again, mut starts, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let mut nanos = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..trees {
            let (ran, had) = family(client).await?;
            nanos[0].push(ran);
            nanos[1].push(load::submit_to_start(client, AGENT).await?);
            nanos[2].push(had);
        }
        let [ran, started, had] = nanos.map(Samples::new);
        again.push(ran);
        starts.push(started);
        behind.push(had);
    }
    let each = |side: &[Samples], share| -> Vec<f64> {
        side.iter().filter_map(|samples| samples.percentile_ms(share)).collect()
    };
    for (word, share, most) in [("p50", 0.5, Some(2.0)), ("p99", 0.99, None)] {
        let name = format!("{word}, last child's end to its parent running, beside submit to start");
        let figure = Figure::over(name, "ms", &each(&again, share)).map(|figure| {
            let figure = figure.against(&each(&starts, share));
            most.map_or(figure.clone(), |most| figure.target(Target::RatioAtMost(most)))
        });
        report.add(CASE, figure)?;
    }
    let name = "p50, last child's end to its parent having all results";
    report.add(CASE, Figure::over(name, "ms", &each(&behind, 0.5)))?;
    Ok(())
}

/// Nanoseconds from the last child's end until its parent ran, and until it had all results.
async fn family(client: &Client) -> Result<(u64, u64)> {
    let (ended, again, behind): (u64, u64, u64) = client.submit(PARENT, CHILD).await?.result().await?;
    anyhow::ensure!(again > ended, "a parent had not waited when its children ended");
    Ok((again - ended, behind - ended))
}

/// A task with many steps, woken again and again.
async fn steps(bench: &Bench, client: &Client, mut trace: Trace, report: &mut Report) -> Result<()> {
    let signals = bench.args.scaled(100, 10);
    let (mut p50, mut slowest, mut given) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let stepper = client.submit(STEPPER, &(STEPS, signals)).await?;
        let (mut woken, mut running) = (Vec::new(), Vec::new());
        trace.take(1, |ran| ran.what == REACHED).await?;
        for attempt in 1..=signals {
            await_waiting(&stepper, attempt).await?;
            let begin = clock::now();
            stepper.signal(SIGNAL, &()).await?;
            for ran in trace.take(1, |ran| ran.what == REACHED).await? {
                anyhow::ensure!(ran.began > begin, "the handler had not waited for the signal");
                woken.push(ran.at - begin);
                running.push(ran.at - ran.began);
            }
        }
        stepper.result::<()>().await?;
        let (woken, running) = (Samples::new(woken), Samples::new(running));
        p50.extend(woken.percentile_ms(0.5));
        slowest.extend(woken.percentile_ms(1.0));
        given.extend(running.percentile_ms(0.5));
    }
    let behind = format!("from its wake-up to behind {STEPS} recorded steps");
    report.add(CASE, Figure::over(format!("p50, {behind}"), "ms", &p50))?;
    let figure = Figure::over(format!("slowest of {signals}, {behind}"), "ms", &slowest);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(50.0))))?;
    let name = format!("p50, from its handler's start to behind {STEPS} recorded steps");
    report.add(CASE, Figure::over(name, "ms", &given))?;
    Ok(())
}

/// Waits until this attempt has ended in a wait.
async fn await_waiting(task: &TaskHandle, attempt: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = task.get().await?;
        if view.state == Phase::Waiting && u64::from(view.attempt) >= attempt {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "attempt {attempt} is {} for too long", view.state);
        tokio::time::sleep(LOOK).await;
    }
}
