//! Where callers connect: a Unix socket and loopback TCP, each bound so that nobody else's is taken over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use bursar_store::{Lock, LockRefused};
use rustix::fs::Mode;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;
/// Only the owner and the group may enter the socket's directory.
const DIRECTORY_MODE: u32 = 0o750;
/// How often a lock is taken that others remove meanwhile.
const LOCK_TRIES: usize = 16;
/// What is taken from every mode while the socket is made: it becomes 0660.
const SOCKET_UMASK: u32 = 0o117;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Only this machine may connect.
    #[error(
        "cannot listen on {0}: it is not a loopback address, and this version serves no TLS; \
         write 127.0.0.1:PORT or [::1]:PORT, or use the Unix socket"
    )]
    NotLoopback(SocketAddr),
    /// Somebody serves there.
    #[error("cannot listen on {0}: another process answers there; stop it, or name another socket")]
    InUse(PathBuf),
    /// Another sidecar has it, or is about to.
    #[error(
        "cannot listen on {path}: another sidecar{} has that socket; stop it, or name another socket",
        .process.map(|process| format!(", process {process},")).unwrap_or_default(),
        path = path.display()
    )]
    Locked {
        /// The socket.
        path: PathBuf,
        /// The other's number, if it is known.
        process: Option<u32>,
    },
    /// Something else lies there.
    #[error("cannot listen on {path}: {problem}; remove it, or name another socket", path = path.display())]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What it is.
        problem: &'static str,
    },
    /// The system refused.
    #[error("cannot listen on {place}: {error}")]
    System {
        /// Where.
        place: String,
        /// Why.
        error: io::Error,
    },
}

/// A Unix socket that is removed when it is no longer used, if it is still the one that was made.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Given up last.
    _lock: Locked,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if same {
            // Whoever starts next removes it otherwise.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The right to make, replace and remove the socket of a path: a lock on a file beside it, gone afterwards.
#[derive(Debug)]
struct Locked {
    path: PathBuf,
    _lock: Lock,
}

impl Locked {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let refused = |refused| match refused {
            LockRefused::Held(process) => ListenError::Locked { path: socket.into(), process },
            LockRefused::Io(error) => {
                ListenError::System { place: path.display().to_string(), error }
            }
        };
        for _ in 0..LOCK_TRIES {
            let lock = bursar_store::lock(&path).map_err(refused)?;
            // Whoever had it may have removed it between our opening it and locking it.
            if lock.is_at(&path) {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(ListenError::Locked { path: socket.into(), process: None })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Still locked, so it is ours; whoever starts next takes it otherwise.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds loopback TCP.
pub(crate) fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    if !address.ip().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error| ListenError::System { place: address.to_string(), error })
}

/// Binds a Unix socket at a path whose directory is made if needed.
pub(crate) fn unix(path: &Path) -> Result<(UnixListener, Socket), ListenError> {
    let system = |error| ListenError::System { place: path.display().to_string(), error };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(system)?;
    }
    let lock = Locked::take(path)?;
    remove_stale(path)?;
    let listener = bind(path).map_err(system)?;
    let made = std::fs::symlink_metadata(path).map_err(system)?;
    let socket = Socket { path: path.into(), device: made.dev(), inode: made.ino(), _lock: lock };
    Ok((listener, socket))
}

/// Removes a socket of ours that nobody answers on any more.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let system = |error| ListenError::System { place: path.display().to_string(), error };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
    };
    let not_ours = |problem| ListenError::NotOurs { path: path.into(), problem };
    if !found.file_type().is_socket() {
        return Err(not_ours("what lies there is not a socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(ListenError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(system(error)),
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(not_ours("the socket that lies there belongs to another user"));
    }
    std::fs::remove_file(path).map_err(system)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    let address = socket2::SockAddr::unix(path)?;
    let before = rustix::process::umask(Mode::from_raw_mode(SOCKET_UMASK));
    let bound = socket.bind(&address);
    rustix::process::umask(before);
    bound?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_open_to_owner_and_group_only_and_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/bursar.sock");
        let (listener, socket) = unix(&path).unwrap();
        let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(path.parent().unwrap()), 0o750);
        drop((listener, socket));
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_served_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bursar.sock");
        let first = unix(&path).unwrap();
        let refused = unix(&path).unwrap_err();
        let ours = std::process::id();
        assert!(refused.to_string().contains(&format!("process {ours}")), "{refused}");
        drop(first);
        let _other = UnixListener::bind(&path).unwrap();
        assert!(matches!(unix(&path), Err(ListenError::InUse(_))));
    }

    #[test]
    fn of_many_who_start_at_once_one_has_the_socket_and_those_who_come_later_find_it_free() {
        const STARTS: usize = 16;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bursar.sock");
        for _ in 0..50 {
            // As a crash leaves it.
            drop(UnixListener::bind(&path).unwrap());
            let all = std::sync::Barrier::new(STARTS);
            let one = |_| {
                all.wait();
                let made = unix(&path);
                all.wait();
                match made {
                    Ok(_) => 1,
                    Err(ListenError::Locked { .. }) => 0,
                    Err(other) => panic!("{other}"),
                }
            };
            let served: usize = std::thread::scope(|scope| {
                let starts: Vec<_> =
                    (0..STARTS).map(|start| scope.spawn(move || one(start))).collect();
                starts.into_iter().map(|start| start.join().unwrap()).sum()
            });
            assert_eq!(served, 1);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        }
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) =
            (folder.path().join("bursar.sock"), folder.path().join("other.sock"));
        drop(UnixListener::bind(&elsewhere).unwrap());
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(unix(&path), Err(ListenError::NotOurs { .. })));
        assert!(elsewhere.exists() && path.is_symlink());
    }

    #[test]
    fn a_socket_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bursar.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        unix(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bursar.sock");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(unix(&path), Err(ListenError::NotOurs { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn only_loopback_is_listened_on() {
        assert!(matches!(tcp("0.0.0.0:0".parse().unwrap()), Err(ListenError::NotLoopback(_))));
        assert!(tcp("127.0.0.1:0".parse().unwrap()).is_ok());
    }
}
