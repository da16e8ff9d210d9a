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
