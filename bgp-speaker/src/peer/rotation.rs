//! Which of a peer's two TCP MD5 keys is in use while an operator replaces one by the other.
//!
//! RFC 2385 has no key identifiers, and the kernel holds one key for an address; what is signed with another one is dropped without
//! a word. So the key is found out:
//!
//! - On an established connection our segments are not acknowledged any more once the peer has the other key. From the second
//!   retransmission on each further one goes out with the other key, and so does the whole connection when it is acknowledged.
//! - Without a connection the listener has the keys in turn, and a connection is opened with one key, then with the other.
//!
//! With the default hold time of 90 s the peer's key may change at any moment: our next KEEPALIVE, after 30 s at most, is
//! acknowledged one or two seconds later.

use std::time::{Duration, Instant};

use crate::api::{Password, Transport};

/// How often a connection is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the listener has one key while there is no connection.
const ALTERNATE_INTERVAL: Duration = Duration::from_secs(5);
/// Retransmissions that a lossy network has too.
const NORMAL_RETRANSMISSIONS: u8 = 2;

/// One of [`Transport::password`] and [`Transport::next_password`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum KeyInUse {
    #[default]
    Password,
    Next,
}

impl KeyInUse {
    /// The key itself. Without a next one it is the only one.
    pub(crate) fn of(self, transport: &Transport) -> Option<&Password> {
        let next = transport.next_password.as_ref();
        let next = next.filter(|_| self == Self::Next);
        next.or(transport.password.as_ref())
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Password => Self::Next,
            Self::Next => Self::Password,
        }
    }

    /// After a change of the configuration the key stays while it is one of the two: two ends that both changed at once, each with
    /// two keys, would go on missing each other.
    pub(crate) fn after(self, old: &Transport, new: &Transport) -> Self {
        if new.next_password.is_some() && self.of(old) == new.next_password.as_ref() {
            Self::Next
        } else {
            Self::Password
        }
    }
}

/// The key in use, and when to look whether it is the right one.
#[derive(Default)]
pub(crate) struct Rotation {
    pub(crate) in_use: KeyInUse,
    /// Retransmissions at the last look.
    retransmissions: u8,
    check_at: Option<Instant>,
}

impl Rotation {
    /// When [`Rotation::check`] is due, if there are two keys.
    pub(crate) fn due(&mut self, transport: &Transport, now: Instant) -> Option<Instant> {
        if transport.next_password.is_none() {
            self.check_at = None;
            return None;
        }
        Some(*self.check_at.get_or_insert(now + CHECK_INTERVAL))
    }

    /// Changes to the other key if the one in use does not seem to be the peer's: whether it did. `retransmissions`: of what waits
    /// for an acknowledgement on the connection, `None` without a connection.
    pub(crate) fn check(&mut self, now: Instant, retransmissions: Option<u8>) -> bool {
        if self.check_at.is_none_or(|at| now < at) {
            return false;
        }
        let before = std::mem::replace(&mut self.retransmissions, retransmissions.unwrap_or(0));
        self.check_at = Some(
            now + if retransmissions.is_some() {
                CHECK_INTERVAL
            } else {
                ALTERNATE_INTERVAL
            },
        );
        let changes = retransmissions.is_none_or(|count| count >= NORMAL_RETRANSMISSIONS && count > before);
        if changes {
            self.in_use = self.in_use.other();
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Ttl;

    fn transport(password: Option<&str>, next: Option<&str>) -> Transport {
        let key = |text: Option<&str>| text.map(|text| Password::new(text.as_bytes()).unwrap());
        Transport {
            remote: ([192, 0, 2, 1], 179).into(),
            local: None,
            ttl: Ttl::Default,
            password: key(password),
            next_password: key(next),
        }
    }

    #[test]
    fn the_key_stays_while_it_is_one_of_the_two() {
        use KeyInUse::{Next, Password};
        let keys = [
            // password and next before, the key in use, then password and next after: the key in use
            ((Some("a"), None), Password, (Some("a"), Some("b")), Password),
            ((Some("a"), Some("b")), Password, (Some("b"), None), Password),
            ((Some("a"), Some("b")), Next, (Some("b"), None), Password),
            ((Some("a"), Some("b")), Next, (Some("a"), Some("b")), Next),
            ((Some("a"), Some("b")), Next, (Some("b"), Some("c")), Password),
            ((Some("a"), Some("b")), Next, (Some("a"), Some("c")), Password),
            // The content of the file changed, and the old one is still good.
            ((Some("a"), None), Password, (Some("b"), Some("a")), Next),
            ((Some("b"), Some("a")), Next, (Some("b"), None), Password),
            ((Some("a"), Some("b")), Password, (Some("b"), Some("a")), Next),
            ((None, None), Password, (Some("a"), None), Password),
            ((Some("a"), Some("b")), Next, (None, None), Password),
        ];
        for (old, in_use, new, expected) in keys {
            let (old, new) = (transport(old.0, old.1), transport(new.0, new.1));
            assert_eq!(in_use.after(&old, &new), expected, "{in_use:?} {old:?} {new:?}");
        }
    }

    #[test]
    fn further_retransmissions_alternate_the_key() {
        let (start, both) = (Instant::now(), transport(Some("a"), Some("b")));
        let mut rotation = Rotation::default();
        assert_eq!(rotation.due(&transport(Some("a"), None), start), None);
        assert!(
            !rotation.check(start + 100 * CHECK_INTERVAL, Some(9)),
            "there is one key alone"
        );
        assert_eq!(rotation.due(&both, start), Some(start + CHECK_INTERVAL));
        let mut now = start;
        assert!(!rotation.check(now, Some(9)), "it is too early");
        // Nothing is lost; a loss; two; the same two; the third; acknowledged.
        for (retransmissions, changes) in [
            (0, false),
            (1, false),
            (2, true),
            (2, false),
            (3, true),
            (0, false),
        ] {
            now += CHECK_INTERVAL;
            assert_eq!(
                rotation.check(now, Some(retransmissions)),
                changes,
                "{retransmissions}"
            );
        }
        assert_eq!(rotation.in_use, KeyInUse::Password);
        now += CHECK_INTERVAL;
        assert!(rotation.check(now, None), "no connection");
        assert_eq!(rotation.due(&both, now), Some(now + ALTERNATE_INTERVAL));
    }
}
