use super::*;

fn key(next_hops: &[u8]) -> SetKey {
    let next_hops = next_hops
        .iter()
        .map(|last| FibNextHop {
            addr: IpAddr::from([192, 0, 2, *last]),
            weight: 1,
        })
        .collect();
    (next_hops, Family::Ipv4)
}

fn hops(of: &[u8]) -> Vec<WeightedNextHop> {
    let hop = |last: &u8| NextHop {
        gateway: Some([192, 0, 2, *last].into()),
        ifindex: 2,
    };
    let next_hop = |last| WeightedNextHop {
        hop: hop(last),
        weight: 1,
    };
    of.iter().map(next_hop).collect()
}

/// A kernel that takes everything.
fn settle(objects: &mut Objects) -> Vec<ObjectOp> {
    let now = Instant::now();
    let ops = objects.changes(now);
    ops.iter().for_each(|op| objects.done(now, op, true));
    ops
}

#[test]
fn a_lost_gateway_is_one_change() {
    let mut objects = Objects::default();
    let id = objects.want(&key(&[1, 2]), &hops(&[1, 2]));
    assert_eq!(settle(&mut objects).len(), 3);
    assert_eq!(objects.want(&key(&[1, 2]), &hops(&[2])), id);
    let ops = settle(&mut objects);
    assert!(
        matches!(&ops[..], [ObjectOp::Put(put, Content::Group(members, None))] if *put == id && members.len() == 1)
    );
    // The gateway that is not needed goes afterwards, the group stays.
    let gone = objects.removals(&BTreeSet::from([id]));
    assert!(
        matches!(gone[..], [ObjectOp::Remove(gone)] if gone != id),
        "{gone:?}"
    );
    assert!(settle(&mut objects).is_empty());
}

#[test]
fn what_was_found_is_taken_over() {
    let mut before = Objects::default();
    let id = before.want(&key(&[1, 2]), &hops(&[1, 2]));
    settle(&mut before);
    let mut after = Objects::default();
    assert!(
        after
            .observe(before.kernel.into_iter().collect(), BTreeSet::new())
            .0
            .is_empty()
    );
    assert_eq!(after.want(&key(&[1, 2]), &hops(&[1, 2])), id);
    assert!(settle(&mut after).is_empty());
    let other = after.want(&key(&[3]), &hops(&[3]));
    assert_ne!(other, id);
    after.unwant(&key(&[1, 2]));
    settle(&mut after);
    // Routes still refer to it.
    assert!(after.removals(&BTreeSet::from([id])).is_empty());
    assert_eq!(after.removals(&BTreeSet::new()).len(), 3);
}

#[test]
fn what_others_took_away_comes_back() {
    let mut objects = Objects::default();
    let id = objects.want(&key(&[1]), &hops(&[1]));
    let first = settle(&mut objects);
    assert_eq!(
        objects.observe(Vec::new(), BTreeSet::new()),
        (BTreeSet::from([id]), 2)
    );
    assert_eq!(settle(&mut objects), first);
}

#[test]
fn a_refused_object_is_tried_again_later() {
    let mut objects = Objects::default();
    objects.want(&key(&[1]), &hops(&[1]));
    let now = Instant::now();
    for op in objects.changes(now) {
        objects.done(now, &op, false);
    }
    assert!(objects.changes(now).is_empty());
    assert_eq!(objects.changes(now + RETRY).len(), 2);
}

#[test]
fn ids_of_others_are_left_alone() {
    let mut objects = Objects::default();
    objects.observe(Vec::new(), BTreeSet::from([FIRST, FIRST + 1]));
    assert_eq!(objects.want(&key(&[1]), &hops(&[1])), FIRST + 3);
}

#[test]
fn a_set_hands_its_group_over() {
    let mut objects = Objects::default();
    let id = objects.want(&key(&[1]), &hops(&[1]));
    settle(&mut objects);
    objects.hand_over(&key(&[1]), &key(&[2]));
    assert_eq!(objects.want(&key(&[2]), &hops(&[2])), id);
    let ops = settle(&mut objects);
    assert!(
        matches!(&ops[..], [ObjectOp::Put(_, Content::Single(..)), ObjectOp::Put(put, _)] if *put == id),
        "{ops:?}"
    );
    assert_eq!(objects.removals(&BTreeSet::from([id])).len(), 1); // the first gateway
    assert_eq!(objects.next_hops(id), hops(&[2]));
}

