//! Found bugs, each under the name of what it broke. A shrunk failure prints a line for here.
//!
//! Each seed was seen to fail again with its fix taken out.

use crate::{
    check,
    scenario::{Fault, Scenario},
};

/// What a seed was when these were found.
fn first_of(seed: u64) -> Scenario {
    Scenario::of(seed).without(&[Fault::Triggered, Fault::Announcing])
}

#[test]
fn nothing_goes_wrong_when_nothing_is_broken() {
    check(Scenario::shrunk(1, 560, &[]));
}

/// A handler that waited for nothing, again and again, ran free of rate and before everybody else.
#[test]
fn a_wait_for_nothing_is_no_resume() {
    check(Scenario::shrunk(1, 300, Fault::ALL));
    check(Scenario::shrunk(2, 300, Fault::ALL));
}

/// A second cancel of an ended and forgotten task was answered "cancelled".
#[test]
fn a_tombstone_is_told_to_nobody() {
    use Fault::*;
    let faults = [PublishTwice, SubmitTwice, CancelTree, Forgetful];
    check(Scenario::shrunk(15, 300, &faults));
    check(Scenario::shrunk(19, 300, &faults));
}

/// A repeated submit of an ended and forgotten task met the tombstone of a late cancel, and was decided anew.
#[test]
fn a_forgotten_task_is_not_decided_again() {
    use Fault::*;
    check(Scenario::shrunk(4, 300, &[PublishTwice, SubmitTwice, CancelTree, Forgetful]));
}

/// A paused coordinator that still got reports acknowledged one as stale whose lease it did not know yet.
#[test]
fn a_superseded_owner_acknowledges_nothing_it_does_not_know() {
    use Fault::*;
    let faults = [PublishLate, DeliveredLate, DeliveredToZombie, OwnerPaused, Duel, AgentPaused];
    check(Scenario::shrunk(17, 300, &faults));
    check(Scenario::shrunk(37, 300, &faults));
}

/// The command to retry a dead task came again when the retry was forgotten already, and ran it twice.
#[test]
fn a_retry_is_recognised_for_as_long_as_the_dead_task() {
    check(first_of(28));
    check(first_of(51));
}

/// A repeat of a held report was the held message itself: it was acknowledged when its turn came, and not applied.
#[test]
fn a_held_report_is_applied_when_its_turn_comes() {
    use Fault::*;
    let faults = [PublishLost, PublishAckLost, PublishTwice, DeliveredLate, AppendLost, CtlLost, RetryDead];
    check(Scenario::shrunk(1, 286, &faults));
}

/// A crash while a flushed index was rebuilt: the restart point had moved past tasks not yet written.
#[test]
fn a_rebuild_that_crashes_starts_over() {
    use Fault::*;
    check(Scenario::shrunk(4, 300, &[CrashAfterAppend, IndexFlushed, IndexCrash]));
    check(Scenario::shrunk(5, 300, &[CrashAfterAppend, IndexFlushed, IndexCrash]));
}

/// A tenant had left the state with all that it remembered; a submit that came again was run again.
#[test]
fn a_tenant_that_left_takes_no_bound_along() {
    use Fault::*;
    let faults = [
        PublishAckLost,
        PublishLate,
        PublishTwice,
        QueueAckLost,
        AppendLost,
        AppendLate,
        CrashAfterAppend,
        ClockStepped,
        OfferLost,
        CtlLost,
        AgentCrash,
        AgentPaused,
        IgnoresStop,
        IndexCrash,
        SubmitTwice,
        CancelFirst,
        TenantPaused,
        Forgetful,
    ];
    check(Scenario::shrunk(201, 604, &faults));
}

/// A step was refused, the verdict got lost, and the repeat of the report was answered as if it had been recorded.
#[test]
fn a_refused_step_is_refused_however_often_it_is_reported() {
    use Fault::*;
    let faults = [
        PublishLost,
        PublishAckLost,
        DeliveredTwice,
        QueueAckLost,
        AppendLate,
        CtlLost,
        CoreTwice,
        CancelTree,
        Timed,
        Talking,
    ];
    check(Scenario::shrunk(1, 455, &faults));
}

/// Offers that were taken back were in their queue again past their time to live.
#[test]
fn what_comes_back_too_late_expires_at_once() {
    check(first_of(60));
}

/// One who owned the shard no more, and was behind, held a report that was the next by now: its sender keeps it.
#[test]
fn a_report_held_by_a_former_owner_comes_again() {
    check(first_of(18));
}

/// A schedule that had moved to another tenant came to a firing of two hours before again, more of them later than are
/// remembered: its task is told by its id only within a tenant.
#[test]
fn a_firing_is_remembered_for_a_while_whoever_it_was_for() {
    use Fault::*;
    check(Scenario::shrunk(
        2,
        617,
        &[
            PublishLost,
            PublishAckLost,
            PublishLate,
            DeliveredLate,
            QueueAckLost,
            AppendLost,
            AppendAckLost,
            AppendLate,
            Duel,
            ClockStepped,
            OfferLost,
            CtlLost,
            AcceptLost,
            CoreLate,
            CoreTwice,
            IgnoresStop,
            IndexCrash,
            SubmitTwice,
            CancelFirst,
            RetryDead,
            TenantPaused,
            Timed,
            Scheduled,
            LoadLost,
            AgentLimitsChanged,
            TenantStopped,
            AgentStopped,
            TreeStopped,
            AllStopped,
            Talking,
            ToldAnyway,
        ],
    ));
}

/// A heartbeat that was late named a call that was over: it took an inherited place, and with it more were used than held.
#[test]
fn a_late_heartbeat_claims_no_more_places_than_were_inherited() {
    use Fault::*;
    check(Scenario::shrunk(
        7,
        619,
        &[
            PublishLost,
            PublishTwice,
            DeliveredLate,
            AppendLost,
            CrashBeforeAppend,
            CrashAmidEffects,
            Duel,
            ClockStepped,
            OfferLost,
            CtlLost,
            BeatLost,
            AcceptLost,
            CoreTwice,
            AgentPaused,
            AgentDrains,
            SubmitTwice,
            SubmitConflict,
            CancelTree,
            CancelFirst,
            AgentLimitsChanged,
            Calling,
        ],
    ));
}
