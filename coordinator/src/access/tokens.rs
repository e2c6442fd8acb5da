//! Tokens and the file that lists them. A token is 256 random bits, shown once; what is stored is its digest.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use plateau_common::limits;
use plateau_proto::connection::TOKEN_PREFIX;
use serde_json::{Value, json};

use super::Role;

/// Version of the file's format.
const FORMAT: u64 = 1;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// A token in clear. Neither its `Debug` form nor any error shows it.
pub struct Token(String);

impl Token {
    /// A new token from the operating system's generator.
    pub fn generate() -> Result<Token, TokenError> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| TokenError::Random(error.to_string()))?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Token(format!("{TOKEN_PREFIX}{digits}")))
    }

    /// The text to hand to its holder.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// What is known of a token. Digests compare in constant time (`blake3::Hash`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name it is revoked by.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// BLAKE3 of its text. A token has 256 random bits, so there is nothing to guess and no need for a slow hash.
    pub digest: blake3::Hash,
    /// Seconds since 1970 UTC when it was made; for display only.
    pub created_unix_seconds: u64,
}

/// Why the tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
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
    /// Others may read or write what must be the owner's.
    #[error("{} can be read or changed by other users (mode {mode:o}): run `chmod {wanted:o} {}`", path.display(), path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Those it must have.
        wanted: u32,
    },
    /// The file is not a list of tokens.
    #[error("{} is not a list of tokens: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The name cannot be used.
    #[error("`{}` is no name for a token: 1 to {} of a-z, 0-9, `-`, `_` and `.`", name.escape_debug(), limits::MAX_NAME_BYTES)]
    BadName {
        /// The name.
        name: String,
    },
    /// The name is taken.
    #[error("there is a token `{0}` already: choose another name, or revoke it first")]
    Taken(String),
    /// There is no token of this name.
    #[error("there is no token `{0}`: `plateau keys token list` shows them")]
    Unknown(String),
    /// No random bits.
    #[error("the operating system gives no random bits: {0}")]
    Random(String),
}

