//! Shares, newcomers, classes and what a lane forgets.

use super::*;

const A: u32 = 0;
const B: u32 = 1;

fn fill(queue: &mut AgentQueue, tenant: u32, orders: std::ops::Range<u64>) {
    for order in orders {
        // In these tests a slot tells the task's order.
        queue.push(tenant, (3, order), Slot(order as u32), 1);
    }
    queue.set_open(tenant, true, true);
}

/// Runs one slot for `n` tasks of 10 ms each; returns who ran.
fn serve(queue: &mut AgentQueue, weights: &[u32], n: usize) -> Vec<u32> {
    let mut ran = Vec::new();
    for _ in 0..n {
        let (who, slot) = queue.next(Ageing::default()).unwrap();
        let weight = weights[who as usize];
        let charge = queue.start(who, (3, u64::from(slot.0)), weight);
        queue.settle(who, charge, Some(10), weight);
        queue.set_open(who, true, true);
        ran.push(who);
    }
    ran
}

#[test]
fn the_tasks_before_one_are_those_that_would_be_picked_before_it() {
    let mut queue = AgentQueue::default();
    // Classes, admission times and holes as they come.
    let places: Vec<(Place, u32)> =
        (0..200u64).map(|order| (((order * 7 % 4 + 1) as u8, order), (order / 3) as u32 + 1)).collect();
    for (place, since) in &places {
        queue.push(A, *place, Slot(place.1 as u32), *since);
    }
    for (place, _) in places.iter().filter(|(place, _)| place.1 % 5 == 2) {
        queue.remove(A, *place);
    }
    queue.set_open(A, true, true);
    let ageing = Ageing { now: 90, step: 20 };
    let mut picked = 0;
    while let Some((_, slot)) = queue.next(ageing) {
        let (place, since) = places[slot.0 as usize];
        assert_eq!(queue.before(A, place, since, ageing), 0, "{place:?} is picked");
        queue.remove(A, place);
        queue.set_open(A, true, true);
        picked += 1;
    }
    assert_eq!(picked, 160);
    // Of all that are there again, the last one picked has all others before it.
    let mut queue = AgentQueue::default();
    places.iter().for_each(|(place, since)| queue.push(A, *place, Slot(place.1 as u32), *since));
    queue.set_open(A, true, true);
    let mut before: Vec<u64> =
        places.iter().map(|(place, since)| queue.before(A, *place, *since, ageing)).collect();
    before.sort_unstable();
    assert_eq!(before, (0..200).collect::<Vec<u64>>(), "each place once");
}

#[test]
fn shares_follow_weights() {
    let mut queue = AgentQueue::default();
    fill(&mut queue, A, 0..1_000);
    fill(&mut queue, B, 0..1_000);
    let ran = serve(&mut queue, &[1, 3], 400);
    let b = ran.iter().filter(|t| **t == B).count();
    assert!((295..=305).contains(&b), "{b} of 400");
}

#[test]
fn short_and_long_tasks_mixed_leave_the_shares_as_they_are() {
    let (slots, weights, lengths) = (20, [1, 2, 4], [1, 20, 500]);
    let mut queue = AgentQueue::default();
    (0..3).for_each(|tenant| fill(&mut queue, tenant, 0..20_000));
    let (mut now, mut begun, mut held) = (0u64, [0usize; 3], [0u64; 3]);
    let mut running: Vec<(u64, u32, u64, Charge)> = Vec::new();
    while now < 12_000 {
        while running.len() < slots {
            let (who, slot) = queue.next(Ageing::default()).unwrap();
            let at = who as usize;
            let charge = queue.start(who, (3, u64::from(slot.0)), weights[at]);
            let length = lengths[(at + begun[at]) % 3] + 1;
            begun[at] += 1;
            running.push((now + length, who, length, charge));
            queue.set_open(who, true, true);
        }
        if now >= 2_000 {
            running.iter().for_each(|(_, who, ..)| held[*who as usize] += 1);
        }
        now += 1;
        let ended = running.extract_if(.., |(end, ..)| *end <= now).collect::<Vec<_>>();
        for (_, who, length, charge) in ended {
            queue.settle(who, charge, Some(length), weights[who as usize]);
            queue.set_open(who, true, true);
        }
    }
    let all: u64 = held.iter().sum();
    for (held, weight) in held.into_iter().zip(weights) {
        let (part, fair) = (held as f64 / all as f64, f64::from(weight) / 7.0);
        assert!((part / fair - 1.0).abs() < 0.03, "weight {weight} has {part}, not {fair}");
    }
}

