//! The keys folder: a certificate authority of its own, the server's certificate, and the list of tokens.
//!
//! `ca.pem` is public and goes to every agent and client; everything else stays where the coordinator runs. Certificates do
//! not expire in a lifetime: like tokens they are replaced on purpose, so that no wrong clock can stop a sweep.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::tokens::private;
use super::{TokenError, TokenFile};

/// The authority's certificate: what clients and agents are given.
pub const CA_FILE: &str = "ca.pem";
/// The authority's private key, for further server certificates.
const CA_KEY_FILE: &str = "ca-key.pem";
/// The server's certificate.
const SERVER_FILE: &str = "server.pem";
/// The server's private key.
const SERVER_KEY_FILE: &str = "server-key.pem";
/// The list of tokens.
const TOKENS_FILE: &str = "tokens.json";
/// Names of this very host, in every server certificate.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why the keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file operation failed.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There are keys already.
    #[error("{} holds keys already; `plateau keys certify` makes a certificate for further names", .0.display())]
    Exist(PathBuf),
    /// A certificate cannot be made.
    #[error("making a certificate for {names}: {source}")]
    Certificate {
        /// The names it was to be for.
        names: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// The tokens, or permissions of the folder.
    #[error(transparent)]
    Tokens(#[from] TokenError),
}

/// A keys folder.
#[derive(Clone, Debug)]
pub struct KeysFolder {
    folder: PathBuf,
}

impl KeysFolder {
    /// The keys in `folder`.
    pub fn at(folder: &Path) -> Self {
        KeysFolder { folder: folder.to_owned() }
    }

    /// Makes the folder with an authority and a server certificate for `hosts` and this very host. There are no tokens yet.
    pub fn create(folder: &Path, hosts: &[String]) -> Result<Self, KeysError> {
        let keys = KeysFolder::at(folder);
        if keys.path(CA_FILE).exists() || keys.path(TOKENS_FILE).exists() {
            return Err(KeysError::Exist(folder.to_owned()));
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| {
            KeysError::Io { doing: "making the folder", path: folder.to_owned(), source }
        })?;
        let failed = |source| KeysError::Certificate { names: "the authority".to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = authority().self_signed(&key).map_err(failed)?;
        keys.write(CA_KEY_FILE, &key.serialize_pem(), 0o600)?;
        keys.certify(hosts)?;
        // Last: a folder with this file is whole.
        keys.write(CA_FILE, &certificate.pem(), 0o644)?;
        Ok(keys)
    }

    /// Makes a new server certificate for `hosts` and this very host, signed by the folder's authority.
    pub fn certify(&self, hosts: &[String]) -> Result<(), KeysError> {
        let mut names: Vec<String> = LOOPBACK.map(str::to_owned).to_vec();
        for host in hosts {
            if !names.contains(host) {
                names.push(host.clone());
            }
        }
        let failed = |source| KeysError::Certificate { names: names.join(", "), source };
        private(&self.path(CA_KEY_FILE), 0o600)?;
        let authority_key = KeyPair::from_pem(&self.read(CA_KEY_FILE)?).map_err(failed)?;
        let issuer = Issuer::new(authority(), authority_key);
        let mut server = CertificateParams::new(names.clone()).map_err(failed)?;
        server.distinguished_name.push(DnType::CommonName, "Plateau coordinator");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = server.signed_by(&key, &issuer).map_err(failed)?;
        self.write(SERVER_KEY_FILE, &key.serialize_pem(), 0o600)?;
        self.write(SERVER_FILE, &certificate.pem(), 0o644)
    }

    /// The list of tokens.
    pub fn tokens(&self) -> TokenFile {
        TokenFile::at(self.path(TOKENS_FILE))
    }

    /// The server's certificate and private key as PEM, after a look at the key's permissions.
    pub fn server_identity(&self) -> Result<(String, String), KeysError> {
        private(&self.path(SERVER_KEY_FILE), 0o600)?;
        Ok((self.read(SERVER_FILE)?, self.read(SERVER_KEY_FILE)?))
    }

    /// Where the authority's certificate lies.
    pub fn ca_file(&self) -> PathBuf {
        self.path(CA_FILE)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn read(&self, file: &str) -> Result<String, KeysError> {
        let path = self.path(file);
        std::fs::read_to_string(&path).map_err(|source| KeysError::Io { doing: "reading", path, source })
    }

    /// Writes a file that has its permissions from its first moment on, in one step.
    fn write(&self, file: &str, content: &str, mode: u32) -> Result<(), KeysError> {
        let path = self.path(file);
        let beside = path.with_extension("new");
        let write = || {
            // A leftover of a killed process may have other permissions.
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|source| KeysError::Io { doing: "writing", path: path.clone(), source })
    }
}

/// The authority's certificate, but for its key. It signs nothing but server certificates.
fn authority() -> CertificateParams {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Plateau keys");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn private_files_are_the_owners_alone_and_keys_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let keys = KeysFolder::create(&folder, &["node1".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for file in [CA_KEY_FILE, SERVER_KEY_FILE] {
            assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
        }
        assert!(matches!(KeysFolder::create(&folder, &[]), Err(KeysError::Exist(_))));
        let (before, _) = keys.server_identity().unwrap();
        keys.certify(&["node2".to_owned()]).unwrap();
        assert_ne!(keys.server_identity().unwrap().0, before);
        std::fs::set_permissions(folder.join(SERVER_KEY_FILE), std::fs::Permissions::from_mode(0o644))
            .unwrap();
        let text = keys.server_identity().unwrap_err().to_string();
        assert!(text.contains("chmod 600"), "{text}");
    }
}
