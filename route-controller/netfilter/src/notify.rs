//! What changes in the ruleset, as the kernel reports it.

use std::os::fd::BorrowedFd;

use linux::netlink::messages;
use nix::errno::Errno;

use crate::list::elements_of;
use crate::message::Attrs;
use crate::object::Element;
use crate::socket::{Error, Result, Socket};
use crate::transaction::{DELSETELEM, NEWGEN, NEWSETELEM, NFPROTO_INET};

const GROUP_NFTABLES: u32 = 7;

/// A change that another socket made to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    ElementAdded {
        set: String,
        element: Element,
    },
    ElementDeleted {
        set: String,
        element: Element,
    },
    /// The table itself, a chain, a rule or a set.
    Other,
    /// Notifications were lost.
    Lost,
}

/// A subscription to the ruleset's notifications.
#[derive(Debug)]
pub struct Notifications {
    socket: Socket,
    table: String,
}

impl Notifications {
    /// Of one table of family `inet`, without what the socket with the address `own_port` does: the kernel drops that, so that own
    /// changes do not wake the reader.
    ///
    /// # Errors
    /// A right is missing.
    pub fn open(table: &str, own_port: u32) -> Result<Self> {
        let socket = Socket::open()?;
        socket.ignore_changes_by(own_port)?;
        socket.join(GROUP_NFTABLES)?;
        Ok(Self {
            socket,
            table: table.to_owned(),
        })
    }

    /// Readable when there is something.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// All that is there, without waiting.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn read(&mut self) -> Result<Vec<Notification>> {
        let mut found = Vec::new();
        loop {
            let table = self.table.as_str();
            match self.socket.receive(false) {
                Ok(None) => return Ok(found),
                Ok(Some(bytes)) => {
                    let changes = messages(bytes).filter(|m| m.kind != NEWGEN);
                    for message in changes.filter(|m| m.body().first() == Some(&NFPROTO_INET)) {
                        let attrs = Attrs::of(&message);
                        if attrs.text(1) != Some(table) {
                            continue;
                        }
                        let set = || attrs.text(2).unwrap_or_default().to_owned();
                        match message.kind {
                            NEWSETELEM => found.extend(
                                elements_of(&attrs)
                                    .map(|element| Notification::ElementAdded { set: set(), element }),
                            ),
                            DELSETELEM => found.extend(
                                elements_of(&attrs)
                                    .map(|element| Notification::ElementDeleted { set: set(), element }),
                            ),
                            _ => found.push(Notification::Other),
                        }
                    }
                }
                Err(Error::Socket {
                    errno: Errno::ENOBUFS,
                    ..
                }) => found.push(Notification::Lost),
                Err(error) => return Err(error),
            }
        }
    }
}
