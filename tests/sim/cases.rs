//! Found bugs, each under the name of what it broke. A shrunk failure prints a line for here.

use crate::{
    check,
    scenario::{Fault, Scenario},
};

#[test]
fn nothing_goes_wrong_when_nothing_is_broken() {
    check(Scenario::shrunk(1, 560, &[]));
}

/// A second cancel of a failed and forgotten task was answered "cancelled".
#[test]
fn a_tombstone_is_told_to_nobody() {
    use Fault::*;
    let faults = [
        PublishLost,
        PublishAckLost,
        PublishLate,
        DeliveredLate,
        QueueAckLost,
        AppendLost,
        AppendLate,
        OwnerPaused,
        BeatLost,
        AgentCrash,
        AgentPaused,
        TwoEnds,
        SubmitTwice,
        CancelTree,
        Forgetful,
    ];
    check(Scenario::shrunk(58, 559, &faults));
}

/// A paused coordinator that still got reports acknowledged one as stale whose lease it did not know yet.
#[test]
fn a_superseded_owner_acknowledges_nothing_it_does_not_know() {
    check(Scenario::of(117));
    check(Scenario::of(157));
}

/// The command to retry a dead task came again when the retry was forgotten already, and ran it twice.
#[test]
fn a_retry_is_recognised_for_as_long_as_the_dead_task() {
    check(Scenario::of(36));
    check(Scenario::of(142));
}

/// A crash while a flushed index was rebuilt: the restart point had moved past tasks not yet written.
#[test]
fn a_rebuild_that_crashes_starts_over() {
    check(Scenario::of(419));
}
