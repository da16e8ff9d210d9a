//! The recorder behind `/metrics`.
//!
//! It opens no port: the admin server asks the handle for the text. Somebody has to call
//! [`run_upkeep`](PrometheusHandle::run_upkeep) now and then, or histograms grow without bound: that is [`upkeep`].

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tokio_util::sync::CancellationToken;

pub use metrics_exporter_prometheus::PrometheusHandle;

use super::names;

/// From a quick append to a task of forty minutes.
const BUCKETS: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 600.0, 2_400.0];

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Makes this process record metrics. Fails if a recorder is there already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    names::describe();
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
}

/// Keeps the recorder's memory bounded until `stop`.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => handle.run_upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_shows_with_its_meaning() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            names::describe();
            metrics::counter!(names::TASKS_ADMITTED, names::AGENT => "reader").increment(3);
            metrics::histogram!(names::JOURNAL_APPEND).record(0.002);
        });
        let text = handle.render();
        assert!(text.contains("# HELP selvedge_tasks_admitted_total Tasks admitted, by agent."), "{text}");
        assert!(text.contains("selvedge_tasks_admitted_total{agent=\"reader\"} 3"), "{text}");
        assert!(text.contains("selvedge_journal_append_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
    }
}
