//! The tokens a running coordinator accepts, kept equal to the file they are listed in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::{Record, Role, TokenFile};

/// Time between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);

/// The tokens accepted now.
#[derive(Debug, Default)]
pub struct Live {
    entries: RwLock<Vec<Entry>>,
    /// Calls without a valid token since the last report of them.
    refused: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    revoked: watch::Sender<bool>,
}

/// The permission of one call.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Name of the token.
    pub name: String,
    /// Role of the token.
    pub role: Role,
    revoked: watch::Receiver<bool>,
}

impl Grant {
    /// Ends when the token is revoked.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut revoked = self.revoked.clone();
        async move {
            // An error means that the entry is gone, which is a revocation too.
            let _ = revoked.wait_for(|revoked| *revoked).await;
        }
    }
}

impl Live {
    /// The permission of whoever presents this token. All entries are compared, each in constant time, so that the time
    /// taken says nothing about which digits were right.
    pub fn check(&self, presented: &[u8]) -> Option<Grant> {
        let digest = blake3::hash(presented);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for entry in entries.iter() {
            if entry.record.digest == digest {
                found = Some(entry);
            }
        }
        found.map(|entry| Grant {
            name: entry.record.name.clone(),
            role: entry.record.role,
            revoked: entry.revoked.subscribe(),
        })
    }

    /// Counts a call without a valid token.
    pub fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Accepts exactly these from now on. Calls in progress under tokens that are no longer among them end.
    pub fn replace(&self, records: Vec<Record>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut former = std::mem::take(&mut *entries);
        for record in records {
            let same =
                |entry: &Entry| entry.record.digest == record.digest && entry.record.role == record.role;
            let revoked = match former.iter().position(same) {
                Some(place) => former.swap_remove(place).revoked,
                None => watch::Sender::new(false),
            };
            entries.push(Entry { record, revoked });
        }
        for entry in former {
            tracing::info!(token = entry.record.name, "token revoked");
            entry.revoked.send_replace(true);
        }
    }
}

/// Keeps `live` equal to `file` for as long as it is polled. A file that cannot be read accepts nobody: deleting it
/// revokes everything.
pub async fn follow(live: std::sync::Arc<Live>, file: TokenFile, mut content: Vec<u8>) {
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut broken = false;
    loop {
        interval.tick().await;
        let refused = live.refused.swap(0, Ordering::Relaxed);
        if refused > 0 {
            tracing::warn!(calls = refused, "calls without a valid token were refused");
        }
        // The whole content is compared: two changes may fall into one tick of a file's time.
        let reading = {
            let file = file.clone();
            tokio::task::spawn_blocking(move || {
                file.read().and_then(|bytes| Ok((file.parse(&bytes)?, bytes)))
            })
            .await
        };
        match reading {
            Ok(Ok((_, bytes))) if bytes == content && !broken => {}
            Ok(Ok((records, bytes))) => {
                tracing::info!(tokens = records.len(), "the list of tokens has changed");
                live.replace(records);
                content = bytes;
                broken = false;
            }
            Ok(Err(error)) => {
                if !broken {
                    tracing::error!(%error, "nobody is let in until the list of tokens can be read");
                }
                live.replace(Vec::new());
                broken = true;
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, token: &str, role: Role) -> Record {
        Record {
            name: name.to_owned(),
            role,
            digest: blake3::hash(token.as_bytes()),
            created_unix_seconds: 0,
        }
    }

    #[tokio::test]
    async fn a_grant_ends_with_its_token_and_with_no_other_change() {
        let live = Live::default();
        live.replace(vec![record("a", "one", Role::Read), record("b", "two", Role::Agent)]);
        let (one, two) = (live.check(b"one").unwrap(), live.check(b"two").unwrap());
        assert_eq!((one.role, two.role), (Role::Read, Role::Agent));
        assert!(live.check(b"three").is_none() && live.check(b"").is_none());
        // Renamed and reordered, the tokens are the same; of another role, a token is another.
        live.replace(vec![record("c", "two", Role::Agent), record("a", "one", Role::Submit)]);
        one.revoked().await;
        assert!(!*two.revoked.borrow());
        assert_eq!(live.check(b"one").unwrap().role, Role::Submit);
        live.replace(Vec::new());
        two.revoked().await;
        assert!(live.check(b"two").is_none());
    }
}