#[test]
fn a_newcomer_goes_next_whatever_the_backlog() {
    let mut queue = AgentQueue::default();
    fill(&mut queue, A, 0..5_000);
    serve(&mut queue, &[1, 1], 500);
    fill(&mut queue, B, 0..3);
    let ran = serve(&mut queue, &[1, 1], 2);
    assert!(ran.contains(&B), "{ran:?}");
}

#[test]
fn idleness_earns_no_credit() {
    let mut queue = AgentQueue::default();
    fill(&mut queue, B, 0..1);
    serve(&mut queue, &[1, 1], 1);
    fill(&mut queue, A, 0..1_000);
    serve(&mut queue, &[1, 1], 500);
    fill(&mut queue, B, 1..500);
    let ran = serve(&mut queue, &[1, 1], 100);
    let b = ran.iter().filter(|t| **t == B).count();
    assert!((49..=52).contains(&b), "{b} of 100");
}

/// Slots that serve lanes which always have more; each tenant's weight and task lengths. Slot-time by tenant.
fn shares(slots: usize, tenants: &[(u32, &[Millis])], until: Millis) -> Vec<f64> {
    let mut queue = AgentQueue::default();
    let mut ends = std::collections::BinaryHeap::new();
    let (mut order, mut now) = (0u64, 0);
    let mut served = vec![0.0; tenants.len()];
    let mut runs = vec![0usize; tenants.len()];
    let push = |queue: &mut AgentQueue, tenant: usize, order: &mut u64| {
        *order += 1;
        queue.push(tenant as u32, (3, *order), Slot(*order as u32), 1);
        queue.set_open(tenant as u32, true, true);
    };
    (0..tenants.len()).for_each(|tenant| (0..slots).for_each(|_| push(&mut queue, tenant, &mut order)));
    while now < until {
        while ends.len() < slots {
            let (who, slot) = queue.next(Ageing::default()).unwrap();
            let (weight, lengths) = tenants[who as usize];
            let charge = queue.start(who, (3, u64::from(slot.0)), weight);
            push(&mut queue, who as usize, &mut order);
            let length = lengths[runs[who as usize] % lengths.len()];
            runs[who as usize] += 1;
            ends.push(std::cmp::Reverse((now + length, who, length, charge.start, charge.cost)));
        }
        let std::cmp::Reverse((at, who, length, start, cost)) = ends.pop().unwrap();
        now = at;
        queue.settle(who, Charge { start, cost }, Some(length), tenants[who as usize].0);
        queue.set_open(who, true, true);
        served[who as usize] += length as f64;
    }
    // What runs has had its slot, too.
    for std::cmp::Reverse((at, who, length, ..)) in ends {
        served[who as usize] += (length as f64 - at.saturating_sub(now) as f64).max(0.0);
    }
    served
}

#[test]
fn backlogged_tenants_share_slot_time_by_weight_within_three_per_cent_whatever_their_tasks_take() {
    let even: [(u32, &[Millis]); 3] = [(1, &[20]), (2, &[20]), (4, &[20])];
    let mixed: [(u32, &[Millis]); 3] = [(1, &[1, 20, 500]), (2, &[500, 1, 20]), (4, &[20, 500, 1])];
    let apart: [(u32, &[Millis]); 3] = [(1, &[1]), (2, &[20]), (4, &[500])];
    let across: [(u32, &[Millis]); 3] = [(1, &[500]), (2, &[20]), (4, &[1])];
    for (name, tenants) in [("even", even), ("mixed", mixed), ("apart", apart), ("across", across)] {
        let served = shares(20, &tenants, 10_000);
        let all: f64 = served.iter().sum();
        for ((weight, _), served) in tenants.iter().zip(&served) {
            let (share, due) = (served / all, f64::from(*weight) / 7.0);
            assert!(
                (share - due).abs() <= 0.03 * due.max(share),
                "{name}: weight {weight} got {share:.4}, due {due:.4}"
            );
        }
    }
}

