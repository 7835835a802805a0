//! TCP MD5 key rotation: finds out which of two configured keys the peer uses.
//!
//! RFC 2385 has no key identifiers, and the kernel holds one key per address; segments signed with another
//! key are dropped silently. Therefore:
//!
//! - On an established connection our segments are no longer acknowledged once the peer changes its key. From
//!   the second retransmission on, each further one is sent with the other key; when one is acknowledged, the
//!   connection stays with that key.
//! - Without a connection the listener alternates between the keys, and a connection is opened with one key,
//!   then with the other.
//!
//! With the default hold time of 90 s the peer's key may change at any time: our next KEEPALIVE, after at
//! most 30 s, is acknowledged one or two seconds later.

use std::time::{Duration, Instant};

use crate::api::{Password, Transport};

/// Interval of checks on a connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the listener alternates without a connection.
const ALTERNATE_INTERVAL: Duration = Duration::from_secs(5);
/// Retransmissions that packet loss may cause.
const NORMAL_RETRANSMISSIONS: u8 = 2;

/// One of [`Transport::password`] and [`Transport::next_password`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum KeyInUse {
    #[default]
    Password,
    Next,
}

impl KeyInUse {
    /// The key; without a second one it is the first.
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

    /// After a configuration change the key stays if it is still one of the two. Otherwise two ends that
    /// change at the same time, each with two keys, could keep choosing different ones.
    pub(crate) fn after(self, old: &Transport, new: &Transport) -> Self {
        if new.next_password.is_some() && self.of(old) == new.next_password.as_ref() {
            Self::Next
        } else {
            Self::Password
        }
    }
}

/// The key in use, and when to check it.
#[derive(Default)]
pub(crate) struct Rotation {
    pub(crate) in_use: KeyInUse,
    /// Retransmissions at the last check.
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

    /// Changes to the other key if the peer does not seem to use the present one; returns whether it did.
    /// `retransmissions`: of the oldest unacknowledged segment; `None` without a connection.
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

    fn transport(password: Option<&str>, next: Option<&str>) -> Transport {
        let key = |text: Option<&str>| text.map(|text| Password::new(text.as_bytes()).unwrap());
        Transport {
            password: key(password),
            next_password: key(next),
            ..Transport::new(([192, 0, 2, 1], 179).into())
        }
    }

    #[test]
    fn the_key_stays_while_it_is_one_of_the_two() {
        use KeyInUse::{Next, Password};
        let keys = [
            // password and next before, the key in use, password and next after: the key in use
            ((Some("a"), None), Password, (Some("a"), Some("b")), Password),
            ((Some("a"), Some("b")), Password, (Some("b"), None), Password),
            ((Some("a"), Some("b")), Next, (Some("b"), None), Password),
            ((Some("a"), Some("b")), Next, (Some("a"), Some("b")), Next),
            ((Some("a"), Some("b")), Next, (Some("b"), Some("c")), Password),
            ((Some("a"), Some("b")), Next, (Some("a"), Some("c")), Password),
            // The file's content changed, and the old key is still accepted.
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
            "there is only one key"
        );
        assert_eq!(rotation.due(&both, start), Some(start + CHECK_INTERVAL));
        let mut now = start;
        assert!(!rotation.check(now, Some(9)), "it is too early");
        // No loss; one retransmission; two; the same two; a third; acknowledged.
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
