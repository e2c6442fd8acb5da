//! What the NVIDIA driver says of a card: its Xid events, from the kernel's log.
//!
//! The log is `/dev/kmsg` where the agent may read it, or a file that the system's logger writes (`--kernel-log`); both are
//! followed from their end. Where neither can be read the agent says so once and works on: the trainer still sees the errors
//! of the driver's calls, which tell the worst of these events too.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

/// The kernel's own log.
pub const KERNEL_LOG: &str = "/dev/kmsg";
/// Longest line that is looked at; the rest of a longer one is passed over.
const LONGEST_LINE: usize = 8 << 10;
/// How often a file that has come to its end is looked at again.
const PAUSE: Duration = Duration::from_millis(250);
/// Events that wait to be handled; beyond it the reader waits.
const QUEUE: usize = 64;

/// One event of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverEvent {
    /// The card's address: `0000:3b:00`.
    pub card: String,
    /// Its number.
    pub xid: u32,
    /// The driver's words, from the event's name on.
    pub text: String,
}

/// The event in a line of the kernel's log, if there is one: `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, …`.
pub fn parse(line: &str) -> Option<DriverEvent> {
    let (_, rest) = line.split_once("NVRM: Xid (PCI:")?;
    let (card, rest) = rest.split_once("):")?;
    let digits = rest.trim_start();
    let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    let xid = digits.get(..end)?.parse().ok()?;
    let text: String = rest.trim().chars().filter(|letter| !letter.is_control()).take(200).collect();
    Some(DriverEvent { card: address(card)?, xid, text: format!("Xid {text}") })
}

/// A card's address without its function, in the form in which it is compared: `0000:3b:00` of `00000000:3B:00.0`.
pub fn address(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.split_once('.').map_or(text, |(address, _)| address);
    let numbers = text.split(':').map(|part| u32::from_str_radix(part, 16));
    match numbers.collect::<Result<Vec<u32>, _>>().ok()?.as_slice() {
        [domain, bus, device] => Some(format!("{domain:04x}:{bus:02x}:{device:02x}")),
        [bus, device] => Some(format!("0000:{bus:02x}:{device:02x}")),
        _ => None,
    }
}

/// Where events come from.
pub trait Source: Send + 'static {
    /// The next lines, whole or not; empty: nothing new yet. May block.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// The kernel's log, or a file to which it is written.
struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens it at its end: what happened before this process is over.
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Log { file, path: path.to_owned() })
    }
}

impl Source for Log {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.file.read(buffer) {
            // The kernel overwrote what had not been read yet: it goes on with the oldest it has.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        if count == 0 {
            let length = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
            if self.file.stream_position().is_ok_and(|position| length < position) {
                // A new file of the same name: the old one was rotated away.
                self.file = File::open(&self.path)?;
            }
        }
        Ok(count)
    }
}

/// Follows the log for events of one card. The thread ends with the receiver, or with the process.
///
/// # Errors
/// When the log cannot be read.
pub fn follow(path: &Path, card: &str) -> anyhow::Result<mpsc::Receiver<DriverEvent>> {
    let log = Log::open(path).with_context(|| format!("reading {}", path.display()))?;
    let (sender, events) = mpsc::channel(QUEUE);
    let card = card.to_owned();
    std::thread::Builder::new()
        .name("driver log".to_owned())
        .spawn(move || {
            if let Err(error) = pass_on(log, &card, &sender) {
                tracing::warn!(%error, "the kernel's log cannot be read any more: events of the card's driver go unnoticed");
            }
        })
        .context("starting the thread that follows the kernel's log")?;
    Ok(events)
}

/// Reads lines until nobody listens.
fn pass_on(mut source: impl Source, card: &str, sender: &mpsc::Sender<DriverEvent>) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_LINE];
    let mut line = Vec::new();
    while !sender.is_closed() {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            std::thread::sleep(PAUSE);
            continue;
        }
        for byte in buffer.iter().take(count) {
            if *byte != b'\n' {
                if line.len() < LONGEST_LINE {
                    line.push(*byte);
                }
                continue;
            }
            let event = parse(&String::from_utf8_lossy(&line));
            line.clear();
            if let Some(event) = event.filter(|event| event.card == card)
                && sender.blocking_send(event).is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines in the form in which kernels log them (composed, not captured from a failing card), of two cards.
    const COMPOSED: &str = include_str!("driver_log/composed.log");

    /// A log that has ended.
    struct Recording(&'static [u8], usize);

    impl Source for Recording {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // Pieces that end anywhere.
            let piece = self.0.split_off(..self.1.min(self.0.len()).min(buffer.len())).unwrap_or_default();
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn case_70_events_are_read_and_those_of_other_cards_left_alone() {
        for piece in [1, 7, 4096] {
            let (sender, mut receiver) = mpsc::channel(QUEUE);
            pass_on(Recording(COMPOSED.as_bytes(), piece), "0000:3b:00", &sender).unwrap_err();
            drop(sender);
            let mut found = Vec::new();
            while let Ok(event) = receiver.try_recv() {
                found.push((event.xid, event.text));
            }
            let numbers: Vec<u32> = found.iter().map(|(xid, _)| *xid).collect();
            assert_eq!(numbers, [48, 63, 64, 79, 94, 95, 31], "in pieces of {piece}");
            assert_eq!(found[3].1, "Xid 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.");
        }
    }

    #[test]
    fn cards_have_one_address_however_it_is_written() {
        for text in ["0000:3b:00", "00000000:3B:00.0", "3b:00", " 0000:3b:00.0 "] {
            assert_eq!(address(text).as_deref(), Some("0000:3b:00"), "{text}");
        }
        for text in ["", "3b", "0000:3b:00:00", "x:y:z"] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn lines_that_are_no_events_are_none() {
        for line in [
            "",
            "NVRM: Xid (PCI:",
            "NVRM: Xid (PCI:0000:3b:00): , x",
            "NVRM: Xid (PCI:0000:3b:00): 99999999999",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_is_followed_from_its_end_and_past_a_rotation() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kern.log");
        let line = |xid: u32| format!("kernel: NVRM: Xid (PCI:0000:3b:00): {xid}, pid=1\n");
        std::fs::write(&path, line(48)).unwrap();
        let mut events = follow(&path, "0000:3b:00").unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(line(79).as_bytes()).unwrap();
        assert_eq!(events.blocking_recv().unwrap().xid, 79);
        std::fs::write(folder.path().join("new"), line(94)).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(events.blocking_recv().unwrap().xid, 94);
        assert!(follow(&folder.path().join("absent"), "0000:3b:00").is_err());
    }
}
