//! Checkpoints of one trial: a folder with a manifest, the weights and the optimiser's state.
//!
//! Written into a temporary folder beside the target, flushed to the disk, then renamed, so a folder under its final name
//! is complete. Reading verifies the digests before any tensor is built. A checkpoint has no replica dimension: nothing
//! in it depends on the cohort the trial was trained in.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use plateau_common::checkpoint::{
    FORMAT, MANIFEST_FILE, Manifest, ManifestFile, OPTIMIZER_FILE, WEIGHTS_FILE,
};
use plateau_common::config::TrialConfig;
use plateau_common::identity::TrialId;
use plateau_common::limits::{MAX_CHECKPOINT_BYTES, MAX_MANIFEST_BYTES};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Doing, DoingTo, LabError};

/// Tensors by name, on the CPU.
pub type Named = Vec<(String, Tensor)>;

/// The state of one trial after some updates.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its identity.
    pub manifest: Manifest,
    /// Parameters by name.
    pub weights: Named,
    /// The optimiser's state by name.
    pub optimizer: Named,
}

/// What is saved.
pub(crate) struct State<'a> {
    pub id: TrialId,
    pub config: &'a TrialConfig,
    pub step: u64,
    pub weights: Named,
    pub optimizer: Named,
    pub device: &'a str,
}

