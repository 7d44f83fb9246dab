//! A segment: one file of the ledger, named by its first sequence, with a header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::frame::{number_32, number_64};

/// The bytes of a segment's header.
pub(crate) const HEADER_BYTES: u64 = 128;

/// What the files of a ledger begin with.
const MAGIC: [u8; 8] = *b"bursar\0L";

/// The format written and read here. Whatever changes with another one, the first twelve bytes of a header and
/// the place of its checksum do not: so a ledger of a later version is known for what it is.
pub(crate) const VERSION: u32 = 1;

/// Who wrote a ledger: a number drawn when it was made, the same in each of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder(pub u128);

/// A running digest over the entries of a segment, for the header of the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digest(SipHasher13);

impl Digest {
    /// Takes the bytes of one more entry.
    pub(crate) fn take(&mut self, frame: &[u8]) {
        std::hash::Hasher::write(&mut self.0, frame);
    }

    /// The digest so far.
    pub(crate) fn value(&self) -> u128 {
        self.0.finish128().as_u128()
    }
}

/// What the first bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Who wrote it.
    pub(crate) holder: Holder,
    /// Drawn when it was made; the seed of its checksums.
    pub(crate) id: u64,
    /// Rises with each rewriting at opening: of two segments that hold a sequence the higher one counts.
    pub(crate) epoch: u32,
    /// The sequence of its first entry.
    pub(crate) first_sequence: u64,
    /// The digest of the segment before; 0 in the first.
    pub(crate) digest_before: u128,
}

impl Header {
    /// The header's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.holder.0.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.digest_before.to_le_bytes());
        out.resize(124, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; none if it is not whole or not of this format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..124)?;
        if format_of(bytes)? != VERSION {
            return None;
        }
        Some(Self {
            epoch: number_32(covered, 12)?,
            holder: Holder(number_128(covered, 16)?),
            id: number_64(covered, 32)?,
            first_sequence: number_64(covered, 40)?,
            digest_before: number_128(covered, 48)?,
        })
    }
}

/// The format of a header that is whole, whether or not it is read here.
fn format_of(bytes: &[u8]) -> Option<u32> {
    let covered = bytes.get(..124)?;
    let whole = covered.starts_with(&MAGIC) && number_32(bytes, 124)? == crc32c::crc32c(covered);
    whole.then(|| number_32(covered, 8)).flatten()
}

fn number_128(bytes: &[u8], at: usize) -> Option<u128> {
    bytes.get(at..)?.first_chunk().copied().map(u128::from_le_bytes)
}

/// A segment that is open for reading and writing.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Where it lies, or will once it is renamed.
    pub(crate) path: PathBuf,
    /// The file.
    pub(crate) file: File,
    /// What its header says.
    pub(crate) header: Header,
    /// How many bytes it may have.
    pub(crate) capacity: u64,
}

/// One file in the ledger's folder.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// The first sequence, by its name.
    pub(crate) first_sequence: u64,
    /// What its header says; none if that is broken.
    pub(crate) header: Option<Header>,
    /// Its format, where that is not the one read here.
    pub(crate) other_format: Option<u32>,
    /// The file's length.
    pub(crate) bytes: u64,
}

impl Listed {
    /// The epoch; a broken header has none and loses to every whole one.
    fn epoch(&self) -> u32 {
        self.header.map_or(0, |header| header.epoch)
    }

    /// The whole file.
    pub(crate) fn load(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.path)
    }
}

/// The folder of the segments.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join("ledger")
}

/// The path of the segment that begins with a sequence.
pub(crate) fn path_of(dir: &Path, first_sequence: u64) -> PathBuf {
    folder(dir).join(format!("{first_sequence:020}.log"))
}

/// The segments that count, in order, and those that a later rewriting replaced.
pub(crate) fn list(dir: &Path) -> io::Result<(Vec<Listed>, Vec<Listed>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder(dir))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(first) = name.strip_suffix(".log").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        all.push(examine(path, first)?);
    }
    all.sort_by_key(|listed| listed.first_sequence);
    // A rewriting at opening begins a segment of a higher epoch; what begins later with a lower one was
    // rewritten into it, and only the crash before its removal left it here.
    let mut epoch = 0;
    let (mut kept, mut replaced) = (Vec::new(), Vec::new());
    for listed in all {
        if listed.epoch() < epoch && listed.header.is_some() {
            replaced.push(listed);
        } else {
            epoch = epoch.max(listed.epoch());
            kept.push(listed);
        }
    }
    Ok((kept, replaced))
}

fn examine(path: PathBuf, first_sequence: u64) -> io::Result<Listed> {
    let file = File::open(&path)?;
    let bytes = file.metadata()?.len();
    let mut head = [0; 128];
    let (header, format) = match file.read_exact_at(&mut head, 0) {
        Ok(()) => (Header::decode(&head), format_of(&head)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => (None, None),
        Err(error) => return Err(error),
    };
    let header = header.filter(|header| header.first_sequence == first_sequence);
    let other_format = format.filter(|format| *format != VERSION);
    Ok(Listed { path, first_sequence, header, other_format, bytes })
}

/// Makes a rename or a new file in a folder survive a loss of power.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Random bits from the kernel.
///
/// # Errors
/// When `/dev/urandom` cannot be read.
pub(crate) fn draw() -> io::Result<u128> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}
