//! A refusal by the kernel.

use nix::errno::Errno;

/// A refusal by the kernel: what was tried, the error number, and a remedy where the error number implies one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action}: {}{}{}", errno.desc(), Detail(detail), remedy(*errno))]
pub struct Error {
    /// Completes "cannot …".
    pub action: String,
    pub errno: Errno,
    /// The kernel's own explanation (NLMSGERR_ATTR_MSG); often empty.
    pub detail: String,
}

impl Error {
    /// A refusal without an explanation by the kernel.
    pub fn new(action: impl Into<String>, errno: Errno) -> Self {
        Self {
            action: action.into(),
            errno,
            detail: String::new(),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno as i32)
    }
}

struct Detail<'a>(&'a str);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.0)
    }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => "; run as root with CAP_NET_ADMIN",
        Errno::ENOBUFS | Errno::ENOMEM => "; the node is short of memory",
        Errno::EAGAIN => "; the kernel did not answer in time, try again",
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => "; the kernel lacks this feature",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_action_cause_and_remedy() {
        let error = Error {
            detail: "Operation not permitted here".into(),
            ..Error::new("add route 10.0.0.0/8", Errno::EPERM)
        };
        assert_eq!(
            error.to_string(),
            "cannot add route 10.0.0.0/8: Operation not permitted (Operation not permitted here); \
             run as root with CAP_NET_ADMIN"
        );
        assert_eq!(
            Error::new("find interface eth9", Errno::ENODEV).to_string(),
            "cannot find interface eth9: No such device"
        );
    }
}
