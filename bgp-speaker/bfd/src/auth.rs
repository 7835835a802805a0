//! Authentication of control packets (RFC 5880 §4.2–4.4, §6.7).
//!
//! | type | in the packet | replay protection |
//! |---|---|---|
//! | 1 Simple Password | the password itself | none |
//! | 2 Keyed MD5 | MD5 over packet and key | packets older than the last sequence number |
//! | 3 Meticulous Keyed MD5 | the same, with a new sequence number per packet | all packets |
//! | 4 Keyed SHA1 | SHA-1 over packet and key | packets older than the last sequence number |
//! | 5 Meticulous Keyed SHA1 | the same, with a new sequence number per packet | all packets |
//!
//! There is one key at a time. Sequence numbers begin at a random value (§6.8.1); the neighbor's is unknown
//! again after twice the detection time without a packet. HMAC is not used: in the RFC the key takes the
//! place of the digest when it is computed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use sha1::Sha1;

/// Length of the mandatory section, in octets.
const HEAD: usize = 24;
/// The A bit, in the second octet.
const AUTHENTICATED: u8 = 0x04;
/// Octets before the digest: type, length, key ID, reserved, sequence number.
const PREFIX: usize = 8;

/// Authentication type (RFC 5880 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AuthKind {
    /// The password in clear text.
    Simple,
    /// MD5; a sequence number may repeat.
    KeyedMd5,
    /// MD5; a new sequence number per packet.
    MeticulousMd5,
    /// SHA-1; a sequence number may repeat.
    KeyedSha1,
    /// SHA-1; a new sequence number per packet.
    MeticulousSha1,
}

impl AuthKind {
    fn code(self) -> u8 {
        match self {
            AuthKind::Simple => 1,
            AuthKind::KeyedMd5 => 2,
            AuthKind::MeticulousMd5 => 3,
            AuthKind::KeyedSha1 => 4,
            AuthKind::MeticulousSha1 => 5,
        }
    }

    fn is_meticulous(self) -> bool {
        matches!(self, AuthKind::MeticulousMd5 | AuthKind::MeticulousSha1)
    }

    /// Length of the digest, which is also the longest key; 16 for a password.
    #[must_use]
    pub fn longest_key(self) -> usize {
        match self {
            AuthKind::KeyedSha1 | AuthKind::MeticulousSha1 => 20,
            AuthKind::Simple | AuthKind::KeyedMd5 | AuthKind::MeticulousMd5 => 16,
        }
    }
}

/// An authentication key. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    kind: AuthKind,
    key_id: u8,
    key: Arc<[u8]>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Auth");
        out.field("kind", &self.kind).field("key_id", &self.key_id);
        out.finish_non_exhaustive()
    }
}

impl Auth {
    /// `None` if the key is empty or longer than [`AuthKind::longest_key`].
    #[must_use]
    pub fn new(kind: AuthKind, key_id: u8, key: &[u8]) -> Option<Self> {
        (1..=kind.longest_key()).contains(&key.len()).then(|| Self {
            kind,
            key_id,
            key: key.into(),
        })
    }

    /// The digest of a packet, computed with the key in the place of the digest.
    fn digest(&self, mut packet: Vec<u8>) -> Vec<u8> {
        let at = HEAD + PREFIX;
        packet.resize(at + self.kind.longest_key(), 0);
        for (index, place) in packet.iter_mut().skip(at).enumerate() {
            *place = self.key.get(index).copied().unwrap_or(0);
        }
        match self.kind {
            AuthKind::KeyedSha1 | AuthKind::MeticulousSha1 => Sha1::digest(&packet).to_vec(),
            AuthKind::Simple | AuthKind::KeyedMd5 | AuthKind::MeticulousMd5 => Md5::digest(&packet).to_vec(),
        }
    }
}

/// Why an authenticated packet is dropped (RFC 5880 §6.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// Only one of the two sides authenticates.
    #[error("only one side uses authentication; configure it on both")]
    Presence,
    /// Another authentication type, or a wrong length.
    #[error("the peer uses another authentication type; configure the same on both sides")]
    Kind,
    /// An unknown key ID.
    #[error("unknown key ID {0}; configure the same ID on both sides")]
    Key(u8),
    /// A repeated or old sequence number, or one too far ahead.
    #[error("sequence number {0} is out of order")]
    Sequence(u32),
    /// The digest or password does not match.
    #[error("the digest does not match; check that both sides have the same key")]
    Digest,
}

/// Authentication state of a session: key and sequence numbers.
#[derive(Debug)]
pub struct Authenticator {
    auth: Option<Auth>,
    sent: u32,
    last_received: Option<(u32, Instant)>,
}

