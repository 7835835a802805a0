use super::*;
use crate::rib::attrs::AttrId;

fn attr(
    table: &mut crate::rib::attrs::AttrTable,
    hops: &mut crate::rib::nexthop::NextHops,
    med: u32,
) -> AttrId {
    let mut attrs = crate::wire::PathAttrs::originated(crate::wire::NextHop::V4([192, 0, 2, 1].into()));
    attrs.med = Some(med);
    table.intern(attrs, hops)
}

fn path_from(peer: u32, attrs: AttrId) -> Path {
    Path {
        peer: PeerId(peer),
        path_id: PathId(0),
        received: attrs,
        imported: Ok(attrs),
        generation: Default::default(),
    }
}

fn peers(table: &Table, dest: DestId) -> Vec<u32> {
    table.paths(dest).map(|(_, path)| path.peer.0).collect()
}

#[test]
fn paths_come_go_and_are_promoted() {
    let (mut attrs, mut hops) = Default::default();
    let id = attr(&mut attrs, &mut hops, 1);
    let mut table = Table::default();
    let dest = table.dest(&"10.0.0.0/8".parse().unwrap());
    assert_eq!(table.dest(&"10.0.0.0/8".parse().unwrap()), dest);
    for peer in 1..=4 {
        table.insert(dest, path_from(peer, id));
    }
    assert_eq!(peers(&table, dest), [1, 4, 3, 2]);
    let (three, _) = table.path(dest, PeerId(3), PathId(0)).unwrap();
    table.promote(dest, three);
    assert_eq!(peers(&table, dest), [3, 1, 4, 2]);
    let (four, _) = table.path(dest, PeerId(4), PathId(0)).unwrap();
    assert_eq!(table.remove(dest, four).unwrap().peer, PeerId(4));
    table.remove(dest, three);
    assert_eq!(peers(&table, dest), [1, 2]);
    assert!(table.path(dest, PeerId(3), PathId(0)).is_none());
}

#[test]
fn both_families_side_by_side_and_again_after_reclaim() {
    let (mut attrs, mut hops) = Default::default();
    let id = attr(&mut attrs, &mut hops, 1);
    let path = path_from(1, id);
    let mut table = Table::default();
    // The same bits in both families, and different lengths.
    let texts = [
        "10.0.0.0/8",
        "a00::/8",
        "10.0.0.0/9",
        "a00::/64",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::1/128",
    ];
    for round in 0..3 {
        let dests: Vec<DestId> = texts
            .iter()
            .map(|text| table.dest(&text.parse().unwrap()))
            .collect();
        for (dest, text) in dests.iter().zip(texts) {
            assert_eq!(table.prefix(*dest).unwrap().to_string(), text, "round {round}");
            assert_eq!(table.find(&text.parse().unwrap()), Some(*dest));
            table.insert(*dest, path);
        }
        assert_eq!((table.len(), table.bound()), (7, 7));
        for dest in dests.into_iter().rev() {
            let at = table.path_of(dest, PeerId(1)).unwrap();
            table.remove(dest, at);
        }
        assert!(!table.reclaim(usize::MAX, None));
        assert!(table.is_empty() && table.find(&"::/0".parse().unwrap()).is_none());
    }
    assert_eq!(table.networks.words.len(), 4, "slots are reused");
    assert_eq!(size_of::<Dest>(), 16);
}

#[test]
fn prefixes_in_order_are_found_and_removed_ones_are_not() {
    let (mut attrs, mut hops) = Default::default();
    let id = attr(&mut attrs, &mut hops, 1);
    let mut table = Table::default();
    let prefix = |number: u32| Prefix::v4(number << 8, 24);
    let dests: Vec<DestId> = (0..100).map(|number| table.dest(&prefix(number))).collect();
    for dest in &dests {
        table.insert(*dest, path_from(1, id));
    }
    for (order, number) in (0..100).chain((0..100).rev()).chain([7, 3, 4, 5, 99]).enumerate() {
        let found = table.find_next(&prefix(number));
        assert_eq!(found, Some(dests[number as usize]), "the {order}th");
        assert_eq!(table.dest(&prefix(number)), dests[number as usize]);
    }
    assert_eq!(table.find_next(&prefix(100)), None);
    for dest in &dests {
        table.take(*dest, PeerId(1), PathId(0));
    }
    while table.reclaim(7, None) {}
    assert!(table.is_empty());
    table.next_slot = 0;
    assert_eq!(table.find_next(&prefix(0)), None, "the last state is missing");
    let again = table.dest(&prefix(0));
    assert_eq!(table.find(&prefix(0)), Some(again));
}

#[test]
fn a_new_prefix_reuses_free_slots() {
    let (mut attrs, mut hops) = Default::default();
    let id = attr(&mut attrs, &mut hops, 1);
    let mut table = Table::default();
    let first = table.dest(&"10.0.0.0/8".parse().unwrap());
    table.insert(first, path_from(1, id));
    table.dest(&"11.0.0.0/8".parse().unwrap());
    assert!(!table.needs_reclaim());
    table.take(first, PeerId(1), PathId(0));
    table.dest(&"12.0.0.0/8".parse().unwrap());
    assert!(table.needs_reclaim());
    table.reclaim(1, None);
    assert!(!table.needs_reclaim());
    assert_eq!(table.dest(&"13.0.0.0/8".parse().unwrap()), first);
}

#[test]
fn ids_are_reused_only_after_reclaim() {
    let (mut attrs, mut hops) = Default::default();
    let id = attr(&mut attrs, &mut hops, 1);
    let path = path_from(1, id);
    let mut table = Table::default();
    let first = table.dest(&"10.0.0.0/8".parse().unwrap());
    table.insert(first, path);
    let (at, _) = table.path(first, PeerId(1), PathId(0)).unwrap();
    table.remove(first, at);
    assert_ne!(table.dest(&"11.0.0.0/8".parse().unwrap()), first);
    table.mark(first);
    assert!(!table.reclaim(usize::MAX, None));
    assert_eq!(table.find(&"10.0.0.0/8".parse().unwrap()), Some(first));
    table.unmark(first);
    assert!(!table.reclaim(usize::MAX, None));
    assert_eq!(table.find(&"10.0.0.0/8".parse().unwrap()), None);
    assert_eq!(table.dest(&"12.0.0.0/8".parse().unwrap()), first);
}
