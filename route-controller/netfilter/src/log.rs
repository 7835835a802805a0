//! Packets that a rule logs to a group (nfnetlink_log).

use std::os::fd::BorrowedFd;

use linux::netlink::{ACK, messages};
use nix::errno::Errno;

use crate::message::{Attrs, Messages};
use crate::socket::{Error, Result, Socket, What, refused};

const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;
/// Longer prefixes than this are not kept.
const PREFIX: usize = 128;

/// A packet as logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedPacket {
    /// The prefix of the rule.
    pub prefix: String,
    /// The packet from its network header on, cut off.
    pub bytes: Vec<u8>,
}

/// Reads one group.
#[derive(Debug)]
pub struct LogReader {
    socket: Socket,
}

impl LogReader {
    /// Binds to a group; `length` octets of each packet are copied.
    ///
    /// # Errors
    /// Another program has the group (`EBUSY`), or the kernel has no nfnetlink_log.
    pub fn open(group: u16, length: u32) -> Result<Self> {
        const BIND: u8 = 1;
        const COPY_PACKET: u8 = 2;
        let mut socket = Socket::open()?;
        let what = What {
            action: "read the packet log, group",
            name: group.to_string(),
        };
        let mut mode = length.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        for (kind, value) in [(1_u16, vec![BIND]), (2, mode)] {
            let sequence = socket.sequences(1);
            let mut request = Messages::default();
            request.begin(CONFIG, ACK, sequence, 0, group);
            request.attr(kind, &value);
            socket.send(&request)?;
            if let Some(failure) = socket.answer(sequence)? {
                return Err(refused(&what, failure));
            }
        }
        Ok(Self { socket })
    }

    /// Readable when there is something.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// All that is there, without waiting; what was lost is not reported.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn read(&mut self) -> Result<Vec<LoggedPacket>> {
        const PAYLOAD: u16 = 9;
        const LOG_PREFIX: u16 = 10;
        let mut found = Vec::new();
        loop {
            match self.socket.receive(false) {
                Ok(None) => return Ok(found),
                Ok(Some(bytes)) => {
                    found.extend(messages(bytes).filter(|m| m.kind == PACKET).map(|message| {
                        let attrs = Attrs::of(&message);
                        let prefix = attrs.text(LOG_PREFIX).unwrap_or_default();
                        LoggedPacket {
                            prefix: prefix.chars().take(PREFIX).collect(),
                            bytes: attrs.get(PAYLOAD).unwrap_or_default().to_vec(),
                        }
                    }))
                }
                Err(Error::Socket {
                    errno: Errno::ENOBUFS,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
