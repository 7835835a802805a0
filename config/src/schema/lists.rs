//! The section `lists`: named lists of prefixes, communities and AS numbers, in the configuration or in files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Section;
use super::policy::{
    AsnItem, COMMUNITIES, CommunityItem, EXT, LARGE, PrefixItem, check_name, read_asns, read_communities,
    read_prefixes,
};
use crate::decode::{Cursor, Fields, Located};
use crate::value;

pub(crate) const LIST: Section = Section {
    name: "lists.NAME",
    fields: &[
        "prefixes",
        "communities",
        "largeCommunities",
        "extCommunities",
        "asns",
    ],
};

pub(crate) const LIST_FILE: Section = Section {
    name: "lists.NAME.prefixes",
    fields: &["file"],
};

/// One list as written.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) name: Located<String>,
    pub(crate) prefixes: Option<Items<PrefixItem>>,
    pub(crate) communities: Option<Items<CommunityItem>>,
    pub(crate) large_communities: Option<Items<CommunityItem>>,
    pub(crate) ext_communities: Option<Items<CommunityItem>>,
    pub(crate) asns: Option<Items<AsnItem>>,
}

/// Where the items of a list are.
#[derive(Debug)]
pub(crate) enum Items<T> {
    Here(Vec<T>),
    File(Located<PathBuf>),
}

/// Reads the mapping of lists.
pub(crate) fn read_lists(document: &Fields<'_>) -> Vec<List> {
    let Some(cursor) = document.get("lists") else {
        return Vec::new();
    };
    let entries = cursor.entries(
        "a mapping of names to lists",
        "{own: {prefixes: [10.244.0.0/16]}}",
    );
    entries
        .into_iter()
        .filter_map(|(name, body)| read_list(name, &body))
        .collect()
}

/// The files that lists name.
pub(crate) fn files_of_lists(
    root: &crate::yaml::Node,
    problems: &crate::problem::Problems,
) -> BTreeSet<PathBuf> {
    let cursor = Cursor::root(root, problems);
    let fields = cursor.is_map().then(|| cursor.fields(&super::DOCUMENT)).flatten();
    let lists = fields.map(|fields| read_lists(&fields)).unwrap_or_default();
    lists.iter().flat_map(List::files).collect()
}

impl List {
    fn files(&self) -> Vec<PathBuf> {
        fn file<T>(items: &Option<Items<T>>) -> Option<PathBuf> {
            match items {
                Some(Items::File(file)) => Some(file.value.clone()),
                _ => None,
            }
        }
        let files = [
            file(&self.prefixes),
            file(&self.communities),
            file(&self.large_communities),
            file(&self.ext_communities),
            file(&self.asns),
        ];
        files.into_iter().flatten().collect()
    }
}

fn read_list(name: Located<String>, body: &Cursor<'_>) -> Option<List> {
    check_name(&name, body);
    let fields = body.fields(&LIST)?;
    Some(List {
        name,
        prefixes: read_items(&fields, "prefixes", read_prefixes),
        communities: read_items(&fields, "communities", |cursor| {
            read_communities(cursor, &COMMUNITIES)
        }),
        large_communities: read_items(&fields, "largeCommunities", |cursor| {
            read_communities(cursor, &LARGE)
        }),
        ext_communities: read_items(&fields, "extCommunities", |cursor| read_communities(cursor, &EXT)),
        asns: read_items(&fields, "asns", read_asns),
    })
}

fn read_items<T>(
    fields: &Fields<'_>,
    name: &str,
    read: impl FnOnce(&Cursor<'_>) -> Vec<T>,
) -> Option<Items<T>> {
    let cursor = fields.get(name)?;
    if !cursor.is_map() {
        return Some(Items::Here(read(&cursor)));
    }
    let inside = cursor.fields(&LIST_FILE)?;
    inside.required("file", &value::FILE).map(Items::File)
}