/// Low tasks under a flood of critical ones: each runs once it has waited three steps, oldest first.
#[test]
fn a_class_rises_one_step_for_each_time_it_has_waited() {
    let mut queue = AgentQueue::default();
    let mut order = 0;
    let mut push = |queue: &mut AgentQueue, rank: u8, since: u32| {
        order += 1;
        queue.push(A, (rank, order), Slot(order as u32), since);
        queue.set_open(A, true, true);
        (rank, order)
    };
    let low = [push(&mut queue, 4, 1), push(&mut queue, 4, 2), push(&mut queue, 4, 70)];
    let mut places = std::collections::HashMap::new();
    let mut ran = Vec::new();
    for now in 1..=400 {
        let place = push(&mut queue, 1, now);
        places.insert(place.1, place);
        let (_, slot) = queue.next(Ageing { now, step: 60 }).unwrap();
        let order = u64::from(slot.0);
        let place = low.iter().copied().find(|(_, low)| *low == order).unwrap_or_else(|| places[&order]);
        if place.0 == 4 {
            ran.push((now, order));
        }
        let charge = queue.start(A, place, 1);
        queue.settle(A, charge, Some(10), 1);
        queue.set_open(A, true, true);
    }
    assert_eq!(ran, vec![(181, 1), (182, 2), (250, 3)]);
    assert_eq!(Ageing { now: 1_000, step: 0 }.steps(1), 0, "0 is never");
}

#[test]
fn resumed_parents_are_found_beside_lanes_that_may_not_run() {
    let mut queue = AgentQueue::default();
    fill(&mut queue, A, 1..3);
    fill(&mut queue, B, 3..4);
    assert_eq!(queue.next_resume(), None);
    queue.push(B, (RESUMED, 9), Slot(9), 1);
    queue.set_open(B, false, true);
    assert_eq!(queue.next_resume(), Some((B, Slot(9))));
    queue.remove(B, (RESUMED, 9));
    queue.set_open(B, true, true);
    assert_eq!(queue.next_resume(), None);
}

#[test]
fn what_comes_back_goes_to_its_old_place_and_holes_are_no_tasks() {
    let mut queue = AgentQueue::default();
    fill(&mut queue, A, 10..200);
    for order in 20..150 {
        queue.remove(A, (3, order));
    }
    queue.push(A, (3, 5), Slot(5), 1);
    queue.push(A, (3, 30), Slot(30), 1);
    queue.push(A, (0, 190_000), Slot(1), 1);
    assert_eq!(queue.queued(), 63);
    let mut order = Vec::new();
    queue.set_open(A, true, true);
    while let Some((_, slot)) = queue.next(Ageing::default()) {
        let place = if slot == Slot(1) { (0, 190_000) } else { (3, u64::from(slot.0)) };
        let charge = queue.start(A, place, 1);
        queue.settle(A, charge, None, 1);
        queue.set_open(A, true, true);
        order.push(slot.0);
    }
    let want: Vec<u32> = [1, 5].into_iter().chain(10..20).chain([30]).chain(150..200).collect();
    assert_eq!(order, want);
    assert_eq!(queue.queued(), 0);
}

#[test]
fn what_calls_used_stands_in_the_order_and_a_newcomer_is_not_ahead_by_what_nobody_wanted() {
    let mut queue = AgentQueue::default();
    fill(&mut queue, A, 0..200);
    fill(&mut queue, B, 200..400);
    // 100 ms of calls at weight 1: ten tasks of 10 ms behind.
    queue.charge(A, 100, 1);
    queue.set_open(A, true, true);
    let ran = serve(&mut queue, &[1, 1], 110);
    let of = |who| ran.iter().filter(|ran| **ran == who).count();
    assert!(of(B).abs_diff(of(A) + 10) <= 1, "{} and {}", of(A), of(B));

    // Alone, and held back by its limits: its calls have the slots, and time goes on with it.
    let mut queue = AgentQueue::default();
    fill(&mut queue, A, 0..200);
    queue.set_open(A, false, false);
    queue.charge(A, 3_600_000, 1);
    fill(&mut queue, B, 200..400);
    queue.set_open(A, true, true);
    let ran = serve(&mut queue, &[1, 1], 40);
    assert!(ran.iter().filter(|ran| **ran == A).count().abs_diff(20) <= 1, "{ran:?}");

    // Without tasks nothing is owed.
    let mut queue = AgentQueue::default();
    fill(&mut queue, B, 200..400);
    queue.charge(A, 3_600_000, 1);
    fill(&mut queue, A, 0..200);
    let ran = serve(&mut queue, &[1, 1], 40);
    assert!(ran.iter().filter(|ran| **ran == A).count().abs_diff(20) <= 1, "{ran:?}");
}