impl Authenticator {
    /// `seed`: the first sequence number.
    #[must_use]
    pub fn new(auth: Option<Auth>, seed: u32) -> Self {
        Self {
            auth,
            sent: seed,
            last_received: None,
        }
    }

    /// Replaces the key; `None` disables authentication.
    pub fn replace(&mut self, auth: Option<Auth>) {
        self.auth = auth;
    }

    /// The packet with its authentication section.
    pub fn sign(&mut self, packet: &[u8; HEAD]) -> Vec<u8> {
        let Some(auth) = &self.auth else {
            return packet.to_vec();
        };
        let body = match auth.kind {
            AuthKind::Simple => 3 + auth.key.len(),
            kind => PREFIX + kind.longest_key(),
        };
        let mut bytes = packet.to_vec();
        let octet = |length: usize| u8::try_from(length).unwrap_or(u8::MAX);
        if let [_, flags, _, length, ..] = bytes.as_mut_slice() {
            *flags |= AUTHENTICATED;
            *length = octet(HEAD + body);
        }
        bytes.extend([auth.kind.code(), octet(body), auth.key_id]);
        if auth.kind == AuthKind::Simple {
            bytes.extend(auth.key.iter());
            return bytes;
        }
        // A new sequence number per packet, which every type allows (RFC 5880 §6.7.3).
        self.sent = self.sent.wrapping_add(1);
        bytes.push(0);
        bytes.extend(self.sent.to_be_bytes());
        let digest = auth.digest(bytes.clone());
        bytes.extend(digest);
        bytes
    }

    /// Checks the authentication of a packet. `detection_time`: that of the session.
    ///
    /// # Errors
    /// [`AuthError`]: the packet must be dropped.
    pub fn verify(
        &mut self,
        now: Instant,
        bytes: &[u8],
        detection_time: Option<Duration>,
    ) -> Result<(), AuthError> {
        let is_signed = bytes.get(1).is_some_and(|flags| flags & AUTHENTICATED != 0);
        let Some(auth) = &self.auth else {
            return if is_signed {
                Err(AuthError::Presence)
            } else {
                Ok(())
            };
        };
        if !is_signed {
            return Err(AuthError::Presence);
        }
        let length = bytes.get(3).map_or(0, |length| usize::from(*length));
        let packet = bytes.get(..length).ok_or(AuthError::Kind)?;
        let Some(([kind, body, key], rest)) =
            packet.get(HEAD..).and_then(|section| section.split_first_chunk())
        else {
            return Err(AuthError::Kind);
        };
        if *kind != auth.kind.code() || usize::from(*body) != packet.len() - HEAD {
            return Err(AuthError::Kind);
        }
        if *key != auth.key_id {
            return Err(AuthError::Key(*key));
        }
        if auth.kind == AuthKind::Simple {
            return if equal_constant_time(rest, &auth.key) {
                Ok(())
            } else {
                Err(AuthError::Digest)
            };
        }
        let Some(([_, number @ ..], digest)) = rest.split_first_chunk::<5>() else {
            return Err(AuthError::Kind);
        };
        let number = u32::from_be_bytes(*number);
        let multiplier = packet.get(2).copied().unwrap_or(0);
        if !self.in_sequence(now, number, multiplier, auth.kind, detection_time) {
            return Err(AuthError::Sequence(number));
        }
        let signed = packet.get(..HEAD + PREFIX).unwrap_or_default().to_vec();
        if !equal_constant_time(digest, &auth.digest(signed)) {
            return Err(AuthError::Digest);
        }
        self.last_received = Some((number, now));
        Ok(())
    }

    /// RFC 5880 §6.7.3: a number is accepted from the last one (the next one, for meticulous types) to three
    /// times the multiplier ahead.
    fn in_sequence(
        &self,
        now: Instant,
        number: u32,
        multiplier: u8,
        kind: AuthKind,
        detection_time: Option<Duration>,
    ) -> bool {
        let Some((last, at)) = self.last_received else {
            return true;
        };
        if detection_time.is_none_or(|detection_time| now.duration_since(at) > detection_time * 2) {
            return true;
        }
        let ahead = number.wrapping_sub(last);
        let first = u32::from(kind.is_meticulous());
        (first..=3 * u32::from(multiplier)).contains(&ahead)
    }
}

