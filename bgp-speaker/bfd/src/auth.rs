//! Authentication of control packets (RFC 5880 §4.2–4.4, §6.7).
//!
//! | type | in the packet | protects from replay |
//! |---|---|---|
//! | 1 Simple Password | the password itself | no |
//! | 2 Keyed MD5 | MD5 over packet and key | older than the last sequence number |
//! | 3 Meticulous Keyed MD5 | the same, each packet has its number | all |
//! | 4 Keyed SHA1 | SHA-1 over packet and key | older than the last sequence number |
//! | 5 Meticulous Keyed SHA1 | the same, each packet has its number | all |
//!
//! One key at a time; sequence numbers begin at random (§6.8.1) and are taken as unknown again after twice the detection
//! time of silence. HMAC is not used: the RFC hashes the key in the place of the digest.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use sha1::Sha1;

/// The mandatory part of a packet.
const HEAD: usize = 24;
/// A in the second octet.
const AUTHENTICATED: u8 = 0x04;
/// Octets before the digest: type, length, key, reserved, sequence number.
const PREFIX: usize = 8;

/// Type of authentication, with the numbers of RFC 5880 §4.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AuthKind {
    /// The password in clear text.
    Simple,
    /// MD5; the sequence number may repeat.
    KeyedMd5,
    /// MD5; each packet has its own number.
    MeticulousMd5,
    /// SHA-1; the sequence number may repeat.
    KeyedSha1,
    /// SHA-1; each packet has its own number.
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

    /// Octets of the digest, which is also the longest key; 16 for a password.
    #[must_use]
    pub fn longest_key(self) -> usize {
        match self {
            AuthKind::KeyedSha1 | AuthKind::MeticulousSha1 => 20,
            AuthKind::Simple | AuthKind::KeyedMd5 | AuthKind::MeticulousMd5 => 16,
        }
    }
}

/// A key. It is never printed.
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
    /// `None` when the key is empty or longer than [`AuthKind::longest_key`].
    #[must_use]
    pub fn new(kind: AuthKind, key_id: u8, key: &[u8]) -> Option<Self> {
        (1..=kind.longest_key()).contains(&key.len()).then(|| Self {
            kind,
            key_id,
            key: key.into(),
        })
    }

    /// The digest of a packet whose own digest has the key in its place.
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
    /// One side authenticates, the other does not.
    #[error("one of the two does not authenticate")]
    Presence,
    /// Another type, or a length that it does not have.
    #[error("another type of authentication")]
    Kind,
    /// A key that is not ours.
    #[error("key {0} is not known")]
    Key(u8),
    /// Sent before, or too far ahead.
    #[error("sequence number {0} is out of order")]
    Sequence(u32),
    /// The key is another one.
    #[error("the digest does not match")]
    Digest,
}

/// One session's authentication: key and sequence numbers.
#[derive(Debug)]
pub struct Guard {
    auth: Option<Auth>,
    sent: u32,
    heard: Option<(u32, Instant)>,
}

impl Guard {
    /// `seed`: where sequence numbers begin.
    #[must_use]
    pub fn new(auth: Option<Auth>, seed: u32) -> Self {
        Self {
            auth,
            sent: seed,
            heard: None,
        }
    }

    /// Another key, or none, from now on.
    pub fn replace(&mut self, auth: Option<Auth>) {
        self.auth = auth;
    }

    /// The packet as it goes on the wire.
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
        // Each packet has its own number, whichever the type: both may (RFC 5880 §6.7.3).
        self.sent = self.sent.wrapping_add(1);
        bytes.push(0);
        bytes.extend(self.sent.to_be_bytes());
        let digest = auth.digest(bytes.clone());
        bytes.extend(digest);
        bytes
    }

    /// Whether a packet may be believed. `silence`: the detection time.
    ///
    /// # Errors
    /// [`AuthError`]: the packet must be dropped.
    pub fn verify(&mut self, now: Instant, bytes: &[u8], silence: Option<Duration>) -> Result<(), AuthError> {
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
            return if same(rest, &auth.key) {
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
        if !self.may_follow(now, number, multiplier, auth.kind, silence) {
            return Err(AuthError::Sequence(number));
        }
        let signed = packet.get(..HEAD + PREFIX).unwrap_or_default().to_vec();
        if !same(digest, &auth.digest(signed)) {
            return Err(AuthError::Digest);
        }
        self.heard = Some((number, now));
        Ok(())
    }

    /// RFC 5880 §6.7.3: from the last number (the next one, where each packet has its own) up to three times the
    /// multiplier ahead.
    fn may_follow(
        &self,
        now: Instant,
        number: u32,
        multiplier: u8,
        kind: AuthKind,
        silence: Option<Duration>,
    ) -> bool {
        let Some((last, at)) = self.heard else { return true };
        if silence.is_none_or(|silence| now.duration_since(at) > silence * 2) {
            return true;
        }
        let ahead = number.wrapping_sub(last);
        let first = u32::from(kind.is_meticulous());
        (first..=3 * u32::from(multiplier)).contains(&ahead)
    }
}

