//! The names of devices as they appear on the command line and on the wire.

use anyhow::{Context as _, bail};
use plateau_lab::DeviceChoice;

/// `"cpu"` or `"cuda:N"`; `threads` applies to the processor.
pub fn choice(name: &str, threads: usize) -> anyhow::Result<DeviceChoice> {
    if name == "cpu" {
        return Ok(DeviceChoice::Cpu { threads });
    }
    let Some(number) = name.strip_prefix("cuda:") else {
        bail!("`{}` is not a device: say `cpu` or `cuda:N`", name.escape_debug());
    };
    let number = number.parse().with_context(|| format!("`{}` does not name a card", name.escape_debug()))?;
    Ok(DeviceChoice::Cuda(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_understood_or_refused() {
        assert_eq!(choice("cpu", 3).unwrap(), DeviceChoice::Cpu { threads: 3 });
        assert_eq!(choice("cuda:1", 3).unwrap(), DeviceChoice::Cuda(1));
        for name in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(choice(name, 1).is_err(), "{name}");
        }
    }
}
