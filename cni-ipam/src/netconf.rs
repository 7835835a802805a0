//! The network configuration on standard input (CNI spec 1.1.0, sections 1 and 2), parsed and checked.
//!
//! docs/cni.md lists the fields of `podroute-cni` and `podroute-ipam` with units, defaults and ranges. Unknown fields are
//! ignored, as the spec requires. Error codes: 6 for input that is not JSON, 7 for a wrong field, 1 for an unknown version.
//! Reads no file.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::block::{Family, Reserved};
use crate::error::{Error, Result};
use crate::names::Owner;
use crate::request::{Request, Verb};

/// The directory that agent and plugins share, unless `runDir` names another.
pub const RUN_DIR: &str = "/run/podroute";

/// The built-in IPAM, which runs in the same process.
pub(crate) const BUILTIN_IPAM: &str = "podroute-ipam";

const ADDRESS_LIMIT: usize = 16;
const LIST_LIMIT: usize = 1024;

/// The supported CNI versions, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 0.3.1: no CHECK.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses have no field `version`.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl Version {
    /// All versions, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As in `cniVersion`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Parses `cniVersion`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    run_dir: Option<PathBuf>,
    mtu: Option<u32>,
    ipam: Option<RawIpam>,
    families: Option<Vec<String>>,
    #[serde(default)]
    routes: Vec<Route>,
    mark: Option<u32>,
    masquerade: Option<RawMasquerade>,
    source_check: Option<bool>,
    #[serde(default)]
    args: RawArgs,
    #[serde(default)]
    runtime_config: RawRuntime,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<RawAttachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIpam {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    reserved: Vec<String>,
    routes: Option<Vec<Route>>,
    families: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMasquerade {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    exempt: Vec<IpNet>,
}

#[derive(Debug, Default, Deserialize)]
struct RawArgs {
    #[serde(default)]
    cni: RawCniArgs,
}

#[derive(Debug, Default, Deserialize)]
struct RawCniArgs {
    #[serde(default)]
    ips: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawRuntime {
    #[serde(default)]
    ips: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// A route for the pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Route {
    /// Destination.
    pub(crate) dst: IpNet,
    /// Gateway; by default that of the link.
    pub(crate) gw: Option<IpAddr>,
}

/// A checked network configuration.
#[derive(Debug, Clone)]
pub(crate) struct Netconf {
    /// Version of the result and of errors.
    pub(crate) version: Version,
    /// The network's name.
    pub(crate) name: String,
    /// Directory of node.json.
    pub(crate) run_dir: PathBuf,
    /// Directory of the state.
    pub(crate) state_dir: PathBuf,
    /// Configured MTU in octets.
    pub(crate) mtu: Option<u32>,
    /// The IPAM plugin's name.
    pub(crate) ipam_kind: String,
    /// Excluded from automatic allocation.
    pub(crate) reserved: Vec<Reserved>,
    /// Routes for the pod; None: a default route for each family.
    pub(crate) ipam_routes: Option<Vec<Route>>,
    /// Families to allocate; None: those of the node's blocks.
    pub(crate) families: Option<Vec<Family>>,
    /// Static addresses.
    pub(crate) requested_ips: Vec<IpAddr>,
    /// Routes to add behind another main plugin.
    pub(crate) routes: Vec<Route>,
    /// Firewall mark for packets from the pod.
    pub(crate) mark: Option<u32>,
    /// Drop packets of the pod whose source address is not its own.
    pub(crate) source_check: bool,
    /// Masquerade packets to destinations outside the pod network, except these.
    pub(crate) masquerade: Option<Vec<IpNet>>,
    /// The result of the previous plugins, unchanged.
    pub(crate) prev_result: Option<Value>,
    /// GC: the valid attachments; None: the request does not contain a list.
    pub(crate) valid: Option<Vec<Owner>>,
}

/// The version in the input, for the error document; None: the input cannot be parsed.
pub(crate) fn version_of(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    value.get("cniVersion")?.as_str().map(str::to_owned)
}

impl Netconf {
    /// Parses and checks a request's input.
    pub(crate) fn parse(request: &Request) -> Result<Self> {
        let (raw, prev_result) = read(request)?;
        let asked = raw.cni_version.clone().unwrap_or_else(|| "0.1.0".to_owned());
        let version = Version::parse(&asked).ok_or(Error::Version { asked })?;
        if request.verb != Verb::Del {
            check_name(&raw.name)?;
        }
        let ipam = raw.ipam.unwrap_or_default();
        let run_dir = raw.run_dir.unwrap_or_else(|| RUN_DIR.into());
        let state_dir = ipam.state_dir.unwrap_or_else(|| run_dir.join("ipam"));
        for (field, dir) in [("runDir", &run_dir), ("ipam.stateDir", &state_dir)] {
            if !dir.is_absolute() {
                return Err(Error::config(
                    field,
                    "is not an absolute path",
                    "begin it with '/'",
                ));
            }
        }
        if let Some(mtu) = raw.mtu.filter(|mtu| !(68..=65_535).contains(mtu)) {
            return Err(Error::config(
                "mtu",
                format!("{mtu} is out of range"),
                "use 68–65535 (bytes)",
            ));
        }
        Ok(Self {
            version,
            name: raw.name,
            run_dir,
            state_dir,
            mtu: raw.mtu,
            ipam_kind: check_kind(ipam.kind)?,
            reserved: parse_reserved(&ipam.reserved)?,
            ipam_routes: ipam.routes,
            families: parse_families(ipam.families.or(raw.families))?,
            requested_ips: requested_ips(request, &raw.runtime_config.ips, &raw.args.cni.ips)?,
            routes: check_length("routes", raw.routes)?,
            mark: raw.mark,
            source_check: raw.source_check.unwrap_or(true),
            masquerade: match raw.masquerade.filter(|m| m.enabled) {
                Some(masquerade) => Some(check_length("masquerade.exempt", masquerade.exempt)?),
                None => None,
            },
            prev_result,
            valid: valid(raw.valid_attachments, raw.attachments),
        })
    }

    /// Whether the address is excluded from automatic allocation.
    pub(crate) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.iter().any(|r| r.contains(address))
    }

    /// Whether the built-in IPAM is used.
    pub(crate) fn uses_builtin_ipam(&self) -> bool {
        self.ipam_kind == BUILTIN_IPAM
    }
}

/// The fields, and `prevResult` unchanged. Fields that DEL and GC do not need are ignored: a pod must be removable even if
/// the configuration has become invalid.
fn read(request: &Request) -> Result<(Raw, Option<Value>)> {
    let input: Value = serde_json::from_slice(&request.input).map_err(|e| Error::Decode {
        what: "the network configuration on standard input",
        cause: e.to_string(),
    })?;
    let Value::Object(mut fields) = input else {
        let remedy = "write {\"cniVersion\": …, \"name\": …, \"type\": …}";
        return Err(Error::config("the input", "is not a JSON object", remedy));
    };
    let previous = fields.remove("prevResult").filter(|value| !value.is_null());
    if matches!(request.verb, Verb::Del | Verb::Gc) {
        keep_what_removal_needs(&mut fields);
    }
    drop_nulls(&mut fields);
    let raw = serde_json::from_value(Value::Object(fields)).map_err(|e| {
        Error::config(
            "fields",
            e.to_string(),
            "correct the field's type in the network configuration",
        )
    })?;
    Ok((raw, previous))
}

fn keep_what_removal_needs(fields: &mut Map<String, Value>) {
    fields.retain(|key, value| match key.as_str() {
        "cniVersion" | "name" | "runDir" => value.is_string(),
        "ipam" => value.is_object(),
        "cni.dev/valid-attachments" | "cni.dev/attachments" => true,
        _ => false,
    });
    if let Some(Value::Object(ipam)) = fields.get_mut("ipam") {
        ipam.retain(|key, value| matches!(key.as_str(), "type" | "stateDir") && value.is_string());
    }
}

/// Go's JSON encoder writes `null` for an absent field.
fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}

