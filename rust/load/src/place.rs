//! Where a server listens: a Unix socket or a TCP address.

use std::net::SocketAddr;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::LoadError;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket's path.
    Socket(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(out, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(out),
        }
    }
}

impl Place {
    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<Channel, LoadError> {
        let connected = match self {
            Self::Socket(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                Endpoint::from_static("http://localhost").connect_with_connector(connector).await
            }
            Self::Tcp(address) => match Endpoint::from_shared(format!("http://{address}")) {
                Ok(endpoint) => endpoint.tcp_nodelay(true).connect().await,
                Err(error) => Err(error),
            },
        };
        connected.map_err(|error| {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                why = inner.to_string();
                source = inner.source();
            }
            LoadError::Connect { place: self.clone(), why }
        })
    }
}
