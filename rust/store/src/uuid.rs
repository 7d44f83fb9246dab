//! Ids that are UUIDs, in 16 bytes instead of 36.

use std::fmt::Write as _;
use std::sync::Arc;

/// Where a UUID in lower case has its hyphens.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// An id as text, or as 16 bytes if it is a UUID in lower case with hyphens; the other one is empty.
pub(crate) fn pack(id: &str) -> (String, Vec<u8>) {
    match parse(id) {
        Some(bytes) => (String::new(), bytes),
        None => (id.to_owned(), Vec::new()),
    }
}

/// The id that was packed.
pub(crate) fn unpack(id: String, bytes: &[u8]) -> Arc<str> {
    if bytes.is_empty() {
        return id.into();
    }
    let mut text = String::with_capacity(36);
    for byte in bytes {
        if HYPHENS.contains(&text.len()) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

fn parse(id: &str) -> Option<Vec<u8>> {
    if id.len() != 36 {
        return None;
    }
    let mut out = Vec::with_capacity(16);
    let mut high = None;
    for (at, digit) in id.bytes().enumerate() {
        if HYPHENS.contains(&at) {
            if digit != b'-' {
                return None;
            }
            continue;
        }
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        match high.take() {
            None => high = Some(value << 4),
            Some(high) => out.push(high | value),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_as_it_was() {
        for id in [
            "019447f3-0c5e-7b1a-9c2d-0a1b2c3d4e5f",
            "019447F3-0c5e-7b1a-9c2d-0a1b2c3d4e5f",
            "019447f3-0c5e-7b1a-9c2d-0a1b2c3d4e5",
            "019447f3+0c5e-7b1a-9c2d-0a1b2c3d4e5f",
            "r1",
            "sixteen bytes id",
        ] {
            let (text, bytes) = pack(id);
            assert!(text.is_empty() != bytes.is_empty());
            assert_eq!(&*unpack(text, &bytes), id);
        }
        assert_eq!(pack("019447f3-0c5e-7b1a-9c2d-0a1b2c3d4e5f").1.len(), 16);
    }
}
