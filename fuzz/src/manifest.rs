//! Manifests of checkpoints, and the configurations in them.

use plateau_common::checkpoint::Manifest;
use plateau_common::config::TrialConfig;
use plateau_coordinator::wire;

use crate::short;

/// One `manifest.json`.
pub fn run(data: &[u8]) {
    match Manifest::parse(data) {
        Ok(manifest) => {
            let written = serde_json::to_vec(&manifest).map_err(|error| error.to_string());
            let again = written.and_then(|bytes| Manifest::parse(&bytes));
            assert_eq!(again.as_ref(), Ok(&manifest));
            if let Err(error) = TrialConfig::from_json(&manifest.config) {
                short(error);
            }
        }
        Err(error) => short(error),
    }
    match wire::configuration_for(&String::from_utf8_lossy(data), 3) {
        Ok(json) => assert!(wire::configuration_for(&json, 3).is_ok_and(|again| again == json)),
        Err(error) => short(error),
    }
}
