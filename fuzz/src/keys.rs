//! The files of `plateau keys`: the list of tokens, a client's token, certificates and keys.
//!
//! The first byte chooses the file.

use std::path::PathBuf;

use plateau_coordinator::access::TokenFile;
use plateau_proto::connection::bearer;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// One file.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            if let Err(error) = TokenFile::at(PathBuf::from("tokens.json")).parse(rest) {
                assert!(!error.to_string().is_empty());
            }
        }
        1 => {
            let text = String::from_utf8_lossy(rest);
            if let Some(header) = bearer(&text) {
                assert!(
                    header.is_sensitive()
                        && header.to_str().is_ok_and(|header| header.starts_with("Bearer "))
                );
            }
        }
        _ => {
            // The certificates, then the key.
            let middle = rest.windows(2).position(|pair| pair == b"\0\0").unwrap_or(rest.len());
            let (certificates, key) = rest.split_at(middle);
            let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificates, key));
            // Refused or not, it must not panic.
            let _ = Server::builder().tls_config(tls);
        }
    }
}