#[test]
fn a_group_leads_elsewhere_until_its_routes_are_written() {
    let mut objects = Objects::default();
    let (one, two) = (
        objects.want(&key(&[1]), &hops(&[1])),
        objects.want(&key(&[2]), &hops(&[2])),
    );
    settle(&mut objects);
    objects.hand_over(&key(&[1]), &key(&[2]));
    assert_eq!(objects.want(&key(&[2]), &hops(&[2])), two);
    let ops = settle(&mut objects);
    assert!(matches!(ops[..], [ObjectOp::Put(id, _)] if id == one), "{ops:?}");
    assert_eq!(objects.next_hops(one), hops(&[2]));
    // The other set moves before they are.
    objects.want(&key(&[2]), &hops(&[3]));
    assert_eq!(settle(&mut objects).len(), 3);
    let gateways = objects.removals(&BTreeSet::from([one, two]));
    assert_eq!(gateways.len(), 2);
    let now = Instant::now();
    gateways.iter().for_each(|op| objects.done(now, op, true));
    assert_eq!(objects.removals(&BTreeSet::from([two])), [ObjectOp::Remove(one)]);
    assert_eq!(objects.want(&key(&[2]), &hops(&[3])), two);
    assert!(settle(&mut objects).is_empty());
}

#[test]
fn after_a_restart_a_set_finds_its_own_group() {
    let mut before = Objects::default();
    let id = before.want(&key(&[1, 2]), &hops(&[1, 2]));
    settle(&mut before);
    let mut after = Objects::default();
    after.observe(before.kernel.into_iter().collect(), BTreeSet::new());
    // One session is back before the other.
    assert_ne!(after.want(&key(&[1]), &hops(&[1])), id);
    after.hand_over(&key(&[1]), &key(&[1, 2]));
    assert_eq!(after.want(&key(&[1, 2]), &hops(&[1, 2])), id);
}

#[test]
fn resilient_groups_are_other_groups() {
    let mut objects = Objects::default();
    let plain = objects.want(&key(&[1]), &hops(&[1]));
    settle(&mut objects);
    let resilience = Resilience {
        buckets: 64,
        idle_seconds: 30,
    };
    objects.configure(true, Some(resilience));
    let other = objects.want(&key(&[1]), &hops(&[1]));
    assert_ne!(plain, other);
    let ops = settle(&mut objects);
    assert!(
        matches!(&ops[..], [ObjectOp::Put(_, Content::Group(_, Some(put)))] if *put == resilience),
        "{ops:?}"
    );
    assert_eq!(
        objects.removals(&BTreeSet::from([other])),
        [ObjectOp::Remove(plain)]
    );
}

/// Over two links: the gateways of the second set of next_hops are on link 3.
fn on_links(first: u8, second: u8) -> Vec<WeightedNextHop> {
    let mut next_hops = hops(&[first, second]);
    next_hops[1].hop.ifindex = 3;
    next_hops
}

#[test]
fn a_lost_link_takes_its_gateways_and_what_led_over_them_alone() {
    let mut objects = Objects::default();
    let one = objects.want(&key(&[1]), &hops(&[1]));
    let both = objects.want(&key(&[1, 2]), &on_links(1, 2));
    let first = settle(&mut objects);
    assert_eq!(first.len(), 4);
    // Nothing of it was reported, and the link is there again before anybody could act.
    assert_eq!(objects.link_lost(2), BTreeSet::from([one]));
    assert!(!objects.is_there(one) && objects.is_there(both));
    let again = settle(&mut objects);
    let put: BTreeSet<u32> = again
        .iter()
        .map(|op| match op {
            ObjectOp::Put(id, _) | ObjectOp::Remove(id) => *id,
        })
        .collect();
    assert_eq!(again.len(), 3, "the gateway and both groups: {again:?}");
    assert!(put.contains(&one) && put.contains(&both));
    assert_eq!(objects.link_lost(4), BTreeSet::new());
    assert!(settle(&mut objects).is_empty());
    // What nobody wants any more is not taken over by what the kernel does not have.
    objects.unwant(&key(&[1]));
    assert_eq!(objects.link_lost(2), BTreeSet::from([one]));
    assert_eq!(objects.link_lost(3), BTreeSet::from([both]));
    assert!(objects.unclaimed.is_empty() && objects.kernel.is_empty());
}

#[test]
fn what_was_refused_goes_at_once_when_it_may_work() {
    let mut objects = Objects::default();
    objects.want(&key(&[1]), &hops(&[1]));
    let now = Instant::now();
    for op in objects.changes(now) {
        objects.done(now, &op, false);
    }
    objects.retry_now();
    assert_eq!(objects.changes(now).len(), 2);
    assert_eq!(objects.next_retry(), None);
}