/// The spec's rule for network names.
fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.len() > 200 || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(good) {
        let remedy = "use 1–200 letters, digits, '_', '.' and '-', beginning with a letter or digit";
        return Err(Error::config(
            "name",
            format!("{name:?} is not a network name"),
            remedy,
        ));
    }
    Ok(())
}

fn check_kind(kind: Option<String>) -> Result<String> {
    let kind = kind
        .filter(|k| !k.is_empty())
        .unwrap_or_else(|| BUILTIN_IPAM.to_owned());
    if kind.contains('/') || kind.starts_with('.') {
        return Err(Error::config(
            "ipam.type",
            format!("{kind:?} is not a plugin's name"),
            "leave out directories",
        ));
    }
    Ok(kind)
}

fn parse_reserved(texts: &[String]) -> Result<Vec<Reserved>> {
    if texts.len() > LIST_LIMIT {
        return Err(Error::config(
            "ipam.reserved",
            "more than 1024 entries",
            "join neighboring ranges",
        ));
    }
    let parse = |text: &String| {
        Reserved::parse(text).ok_or_else(|| {
            let remedy = "write an address, a prefix, or first-last";
            Error::config("ipam.reserved", format!("{text:?} is not a range"), remedy)
        })
    };
    texts.iter().map(parse).collect()
}

