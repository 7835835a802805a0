//! The CNI result and error documents (CNI spec 1.1.0, section 5) in the requested version. Pure.
//!
//! `render` writes version 0.3.1, 0.4.0, 1.0.0 or 1.1.0; `parse` reads any of them, from `prevResult` or from a delegated
//! IPAM plugin.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::netconf::Version;

/// An interface of the pod or its host interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    /// MTU in bytes; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// The network namespace's path; empty on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
}

/// An address of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ip {
    /// Address and prefix length.
    pub(crate) address: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
}

/// A route of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResultRoute {
    /// Destination.
    pub(crate) dst: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
}

/// The result of an ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CniResult {
    /// Interfaces; empty from an IPAM plugin.
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default)]
    pub(crate) ips: Vec<Ip>,
    /// Routes.
    #[serde(default)]
    pub(crate) routes: Vec<ResultRoute>,
    /// DNS settings, unchanged.
    #[serde(default)]
    pub(crate) dns: Value,
}

impl CniResult {
    /// Reads a result of any version from 0.3.0 on.
    pub(crate) fn parse(value: &Value, what: &'static str) -> Result<Self> {
        // `"interfaces": null` and the like are written by Go plugins for empty lists.
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.retain(|_, v| !v.is_null());
        }
        serde_json::from_value(value).map_err(|e| Error::Decode {
            what,
            cause: e.to_string(),
        })
    }

    /// Writes the result in a version's form.
    pub(crate) fn render(&self, version: Version) -> Value {
        let ips: Vec<Value> = self.ips.iter().map(|ip| render_ip(ip, version)).collect();
        let interfaces: Vec<Value> = self
            .interfaces
            .iter()
            .map(|i| render_interface(i, version))
            .collect();
        let mut out = json!({ "cniVersion": version.as_str(), "ips": ips });
        if let Some(object) = out.as_object_mut() {
            if !interfaces.is_empty() {
                object.insert("interfaces".into(), interfaces.into());
            }
            if !self.routes.is_empty() {
                object.insert("routes".into(), json!(self.routes));
            }
            let dns = if self.dns.is_object() {
                self.dns.clone()
            } else {
                json!({})
            };
            object.insert("dns".into(), dns);
        }
        out
    }
}

fn render_ip(ip: &Ip, version: Version) -> Value {
    let mut value = json!(ip);
    if version < Version::V1_0_0
        && let Some(object) = value.as_object_mut()
    {
        let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
        object.insert("version".into(), family.into());
    }
    value
}

fn render_interface(interface: &Interface, version: Version) -> Value {
    let mtu = interface.mtu.filter(|_| version >= Version::V1_1_0);
    json!(Interface {
        mtu,
        ..interface.clone()
    })
}

/// An error document.
pub(crate) fn render_error(error: &Error, version: Option<&str>) -> Value {
    json!({
        "cniVersion": version.and_then(Version::parse).unwrap_or(Version::V1_1_0).as_str(),
        "code": error.code(),
        "msg": error.to_string(),
    })
}

/// The answer to VERSION.
pub(crate) fn render_versions() -> Value {
    let all = Version::ALL.map(Version::as_str);
    json!({ "cniVersion": Version::V1_1_0.as_str(), "supportedVersions": all })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CniResult {
        CniResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "0a:00:00:00:00:01".into(),
                mtu: Some(1500),
                sandbox: "/n".into(),
            }],
            ips: vec![Ip {
                address: "10.0.0.2/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
                interface: Some(0),
            }],
            routes: vec![ResultRoute {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: None,
            }],
            dns: Value::Null,
        }
    }

    #[test]
    fn each_version_has_its_form() {
        for version in Version::ALL {
            let value = sample().render(version);
            assert_eq!(value["cniVersion"], version.as_str());
            let family = value["ips"][0].get("version").and_then(Value::as_str);
            assert_eq!(family, (version < Version::V1_0_0).then_some("4"), "{version:?}");
            assert_eq!(
                value["interfaces"][0].get("mtu").is_some(),
                version == Version::V1_1_0,
                "{version:?}"
            );
            let mut back = CniResult::parse(&value, "a result").unwrap();
            back.dns = Value::Null;
            let mut want = sample();
            want.interfaces[0].mtu = (version == Version::V1_1_0).then_some(1500);
            assert_eq!(back, want);
        }
    }

    #[test]
    fn nulls_of_other_plugins_are_empty() {
        let value =
            json!({"cniVersion":"1.0.0","interfaces":null,"ips":[{"address":"10.0.0.2/24"}],"routes":null});
        assert_eq!(CniResult::parse(&value, "a result").unwrap().ips.len(), 1);
        assert_eq!(
            CniResult::parse(&json!({"ips":[{"address":"x"}]}), "a result")
                .unwrap_err()
                .code(),
            6
        );
    }
}
