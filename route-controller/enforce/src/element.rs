//! The model's values as elements of sets: fields padded to four bytes, in network order.

use std::net::IpAddr;

use podroute_netfilter::{Data, Element, Verdict};
use podroute_netpol::{AddressRange, ClassElement, ClassName, Direction, IsolationState, PortRange};

use crate::layout::{ClassPorts, FIRST_OF_CONNECTION, Object, WAITING};

const IFNAME: usize = 16;

pub(crate) fn of_class(class: ClassName, element: &ClassElement) -> Element {
    let mut first = class.number().to_be_bytes().to_vec();
    first.extend(interface(&element.interface));
    let mut last = first.clone();
    match ClassPorts::of(&element.ports) {
        ClassPorts::All => last.clear(),
        ClassPorts::Single => {
            put_ports(&mut first, &mut last, element.ports);
            last.clear();
        }
        ClassPorts::Ranges => put_ports(&mut first, &mut last, element.ports),
    }
    range(first, last)
}

pub(crate) fn of_ports(ports: PortRange) -> Element {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    put_ports(&mut first, &mut last, ports);
    range(first, last)
}

pub(crate) fn of_block(addresses: AddressRange, ports: PortRange) -> Element {
    let (mut first, mut last) = (octets(addresses.first), octets(addresses.last));
    put_ports(&mut first, &mut last, ports);
    range(first, last)
}

pub(crate) fn of_address(address: IpAddr, class: ClassName) -> Element {
    Element {
        key: octets(address),
        key_end: Vec::new(),
        data: Data::Number(class.number()),
    }
}

/// The class in front of a key.
pub(crate) fn class_of(key: &[u8]) -> Option<ClassName> {
    ClassName::of(u32::from_be_bytes(key.get(..4)?.try_into().ok()?))
}

/// None where nothing isolates the interface.
pub(crate) fn of_interface(direction: Direction, name: &str, state: IsolationState) -> Option<Element> {
    let chain = match state {
        IsolationState::Open => return None,
        IsolationState::OtherDirection => FIRST_OF_CONNECTION.to_owned(),
        IsolationState::Waiting => WAITING.to_owned(),
        IsolationState::Group(group) => Object::GroupChain(direction, group).name(),
    };
    Some(Element {
        key: interface(name),
        key_end: Vec::new(),
        data: Data::Verdict(Verdict::Jump(chain)),
    })
}

pub(crate) fn of_itself(name: &str) -> Element {
    let mut key = interface(name);
    key.extend(interface(name));
    Element {
        key,
        key_end: Vec::new(),
        data: Data::None,
    }
}

/// The interface at the beginning of a key.
pub(crate) fn interface_of(key: &[u8]) -> Option<String> {
    let name = key.get(..IFNAME)?.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// The address that a key is.
pub(crate) fn address_of(key: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(key).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(key).ok().map(IpAddr::from))
}

fn interface(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(IFNAME, 0);
    key
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn put_ports(first: &mut Vec<u8>, last: &mut Vec<u8>, ports: PortRange) {
    let (from, to) = ports
        .protocol
        .map_or((0, u8::MAX), |protocol| (protocol, protocol));
    for (key, protocol, port) in [(first, from, ports.from), (last, to, ports.to)] {
        key.extend([protocol, 0, 0, 0]);
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
    }
}

fn range(key: Vec<u8>, key_end: Vec<u8>) -> Element {
    Element {
        key,
        key_end,
        data: Data::None,
    }
}