fn parse_families(texts: Option<Vec<String>>) -> Result<Option<Vec<Family>>> {
    let parse = |text: &String| match text.as_str() {
        "ipv4" => Ok(Family::V4),
        "ipv6" => Ok(Family::V6),
        _ => Err(Error::config(
            "families",
            format!("{text:?} is not a family"),
            "use \"ipv4\" and \"ipv6\"",
        )),
    };
    let Some(texts) = texts else { return Ok(None) };
    let mut families: Vec<Family> = texts.iter().map(parse).collect::<Result<_>>()?;
    families.sort_unstable();
    families.dedup();
    if families.is_empty() {
        return Err(Error::config(
            "families",
            "is empty",
            "leave it out for all of the node's families",
        ));
    }
    Ok(Some(families))
}

/// Static addresses: the `ips` capability, else `args.cni.ips`, else `IP=` in `CNI_ARGS`.
fn requested_ips(request: &Request, runtime: &[String], args: &[String]) -> Result<Vec<IpAddr>> {
    let from_env: Vec<String> = request
        .arg("IP")
        .map(|text| {
            text.split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default();
    let (field, texts) = match (runtime, args) {
        ([], []) => ("CNI_ARGS IP", from_env.as_slice()),
        ([], args) => ("args.cni.ips", args),
        (runtime, _) => ("runtimeConfig.ips", runtime),
    };
    let remedy = "write an address, with or without a prefix length";
    let parse = |text: &String| {
        let bare = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
        bare.parse::<IpAddr>()
            .map_err(|_| Error::config(field, format!("{text:?} is not an address"), remedy))
    };
    let mut addresses: Vec<IpAddr> = texts.iter().map(parse).collect::<Result<_>>()?;
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > ADDRESS_LIMIT {
        return Err(Error::config(field, "more than 16 addresses", "ask for fewer"));
    }
    Ok(addresses)
}

fn check_length<T>(field: &'static str, list: Vec<T>) -> Result<Vec<T>> {
    if list.len() > LIST_LIMIT {
        return Err(Error::config(field, "more than 1024 entries", "use fewer"));
    }
    Ok(list)
}

/// Both keys may contain the list. None: neither key is present, which differs from an empty list.
fn valid(newer: Option<Vec<RawAttachment>>, older: Option<Vec<RawAttachment>>) -> Option<Vec<Owner>> {
    if newer.is_none() && older.is_none() {
        return None;
    }
    let both = newer.into_iter().chain(older).flatten();
    Some(
        both.map(|a| Owner {
            container: a.container,
            ifname: a.ifname,
        })
        .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, args: &str) -> Result<Netconf> {
        parse_for("ADD", json, args)
    }

    fn parse_for(verb: &str, json: &str, args: &str) -> Result<Netconf> {
        let find = |name: &str| match name {
            "CNI_COMMAND" => Some(verb.into()),
            "CNI_ARGS" => Some(args.into()),
            _ => Some("eth0".into()),
        };
        Netconf::parse(&Request::new(find, json.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn defaults() {
        let conf = parse(
            r#"{"cniVersion":"1.0.0","name":"pods","type":"podroute-cni","x":1}"#,
            "",
        )
        .unwrap();
        assert!(conf.uses_builtin_ipam());
        assert_eq!(conf.state_dir, PathBuf::from("/run/podroute/ipam"));
        assert_eq!((conf.families, conf.valid, conf.mtu), (None, None, None));
    }

    #[test]
    fn codes_of_bad_input() {
        let cases = [
            ("", 6),
            ("{", 6),
            ("[]", 7),
            (
                r#"["1.0.0","n",null,null,null,null,null,null,null,null,null,null,null]"#,
                7,
            ),
            (r#"{"cniVersion":"9.9.9","name":"n"}"#, 1),
            (r#"{"name":"n"}"#, 1),
            (r#"{"cniVersion":"1.0.0"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"../n"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"n","mtu":"big"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"n","mtu":9}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"n","runDir":"x"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"n","families":["ipx"]}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"n","ipam":{"type":"../x"}}"#, 7),
            (
                r#"{"cniVersion":"1.0.0","name":"n","ipam":{"reserved":["x"]}}"#,
                7,
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"ips":["x"]}}"#,
                7,
            ),
        ];
        for (json, code) in cases {
            assert_eq!(parse(json, "").unwrap_err().code(), code, "{json}");
        }
    }

    #[test]
    fn removal_reads_what_it_needs_and_nothing_else() {
        let wrong = r#"{"cniVersion":"1.1.0","name":"n","mtu":"big","families":["ipx"],"mark":-1,"routes":5,
            "masquerade":{"enabled":1,"exempt":["x"]},"args":7,"runtimeConfig":{"ips":["x"]},"runDir":"/r",
            "ipam":{"type":"podroute-ipam","reserved":["x"],"routes":"x","families":[]}}"#;
        for verb in ["DEL", "GC"] {
            let conf = parse_for(verb, wrong, "IP=banana;x").unwrap();
            assert_eq!(conf.state_dir, PathBuf::from("/r/ipam"), "{verb}");
        }
        for verb in ["ADD", "CHECK", "STATUS"] {
            assert_eq!(parse_for(verb, wrong, "").unwrap_err().code(), 7, "{verb}");
        }
        // Without a list that can be read nothing is known to be stale.
        let list = r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":"x"}"#;
        assert_eq!(parse_for("GC", list, "").unwrap_err().code(), 7);
    }

    #[test]
    fn null_is_an_absent_field() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","args":null,"runtimeConfig":{"ips":null},"ipam":{"routes":null},
            "mtu":null,"prevResult":null}"#;
        let conf = parse(text, "").unwrap();
        assert_eq!((conf.prev_result, conf.ipam_routes, conf.mtu), (None, None, None));
    }

    #[test]
    fn static_addresses_by_rank() {
        let head = r#"{"cniVersion":"1.0.0","name":"n""#;
        let both = format!(
            r#"{head},"runtimeConfig":{{"ips":["10.0.0.3/24"]}},"args":{{"cni":{{"ips":["10.0.0.2"]}}}}}}"#
        );
        let first = |json: &str| parse(json, "IP=10.0.0.1").unwrap().requested_ips[0].to_string();
        assert_eq!(first(&both), "10.0.0.3");
        assert_eq!(
            first(&format!(r#"{head},"args":{{"cni":{{"ips":["10.0.0.2"]}}}}}}"#)),
            "10.0.0.2"
        );
        assert_eq!(first(&format!("{head}}}")), "10.0.0.1");
    }

    #[test]
    fn an_absent_list_is_not_an_empty_one() {
        let head = r#"{"cniVersion":"1.1.0","name":"n""#;
        assert_eq!(parse(&format!("{head}}}"), "").unwrap().valid, None);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            assert_eq!(
                parse(&format!(r#"{head},"{key}":[]}}"#), "").unwrap().valid,
                Some(vec![]),
                "{key}"
            );
            let one = format!(r#"{head},"{key}":[{{"containerID":"c","ifname":"e"}}]}}"#);
            assert_eq!(parse(&one, "").unwrap().valid.unwrap().len(), 1, "{key}");
        }
    }
    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let find = |name: &str| (name == "CNI_COMMAND").then(|| "STATUS".into());
            let request = Request::new(find, bytes.clone()).unwrap();
            proptest::prop_assert!(Netconf::parse(&request).is_err());
            let _ = version_of(&bytes);
        }
    }
}