/// The list of tokens on disk.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// The list at `path`, which may not exist yet.
    pub fn at(path: PathBuf) -> Self {
        TokenFile { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content, after a look at its permissions.
    pub fn read(&self) -> Result<Vec<u8>, TokenError> {
        private(&self.path, 0o600)?;
        std::fs::read(&self.path).map_err(self.failed("reading"))
    }

    /// The tokens it lists.
    pub fn records(&self) -> Result<Vec<Record>, TokenError> {
        self.parse(&self.read()?)
    }

    /// The tokens in the content of such a file.
    pub fn parse(&self, content: &[u8]) -> Result<Vec<Record>, TokenError> {
        parse(content).map_err(|problem| TokenError::Invalid { path: self.path.clone(), problem })
    }

    /// Makes a token and lists it.
    pub fn add(&self, name: &str, role: Role, unix_seconds: u64) -> Result<Token, TokenError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > limits::MAX_NAME_BYTES || !name.bytes().all(allowed) {
            return Err(TokenError::BadName { name: name.chars().take(64).collect() });
        }
        let token = Token::generate()?;
        let digest = blake3::hash(token.reveal().as_bytes());
        self.change(|records| {
            if records.iter().any(|record| record.name == name) {
                return Err(TokenError::Taken(name.to_owned()));
            }
            records.push(Record { name: name.to_owned(), role, digest, created_unix_seconds: unix_seconds });
            Ok(())
        })?;
        Ok(token)
    }

    /// Takes a token off the list; coordinators that use the folder refuse it within about a second.
    pub fn revoke(&self, name: &str) -> Result<(), TokenError> {
        self.change(|records| {
            let before = records.len();
            records.retain(|record| record.name != name);
            if records.len() == before {
                return Err(TokenError::Unknown(name.chars().take(64).collect()));
            }
            Ok(())
        })
    }

    /// Changes the list while no other process does: two at once could bring a revoked token back.
    fn change(
        &self,
        edit: impl FnOnce(&mut Vec<Record>) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        let lock = private_file(&self.path.with_extension("lock")).map_err(self.failed("locking"))?;
        lock.lock().map_err(self.failed("locking"))?;
        let mut records = match self.path.exists() {
            true => self.records()?,
            false => Vec::new(),
        };
        edit(&mut records)?;
        let tokens: Vec<Value> = records.iter().map(to_json).collect();
        let content = format!("{:#}\n", json!({ "format": FORMAT, "tokens": tokens }));
        let beside = self.path.with_extension("new");
        private_file(&beside)
            .and_then(|mut file| {
                file.set_len(0)?;
                file.write_all(content.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&beside, &self.path))
            .map_err(self.failed("writing"))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> TokenError + use<> {
        let path = self.path.clone();
        move |source| TokenError::Io { doing, path, source }
    }
}

fn to_json(record: &Record) -> Value {
    json!({
        "name": record.name,
        "role": record.role.name(),
        "digest": record.digest.to_hex().as_str(),
        "created_unix_seconds": record.created_unix_seconds,
    })
}

fn parse(content: &[u8]) -> Result<Vec<Record>, String> {
    let json: Value = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    let format = json.get("format").and_then(Value::as_u64);
    if format != Some(FORMAT) {
        return Err(format!("its format is not {FORMAT}, which this version reads"));
    }
    let tokens = json.get("tokens").and_then(Value::as_array).ok_or("it has no list `tokens`")?;
    tokens.iter().map(record).collect()
}

fn record(json: &Value) -> Result<Record, String> {
    let text = |key: &str| {
        json.get(key).and_then(Value::as_str).ok_or_else(|| format!("a token has no text `{key}`"))
    };
    let role = text("role")?;
    Ok(Record {
        name: text("name")?.to_owned(),
        role: Role::parse(role).ok_or_else(|| format!("`{}` is not a role", role.escape_debug()))?,
        digest: blake3::Hash::from_hex(text("digest")?).map_err(|error| error.to_string())?,
        created_unix_seconds: json.get("created_unix_seconds").and_then(Value::as_u64).unwrap_or(0),
    })
}

/// Refuses what others may read or change.
pub(super) fn private(path: &Path, wanted: u32) -> Result<(), TokenError> {
    let mode = std::fs::metadata(path)
        .map_err(|source| TokenError::Io { doing: "looking at", path: path.to_owned(), source })?
        .permissions()
        .mode()
        & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(TokenError::Exposed { path: path.to_owned(), mode, wanted }),
    }
}

/// Opens a file for writing that only its owner can read from its first moment on.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> (tempfile::TempDir, TokenFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::at(folder.path().join("tokens.json"));
        (folder, file)
    }

    #[test]
    fn a_token_is_listed_by_its_digest_until_it_is_revoked() {
        let (_folder, file) = list();
        let token = file.add("node1", Role::Agent, 7).unwrap();
        let other = file.add("laptop", Role::Submit, 8).unwrap();
        assert_ne!(token.reveal(), other.reveal());
        assert_eq!(token.reveal().len(), TOKEN_PREFIX.len() + 64);
        let stored = std::fs::read_to_string(file.path()).unwrap();
        assert!(!stored.contains(token.reveal()) && !stored.contains(TOKEN_PREFIX), "{stored}");
        let records = file.records().unwrap();
        assert_eq!(records[0].digest, blake3::hash(token.reveal().as_bytes()));
        assert_eq!(
            (records[0].name.as_str(), records[0].role, records[0].created_unix_seconds),
            ("node1", Role::Agent, 7)
        );
        file.revoke("node1").unwrap();
        assert_eq!(file.records().unwrap().len(), 1);
        assert!(matches!(file.revoke("node1"), Err(TokenError::Unknown(_))));
        assert!(matches!(file.add("laptop", Role::Read, 9), Err(TokenError::Taken(_))));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn names_are_labels() {
        let (_folder, file) = list();
        for name in ["", "../x", "a b", "=1+1", "A", "a\n", &"a".repeat(limits::MAX_NAME_BYTES + 1)] {
            assert!(matches!(file.add(name, Role::Read, 0), Err(TokenError::BadName { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_list_that_others_can_read_is_refused_with_the_command_that_helps() {
        let (_folder, file) = list();
        file.add("node1", Role::Agent, 0).unwrap();
        let mode = std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        let text = file.records().unwrap_err().to_string();
        assert!(text.contains("chmod 600") && text.contains("640"), "{text}");
    }

    #[test]
    fn what_is_no_list_is_refused_and_never_taken_for_an_empty_one() {
        let (_folder, file) = list();
        let digest = "0".repeat(64);
        let of = |role: &str, digest: &str| {
            format!(r#"{{"format":1,"tokens":[{{"name":"a","role":"{role}","digest":"{digest}"}}]}}"#)
        };
        assert_eq!(file.parse(of("read", &digest).as_bytes()).unwrap().len(), 1);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"format":2,"tokens":[]}"#,
            r#"{"format":1}"#,
            &of("root", &digest),
            &of("read", "00"),
        ] {
            assert!(matches!(file.parse(bad.as_bytes()), Err(TokenError::Invalid { .. })), "{bad}");
        }
    }
}