/// Equality that takes as long wherever the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
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

    fn guard(kind: AuthKind, key: &[u8]) -> Guard {
        Guard::new(Auth::new(kind, 5, key), 41)
    }

    const SILENCE: Option<Duration> = Some(Duration::from_millis(150));

    #[test]
    fn the_right_key_opens_and_no_other() {
        let now = Instant::now();
        for kind in KINDS {
            let bytes = guard(kind, b"secret").sign(&packet());
            assert_eq!(bytes.len(), usize::from(bytes[3]));
            assert_eq!(
                guard(kind, b"secret").verify(now, &bytes, SILENCE),
                Ok(()),
                "{kind:?}"
            );
            assert_eq!(
                guard(kind, b"secreT").verify(now, &bytes, SILENCE),
                Err(AuthError::Digest),
                "{kind:?}"
            );
            assert_eq!(
                Guard::new(None, 0).verify(now, &bytes, SILENCE),
                Err(AuthError::Presence)
            );
            let plain = Guard::new(None, 0).sign(&packet());
            assert_eq!(
                guard(kind, b"secret").verify(now, &plain, SILENCE),
                Err(AuthError::Presence)
            );
            let mut other = Guard::new(Auth::new(kind, 6, b"secret"), 0);
            assert_eq!(other.verify(now, &bytes, SILENCE), Err(AuthError::Key(5)));
        }
    }

    #[test]
    fn by_hand_from_the_figures() {
        let bytes = guard(AuthKind::Simple, b"secret").sign(&packet());
        assert_eq!(bytes[24..], *b"\x01\x09\x05secret");
        let bytes = guard(AuthKind::KeyedSha1, b"secret").sign(&packet());
        assert_eq!((bytes[1] & AUTHENTICATED, bytes[3]), (AUTHENTICATED, 52));
        assert_eq!(bytes[24..32], [4, 28, 5, 0, 0, 0, 0, 42]);
        let bytes = guard(AuthKind::MeticulousMd5, b"secret").sign(&packet());
        assert_eq!(bytes[24..32], [3, 24, 5, 0, 0, 0, 0, 42]);
    }

    #[test]
    fn a_packet_counts_once_and_in_order() {
        let now = Instant::now();
        for (kind, again) in [(AuthKind::KeyedMd5, true), (AuthKind::MeticulousSha1, false)] {
            let (mut sender, mut receiver) = (guard(kind, b"k"), guard(kind, b"k"));
            let packets: Vec<_> = (0..12).map(|_| sender.sign(&packet())).collect();
            assert_eq!(receiver.verify(now, &packets[1], SILENCE), Ok(()));
            assert_eq!(receiver.verify(now, &packets[1], SILENCE).is_ok(), again);
            assert!(receiver.verify(now, &packets[0], SILENCE).is_err());
            assert!(
                receiver.verify(now, &packets[11], SILENCE).is_err(),
                "too far ahead"
            );
            assert_eq!(receiver.verify(now, &packets[10], SILENCE), Ok(()));
            // After a long silence any number does: the neighbor may have begun anew.
            let later = now + Duration::from_millis(301);
            assert_eq!(receiver.verify(later, &packets[0], SILENCE), Ok(()));
        }
    }

    #[test]
    fn keys_have_a_length() {
        assert!(Auth::new(AuthKind::KeyedMd5, 1, &[0; 17]).is_none());
        assert!(Auth::new(AuthKind::KeyedSha1, 1, &[0; 20]).is_some());
        assert!(Auth::new(AuthKind::Simple, 1, b"").is_none());
        assert!(!format!("{:?}", Auth::new(AuthKind::Simple, 1, b"hush")).contains("hush"));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0usize..5) {
            let _ = guard(KINDS[kind], b"secret").verify(Instant::now(), &bytes, SILENCE);
        }

        #[test]
        fn one_changed_octet_is_seen(at in 0usize..52, by in 1u8..=255) {
            let mut bytes = guard(AuthKind::MeticulousSha1, b"secret").sign(&packet());
            bytes[at] ^= by;
            prop_assert!(guard(AuthKind::MeticulousSha1, b"secret").verify(Instant::now(), &bytes, SILENCE).is_err());
        }
    }
}
