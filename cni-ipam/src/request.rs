//! A CNI request: the environment variables and standard input (CNI spec 1.1.0, section 2).
//!
//! Limits: 1 MiB of input, container id ≤ 200, interface ≤ 15 characters. Every value is checked here; the rest of the
//! crate relies on it. The spec's table says which variables a verb needs. The environment is read through a function, so
//! that tests can pass their own.

use std::ffi::OsString;
use std::io::Read;

use crate::error::{Error, Result};
use crate::names::Owner;

/// Limit of standard input, in octets.
pub(crate) const INPUT_LIMIT: u64 = 1 << 20;

/// The verb (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Give a container an interface.
    Add,
    /// Remove it.
    Del,
    /// Check that it is unchanged.
    Check,
    /// Remove attachments that are not listed as valid.
    Gc,
    /// Whether an ADD would succeed.
    Status,
    /// List the supported versions.
    Version,
}

impl Verb {
    /// The value of `CNI_COMMAND`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [
            Self::Add,
            Self::Del,
            Self::Check,
            Self::Gc,
            Self::Status,
            Self::Version,
        ]
        .into_iter()
        .find(|verb| verb.as_str() == text)
        .ok_or_else(|| Error::Environment {
            name: "CNI_COMMAND",
            cause: format!("{text:?} is not a command"),
            remedy: "set it to ADD, DEL, CHECK, GC, STATUS or VERSION; a container runtime does",
        })
    }
}

/// A request, checked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The verb (`CNI_COMMAND`).
    pub(crate) verb: Verb,
    /// For whom; empty strings for GC, STATUS and VERSION.
    pub(crate) owner: Owner,
    /// `CNI_NETNS`; may be empty for DEL.
    pub(crate) netns: String,
    /// `CNI_ARGS`, split at ';' and '='.
    pub(crate) args: Vec<(String, String)>,
    /// `CNI_PATH`, for delegated plugins.
    pub(crate) path: String,
    /// Standard input.
    pub(crate) input: Vec<u8>,
}

impl Request {
    /// Reads the process's own environment and standard input.
    pub(crate) fn from_process() -> Result<Self> {
        let verb_is_set = std::env::var_os("CNI_COMMAND").is_some();
        let mut input = Vec::new();
        if verb_is_set {
            std::io::stdin()
                .lock()
                .take(INPUT_LIMIT + 1)
                .read_to_end(&mut input)
                .map_err(|e| Error::Decode {
                    what: "standard input",
                    cause: e.to_string(),
                })?;
        }
        Self::new(|name| std::env::var_os(name), input)
    }

    /// Parses and checks the variables that `lookup` returns.
    pub(crate) fn new(lookup: impl Fn(&str) -> Option<OsString>, input: Vec<u8>) -> Result<Self> {
        let get = |name: &'static str| match lookup(name).map(OsString::into_string) {
            None => Ok(String::new()),
            Some(Ok(text)) => Ok(text),
            Some(Err(bytes)) => Err(Error::Environment {
                name,
                cause: format!("{} is not UTF-8", bytes.display()),
                remedy: "the container runtime must set it to a text",
            }),
        };
        let verb = Verb::parse(&get("CNI_COMMAND")?)?;
        if input.len() as u64 > INPUT_LIMIT {
            return Err(Error::Decode {
                what: "standard input",
                cause: format!("more than {INPUT_LIMIT} bytes"),
            });
        }
        // Removal must not fail because of variables that only creation needs.
        let args = match verb {
            Verb::Add | Verb::Check => parse_args(&get("CNI_ARGS")?)?,
            Verb::Del | Verb::Gc | Verb::Status | Verb::Version => Vec::new(),
        };
        let mut request = Self {
            verb,
            owner: Owner {
                container: String::new(),
                ifname: String::new(),
            },
            netns: String::new(),
            args,
            path: get("CNI_PATH")?,
            input,
        };
        if matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
            request.owner = Owner {
                container: check_container(get("CNI_CONTAINERID")?)?,
                ifname: check_ifname(get("CNI_IFNAME")?)?,
            };
            request.netns = get("CNI_NETNS")?;
            if request.netns.is_empty() && verb != Verb::Del {
                return Err(missing("CNI_NETNS"));
            }
        }
        Ok(request)
    }

    /// The value of a key in `CNI_ARGS`.
    pub(crate) fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

fn missing(name: &'static str) -> Error {
    Error::Environment {
        name,
        cause: "is not set".into(),
        remedy: "the container runtime must set it",
    }
}

