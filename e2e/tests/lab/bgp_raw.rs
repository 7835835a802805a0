//! Raw BGP: octets that no correct speaker sends, and the answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::failure::{Context, Result};
use lab::{bail, ensure};
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;

/// A message with a correct header.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("a message of at most 65535 octets");
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// The fields of an OPEN; change one to make it wrong.
#[derive(Clone, Copy)]
pub(crate) struct Open {
    pub(crate) version: u8,
    pub(crate) asn: u16,
    pub(crate) hold: u16,
    pub(crate) id: Ipv4Addr,
    pub(crate) parameters: &'static [u8],
}

impl Open {
    /// An OPEN that a node accepts from AS 65099, with capability multiprotocol IPv4 unicast.
    pub(crate) const GOOD: Self = Self {
        version: 4,
        asn: 65099,
        hold: 90,
        id: Ipv4Addr::new(192, 0, 2, 66),
        parameters: &[2, 6, 1, 4, 0, 1, 0, 1],
    };

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut body = vec![self.version];
        body.extend(self.asn.to_be_bytes());
        body.extend(self.hold.to_be_bytes());
        body.extend(self.id.octets());
        body.push(u8::try_from(self.parameters.len()).expect("short parameters"));
        body.extend(self.parameters);
        message(OPEN, &body)
    }
}

/// A connection from a chosen address of the calling thread's namespace.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    pub(crate) fn connect(from: Ipv4Addr, to: Ipv4Addr) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("socket")?;
        socket
            .bind(&SocketAddr::from((from, 0)).into())
            .context(format!("binding {from}"))?;
        let target = SocketAddr::from((to, 179));
        socket
            .connect_timeout(&target.into(), LIMIT)
            .context(format!("connecting {from} to {target}"))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).context("read timeout")?;
        Ok(Self { stream })
    }

    pub(crate) fn send(&mut self, octets: &[u8]) -> Result<()> {
        self.stream.write_all(octets).context("sending")
    }

    /// The next message: its type and body.
    pub(crate) fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut header = [0u8; 19];
        self.stream
            .read_exact(&mut header)
            .context("reading a message header")?;
        ensure!(
            header[..16] == [0xff; 16],
            "the node's marker is {:?}",
            &header[..16]
        );
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        ensure!(
            (19..=4096).contains(&length),
            "the node's message has length {length}"
        );
        let mut body = vec![0u8; length - 19];
        self.stream
            .read_exact(&mut body)
            .context("reading a message body")?;
        Ok((header[18], body))
    }

    /// Reads the node's OPEN, which comes first.
    pub(crate) fn expect_open(&mut self) -> Result<()> {
        let (kind, body) = self.read()?;
        ensure!(
            kind == OPEN && body.first() == Some(&4),
            "the node began with message {kind}: {body:?}"
        );
        Ok(())
    }

    /// Reads up to the NOTIFICATION and the end of the connection; answers code, subcode and data.
    pub(crate) fn expect_notification(&mut self) -> Result<(u8, u8, Vec<u8>)> {
        loop {
            match self.read()? {
                (NOTIFICATION, body) if body.len() >= 2 => {
                    let mut rest = Vec::new();
                    // The end may be a reset if own octets were not read.
                    let _ = self.stream.read_to_end(&mut rest);
                    ensure!(rest.is_empty(), "after the NOTIFICATION came {rest:?}");
                    return Ok((body[0], body[1], body[2..].to_vec()));
                }
                (OPEN | UPDATE | KEEPALIVE, _) => {}
                (kind, body) => bail!("message {kind} with body {body:?}"),
            }
        }
    }
}
