//! Versions of the protocol: each side says which ones it speaks, and both use the newest they have in common.
//!
//! An agent says it in the Hello of its session and is told the outcome in Welcome. Every call carries [`HEADER`]
//! besides, so that requests without a conversation before them (clients', transfers of checkpoints) are refused too where
//! nothing is in common. A caller without the header (a script, a tool for gRPC) is let through.

use std::fmt;

/// Oldest version that this build speaks.
pub const OLDEST_PROTOCOL: u32 = 1;
/// Newest version that this build speaks.
pub const PROTOCOL: u32 = 1;
/// Header of every call: the versions spoken by the caller, `oldest-newest`.
pub const HEADER: &str = "plateau-protocol";

/// The versions that this build speaks.
pub const OURS: Protocols = Protocols { oldest: OLDEST_PROTOCOL, newest: PROTOCOL };

/// Consecutive versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    oldest: u32,
    newest: u32,
}

impl Protocols {
    /// The versions from `oldest` to `newest`; none where that is no range. Versions are numbered from 1.
    pub fn new(oldest: u32, newest: u32) -> Option<Self> {
        (1 <= oldest && oldest <= newest).then_some(Protocols { oldest, newest })
    }

    /// The versions of a Hello. Programs from before there was a range name one version only.
    pub fn of_hello(oldest: u32, newest: u32) -> Option<Self> {
        Self::new(if oldest == 0 { newest } else { oldest }, newest)
    }

    /// The versions in the value of [`HEADER`].
    pub fn parse(text: &str) -> Option<Self> {
        let (oldest, newest) = text.split_once('-')?;
        Self::new(oldest.parse().ok()?, newest.parse().ok()?)
    }

    /// The value of [`HEADER`].
    pub fn header(self) -> String {
        format!("{}-{}", self.oldest, self.newest)
    }

    /// The newest version that both speak; none: they cannot talk.
    pub fn common(self, other: Protocols) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    /// Whether the other side is the older one, where nothing is in common.
    pub fn is_newer_than(self, other: Protocols) -> bool {
        self.oldest > other.newest
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(formatter, "version {} of the protocol", self.newest),
            false => write!(formatter, "versions {} to {} of the protocol", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocols(oldest: u32, newest: u32) -> Protocols {
        Protocols::new(oldest, newest).unwrap()
    }

    #[test]
    fn case_78_the_newest_version_that_both_speak_is_used() {
        for ((a, b), (c, d), common) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((2, 5), (1, 3), Some(3)),
            ((1, 9), (4, 4), Some(4)),
            ((1, 1), (2, 3), None),
            ((2, 3), (1, 1), None),
        ] {
            assert_eq!(protocols(a, b).common(protocols(c, d)), common, "{a}-{b} and {c}-{d}");
        }
        assert!(protocols(2, 3).is_newer_than(protocols(1, 1)));
        assert!(!protocols(1, 1).is_newer_than(protocols(2, 3)));
    }

    #[test]
    fn case_78_ranges_are_written_and_read_and_nonsense_is_none() {
        assert_eq!(Protocols::parse(&protocols(2, 7).header()), Some(protocols(2, 7)));
        for text in ["", "-", "1", "1-", "-1", "0-1", "2-1", "1-2-3", "a-b", "1-4294967296", " 1-1"] {
            assert_eq!(Protocols::parse(text), None, "{text}");
        }
        assert_eq!(Protocols::of_hello(0, 1), Some(protocols(1, 1)), "before there was a range");
        assert_eq!(Protocols::of_hello(2, 4), Some(protocols(2, 4)));
        assert_eq!((Protocols::of_hello(0, 0), Protocols::of_hello(3, 2)), (None, None));
    }

    #[test]
    fn this_build_speaks_what_it_says() {
        assert_eq!(Protocols::new(OLDEST_PROTOCOL, PROTOCOL), Some(OURS));
    }
}
