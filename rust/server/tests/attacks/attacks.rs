//! The attacks: each does its worst and says how it ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bursar_server::Transport;
use prost::Message as _;

use crate::Attack;
use crate::frames::{
    Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PATIENCE, PING, PREFACE,
    RST_STREAM, SETTINGS, call, field, frame, message,
};
use crate::sidecar::reserve;

pub(crate) const ALL: &[Attack] = &[
    ("rapid reset", nothing, rapid_reset),
    ("CONTINUATION flood", nothing, continuation_flood),
    ("header bomb, by size", nothing, header_bomb),
    ("header bomb, by reference", nothing, reference_bomb),
    ("ping flood", nothing, ping_flood),
    ("settings flood", nothing, settings_flood),
    ("empty DATA flood", nothing, empty_data_flood),
    ("window of 0", short_lived, window_stall),
    ("slow preface", nothing, slow_preface),
    ("slow headers", nothing, slow_headers),
    ("slow body", nothing, slow_body),
    ("greets and never asks", nothing, never_asks),
    ("pings and never asks", nothing, pings_and_never_asks),
    ("more streams than may be", nothing, many_streams),
    ("messages too large", nothing, large_messages),
    ("messages that are none", nothing, broken_messages),
    ("2,000 idle connections", patient, idle_connections),
];

fn nothing(_: &mut Transport) {}

/// Connections end soon, whatever they do.
fn short_lived(transport: &mut Transport) {
    transport.age_max = Duration::from_secs(3);
    transport.age_grace = Duration::from_secs(1);
    // The neighbour's connection ages too, and is made anew: its calls in flight end first.
    transport.call_max = Duration::from_secs(30);
}

/// The stream of a client's call.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

fn request(stream: u32, method: &str, body: &[u8]) -> Vec<u8> {
    let headers = frame(HEADERS, END_HEADERS, stream, &call(method));
    [headers, frame(DATA, END_STREAM, stream, &message(body))].concat()
}

/// Sends frames until the other side takes no more or the flood is over, then waits for the end.
fn flood(attacker: &mut Attacker, frames: impl Iterator<Item = Vec<u8>>) -> (usize, bool, bool) {
    let mut sent = 0;
    for bytes in frames {
        if !attacker.send(&bytes) {
            break;
        }
        sent += 1;
        // What is said meanwhile is read now and then, as a real attacker would to get on.
        if sent % 256 == 0 && attacker.came().is_none() {
            return (sent, true, false);
        }
    }
    let (closed, told) = attacker.until_closed();
    (sent, closed, told)
}

fn ended(what: &str, (sent, closed, told): (usize, bool, bool)) -> String {
    assert!(closed, "{what}: {sent} were sent and the connection is still open");
    format!("ended after {sent} {what}{}", if told { ", told to go away" } else { "" })
}

fn rapid_reset(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let cancel = 8_u32.to_be_bytes();
    let pairs = (0..50_000).map(|number| {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &call("Reserve"));
        [headers, frame(RST_STREAM, 0, stream(number), &cancel)].concat()
    });
    ended("resets", flood(&mut attacker, pairs))
}

fn continuation_flood(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let first = frame(HEADERS, 0, 1, &call("Reserve"));
    let filler = frame(CONTINUATION, 0, 1, &field("x-filler", &"a".repeat(1_000)));
    let frames = std::iter::once(first).chain(std::iter::repeat_n(filler, 20_000));
    ended("frames", flood(&mut attacker, frames))
}

fn header_bomb(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let mut block = call("Reserve");
    for number in 0..300 {
        block.extend(field(&format!("x-bomb-{number}"), &"a".repeat(200)));
    }
    let mut pieces = block.chunks(16_000).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        attacker.send(&frame(kind, flags, 1, piece));
        kind = CONTINUATION;
    }
    refused(&mut attacker)
}

/// A field of 4 kB is put into the table once, and named ten thousand times in a few bytes.
fn reference_bomb(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let mut entry = field("x", &"a".repeat(3_900));
    entry[0] = 0x40; // a literal that is indexed: the table's first of its own, 62
    let block = [call("Reserve"), entry, vec![0x80 | 62; 10_000]].concat();
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &block[..block.len().min(16_384)]));
    refused(&mut attacker)
}

