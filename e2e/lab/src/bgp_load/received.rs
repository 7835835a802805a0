//! What one session received, checked while it comes.

use super::table::Table;
use crate::failure::{Failure, Result};
use crate::{bail, ensure};

/// What the routes must carry besides their mark.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// ORIGINATOR_ID and CLUSTER_LIST.
    pub reflected: bool,
    /// A client may get its own routes back.
    pub own_may_return: bool,
    /// First AS of the path: the speaker's, which puts itself there on eBGP.
    pub first_as: Option<u32>,
}

/// The routes that a session has.
#[derive(Debug)]
pub(super) struct ReceivedRoutes {
    bits: Vec<u64>,
    count: u32,
    /// UPDATEs with routes.
    pub(super) updates: u64,
    /// Routes announced again while they were there.
    pub(super) repeated: u64,
}

impl ReceivedRoutes {
    pub(super) fn new(routes: u32) -> Self {
        Self {
            bits: vec![0; routes.div_ceil(64) as usize],
            count: 0,
            updates: 0,
            repeated: 0,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn has(&self, route: u32) -> bool {
        self.bits[(route / 64) as usize] & (1 << (route % 64)) != 0
    }

    fn put(&mut self, route: u32, there: bool) {
        let (word, bit) = (&mut self.bits[(route / 64) as usize], 1 << (route % 64));
        match (*word & bit != 0, there) {
            (false, true) => self.count += 1,
            (true, false) => self.count -= 1,
            (true, true) => self.repeated += 1,
            (false, false) => {}
        }
        *word = if there { *word | bit } else { *word & !bit };
    }

    /// Takes the body of an UPDATE.
    pub(super) fn update(
        &mut self,
        body: &[u8],
        table: &Table,
        rules: &Rules,
        own: &std::ops::Range<u32>,
    ) -> Result<()> {
        let (withdrawn, rest) = split_length_prefixed(body)?;
        let (attributes, announced) = split_length_prefixed(rest)?;
        self.updates += u64::from(!withdrawn.is_empty() || !announced.is_empty());
        each_prefix(withdrawn, |address, length| {
            let route = known(table, address, length)?;
            self.put(route, false);
            Ok(())
        })?;
        if announced.is_empty() {
            return Ok(());
        }
        let mark = Attributes::read(attributes)?.check(rules)?;
        each_prefix(announced, |address, length| {
            let route = known(table, address, length)?;
            ensure!(
                table.mark(route) == mark,
                "route {route} has the attributes of another"
            );
            if own.contains(&route) {
                // RFC 4456 §8 leaves it to the client to know its own by ORIGINATOR_ID.
                ensure!(rules.own_may_return, "its own route {route} came back");
                return Ok(());
            }
            self.put(route, true);
            Ok(())
        })
    }
}

fn known(table: &Table, address: u32, length: u8) -> Result<u32> {
    table.route(address, length).ok_or_else(|| {
        Failure::new(format!(
            "{}/{length} was never sent",
            std::net::Ipv4Addr::from(address)
        ))
    })
}

/// A field of two octets' length, and what follows it.
fn split_length_prefixed(octets: &[u8]) -> Result<(&[u8], &[u8])> {
    let cut = octets.split_at_checked(2).and_then(|(length, rest)| {
        rest.split_at_checked(usize::from(u16::from_be_bytes([length[0], length[1]])))
    });
    cut.ok_or_else(|| Failure::new("an UPDATE that ends early"))
}

fn each_prefix(mut nlri: &[u8], mut take: impl FnMut(u32, u8) -> Result<()>) -> Result<()> {
    while let Some((&length, rest)) = nlri.split_first() {
        let octets = usize::from(length.div_ceil(8));
        ensure!(
            octets <= 4 && rest.len() >= octets,
            "a prefix of length {length} that ends early"
        );
        let mut address = [0; 4];
        address[..octets].copy_from_slice(&rest[..octets]);
        take(u32::from_be_bytes(address), length)?;
        nlri = &rest[octets..];
    }
    Ok(())
}

#[derive(Default)]
struct Attributes {
    mark: Option<u32>,
    originator: bool,
    cluster: bool,
    first_as: Option<u32>,
}

impl Attributes {
    fn read(mut octets: &[u8]) -> Result<Self> {
        let mut found = Self::default();
        while let [flags, code, rest @ ..] = octets {
            let (length, value) = match (flags & 0x10 != 0, rest) {
                (true, [high, low, value @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), value),
                (false, [length, value @ ..]) => (usize::from(*length), value),
                _ => bail!("an attribute that ends early"),
            };
            ensure!(value.len() >= length, "attribute {code} ends early");
            let (value, rest) = value.split_at(length);
            let number = |at: usize| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
            match code {
                2 => found.first_as = number(2),
                8 => found.mark = number(0),
                9 => found.originator = length == 4,
                10 => found.cluster = length >= 4,
                _ => {}
            }
            octets = rest;
        }
        Ok(found)
    }

    fn check(self, rules: &Rules) -> Result<u32> {
        ensure!(
            !rules.reflected || (self.originator && self.cluster),
            "a reflected route without ORIGINATOR_ID or CLUSTER_LIST"
        );
        if let Some(asn) = rules.first_as {
            ensure!(
                self.first_as == Some(asn),
                "a path that begins with AS {:?}",
                self.first_as
            );
        }
        self.mark.ok_or_else(|| Failure::new("a route without its mark"))
    }
}