fn check_container(id: String) -> Result<String> {
    check_container_id(&id)?;
    Ok(id)
}

/// The spec's rule: begins alphanumeric, then alphanumerics, '_', '.' and '-'.
pub(crate) fn check_container_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(missing("CNI_CONTAINERID"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if id.len() > 200 || !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(good) {
        return Err(Error::Environment {
            name: "CNI_CONTAINERID",
            cause: format!("{id:?} is not a container id"),
            remedy: "use 1–200 letters, digits, '_', '.' and '-', beginning with a letter or digit",
        });
    }
    Ok(())
}

fn check_ifname(name: String) -> Result<String> {
    if name.is_empty() {
        return Err(missing("CNI_IFNAME"));
    }
    // The kernel expands '%': it creates eth0 for eth%d.
    let bad = |c: char| matches!(c, '/' | ':' | '@' | '%') || c.is_whitespace() || c.is_control();
    if name.len() > 15 || name == "." || name == ".." || name.chars().any(bad) {
        return Err(Error::Environment {
            name: "CNI_IFNAME",
            cause: format!("{name:?} cannot be an interface's name"),
            remedy: "use 1–15 characters without '/', ':', '@', '%' and blanks",
        });
    }
    if name == "lo" {
        return Err(Error::Environment {
            name: "CNI_IFNAME",
            cause: "\"lo\" is the loopback interface".into(),
            remedy: "use another name, such as eth0",
        });
    }
    Ok(name)
}

fn parse_args(text: &str) -> Result<Vec<(String, String)>> {
    let pair = |part: &str| {
        part.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .ok_or_else(|| Error::Environment {
                name: "CNI_ARGS",
                cause: format!("{part:?} has no '='"),
                remedy: "write KEY=VALUE;KEY=VALUE",
            })
    };
    text.split(';')
        .filter(|part| !part.is_empty())
        .map(pair)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&str, &str)]) -> Result<Request> {
        let find = |name: &str| {
            pairs
                .iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| OsString::from(v))
        };
        Request::new(find, Vec::new())
    }

    #[test]
    fn add_needs_all() {
        let all = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/n"),
        ];
        assert!(request(&all).is_ok());
        for left_out in 1..all.len() {
            let some: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != left_out)
                .map(|(_, p)| *p)
                .collect();
            let error = request(&some).unwrap_err();
            assert_eq!(error.code(), 4);
            assert!(error.to_string().contains(all[left_out].0), "{error}");
        }
    }

    #[test]
    fn del_needs_no_netns_and_status_nothing() {
        assert!(
            request(&[
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0")
            ])
            .is_ok()
        );
        assert!(request(&[("CNI_COMMAND", "STATUS")]).is_ok());
    }

    #[test]
    fn hostile_values_are_refused() {
        let base = |id: &str, ifname: &str| {
            request(&[
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", id),
                ("CNI_IFNAME", ifname),
            ])
        };
        for id in ["../x", "a/b", "a@b", "-a", "a b", &"x".repeat(201)] {
            assert_eq!(base(id, "eth0").unwrap_err().code(), 4, "{id}");
        }
        for ifname in ["a/b", "..", "eth0:1", "eth%d", "a b", "lo", "0123456789abcdef"] {
            assert_eq!(base("c", ifname).unwrap_err().code(), 4, "{ifname}");
        }
        assert_eq!(request(&[("CNI_COMMAND", "PING")]).unwrap_err().code(), 4);
        assert_eq!(request(&[]).unwrap_err().code(), 4);
    }

    #[test]
    fn args_are_split() {
        let with = |verb, args| {
            request(&[
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", "/n"),
                ("CNI_ARGS", args),
            ])
        };
        let r = with("ADD", "IgnoreUnknown=1;IP=10.0.0.1;").unwrap();
        assert_eq!(r.arg("IP"), Some("10.0.0.1"));
        assert_eq!(with("ADD", "x").unwrap_err().code(), 4);
        for verb in ["DEL", "GC", "STATUS"] {
            assert!(with(verb, "x").is_ok(), "{verb} does not need them");
        }
    }

    #[test]
    fn what_is_not_utf8_is_not_called_unset() {
        use std::os::unix::ffi::OsStringExt;
        let find = |name: &str| match name {
            "CNI_COMMAND" => Some(OsString::from("DEL")),
            "CNI_CONTAINERID" => Some(OsString::from_vec(vec![0xff, 0xfe])),
            _ => Some(OsString::from("eth0")),
        };
        let error = Request::new(find, Vec::new()).unwrap_err();
        assert_eq!(error.code(), 4);
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
