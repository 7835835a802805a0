//! The table: names and types of its sets, its chains.
//!
//! Two base chains on the forward hook, one for each direction: `accept` ends one of them, `drop` both. What the node itself
//! sends to its pods, and they to it, is not forwarded and passes. Established traffic leaves each with the first rule.
//!
//! ```text
//! egress:  ct state established,related accept      ingress: the same
//!          iifname . oifname @self accept                    iifname . oifname @self accept
//!          iifname vmap @from-pod                            oifname vmap @to-pod
//!             └► eg-GROUP:  not the first of a TCP connection: drop
//!                           protocol . port @eg-GROUP-any accept
//!                           daddr . protocol . port @eg-GROUP-b4 accept     (b6)
//!                           jump class-egress
//!                           log, drop
//! class-egress:  priority := 0
//!                priority := daddr map @egress-4                                  (egress-6)
//!                priority . iifname . protocol . port @egress-classes-ports: priority := 0, accept
//!                priority . iifname @egress-classes-all: the same                 (egress-classes-ranges)
//! ```
//!
//! The class of the other end stands in the packet's priority between two rules: registers do not last from rule to rule, and
//! a mapped value in the key of a lookup makes the program `nft` (1.0.6) fail when it lists the ruleset. A map of verdicts to a
//! chain of each class is no way: at every change the kernel follows each element of it from each chain that uses it.

use podroute_netfilter::{Chain, Expressions, Field, Hook, KeyField, RuleBody, SetSpec, Value, Verdict};
use podroute_netpol::{Direction, GroupName, PortRange};

/// The table, of family `inet`.
pub const TABLE: &str = "podroute-policy";
/// Interfaces of pods that are isolated, for what the pods send.
pub const FROM_POD: &str = "from-pod";
/// The same for what pods get.
pub const TO_POD: &str = "to-pod";
/// The chain of pods whose rules are not there yet: nothing but replies passes.
pub const WAITING: &str = "waiting";
/// The chain of pods that are isolated in the other direction.
pub(crate) const FIRST_OF_CONNECTION: &str = "first-of-connection";
/// Interfaces twice: what leaves by the interface that it came in by is a pod reaching itself.
pub(crate) const SELF: &str = "self";
/// The group of logged packets.
pub const LOG_GROUP: u16 = 4746;

const FORWARD: u32 = 2;
const DROPS_LOGGED_PER_SECOND: u64 = 5;
const LOGGED_BYTES: u32 = 96;
const TCP: u8 = 6;

/// A family, by what nftables calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    fn field(self) -> KeyField {
        match self {
            Self::V4 => KeyField::Ipv4,
            Self::V6 => KeyField::Ipv6,
        }
    }

    fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// Which of what classes may do a set has. Single ports are in a hash table: the kernel takes long to change a set of ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ClassPorts {
    /// Single ports.
    Single,
    /// All protocols and ports.
    All,
    Ranges,
}

impl ClassPorts {
    pub(crate) const ALL: [Self; 3] = [Self::Single, Self::All, Self::Ranges];

    pub(crate) fn of(ports: &PortRange) -> Self {
        match ports.protocol {
            None => Self::All,
            Some(_) if ports.from == ports.to => Self::Single,
            Some(_) => Self::Ranges,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Single => "ports",
            Self::All => "all",
            Self::Ranges => "ranges",
        }
    }
}

/// What an object of the table is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Object {
    Interfaces(Direction),
    Itself,
    Addresses(Direction, Family),
    /// What all classes may do; its parts belong to one class each.
    Classes(Direction, ClassPorts),
    GroupChain(Direction, GroupName),
    GroupAny(Direction, GroupName),
    GroupBlocks(Direction, GroupName, Family),
}

fn letter(direction: Direction) -> char {
    match direction {
        Direction::Ingress => 'i',
        Direction::Egress => 'e',
    }
}

