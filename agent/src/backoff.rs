//! Pauses between tries: twice as long each time up to a longest, and never quite the same, so that a fleet that lost its
//! coordinator does not come back in step.

use std::time::Duration;

use plateau_common::random::Stream;

/// The pauses of one thing that is tried again and again.
pub struct Backoff {
    first: Duration,
    last: Duration,
    pause: Duration,
    jitter: Stream,
}

impl Backoff {
    /// Pauses from about `first` to about `last`. `of` tells whose they are: equal ones pause alike.
    pub fn new(first: Duration, last: Duration, of: &str) -> Self {
        // The jitter has no part in any result.
        Backoff { first, last, pause: first, jitter: Stream::new(0, &format!("backoff/{of}"), 0) }
    }

    /// The next pause: half to one and a half of its length.
    pub fn pause(&mut self) -> Duration {
        let pause = self.pause.mul_f64(0.5 + self.jitter.unit());
        self.pause = (self.pause * 2).min(self.last);
        pause
    }

    /// It got somewhere: the next pause is the first again.
    pub fn reset(&mut self) {
        self.pause = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_33_pauses_double_up_to_the_longest_and_no_two_agents_keep_step() {
        let pauses = |of: &str| -> Vec<Duration> {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), of);
            (0..20).map(|_| backoff.pause()).collect()
        };
        let (a, b) = (pauses("a"), pauses("b"));
        assert_eq!(a, pauses("a"));
        let mut length = 0.1;
        for (a, b) in a.iter().zip(&b) {
            assert_ne!(a, b);
            for pause in [a, b] {
                let share = pause.as_secs_f64() / length;
                assert!((0.5..1.5).contains(&share), "{pause:?} where about {length} s were due");
            }
            length = f64::min(length * 2.0, 5.0);
        }
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), "c");
        (0..9).for_each(|_| {
            backoff.pause();
        });
        backoff.reset();
        assert!(backoff.pause() < Duration::from_millis(150));
    }
}