/// Waits until a call that may not be is refused, or its connection ends.
fn refused(attacker: &mut Attacker) -> String {
    let frames = attacker.until_answered(1);
    match frames.last() {
        None => "the connection ended".into(),
        Some(last) if last.kind == RST_STREAM => "the call was reset".into(),
        Some(_) => "the call was answered 431".into(),
    }
}

fn ping_flood(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    // Nothing is read: every pong is left lying.
    let round = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let rounds = (0..200).take_while(|_| attacker.send(&round)).count();
    ended("rounds of 1,000 pings", (rounds, attacker.until_closed().0, false))
}

fn settings_flood(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let round = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(1_000);
    let rounds = (0..200).take_while(|_| attacker.send(&round)).count();
    ended("rounds of 1,000 settings", (rounds, attacker.until_closed().0, false))
}

fn empty_data_flood(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let first = frame(HEADERS, END_HEADERS, 1, &call("Reserve"));
    let nothing = frame(DATA, 0, 1, &[]).repeat(100);
    attacker.send(&first);
    let until = Instant::now() + PATIENCE;
    let mut sent = 0;
    while Instant::now() < until {
        let open = attacker.send(&nothing);
        sent += 100;
        let Some(frames) = attacker.came().filter(|_| open) else {
            return format!("the connection ended after {sent} empty frames");
        };
        if frames
            .iter()
            .any(|one| one.stream == 1 && (one.kind == RST_STREAM || one.flags & END_STREAM != 0))
        {
            return format!("the call ended after {sent} empty frames");
        }
    }
    panic!("empty frames are taken without an end")
}

fn window_stall(address: SocketAddr) -> String {
    let mut attacker = Attacker::connect(address).unwrap();
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    attacker.send(&[PREFACE, &no_window].concat());
    for number in 0..1_000 {
        let body = reserve(&format!("w{number}"), 1).encode_to_vec();
        attacker.send(&request(stream(number), "Reserve", &body));
    }
    let (closed, told) = attacker.until_closed();
    assert!(closed, "answers that nobody takes are kept without an end");
    format!("1,000 answers lay until its age ended the connection (told: {told})")
}

/// Sends bytes one at a time, slowly, until the other side has had enough.
fn drip(attacker: &mut Attacker, bytes: &[u8]) -> Option<usize> {
    let until = Instant::now() + PATIENCE;
    for (sent, byte) in bytes.iter().cycle().enumerate() {
        assert!(Instant::now() < until, "it waits for ever");
        if !attacker.send(&[*byte]) {
            return Some(sent);
        }
        // `came` waits for 50 ms.
        attacker.came()?;
    }
    None
}

fn slow_preface(address: SocketAddr) -> String {
    let mut attacker = Attacker::connect(address).unwrap();
    // Slow enough that the preface's own 24 bytes outlast the deadline.
    let until = Instant::now() + PATIENCE;
    for byte in PREFACE {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(250));
        if !attacker.send(&[*byte]) || attacker.came().is_none() {
            return "ended within the preface".into();
        }
    }
    panic!("a preface may take for ever")
}

fn slow_headers(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let block = [call("Reserve"), field("x-slow", &"a".repeat(8_000))].concat();
    let headers = frame(HEADERS, END_HEADERS, 1, &block);
    drip(&mut attacker, &headers);
    "ended within the headers".into()
}

fn slow_body(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &call("Reserve")));
    attacker.send(&[&[0, 0, 200, DATA, END_STREAM][..], &1_u32.to_be_bytes()].concat());
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        attacker.send(&[0]);
        let Some(frames) = attacker.came() else { return "the connection ended".into() };
        attacker.pong(&frames);
        if frames.iter().any(|one| one.stream == 1 && one.kind == HEADERS) {
            return "the call ended within its body".into();
        }
    }
    panic!("a body may take for ever")
}

