//! Flows that the kernel tracks: list, delete.

use std::net::IpAddr;

use linux::netlink::{ACK, DUMP};
use nix::errno::Errno;

use crate::message::{Attrs, Messages, attr, nest};
use crate::socket::{Result, Socket, What, refused};

const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// A tracked flow. Its ends are those that speak to each other behind address translation of the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Who began.
    pub source: IpAddr,
    /// Who answers: a pod behind a Service is the pod.
    pub destination: IpAddr,
    pub protocol: u8,
    /// Of TCP, UDP and SCTP; 0 for others.
    pub source_port: u16,
    /// The port at which it is answered.
    pub destination_port: u16,
    key: Key,
}

/// What identifies it to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    family: u8,
    tuple: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// A socket for connection tracking.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// In the network namespace of this thread.
    ///
    /// # Errors
    /// The kernel has no netfilter, or a right is missing.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open()?,
        })
    }

    /// All flows that `wanted` takes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn list(&mut self, mut wanted: impl FnMut(&Flow) -> bool) -> Result<Vec<Flow>> {
        let what = What {
            action: "list tracked flows",
            name: String::new(),
        };
        let sequence = self.socket.sequences(1);
        let mut request = Messages::default();
        request.begin(GET, DUMP, sequence, 0, 0);
        let mut flows = Vec::new();
        self.socket.dump(&request, sequence, &what, |message| {
            if message.kind == NEW
                && let Some(flow) = read(
                    message.body().first().copied().unwrap_or_default(),
                    &Attrs::of(&message),
                )
                && wanted(&flow)
            {
                flows.push(flow);
            }
        })?;
        Ok(flows)
    }

    /// Deletes flows; gives how many were still there. Packets of a deleted flow count as new.
    ///
    /// # Errors
    /// The kernel refuses for another reason than that a flow has ended.
    pub fn delete(&mut self, flows: &[Flow]) -> Result<usize> {
        let mut deleted = 0;
        for part in flows.chunks(256) {
            let count = u32::try_from(part.len()).unwrap_or(1);
            let first = self.socket.sequences(count);
            let mut request = Messages::default();
            for (flow, sequence) in part.iter().zip(first..) {
                request.begin(DELETE, ACK, sequence, flow.key.family, 0);
                request.nest(TUPLE_ORIGINAL, |out| out.extend(&flow.key.tuple));
                if let Some(zone) = &flow.key.zone {
                    request.attr(ZONE, zone);
                }
                if let Some(id) = &flow.key.id {
                    request.attr(ID, id);
                }
            }
            self.socket.send(&request)?;
            let failures = self.acknowledged(first, part.len())?;
            for failure in &failures {
                if failure.errno != Errno::ENOENT {
                    let what = What {
                        action: "delete a tracked flow",
                        name: String::new(),
                    };
                    return Err(refused(&what, failure.clone()));
                }
            }
            deleted += part.len() - failures.len();
        }
        Ok(deleted)
    }

    /// Every one of these requests is answered by itself, in order.
    fn acknowledged(&mut self, first: u32, count: usize) -> Result<Vec<crate::socket::Failure>> {
        let mut failures = Vec::new();
        for sequence in (first..).take(count) {
            failures.extend(self.socket.answer(sequence)?);
        }
        Ok(failures)
    }
}

fn read(family: u8, attrs: &Attrs<'_>) -> Option<Flow> {
    let tuple = attrs.get(TUPLE_ORIGINAL)?;
    let original = Tuple::read(&Attrs(tuple))?;
    let reply = Tuple::read(&attrs.nested(TUPLE_REPLY))?;
    Some(Flow {
        source: original.source,
        destination: reply.source,
        protocol: original.protocol,
        source_port: original.source_port,
        destination_port: reply.source_port,
        key: Key {
            family,
            tuple: tuple.to_vec(),
            id: attrs.get(ID).map(<[u8]>::to_vec),
            zone: attrs.get(ZONE).map(<[u8]>::to_vec),
        },
    })
}

struct Tuple {
    source: IpAddr,
    protocol: u8,
    source_port: u16,
}

impl Tuple {
    fn read(attrs: &Attrs<'_>) -> Option<Self> {
        let (ip, protocol) = (attrs.nested(1), attrs.nested(2));
        let v4 = ip
            .get(1)
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
            .map(IpAddr::from);
        let v6 = ip
            .get(3)
            .and_then(|b| <[u8; 16]>::try_from(b).ok())
            .map(IpAddr::from);
        let port = protocol.get(2).and_then(|b| <[u8; 2]>::try_from(b).ok());
        Some(Self {
            source: v4.or(v6)?,
            protocol: *protocol.get(1)?.first()?,
            source_port: port.map(u16::from_be_bytes).unwrap_or_default(),
        })
    }
}

impl Flow {
    /// A flow to delete: its original tuple, without translation.
    #[must_use]
    pub fn of(source: (IpAddr, u16), destination: (IpAddr, u16), protocol: u8) -> Self {
        let mut tuple = Vec::new();
        let family = if source.0.is_ipv4() { 2 } else { 10 };
        nest(&mut tuple, 1, |ip| match (source.0, destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                attr(ip, 1, &from.octets());
                attr(ip, 2, &to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                attr(ip, 3, &from.octets());
                attr(ip, 4, &to.octets());
            }
            _ => {}
        });
        nest(&mut tuple, 2, |p| {
            attr(p, 1, &[protocol]);
            attr(p, 2, &source.1.to_be_bytes());
            attr(p, 3, &destination.1.to_be_bytes());
        });
        Self {
            source: source.0,
            destination: destination.0,
            protocol,
            source_port: source.1,
            destination_port: destination.1,
            key: Key {
                family,
                tuple,
                id: None,
                zone: None,
            },
        }
    }
}