/// Comparison in constant time.
fn equal_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [AuthKind; 5] = [
        AuthKind::Simple,
        AuthKind::KeyedMd5,
        AuthKind::MeticulousMd5,
        AuthKind::KeyedSha1,
        AuthKind::MeticulousSha1,
    ];

    fn packet() -> [u8; HEAD] {
        let mut packet = [7; HEAD];
        packet[1] = 0xC0;
        packet[2] = 3;
        packet[3] = 24;
        packet
    }

    fn authenticator(kind: AuthKind, key: &[u8]) -> Authenticator {
        Authenticator::new(Auth::new(kind, 5, key), 41)
    }

    const DETECTION_TIME: Option<Duration> = Some(Duration::from_millis(150));

    #[test]
    fn the_right_key_opens_and_no_other() {
        let now = Instant::now();
        for kind in KINDS {
            let bytes = authenticator(kind, b"secret").sign(&packet());
            assert_eq!(bytes.len(), usize::from(bytes[3]));
            assert_eq!(
                authenticator(kind, b"secret").verify(now, &bytes, DETECTION_TIME),
                Ok(()),
                "{kind:?}"
            );
            assert_eq!(
                authenticator(kind, b"secreT").verify(now, &bytes, DETECTION_TIME),
                Err(AuthError::Digest),
                "{kind:?}"
            );
            assert_eq!(
                Authenticator::new(None, 0).verify(now, &bytes, DETECTION_TIME),
                Err(AuthError::Presence)
            );
            let plain = Authenticator::new(None, 0).sign(&packet());
            assert_eq!(
                authenticator(kind, b"secret").verify(now, &plain, DETECTION_TIME),
                Err(AuthError::Presence)
            );
            let mut other = Authenticator::new(Auth::new(kind, 6, b"secret"), 0);
            assert_eq!(other.verify(now, &bytes, DETECTION_TIME), Err(AuthError::Key(5)));
        }
    }

    #[test]
    fn by_hand_from_the_figures() {
        let bytes = authenticator(AuthKind::Simple, b"secret").sign(&packet());
        assert_eq!(bytes[24..], *b"\x01\x09\x05secret");
        let bytes = authenticator(AuthKind::KeyedSha1, b"secret").sign(&packet());
        assert_eq!((bytes[1] & AUTHENTICATED, bytes[3]), (AUTHENTICATED, 52));
        assert_eq!(bytes[24..32], [4, 28, 5, 0, 0, 0, 0, 42]);
        let bytes = authenticator(AuthKind::MeticulousMd5, b"secret").sign(&packet());
        assert_eq!(bytes[24..32], [3, 24, 5, 0, 0, 0, 0, 42]);
    }

    #[test]
    fn a_packet_counts_once_and_in_order() {
        let now = Instant::now();
        for (kind, again) in [(AuthKind::KeyedMd5, true), (AuthKind::MeticulousSha1, false)] {
            let (mut sender, mut receiver) = (authenticator(kind, b"k"), authenticator(kind, b"k"));
            let packets: Vec<_> = (0..12).map(|_| sender.sign(&packet())).collect();
            assert_eq!(receiver.verify(now, &packets[1], DETECTION_TIME), Ok(()));
            assert_eq!(receiver.verify(now, &packets[1], DETECTION_TIME).is_ok(), again);
            assert!(receiver.verify(now, &packets[0], DETECTION_TIME).is_err());
            assert!(
                receiver.verify(now, &packets[11], DETECTION_TIME).is_err(),
                "too far ahead"
            );
            assert_eq!(receiver.verify(now, &packets[10], DETECTION_TIME), Ok(()));
            // After a long silence any number is accepted: the neighbor may have restarted.
            let later = now + Duration::from_millis(301);
            assert_eq!(receiver.verify(later, &packets[0], DETECTION_TIME), Ok(()));
        }
    }

    #[test]
    fn keys_have_a_length() {
        assert!(Auth::new(AuthKind::KeyedMd5, 1, &[0; 17]).is_none());
        assert!(Auth::new(AuthKind::KeyedSha1, 1, &[0; 20]).is_some());
        assert!(Auth::new(AuthKind::Simple, 1, b"").is_none());
        assert!(!format!("{:?}", Auth::new(AuthKind::Simple, 1, b"secret")).contains("secret"));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0usize..5) {
            let _ = authenticator(KINDS[kind], b"secret").verify(Instant::now(), &bytes, DETECTION_TIME);
        }

        #[test]
        fn one_changed_octet_is_seen(at in 0usize..52, by in 1u8..=255) {
            let mut bytes = authenticator(AuthKind::MeticulousSha1, b"secret").sign(&packet());
            bytes[at] ^= by;
            prop_assert!(authenticator(AuthKind::MeticulousSha1, b"secret").verify(Instant::now(), &bytes, DETECTION_TIME).is_err());
        }
    }
}
