//! From what is known of a broken training to its class; what follows from a class is `plateau_common::failure`'s table.
//!
//! Owns no observation: exit statuses come from `child`, errors of the card from the trainer, kills by the system from
//! `oom`, events of the driver from `driver_log`.

use std::io;
use std::process::ExitStatus;

use plateau_common::failure::FailureClass;

/// The signal that kernels out of memory send.
pub const SIGKILL: i32 = 9;

/// What is known of a trainer that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Its exit status, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed for lack of memory while it lived.
    pub out_of_memory: bool,
}

impl End {
    /// An end as the system tells it.
    pub fn of(status: ExitStatus, out_of_memory: bool) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        End { code: status.code(), signal: status.signal(), out_of_memory }
    }
}

/// A trainer that ended before its cohort did.
pub fn ended(end: End) -> FailureClass {
    match (end.code, end.signal) {
        (_, Some(SIGKILL)) if end.out_of_memory => FailureClass::HostMemory,
        (_, Some(_)) => FailureClass::Signalled,
        (Some(0), None) => FailureClass::EndedEarly,
        (_, None) => FailureClass::Exited,
    }
}

/// An error of the card by the driver's number for it (`CUresult`), as the trainer saw it. Out of memory (2) is not among
/// them: it has a report of its own.
pub fn card_error(code: u32) -> FailureClass {
    match code {
        // ECC_UNCORRECTABLE, NVLINK_UNCORRECTABLE
        214 | 220 => FailureClass::DeviceMemoryFault,
        // CONTAINED
        226 => FailureClass::Contained,
        // DEVICE_UNAVAILABLE, NO_DEVICE, SYSTEM_NOT_READY
        46 | 100 | 802 => FailureClass::DeviceLost,
        // ILLEGAL_ADDRESS, LAUNCH_TIMEOUT, CONTEXT_IS_DESTROYED, ASSERT, HARDWARE_STACK_ERROR to LAUNCH_FAILED
        700 | 702 | 709 | 710 | 714..=719 => FailureClass::ContextLost,
        _ => FailureClass::Reported,
    }
}

/// An event of the NVIDIA driver, by its Xid number; `None`: it says nothing about the card's health (most follow from what
/// a program did, and that program ends with an error of its own).
pub fn driver_event(xid: u32) -> Option<FailureClass> {
    match xid {
        // Uncorrectable memory error; a row could not be remapped; an uncorrectable error that was not contained.
        48 | 64 | 95 => Some(FailureClass::DeviceMemoryFault),
        // A row will be remapped at the next reset; an uncorrectable error that was contained.
        63 | 94 => Some(FailureClass::Contained),
        // Fallen off the bus.
        79 => Some(FailureClass::DeviceLost),
        _ => None,
    }
}

/// A failure of this process to prepare or begin a training.
pub fn failed(error: &anyhow::Error) -> FailureClass {
    let ours = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    match ours.into_iter().any(is_environment) {
        true => FailureClass::Environment,
        false => FailureClass::Reported,
    }
}

/// Whether a failed reading or writing is the host's lack of something, and not what was read or written.
pub fn is_environment(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    /// Too many open files, in this process and in the system; an error of the device.
    const CODES: [i32; 3] = [24, 23, 5];
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem | PermissionDenied | OutOfMemory
    ) || error.raw_os_error().is_some_and(|code| CODES.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use plateau_common::failure::Charge;

    use super::*;

    /// How a real shell's child ended.
    fn end_of(script: &str, out_of_memory: bool) -> FailureClass {
        let status = Command::new("sh").args(["-c", script]).stderr(Stdio::null()).status().unwrap();
        ended(End::of(status, out_of_memory))
    }

    #[test]
    fn case_73_the_cause_is_decoded_from_how_a_process_ended() {
        assert_eq!(end_of("exit 0", false), FailureClass::EndedEarly);
        assert_eq!(end_of("exit 101", false), FailureClass::Exited);
        for signal in ["ABRT", "SEGV", "BUS", "KILL"] {
            assert_eq!(end_of(&format!("kill -{signal} $$"), false), FailureClass::Signalled, "{signal}");
        }
        assert_eq!(end_of("kill -KILL $$", true), FailureClass::HostMemory);
        // Whatever the kernel killed, it was not this one.
        assert_eq!(end_of("kill -SEGV $$", true), FailureClass::Signalled);
        assert_eq!(end_of("exit 1", true), FailureClass::Exited);
    }

    #[test]
    fn case_69_and_71_errors_of_a_card_that_spoil_a_process_are_told_from_those_of_the_card() {
        for code in [700, 702, 709, 710, 714, 715, 716, 717, 718, 719] {
            assert_eq!(card_error(code), FailureClass::ContextLost, "{code}");
        }
        assert_eq!(card_error(214), FailureClass::DeviceMemoryFault);
        assert_eq!(card_error(226), FailureClass::Contained);
        assert_eq!(card_error(46), FailureClass::DeviceLost);
        // INVALID_VALUE, UNKNOWN: nothing is known of the card.
        assert_eq!((card_error(1), card_error(999)), (FailureClass::Reported, FailureClass::Reported));
        assert_eq!(card_error(710).charge(), Charge::TrialAndAgent);
        assert!(!card_error(710).is_device_unhealthy());
    }

    #[test]
    fn case_70_events_of_the_driver_say_whether_the_card_may_be_used() {
        for xid in [48, 64, 79, 95] {
            let class = driver_event(xid).unwrap();
            assert_eq!((class.charge(), class.is_device_unhealthy()), (Charge::Nobody, true), "Xid {xid}");
        }
        for xid in [63, 94] {
            let class = driver_event(xid).unwrap();
            assert_eq!((class.charge(), class.is_device_unhealthy()), (Charge::Nobody, false), "Xid {xid}");
        }
        for xid in [0, 13, 31, 43, 45] {
            assert_eq!(driver_event(xid), None, "Xid {xid}");
        }
    }

    #[test]
    fn case_52_a_full_disk_is_the_hosts_and_a_missing_file_is_not() {
        assert!(is_environment(&io::ErrorKind::StorageFull.into()));
        assert!(is_environment(&io::Error::from_raw_os_error(24)));
        assert!(!is_environment(&io::ErrorKind::NotFound.into()));
        assert!(!is_environment(&io::ErrorKind::InvalidData.into()));
    }
}