/// Raw little-endian bytes of a tensor on the CPU.
fn bytes_of(tensor: &Tensor) -> Result<(Dtype, Vec<u8>), LabError> {
    let flat = tensor.flatten_all().doing("reading a tensor")?;
    match tensor.dtype() {
        DType::F32 => {
            let values: Vec<f32> = flat.to_vec1().doing("reading a tensor")?;
            Ok((Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        }
        _ => {
            let values: Vec<f64> =
                flat.to_dtype(DType::F64).and_then(|flat| flat.to_vec1()).doing("reading a tensor")?;
            Ok((Dtype::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        }
    }
}

/// The hash of all parameters in name order: name, shape and little-endian values, each preceded by its length.
pub fn weights_hash(weights: &[(String, Tensor)]) -> Result<String, LabError> {
    let mut sorted: Vec<&(String, Tensor)> = weights.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = blake3::Hasher::new_derive_key("plateau 2026 weights hash v1");
    for (name, tensor) in sorted {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(tensor.rank() as u64).to_le_bytes());
        for extent in tensor.dims() {
            hasher.update(&(*extent as u64).to_le_bytes());
        }
        let (_, bytes) = bytes_of(tensor)?;
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn serialise(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, LabError> {
    let mut raw = Vec::new();
    for (name, tensor) in tensors {
        let (dtype, bytes) = bytes_of(tensor)?;
        raw.push((name.as_str(), dtype, tensor.dims().to_vec(), bytes));
    }
    let failed = |error: safetensors::SafeTensorError| LabError::Compute {
        doing: "serialising tensors",
        message: error.to_string(),
    };
    let views = raw
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?))
        })
        .collect::<Result<Vec<_>, LabError>>()?;
    safetensors::serialize(views, None).map_err(failed)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<ManifestFile, LabError> {
    let path = folder.join(name);
    let mut file = File::create(&path).doing_to("creating", &path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).doing_to("writing", &path)?;
    Ok(ManifestFile {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    })
}

/// Writes a checkpoint to `folder`; replaces a folder of that name.
pub(crate) fn save(state: &State<'_>, folder: &Path) -> Result<(), LabError> {
    let temporary = folder.with_extension("partial");
    if temporary.exists() {
        fs::remove_dir_all(&temporary).doing_to("removing the unfinished", &temporary)?;
    }
    fs::create_dir_all(&temporary).doing_to("creating", &temporary)?;
    let files = vec![
        write_file(&temporary, WEIGHTS_FILE, &serialise(&state.weights)?)?,
        write_file(&temporary, OPTIMIZER_FILE, &serialise(&state.optimizer)?)?,
    ];
    let manifest = Manifest {
        format: FORMAT,
        trial: state.id.to_string(),
        step: state.step,
        config: state.config.to_json(),
        files,
        weights_hash: weights_hash(&state.weights)?,
        plateau: env!("CARGO_PKG_VERSION").to_owned(),
        device: state.device.to_owned(),
    };
    let json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| LabError::checkpoint(folder, error.to_string()))?;
    write_file(&temporary, MANIFEST_FILE, &json)?;
    sync_folder(&temporary)?;
    if folder.exists() {
        fs::remove_dir_all(folder).doing_to("replacing", folder)?;
    }
    fs::rename(&temporary, folder).doing_to("renaming to", folder)?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<(), LabError> {
    File::open(folder).and_then(|folder| folder.sync_all()).doing_to("flushing", folder)
}

/// Reads and verifies a checkpoint.
pub fn load(folder: &Path) -> Result<Checkpoint, LabError> {
    let bytes = read_bounded(&folder.join(MANIFEST_FILE), MAX_MANIFEST_BYTES as u64)?;
    let manifest = Manifest::parse(&bytes).map_err(|problem| LabError::checkpoint(folder, problem))?;
    let read = |name: &str| -> Result<Named, LabError> {
        let Some(file) = manifest.files.iter().find(|file| file.name == name) else {
            return Err(LabError::checkpoint(folder, format!("the manifest does not list {name}")));
        };
        let bytes = read_bounded(&folder.join(name), MAX_CHECKPOINT_BYTES)?;
        if bytes.len() as u64 != file.bytes || blake3::hash(&bytes).to_hex().as_str() != file.blake3 {
            let problem =
                format!("{name} is damaged (its digest is not the manifest's); use an earlier checkpoint");
            return Err(LabError::checkpoint(folder, problem));
        }
        parse_tensors(&bytes).map_err(|problem| LabError::checkpoint(folder, format!("{name}: {problem}")))
    };
    let (weights, optimizer) = (read(WEIGHTS_FILE)?, read(OPTIMIZER_FILE)?);
    if weights_hash(&weights)? != manifest.weights_hash {
        return Err(LabError::checkpoint(folder, "the weights do not have the hash the manifest states"));
    }
    Ok(Checkpoint { manifest, weights, optimizer })
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LabError> {
    let size = fs::metadata(path).doing_to("reading", path)?.len();
    if size > limit {
        return Err(LabError::checkpoint(path, format!("{size} bytes are more than the limit of {limit}")));
    }
    fs::read(path).doing_to("reading", path)
}

/// The tensors of a safetensors file; anything but 32 and 64 bit floating-point numbers is refused.
pub fn parse_tensors(bytes: &[u8]) -> Result<Named, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut named = Vec::new();
    for (name, view) in tensors.tensors() {
        let tensor = match view.dtype() {
            Dtype::F32 => {
                let (values, _) = view.data().as_chunks::<4>();
                let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                Tensor::from_vec(values, view.shape(), &Device::Cpu)
            }
            Dtype::F64 => {
                let (values, _) = view.data().as_chunks::<8>();
                let values: Vec<f64> = values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
                Tensor::from_vec(values, view.shape(), &Device::Cpu)
            }
            other => return Err(format!("tensor `{name}` is of type {other:?}")),
        };
        named.push((name, tensor.map_err(|error| error.to_string())?));
    }
    Ok(named)
}

/// Refuses a checkpoint of a configuration that differs in more than the budget and the checkpoint policy.
pub(crate) fn check_configuration(
    checkpoint: &Checkpoint,
    config: &TrialConfig,
    folder: &Path,
) -> Result<(), LabError> {
    let mut differences = Vec::new();
    collect_differences("", &checkpoint.manifest.config, &config.to_json(), &mut differences);
    let budget_is_free = !config.train.schedule.depends_on_budget();
    let free = |path: &str| path.starts_with("checkpoint") || (budget_is_free && path == "train.steps");
    differences.retain(|(path, _, _)| !free(path));
    if differences.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = differences
        .iter()
        .map(|(path, saved, asked)| format!("{path}: checkpoint says {saved}, trial says {asked}"))
        .collect();
    let problem = format!(
        "is of another configuration, so the trial cannot continue from it:\n  {}",
        list.join("\n  ")
    );
    Err(LabError::checkpoint(folder, problem))
}

/// A value for people.
fn words(value: &serde_json::Value) -> String {
    if value.is_null() { "nothing".to_owned() } else { value.to_string() }
}

fn collect_differences(
    path: &str,
    saved: &serde_json::Value,
    asked: &serde_json::Value,
    list: &mut Vec<(String, String, String)>,
) {
    use serde_json::Value::Object;
    match (saved, asked) {
        (Object(saved), Object(asked)) => {
            let mut keys: Vec<&String> = saved.keys().chain(asked.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let null = serde_json::Value::Null;
                collect_differences(
                    &path,
                    saved.get(key).unwrap_or(&null),
                    asked.get(key).unwrap_or(&null),
                    list,
                );
            }
        }
        (saved, asked) if saved == asked => {}
        // A table against nothing, or against a table of another kind: field by field too.
        (Object(_), _) | (_, Object(_)) if saved.is_null() || asked.is_null() => {
            let nothing = serde_json::Value::Object(serde_json::Map::new());
            let (saved, asked) = match saved.is_null() {
                true => (&nothing, asked),
                false => (saved, &nothing),
            };
            collect_differences(path, saved, asked, list);
        }
        (saved, asked) => list.push((path.to_owned(), words(saved), words(asked))),
    }
}
