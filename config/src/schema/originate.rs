//! The section `originate`: routes of this node besides its blocks and Services.

use bgp_proto::types::{Community, Prefix};

use super::Section;
use crate::decode::{Cursor, Fields, Located};
use crate::value::{self, Bad, Kind, int};

pub(crate) const ORIGINATE: Section = Section {
    name: "originate[]",
    fields: &[
        "prefix",
        "aggregate",
        "suppress",
        "discard",
        "kernel",
        "when",
        "communities",
    ],
};

pub(crate) const WHEN: Section = Section {
    name: "originate[].when",
    fields: &["present", "absent"],
};

pub(crate) const KERNEL_ROUTES: Section = Section {
    name: "originate[].kernel",
    fields: &["protocols", "interfaces", "tables"],
};

/// One item as written.
#[derive(Debug)]
pub(crate) struct Originate {
    pub(crate) what: What,
    pub(crate) when: Option<Located<When>>,
    pub(crate) communities: Vec<Community>,
}

impl Originate {
    pub(crate) fn is_from_kernel(&self) -> bool {
        matches!(self.what, What::Kernel { .. })
    }
}

/// Which routes.
#[derive(Debug)]
pub(crate) enum What {
    Prefix(Prefix),
    Aggregate {
        prefix: Prefix,
        suppress: bool,
        discard: bool,
    },
    Kernel {
        protocols: Vec<u8>,
        interfaces: Vec<String>,
        tables: Vec<u32>,
    },
}

/// A route that must be in the table, or must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct When {
    pub(crate) prefix: Prefix,
    pub(crate) present: bool,
}

/// Names that iproute2 gives to protocols of routes.
const PROTOCOLS: [(&str, u8); 13] = [
    ("kernel", 2),
    ("boot", 3),
    ("static", 4),
    ("ra", 9),
    ("dhcp", 16),
    ("mrouted", 17),
    ("keepalived", 18),
    ("babel", 42),
    ("bgp", 186),
    ("isis", 187),
    ("ospf", 188),
    ("rip", 189),
    ("eigrp", 192),
];

const PROTOCOL: Kind<u8> = Kind {
    what: "a protocol of routes",
    example: "static",
    parse: |scalar| match PROTOCOLS.iter().find(|(name, _)| *name == scalar.text) {
        Some((_, number)) => Ok(*number),
        None => int::<u8, 1, 255>(scalar).map_err(|_| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            Bad::Range(format!("{} or a number up to 255", names.join(", ")))
        }),
    },
};

const TABLE: Kind<u32> = Kind {
    what: "a table of the kernel",
    example: "254",
    parse: int::<u32, 1, 4_294_967_295>,
};

pub(crate) fn read_originate(document: &Fields<'_>) -> Vec<Located<Originate>> {
    let Some(cursor) = document.get("originate") else {
        return Vec::new();
    };
    let items = cursor.items("a list of routes", "{prefix: 203.0.113.50/32}");
    items
        .iter()
        .filter_map(|item| Some(Located::new(read(item)?, &item.location)))
        .collect()
}

fn read(cursor: &Cursor<'_>) -> Option<Originate> {
    let fields = cursor.fields(&ORIGINATE)?;
    let kinds = ["prefix", "aggregate", "kernel"];
    let given: Vec<&str> = kinds.into_iter().filter(|name| fields.is_given(name)).collect();
    match given.as_slice() {
        [] => cursor.error("nothing says which route", "add prefix, aggregate or kernel"),
        [_] => {}
        [first, second, ..] => {
            let message = format!("{first} says already which route");
            let problem = fields
                .key_spot(second)
                .problem(message, "write another item for it");
            cursor.problems.error(problem);
        }
    }
    let prefix = fields.scalar("prefix", &value::PREFIX);
    let aggregate = fields.scalar("aggregate", &value::PREFIX);
    let suppress = fields.scalar("suppress", &value::BOOL);
    let discard = fields.scalar("discard", &value::BOOL);
    for (name, at) in [("suppress", &suppress), ("discard", &discard)] {
        if let (Some(at), false) = (at, fields.is_given("aggregate")) {
            let message = format!("{name} is for aggregates");
            let remedy = "remove it, or write aggregate in place of prefix";
            cursor.problems.error(at.location.problem(message, remedy));
        }
    }
    let kernel = fields.get("kernel").and_then(|cursor| read_kernel(&cursor));
    let when = fields.get("when").and_then(|cursor| {
        let when = read_when(&cursor)?;
        Some(Located::new(when, &cursor.location))
    });
    let communities = fields.scalars("communities", &value::COMMUNITY);
    let what = match (prefix, aggregate) {
        (Some(prefix), _) => What::Prefix(prefix.value),
        (None, Some(prefix)) => What::Aggregate {
            prefix: prefix.value,
            suppress: suppress.is_some_and(|at| at.value),
            discard: discard.is_none_or(|at| at.value),
        },
        (None, None) => kernel?,
    };
    Some(Originate {
        what,
        when,
        communities: communities.into_iter().map(|at| at.value).collect(),
    })
}

fn read_kernel(cursor: &Cursor<'_>) -> Option<What> {
    let fields = cursor.fields(&KERNEL_ROUTES)?;
    Some(What::Kernel {
        protocols: fields
            .scalars("protocols", &PROTOCOL)
            .into_iter()
            .map(|at| at.value)
            .collect(),
        interfaces: fields
            .scalars("interfaces", &value::TEXT)
            .into_iter()
            .map(|at| at.value)
            .collect(),
        tables: fields
            .scalars("tables", &TABLE)
            .into_iter()
            .map(|at| at.value)
            .collect(),
    })
}

fn read_when(cursor: &Cursor<'_>) -> Option<When> {
    let fields = cursor.fields(&WHEN)?;
    let present = fields.scalar("present", &value::PREFIX);
    let absent = fields.scalar("absent", &value::PREFIX);
    match (present, absent) {
        (Some(_), Some(absent)) => {
            let remedy = "keep one of present and absent";
            cursor
                .problems
                .error(absent.location.problem("present is given already", remedy));
            None
        }
        (Some(prefix), None) => Some(When {
            prefix: prefix.value,
            present: true,
        }),
        (None, Some(prefix)) => Some(When {
            prefix: prefix.value,
            present: false,
        }),
        (None, None) => {
            if !fields.is_given("present") && !fields.is_given("absent") {
                cursor.error("nothing says when", "add present: PREFIX or absent: PREFIX");
            }
            None
        }
    }
}