impl Object {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Interfaces(Direction::Egress) => FROM_POD.to_owned(),
            Self::Interfaces(Direction::Ingress) => TO_POD.to_owned(),
            Self::Itself => SELF.to_owned(),
            Self::Addresses(direction, family) => format!("{direction}-{}", family.digit()),
            Self::Classes(direction, ports) => format!("{direction}-classes-{}", ports.suffix()),
            Self::GroupChain(direction, name) => format!("{}g-{name}", letter(*direction)),
            Self::GroupAny(direction, name) => format!("{}g-{name}-any", letter(*direction)),
            Self::GroupBlocks(direction, name, family) => {
                format!("{}g-{name}-b{}", letter(*direction), family.digit())
            }
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let fixed = fixed_sets().into_iter().find(|object| object.name() == name);
        if fixed.is_some() {
            return fixed;
        }
        let (kind, rest) = name.split_once('-')?;
        let direction = if kind.starts_with('i') {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        let (hash, part) = rest.split_once('-').unwrap_or((rest, ""));
        match (kind, part) {
            ("ig" | "eg", part) => {
                let name = GroupName::parse(hash)?;
                match part {
                    "" => Some(Self::GroupChain(direction, name)),
                    "any" => Some(Self::GroupAny(direction, name)),
                    "b4" => Some(Self::GroupBlocks(direction, name, Family::V4)),
                    "b6" => Some(Self::GroupBlocks(direction, name, Family::V6)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The type of the set; none for what is a chain alone.
    pub(crate) fn set(&self) -> Option<SetSpec> {
        let (key, is_interval, value) = match self {
            Self::Interfaces(_) => (vec![KeyField::Interface], false, Value::Verdict),
            Self::Itself => (vec![KeyField::Interface; 2], false, Value::None),
            Self::Addresses(_, family) => (vec![family.field()], false, Value::Priority),
            Self::Classes(_, ClassPorts::All) => {
                (vec![KeyField::Priority, KeyField::Interface], false, Value::None)
            }
            Self::Classes(_, ports) => (
                vec![
                    KeyField::Priority,
                    KeyField::Interface,
                    KeyField::Protocol,
                    KeyField::Port,
                ],
                *ports == ClassPorts::Ranges,
                Value::None,
            ),
            Self::GroupAny(..) => (vec![KeyField::Protocol, KeyField::Port], true, Value::None),
            Self::GroupBlocks(_, _, family) => (
                vec![family.field(), KeyField::Protocol, KeyField::Port],
                true,
                Value::None,
            ),
            Self::GroupChain(..) => return None,
        };
        Some(SetSpec {
            name: self.name(),
            key,
            is_interval,
            value,
        })
    }
}

/// Sets that are always there.
pub(crate) fn fixed_sets() -> Vec<Object> {
    let mut sets = vec![Object::Itself];
    for direction in Direction::BOTH {
        sets.push(Object::Interfaces(direction));
        sets.extend(ClassPorts::ALL.map(|ports| Object::Classes(direction, ports)));
        sets.extend(Family::BOTH.map(|family| Object::Addresses(direction, family)));
    }
    sets
}

/// Chains that are always there; base chains last.
pub(crate) fn fixed_chains() -> Vec<Chain> {
    let waiting = Expressions::new().counter().verdict(&Verdict::Drop);
    vec![
        chain(WAITING, vec![waiting]),
        chain(FIRST_OF_CONNECTION, vec![drop_midstream()]),
        classes(Direction::Egress),
        classes(Direction::Ingress),
        base(Direction::Egress),
        base(Direction::Ingress),
    ]
}

fn base(direction: Direction) -> Chain {
    // Bits of `ct state`: established is 2, related 4.
    let established = Expressions::new()
        .load(Field::ConntrackState, 0)
        .and(0, &6_u32.to_ne_bytes())
        .compare(0, false, &[0; 4])
        .verdict(&Verdict::Accept);
    let itself = Expressions::new()
        .load(Field::InputInterface, 0)
        .load(Field::OutputInterface, 4)
        .is_in(SELF, 0)
        .verdict(&Verdict::Accept);
    let pod = Expressions::new()
        .load(own_interface(direction), 0)
        .verdict_map(&Object::Interfaces(direction).name(), 0);
    let priority = match direction {
        Direction::Egress => -5,
        Direction::Ingress => -4,
    };
    Chain {
        hook: Some(Hook {
            number: FORWARD,
            priority,
        }),
        ..chain(&direction.to_string(), vec![established, itself, pod])
    }
}

/// The interface of the pod that is isolated.
fn own_interface(direction: Direction) -> Field {
    match direction {
        Direction::Egress => Field::InputInterface,
        Direction::Ingress => Field::OutputInterface,
    }
}

/// The address at the other end.
fn other_address(direction: Direction, family: Family) -> Field {
    match (direction, family) {
        (Direction::Egress, Family::V4) => Field::Ipv4Destination,
        (Direction::Egress, Family::V6) => Field::Ipv6Destination,
        (Direction::Ingress, Family::V4) => Field::Ipv4Source,
        (Direction::Ingress, Family::V6) => Field::Ipv6Source,
    }
}

/// What the class of the other end may do at the pod's interface, or the pod at it.
fn classes(direction: Direction) -> Chain {
    let mut rules = vec![reset_priority(Expressions::new())];
    for family in Family::BOTH {
        let map = Object::Addresses(direction, family).name();
        let class = of_family(family)
            .load(other_address(direction, family), 0)
            .map(&map, 0, 0);
        rules.push(class.set_priority(0));
    }
    for ports in ClassPorts::ALL {
        let mut allowed = Expressions::new()
            .load(Field::Priority, 0)
            .load(own_interface(direction), 1);
        if ports != ClassPorts::All {
            allowed = allowed.load(Field::Protocol, 5).load(Field::DestinationPort, 6);
        }
        let allowed = allowed.is_in(&Object::Classes(direction, ports).name(), 0);
        rules.push(reset_priority(allowed).counter().verdict(&Verdict::Accept));
    }
    chain(&class_chain(direction), rules)
}

fn reset_priority(rule: Expressions) -> Expressions {
    rule.constant(&[0; 4], 8).set_priority(8)
}

/// The name of the chain that groups jump to for classes.
pub(crate) fn class_chain(direction: Direction) -> String {
    format!("class-{direction}")
}

/// A group; sets that are empty have no rule.
pub(crate) fn group_chain(direction: Direction, name: GroupName, has: &GroupSets, namespace: &str) -> Chain {
    let mut rules = vec![drop_midstream()];
    if has.any {
        let set = Object::GroupAny(direction, name).name();
        let rule = Expressions::new()
            .load(Field::Protocol, 0)
            .load(Field::DestinationPort, 1)
            .is_in(&set, 0);
        rules.push(rule.counter().verdict(&Verdict::Accept));
    }
    for family in Family::BOTH.into_iter().filter(|family| has.blocks(*family)) {
        let set = Object::GroupBlocks(direction, name, family).name();
        let ports = match family {
            Family::V4 => 1,
            Family::V6 => 4,
        };
        let rule = of_family(family)
            .load(other_address(direction, family), 0)
            .load(Field::Protocol, ports)
            .load(Field::DestinationPort, ports + 1)
            .is_in(&set, 0);
        rules.push(rule.counter().verdict(&Verdict::Accept));
    }
    rules.push(Expressions::new().verdict(&Verdict::Jump(class_chain(direction))));
    let prefix = format!("{direction} {namespace}");
    rules.push(
        Expressions::new()
            .limit(DROPS_LOGGED_PER_SECOND, 5)
            .log(LOG_GROUP, &prefix, LOGGED_BYTES),
    );
    rules.push(Expressions::new().counter().verdict(&Verdict::Drop));
    chain(&Object::GroupChain(direction, name).name(), rules)
}

/// Which sets a group has.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct GroupSets {
    pub(crate) any: bool,
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl GroupSets {
    fn blocks(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A TCP connection begins with a SYN. What is not tracked and no SYN belongs to a connection that was ended, and would
/// otherwise begin a new one in the direction that happens to be allowed.
fn drop_midstream() -> Expressions {
    const SYN: u8 = 0x02;
    const FIN_SYN_RST_ACK: u8 = 0x17;
    Expressions::new()
        .load(Field::Protocol, 0)
        .compare(0, true, &[TCP])
        .load(Field::TcpFlags, 0)
        .and(0, &[FIN_SYN_RST_ACK])
        .compare(0, false, &[SYN])
        .counter()
        .verdict(&Verdict::Drop)
}

fn of_family(family: Family) -> Expressions {
    Expressions::new()
        .load(Field::Family, 0)
        .compare(0, true, &[family.number()])
}

fn chain(name: &str, rules: Vec<Expressions>) -> Chain {
    Chain {
        name: name.to_owned(),
        hook: None,
        rules: rules
            .into_iter()
            .map(|expressions| RuleBody { expressions })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        let group = GroupName::parse("0123456789abcdef").unwrap();
        let mut all = fixed_sets();
        for direction in Direction::BOTH {
            all.push(Object::GroupChain(direction, group));
            all.push(Object::GroupAny(direction, group));
            all.extend(Family::BOTH.map(|family| Object::GroupBlocks(direction, group, family)));
        }
        for object in all {
            assert_eq!(Object::parse(&object.name()), Some(object.clone()), "{object:?}");
        }
        for other in [
            "",
            "ig",
            "ig-",
            "ig-0123456789abcdef-x",
            "ic-ff",
            "xx-0123456789abcdef",
            WAITING,
        ] {
            assert_eq!(Object::parse(other), None, "{other}");
        }
    }
}
