//! Devices a trial can be trained on.

use std::fmt;
use std::num::NonZero;

/// A device as named on the command line and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// The processor: `cpu`.
    Cpu,
    /// An NVIDIA card by its CUDA index: `cuda:0`.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Device::Cpu),
            Some(("cuda", index)) => index
                .parse()
                .map(Device::Cuda)
                .map_err(|_| format!("`{index}` is no index of a card, e.g. cuda:0")),
            _ => Err(format!("`{text}` is neither `cpu` nor `cuda:N`")),
        }
    }
}

impl Device {
    /// A word for names of agents and files: `cpu`, `cuda0`.
    pub fn word(self) -> String {
        self.to_string().replace(':', "")
    }
}

/// Threads this machine runs at once.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Name of this machine, as other machines know it.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The processor in words, if the system tells.
pub fn processor() -> String {
    let description = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = description.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The devices of this machine that this build can train on, each with a description; the processor first.
pub fn present() -> Vec<(Device, String)> {
    let mut devices = vec![(Device::Cpu, format!("{}, {} threads", processor(), cores()))];
    devices.extend(cards().unwrap_or_default());
    devices
}

/// Why no card is among the devices that are present; `None` where one is.
pub fn no_cards() -> Option<String> {
    match cards() {
        Ok(cards) if cards.is_empty() => Some("The NVIDIA driver shows no card.".to_owned()),
        Ok(_) => None,
        Err(reason) => Some(reason),
    }
}

/// What a build without CUDA says of cards.
#[cfg(not(feature = "cuda"))]
const PROCESSORS_ONLY: &str =
    "This build trains on processors only; building with `--features cuda` adds NVIDIA cards.";

/// Refuses a device that this machine does not have or this build cannot train on, before anything is started on it:
/// an agent there would fail every trial it is given.
pub fn require(device: Device) -> anyhow::Result<()> {
    let present = present();
    if present.iter().any(|(other, _)| *other == device) {
        return Ok(());
    }
    if let Some(reason) = no_cards() {
        anyhow::bail!("training on {device}: {reason}");
    }
    let names: Vec<String> = present.iter().map(|(device, _)| device.to_string()).collect();
    anyhow::bail!("training on {device}: no such card; this machine has {}", names.join(", "))
}

/// A device in words; its name where it is not present here.
pub fn describe(device: Device) -> String {
    present()
        .into_iter()
        .find(|(other, _)| *other == device)
        .map_or_else(|| device.to_string(), |(_, words)| words)
}

/// Where a card is on the bus, as the system's log names it; `None` for a processor, and where it is not known.
#[cfg(feature = "cuda")]
pub fn address(device: Device) -> Option<String> {
    let Device::Cuda(ordinal) = device else { return None };
    let cards = plateau_lab::cuda::cards().ok()?;
    cards.into_iter().find(|card| card.ordinal == ordinal).and_then(|card| card.address)
}

/// Where a card is on the bus; a build without CUDA has none.
#[cfg(not(feature = "cuda"))]
pub fn address(_device: Device) -> Option<String> {
    None
}

/// The cards, or why there can be none.
#[cfg(feature = "cuda")]
fn cards() -> Result<Vec<(Device, String)>, String> {
    const GIBIBYTE: f64 = (1u64 << 30) as f64;
    let cards = plateau_lab::cuda::cards().and_then(|cards| {
        plateau_lab::cuda::require_cublas()?;
        Ok(cards)
    });
    let cards = cards.map_err(|error| format!("No card can be used: {error}."))?;
    let described = cards.into_iter().map(|card| {
        let ((major, minor), (driver_major, driver_minor)) = (card.capability, card.driver);
        let memory = card.memory as f64 / GIBIBYTE;
        let words = format!(
            "{}, {memory:.0} GiB, compute capability {major}.{minor}, driver for CUDA {driver_major}.{driver_minor}",
            card.name
        );
        (Device::Cuda(card.ordinal), words)
    });
    Ok(described.collect())
}

#[cfg(not(feature = "cuda"))]
fn cards() -> Result<Vec<(Device, String)>, String> {
    Err(PROCESSORS_ONLY.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_survive_their_text_form() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(7)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for wrong in ["gpu", "cuda", "cuda:", "cuda:x", "cpu:0"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
        assert_eq!(Device::Cuda(3).word(), "cuda3");
    }

    #[test]
    fn only_devices_that_are_there_can_be_trained_on() {
        assert!(require(Device::Cpu).is_ok());
        let refused = require(Device::Cuda(4096)).unwrap_err().to_string();
        // With a card the number is wrong, without a driver there are none, and a build may be for processors only.
        let reasons = ["no such card", "No card can be used", "`--features cuda`"];
        let explained = reasons.iter().any(|reason| refused.contains(reason));
        assert!(refused.starts_with("training on cuda:4096: ") && explained, "{refused}");
    }
}