fn never_asks(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    assert!(attacker.until_closed().0, "who never asks may stay");
    "ended".into()
}

fn pings_and_never_asks(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        attacker.send(&frame(PING, 0, 0, &[1; 8]));
        if attacker.came().is_none() {
            return "ended, though it was alive".into();
        }
    }
    panic!("who only pings may stay")
}

fn many_streams(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    let mut refused = 0;
    let mut closed = false;
    for number in 0..3_000 {
        closed |= !attacker.send(&frame(HEADERS, END_HEADERS, stream(number), &call("Reserve")));
        if number % 100 == 99 || closed {
            let Some(frames) = attacker.came() else {
                closed = true;
                break;
            };
            refused += frames.iter().filter(|one| one.kind == RST_STREAM).count();
        }
    }
    let until = Instant::now() + PATIENCE;
    while !closed && refused == 0 {
        assert!(Instant::now() < until, "three thousand calls in flight are taken");
        match attacker.came() {
            Some(frames) => refused += frames.iter().filter(|one| one.kind == RST_STREAM).count(),
            None => closed = true,
        }
    }
    if closed {
        "the connection ended".into()
    } else {
        format!("{refused} calls were refused at once")
    }
}

fn large_messages(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    // A head that promises more than may be is enough to be refused.
    for (stream, method, bytes) in [(1, "Release", 65 << 10), (3, "Reserve", 9_u32 << 20)] {
        let head = [&[0][..], &bytes.to_be_bytes()].concat();
        attacker.send(&frame(HEADERS, END_HEADERS, stream, &call(method)));
        attacker.send(&frame(DATA, 0, stream, &head));
        let said = attacker.until_answered(stream);
        assert!(!said.is_empty(), "{method}: {bytes} bytes are waited for");
        assert!(said.iter().all(|one| one.kind != DATA), "{method}: {bytes} bytes are answered");
    }
    // The connection is as good as before.
    attacker.send(&request(5, "Reserve", &reserve("fits", 1).encode_to_vec()));
    assert!(
        attacker.until_answered(5).iter().any(|one| one.kind == DATA),
        "a call that fits is answered"
    );
    "each was refused by itself".into()
}

fn broken_messages(address: SocketAddr) -> String {
    let mut attacker = Attacker::greet(address);
    for number in 0..500 {
        attacker.send(&request(stream(number), "Commit", &[0xff; 40]));
        let said = attacker.until_answered(stream(number));
        // A status by itself; which one is a test of questions.
        let kinds: Vec<u8> = said.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [HEADERS], "call {number}");
    }
    // The connection is as good as before.
    attacker.send(&request(2_001, "Reserve", &reserve("good", 1).encode_to_vec()));
    assert!(
        attacker.until_answered(2_001).iter().any(|one| one.kind == DATA),
        "a call that can be read is answered"
    );
    "each was refused by itself".into()
}

/// Those who ask nothing stay so long that all of the others have come meanwhile.
fn patient(transport: &mut Transport) {
    transport.first_request = Duration::from_secs(5);
}

fn idle_connections(address: SocketAddr) -> String {
    const CAME: usize = 2_000;
    let mut stay: Vec<_> = (0..CAME).filter_map(|_| greeted(address)).collect();
    let (places, closed) = (stay.len(), CAME - stay.len());
    assert_eq!(places, Transport::default().connections_per_caller_max, "{closed} closed at once");
    let until = Instant::now() + PATIENCE;
    while !stay.is_empty() {
        assert!(Instant::now() < until, "{} who say nothing stay", stay.len());
        stay.retain_mut(|one| one.came().is_some());
    }
    format!("{closed} closed at once, the other {places} when they asked nothing")
}

/// Connects, and stays if the other side greets; where it has no place it closes.
fn greeted(address: SocketAddr) -> Option<Attacker> {
    let mut one = Attacker::connect(address).unwrap();
    let until = Instant::now() + PATIENCE;
    while one.came()?.is_empty() {
        assert!(Instant::now() < until, "neither greeted nor closed");
    }
    Some(one)
}
