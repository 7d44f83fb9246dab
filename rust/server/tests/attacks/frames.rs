//! HTTP/2 as bytes, written by hand: what no well-behaved library would send.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long anything here waits at most: far longer than any deadline of the server under test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(body);
    out
}

/// A header field as a literal that is not indexed.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(&mut out, text.len(), 7);
        out.extend(text.as_bytes());
    }
    out
}

/// An integer of HPACK with a prefix of so many bits, the others zero.
fn integer(out: &mut Vec<u8>, number: usize, prefix: u32) {
    let max = (1 << prefix) - 1;
    if number < max {
        out.push(u8::try_from(number).unwrap());
        return;
    }
    out.push(u8::try_from(max).unwrap());
    let mut rest = number - max;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// The header block of a call.
pub(crate) fn call(method: &str) -> Vec<u8> {
    let path = format!("/bursar.v1.QuotaService/{method}");
    [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", &path),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat()
}

/// A message as gRPC frames it.
pub(crate) fn message(body: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// One who means no good, with a connection.
pub(crate) struct Attacker {
    stream: TcpStream,
    /// What came and is no whole frame yet.
    unread: Vec<u8>,
}

/// A frame that came.
pub(crate) struct Came {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) body: Vec<u8>,
}

impl Attacker {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Connects and says what every client says first.
    pub(crate) fn greet(address: SocketAddr) -> Self {
        let mut attacker = Self::connect(address).unwrap();
        attacker.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        attacker
    }

    /// Sends; says whether the other side still takes it.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Reads what has come; none once the connection has ended.
    pub(crate) fn came(&mut self) -> Option<Vec<Came>> {
        let mut bytes = [0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(count) => self.unread.extend(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        let mut found = Vec::new();
        while self.unread.len() >= 9 {
            let length = u32::from_be_bytes([0, self.unread[0], self.unread[1], self.unread[2]]);
            let end = 9 + usize::try_from(length).unwrap();
            if self.unread.len() < end {
                break;
            }
            let whole: Vec<u8> = self.unread.drain(..end).collect();
            found.push(Came {
                kind: whole[3],
                flags: whole[4],
                stream: u32::from_be_bytes([whole[5], whole[6], whole[7], whole[8]]),
                body: whole[9..].to_vec(),
            });
        }
        Some(found)
    }

    /// Reads until the connection ends, answering pings; says whether it did, and was told to go away.
    pub(crate) fn until_closed(&mut self) -> (bool, bool) {
        let until = Instant::now() + PATIENCE;
        let mut told = false;
        while Instant::now() < until {
            let Some(frames) = self.came() else { return (true, told) };
            told |= frames.iter().any(|frame| frame.kind == GO_AWAY);
            self.pong(&frames);
        }
        (false, told)
    }

    /// Reads until a stream ends by its trailers or a reset, answering pings; gives all its frames.
    pub(crate) fn until_answered(&mut self, stream: u32) -> Vec<Came> {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while Instant::now() < until {
            let Some(frames) = self.came() else { break };
            self.pong(&frames);
            all.extend(frames.into_iter().filter(|frame| frame.stream == stream));
            let over = |frame: &Came| frame.kind == RST_STREAM || frame.flags & END_STREAM != 0;
            if all.iter().any(over) {
                break;
            }
        }
        all
    }

    /// Answers pings, so that the connection counts as alive.
    pub(crate) fn pong(&mut self, frames: &[Came]) {
        for ping in frames.iter().filter(|frame| frame.kind == PING && frame.flags & ACK == 0) {
            self.send(&frame(PING, ACK, 0, &ping.body));
        }
    }
}
